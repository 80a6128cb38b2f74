"""How well the codes of concept tables agree with the known senses, and which other figures agree with that."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student_t
from sklearn.metrics import adjusted_mutual_info_score

from clvq_hf import ConceptTable
from clvq_hf.comparison.summary import Summary
from clvq_hf.rendering.text_tables import ReportTable, number

# The figures by which methods are ranked, and how each is called in tables.
TRUTH = {
    "agreement": "agreement",
    "ami": "AMI",
    "ami_within": "AMI within the word",
    "purity_gain": "purity gain",
    "f1": "F1 of the decision",
}
NUM_SPLITS = 10


@dataclass(frozen=True)
class Occurrences:
    """The words of all texts of a table, with their truth.

    Attributes:
        text (`np.ndarray`): `(N,)`, int64: the row of the text.
        word (`np.ndarray`): `(N,)`, int64: a number per word.
        ambiguous (`np.ndarray`): `(N,)`, bool: whether the word has several senses.
        sense (`np.ndarray`): `(N,)`, int64: the number of the sense that it has here.
        vote (`np.ndarray`): `(N,)`, int64: what it adds to the label here, -1, 0 or 1.
        topic (`np.ndarray`): `(N,)`, int64: the topic of its text.
        code (`np.ndarray`): `(N,)`, int64: its code.
        salient (`np.ndarray`): `(N,)`, bool: whether it is the salient token of its text.
        predicted (`np.ndarray`): `(N,)`, int64: the sign of the label that the host predicts of its text, 0 if it
            predicts neither.
    """

    text: np.ndarray
    word: np.ndarray
    ambiguous: np.ndarray
    sense: np.ndarray
    vote: np.ndarray
    topic: np.ndarray
    code: np.ndarray
    salient: np.ndarray
    predicted: np.ndarray


class Truth:
    """The truth of one world: a folder that `make` has written."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        words = json.loads((folder / "truth" / "words.json").read_text(encoding="utf-8"))
        self.words = {word: number for number, word in enumerate(words)}
        self.ambiguous = np.array([max(word["senses"]) > 0 for word in words.values()])
        files = [folder / "truth" / f"{part}.jsonl" for part in ("train", "test")]
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        self.texts = {row["text"]: row for row in map(json.loads, lines)}

    def occurrences(self, table: ConceptTable) -> Occurrences:
        """Join a table with the truth.

        Raises:
            ValueError: If a text of the table is not of this world.
        """
        tokens, texts = table.to_pandas()
        if unknown := sorted(set(texts["text"]) - set(self.texts)):
            raise ValueError(f"The world {self.name} has no text {unknown[0]!r}. Name the world of this table.")
        tokens = tokens[~tokens["special"]].merge(
            texts[["text_id", "text", "prediction", "salient_position"]], on="text_id"
        )
        truths = [self.texts[text] for text in tokens["text"]]
        places = tokens["word_id"].tolist()
        word = np.array([self.words[t["text"].split()[p]] for t, p in zip(truths, places, strict=True)])
        sense, vote = (
            np.array([t[name][p] for t, p in zip(truths, places, strict=True)]) for name in ("senses", "votes")
        )
        prediction, names = tokens["prediction"].to_numpy(), table.label_names
        # No prediction is -1, the last.
        signs = np.array([*(1 if name == "plus" else -1 for name in names), 0])
        return Occurrences(
            text=tokens["text_id"].to_numpy(),
            word=word,
            ambiguous=self.ambiguous[word],
            sense=sense,
            vote=vote,
            topic=np.array([truth["topic"] for truth in truths]),
            code=tokens["code"].to_numpy(dtype=np.int64),
            salient=(tokens["position"] == tokens["salient_position"]).to_numpy(),
            predicted=signs[np.where(prediction < len(names), prediction, -1)],
        )


def known_codes(found: Occurrences) -> dict[str, np.ndarray]:
    """Codes that are made from the truth, `(N,)` each, to show what each figure gives to codes that know only this."""
    return {
        "(word and sense)": _numbered(found.word, found.sense),
        "(vote)": found.vote,
        "(topic)": found.topic,
        "(word)": found.word,
        "(predicted label)": found.predicted,
    }


