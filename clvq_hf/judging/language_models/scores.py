"""What judgements add up to: pure functions of the rows of `judgements.jsonl`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...metrics.ablation_drop.statistics import ALPHA, MIN_TEXTS, holm, sign_flip_p_value, studentized_interval
from ..agreement import bradley_terry, chance_agreement, kendall_w, krippendorff_alpha, pairwise_correlation
from .parsing import RATINGS
from .protocol import CONTROLS, EMPTY_RATING, RANDOM_CODE

Row = dict[str, Any]
NUM_BOOTSTRAP = 2000
NO_FIGURE = {"mean": None, "low": None, "high": None, "num_texts": 0}


@dataclass(frozen=True)
class Judgements:
    """Judgements of J judges on T texts and A arms, for one kind of exhibit.

    Attributes:
        judges (`list[str]`): Their names.
        arms (`list[str]`): Methods first, then controls.
        ratings (`np.ndarray` of shape `(J, T, A)`): NaN without a valid answer, and where nothing was shown.
        ranks (`np.ndarray` of shape `(J, T, 2, A)`): From 1, in both orders. Arms that showed nothing share the last
            ranks; NaN without a valid answer.
        shown (`np.ndarray` of shape `(T, A)`): Whether the arm had something to show.
        rows (`list[dict]`): The rows that the arrays were made from.
    """

    judges: list[str]
    arms: list[str]
    ratings: np.ndarray
    ranks: np.ndarray
    shown: np.ndarray
    rows: list[Row]

    @property
    def methods(self) -> list[int]:
        """Indices of the arms that are not controls."""
        return [number for number, arm in enumerate(self.arms) if arm not in CONTROLS]

    @property
    def both(self) -> np.ndarray:
        """`(J, T, 2, A)`: the ranks of texts that a judge ranked in both orders; NaN for the others."""
        valid = ~np.isnan(self.ranks).any((2, 3), keepdims=True)
        return np.where(valid, self.ranks, np.nan)

    @property
    def firsts(self) -> np.ndarray:
        """`(J, T, A)`: in which share of the two orders an arm was first; if nothing was shown, all arms share it."""
        best = self.both == self.both.min(-1, keepdims=True)
        share = best / np.maximum(best.sum(-1, keepdims=True), 1)
        return np.where(np.isnan(self.both), np.nan, share).mean(2)

    @property
    def duels(self) -> np.ndarray:
        """`(J, T, A, A)`: 1 where the row is before the column in both orders, -1 after in both, else 0."""
        sign = np.sign(self.both[..., None, :] - self.both[..., :, None])
        # Multiplied by 0 instead of replaced by 0, so that NaN stays NaN.
        return np.where(sign[:, :, 0] == sign[:, :, 1], sign[:, :, 0], sign[:, :, 0] * 0)


def collect_judgements(rows: Sequence[Row], kind: str, methods: Sequence[str]) -> Judgements:
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


def score_judgements(judgements: Judgements, seed: int = 0) -> dict[str, Any]:
    """Compute everything that is reported about one kind of exhibit.

    Returns:
        `dict`: `arms`, `pairs`, `judges`, `positions`, `agreement`, ready for JSON; figures that cannot be computed
            are `None`. Means are over the judges of a text first, then over texts; intervals are 95 % bootstrap-t
            intervals over texts, and bootstrap percentiles for strengths.
    """
    return {
        "arms": _score_arms(judgements, seed),
        "pairs": _score_pairs(judgements, seed),
        "judges": {name: _score_judge(judgements, number, seed) for number, name in enumerate(judgements.judges)},
        "positions": _score_positions(judgements),
        "agreement": _score_agreement(judgements, seed),
    }


def bootstrap_mean(values: np.ndarray, seed: int, lowest: float = -1, highest: float = 1) -> dict[str, Any]:
    """`mean`, `low`, `high` (95 % bootstrap-t interval) and `num_texts` of `(T,)` values, NaN for texts without one.

    Bounds lie within `lowest` and `highest`, the range of the figure.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return NO_FIGURE
    mean = float(values.mean())
    low, high = studentized_interval(values, num_bootstrap=NUM_BOOTSTRAP, seed=seed)
    # One text, or nearly equal values, leave everything possible between the largest and the smallest figure.
    low, high = (max(low, lowest), min(high, highest)) if low is not None else (lowest, highest)
    return {"mean": mean, "low": low, "high": high, "num_texts": len(values)}


