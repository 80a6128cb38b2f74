"""What judgements add up to: pure functions of the rows of `judgements.jsonl`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..agreement import bradley_terry, chance_agreement, kendall_w, krippendorff_alpha, pairwise_correlation
from .protocol import CONTROLS, EMPTY_RATING, RANDOM_CODE

Row = dict[str, Any]
NUM_BOOTSTRAP = 2000
# Below, not even the same outcome in every text would be significant (2 · 0.5⁶ = 3 %).
MIN_TEXTS = 6


@dataclass(frozen=True)
class Judgements:
    """Judgements of J judges on T texts and A arms, of one kind of exhibit.

    Attributes:
        judges (`list[str]`): Their names.
        arms (`list[str]`): Methods first, then controls.
        ratings (`np.ndarray` of shape `(J, T, A)`): NaN without a valid answer; what was empty was not asked about.
        ranks (`np.ndarray` of shape `(J, T, 2, A)`): From 1, in both orders; what was empty shares the last ranks; NaN
            without a valid answer.
        shown (`np.ndarray` of shape `(T, A)`): Whether the arm had something to show.
        rows (`list[dict]`): What they were made of.
    """

    judges: list[str]
    arms: list[str]
    ratings: np.ndarray
    ranks: np.ndarray
    shown: np.ndarray
    rows: list[Row]

    @property
    def methods(self) -> list[int]:
        """The arms that are no controls."""
        return [number for number, arm in enumerate(self.arms) if arm not in CONTROLS]

    @property
    def both(self) -> np.ndarray:
        """`(J, T, 2, A)`: the ranks of texts that a judge ranked in both orders; NaN for the others."""
        valid = ~np.isnan(self.ranks).any((2, 3), keepdims=True)
        return np.where(valid, self.ranks, np.nan)

    @property
    def firsts(self) -> np.ndarray:
        """`(J, T, A)`: how often of the two times an arm was first; if nothing was shown, all share it."""
        best = self.both == self.both.min(-1, keepdims=True)
        share = best / np.maximum(best.sum(-1, keepdims=True), 1)
        return np.where(np.isnan(self.both), np.nan, share).mean(2)

    @property
    def duels(self) -> np.ndarray:
        """`(J, T, A, A)`: 1 where the row is before the column in both orders, -1 after in both, else 0."""
        sign = np.sign(self.both[..., None, :] - self.both[..., :, None])
        # Times 0, not 0: what is NaN stays so.
        return np.where(sign[:, :, 0] == sign[:, :, 1], sign[:, :, 0], sign[:, :, 0] * 0)


def gather(rows: Sequence[Row], kind: str, methods: Sequence[str]) -> Judgements:
    """Rows of one kind of exhibit as arrays, the methods in the given order."""
    rows = [row for row in rows if row["kind"] == kind]
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    texts = list(dict.fromkeys(row["text_id"] for row in rows))
    arms = [*methods, *CONTROLS]
    ratings = np.full((len(judges), len(texts), len(arms)), np.nan)
    ranks = np.full((len(judges), len(texts), 2, len(arms)), np.nan)
    shown = np.ones((len(texts), len(arms)), dtype=bool)
    for row in rows:
        judge, text = judges.index(row["judge"]), texts.index(row["text_id"])
        if row["task"] == "rating":
            if row["asked"] and row["rating"] is not None:
                ratings[judge, text, arms.index(row["arm"])] = row["rating"]
            continue
        shown[text, [arms.index(arm) for arm in row["empty"]]] = False
        if row["ranking"] is not None:
            places = ranks[judge, text, int(row["backwards"])]
            places[:] = (len(row["ranking"]) + 1 + len(arms)) / 2
            for rank, arm in enumerate(row["ranking"], 1):
                places[arms.index(arm)] = rank
    return Judgements(judges, arms, ratings, ranks, shown, rows)


def score(judged: Judgements, seed: int = 0) -> dict[str, Any]:
    """Everything that is reported.

    Args:
        judged ([`Judgements`][clvq_hf.judging.language_models.scores.Judgements]): Of one kind of exhibit.
        seed (`int`): Of the bootstrap, and of ties where judges are compared.

    Returns:
        `dict`: `arms`, `pairs`, `judges`, `positions`, `agreement`; JSON, with `None` for what cannot be told. Means
            are over the judges of a text first, then over texts; intervals are 95 % percentiles of texts drawn anew.
    """
    return {
        "arms": _arms(judged, seed),
        "pairs": _pairs(judged, seed),
        "judges": {name: _judge(judged, number, seed) for number, name in enumerate(judged.judges)},
        "positions": _positions(judged),
        "agreement": _agreement(judged, seed),
    }


def interval(values: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean over texts and its bootstrap interval.

    Args:
        values (`np.ndarray` of shape `(T,)`): NaN where a text says nothing.
        seed (`int`): Of the draws.

    Returns:
        `dict`: `mean`, `low`, `high` (`None` without a text) and `num_texts`.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return {"mean": None, "low": None, "high": None, "num_texts": 0}
    draws = np.random.default_rng(seed).integers(0, len(values), (NUM_BOOTSTRAP, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "num_texts": len(values)}


def rating_interval(ratings: np.ndarray, shown: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean rating, 1 where there was nothing to show, and its bootstrap interval.

    Args:
        ratings (`np.ndarray` of shape `(T,)`): NaN without a valid answer.
        shown (`np.ndarray` of shape `(T,)`): Whether there was something to show.
        seed (`int`): Of the draws.

    Returns:
        `dict`: As of [`interval`][clvq_hf.judging.language_models.scores.interval]; `None` without any answer. What was shown has the
            weight of its share of all texts, answered or not: else malformed answers would pull the mean to 1.
    """
    known = ~np.isnan(ratings)
    if not known.any():
        return interval(ratings, seed)

    def mean(rows: np.ndarray) -> np.ndarray:
        empty = 1 - shown[rows].mean(-1)
        with np.errstate(invalid="ignore"):
            rated = np.where(known, ratings, 0)[rows].sum(-1) / known[rows].sum(-1)
        return np.where(empty < 1, (1 - empty) * rated + empty * EMPTY_RATING, EMPTY_RATING)

    texts = len(ratings)
    draws = mean(np.random.default_rng(seed).integers(0, texts, (NUM_BOOTSTRAP, texts)))
    # A draw of nothing but unanswered texts says nothing.
    low, high = np.nanquantile(draws, [0.025, 0.975])
    num_texts = int((known | ~shown).sum())
    return {"mean": float(mean(np.arange(texts))), "low": float(low), "high": float(high), "num_texts": num_texts}


