"""Why a concept may be a shortcut: signals, each of which can be looked up in the texts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.texts import text_hash
from ..explanations.answers import Answers
from ..metrics.ablation_drop.statistics import MIN_TEXTS
from ..reading import read_json
from ..tables.concept_table import ConceptTable
from .summary import AGAINST, FOR, MAX_Q, SIGNS, SLICE_SIGN

# A word in so many of the texts says little of what any of them is about.
FREQUENT = 0.1
# A sequence of so many words that is in so many different texts was written once.
BOILERPLATE_WORDS, BOILERPLATE_TEXTS = 5, 4
_QUOTED = re.compile(r'"[^"\n]*"|“[^”\n]*”|„[^“”\n]*[“”]|«[^»\n]*»')
_MARKUP = re.compile(r"<[^<>\n]+>|https?://\S+|www\.\S+|&\w+;|\[\[[^\]\n]*\]\]|\{\{[^}\n]*\}\}")


@dataclass
class TokenFacts:
    """What is known of the tokens of a table that are not special, by token `(N,)`, in the order of the texts."""

    table: ConceptTable

    @cached_property
    def words(self) -> pd.DataFrame:
        """Per token: `row` of its text, `code` (shown), `member` (its own), and its word with `number` and span."""
        words = self.table.words()
        words["row"] = np.searchsorted(np.asarray(self.table.texts["text_id"][:]), words["text_id"])
        words["number"] = np.arange(len(words))
        tokens = words.drop(columns="code").explode("codes", ignore_index=True).rename(columns={"codes": "member"})
        return tokens.assign(code=self.table.by_hand.shown_codes[tokens["member"].astype(np.int64)])

    @cached_property
    def texts(self) -> list[str]:
        """The texts."""
        return self.table.texts["text"][:]

    @cached_property
    def position(self) -> np.ndarray:
        """In which tenth of its text."""
        rows = self.words["row"].to_numpy()
        sizes = np.bincount(rows)[rows]
        first = np.searchsorted(rows, rows)
        tenth = (np.arange(len(rows)) - first) * 10 // sizes
        return np.asarray([f"{10 * number}–{10 * number + 10} %" for number in range(10)])[tenth]

    @cached_property
    def casing(self) -> np.ndarray:
        """How its word is written."""
        return _by_word(self.words["word"], _casing)

    @cached_property
    def kind(self) -> np.ndarray:
        """Punctuation, number, frequent word (in a tenth of the texts) or other word."""
        lower = self.words["word"].str.lower()
        counts = self.words.assign(lower=lower).groupby("lower")["row"].nunique()
        frequent = set(counts.index[counts >= FREQUENT * len(self.texts)])

        def kind(word: str) -> str:
            if not any(map(str.isalpha, word)):
                return "number" if any(map(str.isnumeric, word)) else "punctuation"
            return "frequent word" if word.lower() in frequent else "other word"

        return _by_word(self.words["word"], kind)

    @cached_property
    def layout(self) -> np.ndarray:
        """Quoted, in markup, in the first or last line of several, or else."""
        found: list[str] = []
        for row, own in self.words.groupby("row", sort=True):
            text = self.texts[row]
            spans = [("quoted", _QUOTED), ("markup", _MARKUP)]
            marks = {name: [match.span() for match in pattern.finditer(text)] for name, pattern in spans}
            body = len(text.rstrip())
            first, last = text.find("\n", len(text) - len(text.lstrip())), text.rfind("\n", 0, body)
            for start in own["start"].tolist():
                place = next((name for name, at in marks.items() if any(a <= start < b for a, b in at)), None)
                if place is None and 0 <= first < body:
                    place = "first line" if start < first else "last line" if start > last else None
                found.append(place or "running text")
        return np.asarray(found)

    @cached_property
    def boilerplate(self) -> np.ndarray:
        """Whether it is in a sequence of five words that several different texts have, bool."""
        words = self.words.drop_duplicates("number")
        lower, rows = words["word"].str.lower().to_numpy(), words["row"].to_numpy()
        size = BOILERPLATE_WORDS
        seen: dict[tuple[str, ...], set[int]] = {}
        same = self.table.same_text
        whole = [n for n in range(len(lower) - size + 1) if rows[n] == rows[n + size - 1]]
        for n in whole:
            seen.setdefault(tuple(lower[n : n + size]), set()).add(int(same[rows[n]]))
        marked = np.zeros(len(lower), dtype=bool)
        for n in whole:
            if len(seen[tuple(lower[n : n + size])]) >= BOILERPLATE_TEXTS:
                marked[n : n + size] = True
        return marked[self.words["number"].to_numpy()]


def _by_word(words: pd.Series, function: Any) -> np.ndarray:
    kinds = {word: function(word) for word in words.unique()}
    return words.map(kinds).to_numpy()


def _casing(word: str) -> str:
    letters = [letter for letter in word if letter.isalpha()]
    if not letters:
        return "no letters"
    if len(letters) > 1 and all(map(str.isupper, letters)):
        return "ALL CAPS"
    if letters[0].isupper():
        return "Capitalised"
    return "lower case" if not any(map(str.isupper, letters)) else "miXed"


def concentration(own: Sequence[Any] | np.ndarray, every: Sequence[Any] | np.ndarray) -> tuple[float, str]:
    """How far the values of a concept's tokens differ from those of all tokens, and which one it prefers.

    Half of the sum of the absolute differences of the shares (total variation): 0 if they are alike, near 1 if all of
    the concept's tokens have a value that hardly any other token has.
    """
    shares = pd.Series(own).value_counts(normalize=True)
    usual = pd.Series(every).value_counts(normalize=True)
    difference = shares.reindex(usual.index, fill_value=0.0) - usual
    return float(difference.abs().sum() / 2), str(difference.idxmax())


class ContentShares:
    """What the other concepts of a text say of its label: naive Bayes on the concepts of a text, cross-fitted.

    Texts are halved by their hashes; what is learned on one half is applied to the other.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of T texts and K concepts.
        labels (`np.ndarray` of shape `(T,)`): -1 for none.
        num_classes (`int`): C.

    Attributes:
        has (`np.ndarray` of shape `(T, K)`, bool): Which concepts each text has.
    """

    def __init__(self, table: ConceptTable, labels: np.ndarray, num_classes: int) -> None:
        special = table.column("special")
        owners = np.repeat(np.arange(len(table.texts)), np.asarray(table.texts["num_tokens"][:]))[~special]
        self.has = np.zeros((len(table.texts), table.codebook_size), dtype=bool)
        self.has[owners, table.by_hand.shown_codes[table.column("code")[~special]]] = True
        self._half = np.asarray([int(text_hash(text)[-1], 16) % 2 for text in table.texts["text"][:]])
        self._scores = np.zeros((len(self.has), num_classes))
        # By half and concept: what it adds to the scores of a text that has it.
        self._own = np.zeros((2, table.codebook_size, num_classes))
        for number in (0, 1):
            learn, apply = (self._half != number) & (labels >= 0), self._half == number
            classes = np.eye(num_classes)[labels[learn]]
            counts = classes.sum(0)
            present = np.log((self.has[learn].T @ classes + 1) / (counts + 2))
            absent = np.log1p(-np.exp(present))
            base = np.log((counts + 1) / (counts.sum() + num_classes)) + absent.sum(0)
            self._scores[apply] = base + self.has[apply] @ (present - absent)
            # A concept's own absence says something, too: both are taken out.
            self._own[number] = present

    def of(self, code: int) -> np.ndarray:
        """`(n, C)`: by each of the n texts that have a concept, the probability of each class by its other concepts."""
        rows = np.flatnonzero(self.has[:, code])
        scores = self._scores[rows] - self._own[self._half[rows], code]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        return scores / scores.sum(-1, keepdims=True)


def read_groups(file: Path) -> dict[str, frozenset[str]]:
    """Word lists in a JSON file: `{"women": ["she", "her"], …}`.

    Raises:
        ValueError: If it holds something else.
    """
    return checked_groups(read_json(file))


def checked_groups(groups: Mapping[str, Any] | None) -> dict[str, frozenset[str]]:
    """Of each group its words, in lower case.

    Raises:
        ValueError: If a group is no list of words.
    """
    for name, words in (groups or {}).items():
        if (
            not isinstance(words, Iterable)
            or isinstance(words, str)
            or not all(isinstance(word, str) for word in words)
        ):
            raise ValueError(f"The group {name!r} must be a list of words, got {words!r:.60}.")
    return {name: frozenset(word.strip().lower() for word in words) for name, words in (groups or {}).items()}


# What an alarm carries at least: of the evidence for its class, of the host's usual lead. It has one of these signals.
MIN_SHARE, MIN_OF_LEAD = 0.2, 0.02
WEAK_CONTENT = ("top_word", "weak", "boilerplate", "position", "layout")
# Texts of another label that a concept needs, before it is said how often the host follows it there.
MIN_OTHERS = 5


def signal_figures(
    table: ConceptTable,
    rows: pd.DataFrame,
    effects: pd.DataFrame,
    answers: Answers,
    slices: Mapping[str, np.ndarray],
    groups: Mapping[str, frozenset[str]],
) -> pd.DataFrame:
    """One row per concept: its effect on the class that it supports most, and the signals.

    Where answers do not compete, a concept may also speak against one, and nothing else says so: it is the answer with
    the largest absolute effect, and figures are those of the effect against it if `direction` says so.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the audited texts.
        rows (`pandas.DataFrame`): Of [`read_occurrences`], `text_id` ascending.
        effects (`pandas.DataFrame`): Of [`effect_figures`].
        answers (`Answers`): What the columns of the effects are.
        slices (`Mapping[str, np.ndarray]`): By column, the value of each text of the table.
        groups (`Mapping[str, frozenset[str]]`): By name, words in lower case.

    Returns:
        `pandas.DataFrame`: The columns that `docs/audit.md` describes.
    """
    facts = TokenFacts(table)
    tokens = facts.words
    attributes = {name: getattr(facts, name) for name in ("position", "layout", "casing", "kind")}
    lower = tokens["word"].str.lower().to_numpy()
    labels, predictions = (np.asarray(table.texts[name][:]) for name in ("label", "prediction"))
    content = ContentShares(table, labels, max(len(table.label_names), 1))
    has = content.has
    strongest = _strongest(effects, answers)
    text_ids = np.asarray(table.texts["text_id"][:])
    leads = usual_leads(rows, answers)
    by_code = dict(tuple(rows.assign(row=np.searchsorted(text_ids, rows["text_id"])).groupby("code")))
    places = {int(code): np.asarray(place) for code, place in tokens.groupby("code").indices.items()}
    found = []
    for code, figures in strongest.iterrows():
        called = table.called(int(code))
        own, here = by_code[code], places.get(int(code), np.zeros(0, dtype=np.int64))
        number = int(figures["class"])
        concept: dict[str, Any] = {
            "code": int(code),
            # All that an edit must forbid to cut it.
            "number": " + ".join(map(str, table.by_hand.members(int(code)))),
            "name": called and called.name,
            "named_by": called and called.by,
            "hidden": code in table.by_hand.hidden,
            "words": ", ".join(word for word, _ in table.top_words(int(code), 8)),
            "num_texts": int(has[:, int(code)].sum()),
            "num_tokens": len(here),
            "coverage": float(has[:, int(code)].mean()),
            "num_measured": len(own),
            **figures.to_dict(),
            "class": answers.names[number],
            "flips": float(own["flips"].mean()),
        }
        concept["top_word"], concept["top_word_at"] = _top_word(tokens.iloc[here].assign(word=lower[here]))
        for name, values in attributes.items():
            concept[name], concept[f"{name}_at"] = concentration(values[here], values) if len(here) else (np.nan, None)
        concept["weak"] = float(np.mean(attributes["kind"][here] != "other word")) if len(here) else np.nan
        concept["boilerplate"] = float(facts.boilerplate[here].mean()) if len(here) else np.nan
        label = _label_of(table, answers.names[number], number, concept["direction"])
        concept |= _label_signals(label, labels, predictions, has[:, int(code)], content.of(int(code)))
        with_it, measured = has[:, int(code)], own["row"].to_numpy()
        of_class = np.stack(own["effect"].to_list())[:, number] * (1 if concept["direction"] == FOR else -1)
        gaps = []
        for name, values in slices.items():
            concept[f"slice_{name}"], concept[f"slice_{name}_at"] = concentration(values[with_it], values)
            means = pd.Series(of_class).groupby(values[measured]).agg(["mean", "size"])
            means = means.loc[means["size"] >= MIN_TEXTS, "mean"]
            if len(means) > 1:
                gaps.append((float(means.max() - means.min()), f"{name}: {means.idxmax()}"))
        concept["effect_gap"], concept["effect_gap_at"] = max(gaps, default=(np.nan, None))
        for name, words in groups.items():
            concept[f"group_{name}"] = float(np.isin(lower[here], list(words)).mean()) if len(here) else np.nan
        concept["score"], concept["alarm"] = suspicion(concept, slices, leads[number])
        found.append(concept)
    return pd.DataFrame(found)


def _top_word(tokens: pd.DataFrame) -> tuple[float, str | None]:
    """The share of tokens that are the most frequent word of their concept, and that word.

    Concepts that are shown as one have a word each; these are named in the order in which they stand in the texts.
    """
    if tokens.empty:
        return np.nan, None
    counts = tokens.groupby(["member", "word"]).agg(size=("word", "size"), start=("start", "mean")).reset_index()
    top = counts.sort_values(["size", "word"], ascending=[False, True]).drop_duplicates("member").sort_values("start")
    return float(top["size"].sum() / len(tokens)), " ".join(dict.fromkeys(top["word"]))


def _strongest(effects: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """By code, the row of the class that it supports most; of an effect against an answer the mirror image."""
    size = effects["effect"] if answers.compete else effects["effect"].abs()
    found = effects.loc[size.groupby(effects["code"]).idxmax()].set_index("code")
    against = (found["effect"] < 0) & (not answers.compete)
    mirrored = {
        **{name: -found[name] for name in ("effect", "control", "excess")},
        **{f"{name}_low": -found[f"{name}_high"] for name in ("effect", "excess")},
        **{f"{name}_high": -found[f"{name}_low"] for name in ("effect", "excess")},
        "share": found["share_against"],
    }
    found = found.assign(**{name: found[name].where(~against, values) for name, values in mirrored.items()})
    return found.drop(columns="share_against").assign(direction=np.where(against, AGAINST, FOR))


def usual_leads(rows: pd.DataFrame, answers: Answers) -> np.ndarray:
    """By class, how far a text is from another answer, as the median over the texts of rows, `(C,)`.

    Of classes that is the distance between the two largest logits, the same for all; of a label that of its logit from
    0; of a number that of the output from its median.
    """
    logits = np.stack(rows.drop_duplicates("text_id")["logits"].to_list()).astype(np.float64)
    if answers.compete:
        ordered = np.sort(logits, axis=1)
        return np.full(logits.shape[1], np.median(ordered[:, -1] - ordered[:, -2]))
    return np.median(np.abs(logits - np.median(logits, axis=0) if answers.is_number else logits), axis=0)


def _label_of(table: ConceptTable, name: str, number: int, direction: str) -> int | None:
    """The label of a table that an answer, or what speaks against it, is; `None` if there is none."""
    readout = table.readout
    if readout is not None and readout.kind in ("multi_label", "regression"):
        return int(direction == FOR) if number == readout.target and table.label_names else None
    return table.label_names.index(name) if name in table.label_names else None


def suspicion(concept: Mapping[str, Any], slices: Iterable[str], lead: float) -> tuple[float, bool]:
    """Place of a concept in the default order, and whether it is an alarm.

    The place is what the host loses per text of the whole set without the concept, by itself and beyond controls, at
    least. (An effect of nothing is an excess where the controls of the same texts are a shortcut to another class.) An
    alarm has a strong effect and weak content. Strong: it carries a fifth of the evidence for its class, and this loss
    is at least a fiftieth of the host's usual `lead`: of a source's line every word is enough, so that removing one of
    them costs little. Weak: it is one word, or function words and the like, or boilerplate, or stands in one position,
    layout or slice.
    """
    least = float(np.minimum(concept["effect_low"], concept["excess_low"]))
    if not least > 0:  # nor if it is NaN
        return 0.0, False
    is_strong = concept["q"] <= MAX_Q and concept["share"] >= MIN_SHARE and least >= MIN_OF_LEAD * lead
    is_weak = any(concept[name] >= SIGNS[name][0] for name in WEAK_CONTENT)
    is_weak = is_weak or any(concept[f"slice_{name}"] >= SLICE_SIGN for name in slices)
    return least * concept["coverage"], bool(is_strong and is_weak)


def _label_signals(
    label: int | None, labels: np.ndarray, predictions: np.ndarray, has: np.ndarray, content: np.ndarray
) -> dict[str, float]:
    """How often texts with a concept have a label, and what the rest of these texts says; NaN where not known.

    `has` is `(T,)`, `content` is of the texts that have it.
    """
    names = ("label_share", "content_share", "beyond_content", "misleads")
    unknown = dict.fromkeys(names, np.nan)
    labelled = labels >= 0
    if label is None or not (has & labelled).any():
        return unknown
    share = float((labels[has & labelled] == label).mean())
    rest = float(content[labelled[has], label].mean())
    others = labelled & (labels != label) & (predictions >= 0)
    misleads = np.nan
    if (others & has).sum() >= MIN_OTHERS and (others & ~has).any():
        wrong = predictions == label
        misleads = float(wrong[others & has].mean() - wrong[others & ~has].mean())
    return dict(zip(names, (share, rest, share - rest, misleads), strict=True))


__all__ = [
    "ContentShares",
    "TokenFacts",
    "checked_groups",
    "concentration",
    "read_groups",
    "signal_figures",
    "suspicion",
]