def score(found: Occurrences) -> dict[str, float | None]:
    """All figures of one table.

    Returns:
        `dict[str, float]`: Those of [`ami`], [`sense_purity`] and [`decision`].
    """
    return {**ami(found), **sense_purity(found), **decision(found)}


def ami(found: Occurrences) -> dict[str, float]:
    """Adjusted mutual information of codes and senses.

    Returns:
        `dict[str, float]`: Over the occurrences of words with several senses: `ami` of codes with word and sense
            together; `ami_within`, that of codes with senses within a word, averaged over words by their occurrences.
            Words with one sense in these texts are left out of the latter. `agreement` is the harmonic mean of the two
            (0 if either is not positive): codes for words have none, and codes for topics or votes have little.
    """
    chosen = found.ambiguous
    word, sense, code = found.word[chosen], found.sense[chosen], found.code[chosen]
    total = weight = 0.0
    for each in np.unique(word):
        own = word == each
        if len(np.unique(sense[own])) > 1:
            total += own.sum() * adjusted_mutual_info_score(sense[own], code[own])
            weight += own.sum()
    whole = float(adjusted_mutual_info_score(_numbered(word, sense), code))
    within = float(total / weight) if weight else float("nan")
    return {"agreement": _harmonic_mean(whole, within), "ami": whole, "ami_within": within}


def sense_purity(found: Occurrences, num_splits: int = NUM_SPLITS) -> dict[str, float]:
    """How often the code of a word tells its sense, learned on other texts.

    In each of `num_splits` random halves of the texts, every pair of word and code gets its most frequent sense; where
    the pair does not occur, and for `purity_word`, the word does. The sense is then predicted in the other half, and
    the other way round. Of equally frequent senses the first is taken.

    Returns:
        `dict[str, float]`: `purity` and `purity_word`, the share of right predictions over occurrences of words with
            several senses; `purity_gain`, the share of what the word leaves open that the code adds.
    """
    chosen = found.ambiguous
    word, sense = found.word[chosen], found.sense[chosen]
    pair = _numbered(word, found.code[chosen])
    texts, owner = np.unique(found.text[chosen], return_inverse=True)
    rng = np.random.default_rng(0)
    right, right_word = [], []
    for _ in range(num_splits):
        half = rng.permutation(len(texts)) < len(texts) / 2
        for fit in (half[owner], ~half[owner]):
            of_word, of_pair = (_majority(key, sense, fit) for key in (word, pair))
            by_word = of_word[word]
            by_pair = np.where(of_pair[pair] < 0, by_word, of_pair[pair])
            right.append((by_pair == sense)[~fit])
            right_word.append((by_word == sense)[~fit])
    purity, baseline = (float(np.concatenate(each).mean()) for each in (right, right_word))
    return {"purity": purity, "purity_word": baseline, "purity_gain": (purity - baseline) / (1 - baseline)}


def decision(found: Occurrences) -> dict[str, float | None]:
    """How well the concept behind a prediction, the code of the salient token, is the sense that it should be.

    For each text with a prediction and a salient token, of code c, in all *other* texts: `precision` is the share of
    the tokens with c that vote for the predicted label; `recall` is the share of the tokens with the salient token's
    word and sense that have c. Both are 0 if the salient token itself does not vote for the predicted label, or if
    there are no such tokens.

    Returns:
        `dict[str, float]`: Means over texts, `f1`, their harmonic mean, and `salient_votes`, the share of texts whose
            salient token votes for the predicted label. `None` without salience or predictions.
    """
    rows = np.flatnonzero(found.salient & (found.predicted != 0))
    if not len(rows):
        return dict.fromkeys(("precision", "recall", "f1", "salient_votes"))
    precision, recall = np.zeros((2, len(rows)))
    meaning = _numbered(found.word, found.sense)
    for place, row in enumerate(rows):
        label = found.predicted[row]
        if found.vote[row] != label:
            continue
        others = found.text != found.text[row]
        same_code, same_sense = others & (found.code == found.code[row]), others & (meaning == meaning[row])
        if same_code.any():
            precision[place] = (found.vote[same_code] == label).mean()
        if same_sense.any():
            recall[place] = (found.code[same_sense] == found.code[row]).mean()
    p, r = float(precision.mean()), float(recall.mean())
    votes = float((found.vote[rows] == found.predicted[rows]).mean())
    return {"precision": p, "recall": r, "f1": _harmonic_mean(p, r), "salient_votes": votes}