def verdict(net: dict[str, Any]) -> str:
    """`"won"` or `"lost"` if the interval of wins minus losses excludes 0, else `"tie"`; `"unknown"` of few texts."""
    if net["num_texts"] < MIN_TEXTS:
        return "unknown"
    return "won" if net["low"] > 0 else "lost" if net["high"] < 0 else "tie"


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN, NaN if nothing is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _arms(judged: Judgements, seed: int) -> dict[str, Any]:
    firsts, ratings, duels = (_mean_of_known(part) for part in (judged.firsts, judged.ratings, judged.duels))
    strengths = _strengths(duels, seed)
    found = {}
    for number, arm in enumerate(judged.arms):
        others = [other for other in judged.methods if other != number]
        against = judged.duels[:, :, number, others]
        decided = against[~np.isnan(against)]
        found[arm] = {
            "control": arm in CONTROLS,
            "first": interval(firsts[:, number], seed),
            "rating": rating_interval(ratings[:, number], judged.shown[:, number], seed),
            "strength": strengths[number],
            "empty": float(1 - judged.shown[:, number].mean()),
            "against_methods": _counts(decided),
        }
    return found


def _counts(duels: np.ndarray) -> dict[str, Any]:
    shares = {"won": 1, "tied": 0, "lost": -1}
    return {name: float((duels == value).mean()) if len(duels) else None for name, value in shares.items()}


def _strengths(duels: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """Bradley–Terry scores of the arms, `duels` of shape `(T, A, A)`."""
    num_arms = duels.shape[-1]
    duels = duels[~np.isnan(duels).any((1, 2))]
    if not len(duels):
        return [{"mean": None, "low": None, "high": None, "num_texts": 0}] * num_arms
    # A tie is half a win for both; the diagonal says nothing.
    wins = (duels + 1) / 2 * (1 - np.eye(num_arms))
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(wins), np.full(len(wins), 1 / len(wins)), NUM_BOOTSTRAP)
    fits = bradley_terry(np.tensordot(draws, wins, 1))
    low, high = np.quantile(fits, [0.025, 0.975], axis=0)
    means = bradley_terry(wins.sum(0))
    return [
        {"mean": float(means[arm]), "low": float(low[arm]), "high": float(high[arm]), "num_texts": len(wins)}
        for arm in range(num_arms)
    ]


def _pairs(judged: Judgements, seed: int) -> list[dict[str, Any]]:
    """Every method against every later one and against the controls."""
    net = _mean_of_known(judged.duels)
    found = []
    for one in judged.methods:
        for other in range(one + 1, len(judged.arms)):
            duels = judged.duels[:, :, one, other]
            figures = interval(net[:, one, other], seed)
            counts = _counts(duels[~np.isnan(duels)])
            names = {"one": judged.arms[one], "other": judged.arms[other]}
            found.append({**names, **counts, "net": figures, "verdict": verdict(figures)})
    return found