def bootstrap_rating(ratings: np.ndarray, shown: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean rating `(T,)` over texts, 1 where nothing was shown, and its 95 % bootstrap-t interval.

    Shown exhibits are weighted by their share of all texts, answered (not NaN) or not; otherwise malformed answers
    would pull the mean towards 1.
    """
    known = ~np.isnan(ratings)
    if not known.any():
        return NO_FIGURE

    # Of each text what it adds to the figure, to first order; their mean is the figure.
    share, rated = shown.mean(), ratings[known].mean()
    values = np.where(shown, rated, EMPTY_RATING) + share * np.where(known, ratings - rated, 0) / known.mean()
    return {
        **bootstrap_mean(values, seed, lowest=EMPTY_RATING, highest=max(RATINGS)),
        "num_texts": int((known | ~shown).sum()),
    }


def decide_verdict(net: dict[str, Any], p_value: float | None) -> str:
    """`"won"` or `"lost"` if a corrected p-value of wins minus losses is at most 0.05, else `"tie"`.

    With fewer than 20 texts it is `"unknown"`.
    """
    if p_value is None or net["num_texts"] < MIN_TEXTS:
        return "unknown"
    if p_value > ALPHA:
        return "tie"
    return "won" if net["mean"] > 0 else "lost"


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN, NaN if nothing is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _score_arms(judgements: Judgements, seed: int) -> dict[str, Any]:
    firsts, ratings, duels = map(_mean_of_known, (judgements.firsts, judgements.ratings, judgements.duels))
    strengths = _strengths(duels, seed)
    return {
        arm: {
            "control": arm in CONTROLS,
            "first": bootstrap_mean(firsts[:, number], seed, lowest=0),
            "rating": bootstrap_rating(ratings[:, number], judgements.shown[:, number], seed),
            "strength": strengths[number],
            "empty": float(1 - judgements.shown[:, number].mean()),
            "against_methods": _duel_shares(
                judgements.duels[:, :, number, [other for other in judgements.methods if other != number]]
            ),
        }
        for number, arm in enumerate(judgements.arms)
    }


def _duel_shares(duels: np.ndarray) -> dict[str, float | None]:
    """Shares of won, tied and lost duels among those that are not NaN."""
    duels = duels[~np.isnan(duels)]
    return {name: _mean(duels == value) for name, value in {"won": 1, "tied": 0, "lost": -1}.items()}


def _strengths(duels: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """Bradley–Terry scores of the arms from `duels` of shape `(T, A, A)`."""
    num_arms = duels.shape[-1]
    duels = duels[~np.isnan(duels).any((1, 2))]
    if not len(duels):
        return [NO_FIGURE] * num_arms
    # A tie counts as half a win for both; the diagonal holds no duel.
    wins = (duels + 1) / 2 * (1 - np.eye(num_arms))
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(wins), np.full(len(wins), 1 / len(wins)), NUM_BOOTSTRAP)
    bounds = np.quantile(bradley_terry(np.tensordot(draws, wins, 1)), [0.025, 0.975], axis=0)
    return [
        {"mean": mean, "low": low, "high": high, "num_texts": len(wins)}
        for mean, low, high in np.stack([bradley_terry(wins.sum(0)), *bounds], axis=1).tolist()
    ]


def _score_pairs(judgements: Judgements, seed: int) -> list[dict[str, Any]]:
    """Every method against every later one and against the controls; p-values are corrected for all these pairs."""
    net = _mean_of_known(judgements.duels)
    arms = [(one, other) for one in judgements.methods for other in range(one + 1, len(judgements.arms))]
    known = [values[~np.isnan(values)] for values in (net[:, one, other] for one, other in arms)]
    # Pairs with too few texts for a verdict are not tested, and cost the others nothing.
    tested = [number for number, values in enumerate(known) if len(values) >= MIN_TEXTS]
    corrected = holm([sign_flip_p_value(known[number], seed=seed) for number in tested])
    p_values = dict(zip(tested, corrected.tolist(), strict=True))
    pairs = []
    for number, (one, other) in enumerate(arms):
        figures = bootstrap_mean(net[:, one, other], seed)
        pairs.append(
            {
                "one": judgements.arms[one],
                "other": judgements.arms[other],
                **_duel_shares(judgements.duels[:, :, one, other]),
                "net": figures,
                "p_value": p_values.get(number),
                "verdict": decide_verdict(figures, p_values.get(number)),
            }
        )
    return pairs


def _score_judge(judgements: Judgements, number: int, seed: int) -> dict[str, Any]:
    """How far a judge can be trusted: valid answers, position bias, and whether it beats a random code."""
    rows = [row for row in judgements.rows if row["judge"] == judgements.judges[number] and row["asked"]]
    valid = [row for row in rows if (row["rating"] if row["task"] == "rating" else row["ranking"]) is not None]
    failed = sum(row["error"] is not None for row in rows)
    ranked = [row for row in valid if row["task"] == "ranking"]
    methods, random = judgements.methods, judgements.arms.index(RANDOM_CODE)
    # A duel against an empty exhibit is decided by rule, which says nothing about the judge.
    both_shown = judgements.shown[:, methods] & judgements.shown[:, [random]]
    net = np.where(both_shown, judgements.duels[number][:, methods, random], np.nan)
    # Ratings are informative even if a judge cannot rank.
    above = judgements.ratings[number][:, methods] - judgements.ratings[number][:, [random]]
    return {
        "models": sorted({row["model"] for row in rows if row["model"]}),
        "questions": len(rows),
        "answered": len(valid),
        "malformed": len(rows) - len(valid) - failed,
        "failed": failed,
        "malformed_answers": sum(row["malformed"] for row in rows),
        "first_shown_first": _mean([row["ranking"][0] == row["arms"][0] for row in ranked]),
        "first_shown_first_chance": _mean([1 / len(row["arms"]) for row in ranked]),
        "orders_disagree": _disagreement(judgements.both[number], judgements.shown),
        "against_random_code": bootstrap_mean(_mean_of_known(net.T), seed),
        "rating_above_random_code": bootstrap_mean(_mean_of_known(above.T), seed, -2, 2),
    }


def _disagreement(ranks: np.ndarray, shown: np.ndarray) -> float | None:
    """Share of the pairs of shown exhibits on which the two orders `(T, 2, A)` disagree."""
    turned = []
    for text, both in enumerate(ranks):
        places = both[:, shown[text]]
        if not np.isnan(places).any():
            sign = np.sign(places[:, :, None] - places[:, None, :])
            turned += (sign[0] != sign[1])[np.triu_indices(places.shape[1], 1)].tolist()
    return _mean(turned)


def _score_positions(judgements: Judgements) -> list[dict[str, Any]]:
    """Share of firsts of each position, among the rankings that showed every arm."""
    firsts = [
        row["arms"].index(row["ranking"][0]) + 1
        for row in judgements.rows
        if row["task"] == "ranking" and row["asked"] and row["ranking"] is not None and not row["empty"]
    ]
    chance = 1 / len(judgements.arms)
    return [
        {"position": position, "first": _mean([first == position for first in firsts]), "chance": chance}
        for position in range(1, len(judgements.arms) + 1)
    ]


def _score_agreement(judgements: Judgements, seed: int) -> dict[str, Any] | None:
    """How far the judges agree, and what as many judges would show by chance; `None` for one judge."""
    if len(judgements.judges) < 2:
        return None
    # Empty exhibits are rated and ranked last by rule, so judges cannot agree or disagree about them.
    ratings = judgements.ratings[:, judgements.shown]
    ranks = judgements.both.mean(2)
    generator = np.random.default_rng(seed)
    per_text, by_chance = [], []
    for text in range(ranks.shape[1]):
        places = ranks[:, text, judgements.shown[text]]
        # Only judges who ranked this text: one without a valid answer does not exclude the others.
        places = places[~np.isnan(places).any(1)]
        if min(places.shape) < 2:
            continue
        # A judge whose orders contradict each other has no first: chance decides, as chance agreement assumes.
        tied = np.where(places == places.min(1, keepdims=True), generator.random(places.shape), -1)
        most = np.unique(tied.argmax(1), return_counts=True)[1].max()
        agreement = {"unanimous_first": most == len(places), "majority_first": most > len(places) / 2}
        per_text.append({"kendall_w": kendall_w(places), **agreement})
        by_chance.append(chance_agreement(len(places), places.shape[1]))
    figures = {
        "krippendorff_alpha": (krippendorff_alpha(ratings, "ordinal"), 0.0),
        "pearson": (pairwise_correlation(ratings, "pearson"), 0.0),
        "spearman": (pairwise_correlation(ratings, "spearman"), 0.0),
    }
    for name in ("kendall_w", "unanimous_first", "majority_first"):
        values = [row[name] for row in per_text if not np.isnan(row[name])]
        figures[name] = (_mean(values), _mean([chance[name] for chance in by_chance]))
    return {
        "num_judges": len(judgements.judges),
        "num_texts_ranked": len(per_text),
        **{
            name: {"value": None if value is None or np.isnan(value) else float(value), "chance": chance}
            for name, (value, chance) in figures.items()
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


__all__ = [
    "Judgements",
    "bootstrap_mean",
    "bootstrap_rating",
    "collect_judgements",
    "decide_verdict",
    "score_judgements",
]