def _harmonic_mean(first: float, second: float) -> float:
    """Of two shares; 0 if either is not positive, beyond rounding."""
    return 2 * first * second / (first + second) if min(first, second) > 1e-9 else 0.0


def _numbered(*columns: np.ndarray) -> np.ndarray:
    """A number for each different row of several columns."""
    return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _majority(key: np.ndarray, sense: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The most frequent sense by key among the chosen; -1 where there is none."""
    counts = np.zeros((key.max() + 1, sense.max() + 1), dtype=np.int64)
    np.add.at(counts, (key[chosen], sense[chosen]), 1)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


# ---------------------------------------------------------------------------------------------------- tables and cells


def score_paths(paths: Iterable[Path], worlds: Iterable[Path]) -> list[dict[str, Any]]:
    """The figures of concept tables, of cells, and of all cells of grids.

    Args:
        paths (`Iterable[Path]`): Folders: of a table, of a cell, or what `clvq-hf compare` wrote.
        worlds (`Iterable[Path]`): The worlds that their texts are from.

    Returns:
        `list[dict]`: `world`, `method`, `seed`, the figures, and `cell`, the content of a cell's JSON, or `None`. The
            methods in parentheses are the [`known_codes`] of the first table of a world.

    Raises:
        ValueError: If a folder holds none of these, or texts of none of the worlds, or two worlds share a name.
    """
    truths = [Truth(world) for world in worlds]
    if len({truth.name for truth in truths}) < len(truths):
        raise ValueError(f"Two worlds are folders of one name: {sorted(truth.name for truth in truths)}. Rename one.")
    rows: list[dict[str, Any]] = []
    for path in paths:
        for folder in sorted(path.glob("cells/[!.]*/cell.json")) or [path / "cell.json"]:
            cell = json.loads(folder.read_text(encoding="utf-8")) if folder.is_file() else None
            place = path if cell is None else folder.parent / "evaluation" / "concept_table"
            table = ConceptTable.load_from_disk(place)
            first = table.texts[0]["text"]
            truth = next((each for each in truths if first in each.texts), None)
            if truth is None:
                names = ", ".join(each.name for each in truths)
                raise ValueError(f"The texts of {place} are of none of the worlds {names}: add theirs with --world.")
            named = {"method": path.name, "seed": None} if cell is None else cell["cell"]
            found = truth.occurrences(table)
            tried = {} if any(row["world"] == truth.name for row in rows) else known_codes(found)
            for method, codes in (tried | {named["method"]: found.code}).items():
                about = {
                    "world": truth.name,
                    "method": method,
                    "seed": None if method in tried else named["seed"],
                    "codes": len(np.unique(codes)),
                }
                figures = score(replace(found, code=codes))
                rows.append({**about, **figures, "cell": None if method in tried else cell})
    return rows


def score_tables(rows: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
    """A table per world, seeds averaged, by `agreement`, with the rank of each method by each figure of [`TRUTH`]."""
    tables = []
    frame = pd.DataFrame(rows).drop(columns="cell")
    for world, own in frame.groupby("world"):
        means = own.drop(columns=["world", "seed"]).groupby("method", sort=False).mean(numeric_only=False)
        means = means.astype(float)
        # Not of codes that are made from the truth.
        is_method = ~means.index.str.startswith("(")
        ranks = means.loc[is_method, list(TRUTH)].rank(ascending=False).reindex(means.index)
        means = means.assign(seeds=own.groupby("method").size(), is_method=is_method)
        means = means.sort_values(["is_method", "agreement"], ascending=False)
        rows_of_world = [
            {**row, **{title: _ranked(row[name], ranks.loc[row["method"], name]) for name, title in TRUTH.items()}}
            for row in means.reset_index().to_dict("records")
        ]
        columns: dict[str, Any] = {"method": "method", "seeds": "seeds", "codes": lambda row: f"{row['codes']:.0f}"}
        columns |= {f"{title} (rank)": title for title in TRUTH.values()}
        columns |= {name: name for name in ("purity", "purity_word", "precision", "recall", "salient_votes")}
        tables.append(ReportTable.from_rows(f"Truth of the world {world}", rows_of_world, columns))
    return tables


def _ranked(value: float, rank: float) -> str:
    return number(value, 3) + ("" if np.isnan(rank) else f" ({rank:g})")


def metric_table(rows: Sequence[Mapping[str, Any]], min_methods: int = 5) -> ReportTable:
    """Which figures of cells rank methods as the truth does.

    For each world, Spearman's correlation over methods (means over seeds) of a figure with each figure of [`TRUTH`];
    then the mean over worlds. Figures that are not numbers, the same for all methods of a world, known of fewer than
    `min_methods` methods in every world, or equal to another figure in every cell are left out.
    """
    cells = [row for row in rows if row["cell"] is not None]
    records = Summary([row["cell"] for row in cells]).records
    numbers = [{name: value for name, value in record.items() if _is_metric(name, value)} for record in records]
    frame = pd.DataFrame(numbers).astype(float)
    frame = frame.loc[:, ~frame.T.duplicated()]
    keys = pd.DataFrame([{name: row[name] for name in ("world", "method")} for row in cells])
    truth = pd.DataFrame([{name: row[name] for name in TRUTH} for row in cells]).astype(float)
    figures = defaultdict(list)
    truth.columns = [("truth", name) for name in TRUTH]
    joined = pd.concat([keys, truth, frame], axis=1)
    for _, own in joined.groupby("world"):
        means = own.drop(columns="world").groupby("method").mean()
        for metric in frame.columns:
            known = means[means[metric].notna()]
            if len(known) >= min_methods and known[metric].nunique() > 1:
                by_truth = {n: known[metric].corr(known[("truth", n)], method="spearman") for n in TRUTH}
                figures[metric].append({**by_truth, "methods": len(known)})
    found = [{"metric": m, "worlds": len(f), **pd.DataFrame(f).mean().to_dict()} for m, f in figures.items()]
    found.sort(key=lambda row: -abs(row["agreement"]))
    most = max((row["methods"] for row in found), default=min_methods)
    t = student_t.ppf(0.975, most - 2)
    columns = {"metric": "metric", **{title: name for name, title in TRUTH.items()}, "worlds": "worlds"}
    columns["methods"] = lambda row: f"{row['methods']:.1f}"
    note = (
        "Spearman's correlation over methods, averaged over worlds. Negative: the larger the figure, the worse the "
        "codes, as it should be for a change of the margin. In one world, a single figure that has nothing to do with "
        f"the truth stays below {t / np.sqrt(most - 2 + t**2):.2f} in 95 % of cases. The methods are the same in each "
        "world, so worlds are no independent trials; among so many metrics, some agree with the truth by chance."
    )
    return ReportTable.from_rows("Metrics that rank methods as the truth does", found, columns, note)


# What is no metric of the codes: settings, sizes, times, and what all methods of a host share.
_OTHERS = ("settings.", "cell.", "host.", "seconds.", "codebook_size", "first_seed", "texts")
_ENDS = ("_low", "_high", "p_value", "_p_holm")


def _is_metric(name: str, value: object) -> bool:
    """Whether a figure is a number that says something about codes; not counts, bounds, nulls and p-values."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        is_number
        and not name.startswith(_OTHERS)
        and not name.endswith(_ENDS)
        and "num_" not in name
        and "null_" not in name
    )