def _judge(judged: Judgements, number: int, seed: int) -> dict[str, Any]:
    """How far a judge can be trusted."""
    rows = [row for row in judged.rows if row["judge"] == judged.judges[number] and row["asked"]]
    valid = [row for row in rows if (row["rating"] if row["task"] == "rating" else row["ranking"]) is not None]
    failed = sum(row["error"] is not None for row in rows)
    ranked = [row for row in valid if row["task"] == "ranking"]
    figures = {
        "models": sorted({row["model"] for row in rows if row["model"]}),
        "questions": len(rows),
        "answered": len(valid),
        "malformed": len(rows) - len(valid) - failed,
        "failed": failed,
        "malformed_answers": sum(row["malformed"] for row in rows),
        "first_shown_first": _mean([row["ranking"][0] == row["arms"][0] for row in ranked]),
        "first_shown_first_chance": _mean([1 / len(row["arms"]) for row in ranked]),
        "orders_disagree": _disagreement(judged.both[number], judged.shown),
    }
    methods, random = judged.methods, judged.arms.index(RANDOM_CODE)
    # Against what was empty a judge wins or loses by rule: that says nothing of the judge.
    both_shown = judged.shown[:, methods] & judged.shown[:, [random]]
    net = _mean_of_known(np.where(both_shown, judged.duels[number][:, methods, random], np.nan).T)
    # Ratings tell too, if a judge cannot rank.
    above = _mean_of_known((judged.ratings[number][:, methods] - judged.ratings[number][:, [random]]).T)
    return {**figures, "against_random_code": interval(net, seed), "rating_above_random_code": interval(above, seed)}


def _disagreement(ranks: np.ndarray, shown: np.ndarray) -> float | None:
    """Share of the pairs, of what was shown, that the two orders `(T, 2, A)` turn around."""
    turned = []
    for text, both in enumerate(ranks):
        places = both[:, shown[text]]
        if not np.isnan(places).any():
            sign = np.sign(places[:, :, None] - places[:, None, :])
            turned += (sign[0] != sign[1])[np.triu_indices(places.shape[1], 1)].tolist()
    return _mean(turned)


def _positions(judged: Judgements) -> list[dict[str, Any]]:
    """Share of firsts of each position, among the rankings that showed every arm."""
    firsts = [
        row["arms"].index(row["ranking"][0])
        for row in judged.rows
        if row["task"] == "ranking" and row["asked"] and row["ranking"] is not None and not row["empty"]
    ]
    return [
        {"position": place + 1, "first": _mean([first == place for first in firsts]), "chance": 1 / len(judged.arms)}
        for place in range(len(judged.arms))
    ]


def _agreement(judged: Judgements, seed: int) -> dict[str, Any] | None:
    """How far the judges agree, and what chance would give so many; `None` for one judge."""
    if len(judged.judges) < 2:
        return None
    # What was empty is rated and ranked last by rule: on that there is nothing to agree.
    asked = judged.ratings[:, judged.shown]
    ranks = judged.both.mean(2)
    generator = np.random.default_rng(seed)
    concordance, unanimous, majority, chances = [], [], [], []
    for text in range(ranks.shape[1]):
        places = ranks[:, text, judged.shown[text]]
        # Those who ranked this text: one judge without a valid answer does not silence the others.
        places = places[~np.isnan(places).any(1)]
        if min(places.shape) < 2:
            continue
        concordance.append(kendall_w(places))
        # A judge whose orders contradict each other has no first: chance decides, as chance agreement supposes.
        tied = np.where(places == places.min(1, keepdims=True), generator.random(places.shape), -1)
        most = np.unique(tied.argmax(1), return_counts=True)[1].max()
        unanimous.append(most == len(places))
        majority.append(most > len(places) / 2)
        chances.append(chance_agreement(len(places), places.shape[1]))
    found = {
        "krippendorff_alpha": (krippendorff_alpha(asked, "ordinal"), 0.0),
        "pearson": (pairwise_correlation(asked, "pearson"), 0.0),
        "spearman": (pairwise_correlation(asked, "spearman"), 0.0),
        "kendall_w": (
            _mean([w for w in concordance if not np.isnan(w)]),
            _mean([chance["kendall_w"] for chance in chances]),
        ),
        "unanimous_first": (_mean(unanimous), _mean([chance["unanimous_first"] for chance in chances])),
        "majority_first": (_mean(majority), _mean([chance["majority_first"] for chance in chances])),
    }
    return {
        "num_judges": len(judged.judges),
        "num_texts_ranked": len(concordance),
        **{
            name: {"value": None if value is None or np.isnan(value) else float(value), "chance": chance}
            for name, (value, chance) in found.items()
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


__all__ = ["Judgements", "gather", "interval", "rating_interval", "score", "verdict"]
