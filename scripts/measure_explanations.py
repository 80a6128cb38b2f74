"""How far explanations are to be trusted: what docs/explain.md says of real texts.

    clvq-hf compare run scripts/grids/words.yaml -o words
    python scripts/measure_explanations.py words data docs/grids/explanations/rows.jsonl

Hosts and CLVQ models of three seeds come from the grid, texts from the folders of `data` that are named in `DATASETS`.
One line per text is written as soon as it is known, and texts that the file has already are not measured again. Texts
themselves are not written.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import average_precision_score

from clvq_hf import ActivationCache, ConceptModel, ConceptTable
from clvq_hf.data.texts import PARTS, load_texts, split_texts, text_hash
from clvq_hf.explanations import Explainer, Explanation
from clvq_hf.explanations.group import Reading, TextGroup
from clvq_hf.hosts.host import load_host
from clvq_hf.hosts.loading import load_tokenizer
from clvq_hf.hosts.readout import margins
from clvq_hf.tables.attribution import salient_tokens, without_parameter_gradients

DATASETS = {
    "jigsaw": ("jigsaw", "test"),
    "eraser-movie": ("eraser_movie", "train"),
    "ag-news": ("ag_news", "test"),
}
SEEDS = (0, 1, 2)
MAX_TOKENS, BATCH = 64, 16
NUM_RANDOM = 3
# Points of a curve, closer together where few concepts are removed.
NUM_STEPS = 10
# Where nearly all of a sentence is marked, there is nothing to find.
MOST_EVIDENCE = 0.8


class Seed:
    """The concepts of one seed, and the codes of the training tokens."""

    def __init__(self, cell: Path, host: Any, tokenizer: Any, cache: ActivationCache) -> None:
        self.model = ConceptModel.from_pretrained(str(cell / "model"))
        states = cache.counted("hidden_states").float()
        self.model.record_distances(states)
        self.codes = self.model.encode(states[None])[0].numpy()
        text_of = np.concatenate([np.full(int(text["token_mask"].sum()), n) for n, text in enumerate(cache)])
        pairs = np.unique(np.stack([self.codes, text_of]), axis=1)
        self.num_texts = np.bincount(pairs[0], minlength=self.model.config.codebook_size)
        table = ConceptTable.load_from_disk(cell / "evaluation" / "concept_table")
        self.explainer = Explainer(self.model, host, tokenizer, table, batch_size=BATCH, max_length=MAX_TOKENS)

    @property
    def reading(self) -> Reading:
        return self.explainer._read_for(None)


class Match:
    """Which concepts of two seeds are the same, by the training tokens that they share."""

    def __init__(self, first: Seed, second: Seed) -> None:
        self.shared = np.zeros((len(first.num_texts), len(second.num_texts)))
        np.add.at(self.shared, (first.codes, second.codes), 1)
        rows, columns = linear_sum_assignment(-self.shared)
        self.partner = dict(zip(rows.tolist(), columns.tolist(), strict=True))

    def __call__(self, first: int, second: int) -> dict[str, bool]:
        """Whether they are assigned to each other; whether one of them shares no more tokens with any other concept."""
        shared = self.shared[first, second]
        most = min(self.shared[first].max(), self.shared[:, second].max())
        return {"assigned": self.partner[first] == second, "related": bool(0 < shared >= most)}


def read_texts(file: Path, train: Path, tokenizer: Any, number: int) -> list[dict[str, Any]]:
    """Texts of at most `MAX_TOKENS` tokens that were not trained on, in the order of their hashes.

    ERASER-Movie's validation split lies within its training split, so both grid and explanations use a part of that.
    """
    parts = split_texts(load_texts(train), PARTS)
    known = {text_hash(text) for name in ("host_train", "codebook_train") for text in parts[name]["text"]}
    rows = {text_hash(row["text"]): row for row in read_rows(file)}
    chosen = []
    for key in sorted(rows.keys() - known):
        if 4 <= len(tokenizer(rows[key]["text"])["input_ids"]) <= MAX_TOKENS:
            chosen.append({"hash": key[:16], **rows[key]})
        if len(chosen) == number:
            break
    return chosen


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def removal_curves(seed: Seed, explanations: list[Explanation], plain: list[np.ndarray]) -> list[dict[str, Any]]:
    """Area under the margin against the share of tokens that lost their concept, of each order and text."""
    windowed = seed.explainer.windows([explanation.text for explanation in explanations])
    group = TextGroup(seed.reading, list(windowed.values()))
    [chunk] = group.chunks
    target = group.rows.argmax(-1)
    margin = margins(group.rows, target).numpy()
    generator = np.random.default_rng([int(text_hash(each.text)[:8], 16) for each in explanations])

    def concepts(place: int, order: list[int]) -> list[np.ndarray]:
        codes = group.codes[place]
        numbers = np.unique(np.geomspace(1, len(order), NUM_STEPS).round().astype(int))
        return [np.isin(codes, order[:number]) for number in numbers]

    def tokens(place: int, scores: np.ndarray, steps: list[np.ndarray]) -> list[np.ndarray]:
        """The tokens with the highest scores, as many as the concepts of each step have."""
        counted = group.counted[place]
        ranks = np.full(len(counted), len(counted))
        order = np.argsort(np.where(counted, -scores, np.inf), kind="stable")
        ranks[order[: counted.sum()]] = np.arange(counted.sum())
        return [ranks < (step & counted).sum() for step in steps]

    def areas(steps: list[list[np.ndarray]]) -> np.ndarray:
        values = [[float(margin[place])] for place in range(len(steps))]
        for number in range(max(map(len, steps))):
            where = torch.zeros_like(chunk.real)
            for place, own in enumerate(steps):
                step = own[min(number, len(own) - 1)]
                where[place, : len(step)] = torch.from_numpy(step)
            after = margins(chunk.without(where), target)
            for place, own in enumerate(steps):
                if number < len(own):
                    values[place].append(float(after[place]))
        shares = [
            [0.0, *((step & group.counted[place]).sum() / group.counted[place].sum() for step in own)]
            for place, own in enumerate(steps)
        ]
        return np.array([np.trapezoid(y, x) for y, x in zip(values, shares, strict=True)])

    orders = [[concept.code for concept in each.concepts] for each in explanations]
    steps = [concepts(place, order) for place, order in enumerate(orders)]
    specials = [text.special for text in windowed.values()]
    own = [np.zeros(len(special)) for special in specials]
    for place, each in enumerate(explanations):
        own[place][~specials[place]] = [token.score for token in each.tokens]
    random = [
        areas([concepts(place, generator.permutation(order).tolist()) for place, order in enumerate(orders)])
        for _ in range(NUM_RANDOM)
    ]
    found = {
        "concepts": areas(steps),
        "random": np.mean(random, axis=0),
        "words": areas([tokens(place, plain[place], step) for place, step in enumerate(steps)]),
        "tokens": areas([tokens(place, own[place], step) for place, step in enumerate(steps)]),
    }
    return [{name: round(float(values[place]), 4) for name, values in found.items()} for place in range(len(orders))]


def evidence_precision(text: dict[str, Any], explanations: list[Explanation], plain: np.ndarray) -> dict[str, Any]:
    """Area under precision and recall of tokens in the marked span: of explanations, and of plain scores."""
    first = text["text"].index(text["evidence"])
    tokens = explanations[0].tokens
    inside = [token.start >= first and token.end <= first + len(text["evidence"]) for token in tokens]
    share = float(np.mean(inside))
    if not 0 < share <= MOST_EVIDENCE or explanations[0].prediction != str(text["label"]):
        return {}
    scores = [average_precision_score(inside, [token.score for token in each.tokens]) for each in explanations]
    return {
        "share": round(share, 4),
        "explanations": [round(float(score), 4) for score in scores],
        "plain": round(float(average_precision_score(inside, plain)), 4),
    }


def facts(seed: Seed, explanation: Explanation, best: int) -> dict[str, Any]:
    """What an explanation says, and what may tell whether to trust it."""
    first, control = explanation.salient, explanation.control
    found: dict[str, Any] = {"reliable": explanation.reliable, "error": round(explanation.error or 0, 4)}
    if first is None:
        return found
    concept = explanation.salient_concept
    return found | {
        "code": concept.code,
        "tokens": len(concept.positions),
        "contributions": [round(each.contribution, 4) for each in explanation.concepts[:2]],
        "margin": round(explanation.margin, 4),
        "change": round(first.change, 4),
        "flips": first.flips,
        "control": control
        and {"change": round(control.change, 4), "flips": control.flips, "matched": control.matched},
        "fits": concept.fits,
        "texts": concept.num_texts,
        "training_texts": int(seed.num_texts[concept.code]),
        "has_best_token": best in concept.positions,
    }


def compare(explained: list[Explanation], matches: dict[tuple[int, int], Match]) -> dict[str, dict[str, Any]]:
    """For each two seeds: whether they name the same concept, and which share of the tokens that one of them names."""
    found = {}
    for (a, b), match in matches.items():
        first, second = explained[a].salient_concept, explained[b].salient_concept
        if first is None or second is None:
            found[f"{a}{b}"] = {"assigned": False, "related": False, "tokens": 0.0}
            continue
        one, other = set(first.positions), set(second.positions)
        tokens = round(len(one & other) / len(one | other), 4)
        found[f"{a}{b}"] = {**match(first.code, second.code), "tokens": tokens}
    return found


def measure(name: str, grid: Path, data: Path, number: int, done: set[str]) -> Iterator[dict[str, Any]]:
    prepared = grid / "hosts" / f"minilm_{name}_fine-tuned"
    host = load_host(str(prepared / "host")).eval()
    tokenizer = load_tokenizer(str(prepared / "host"))
    folder, split = DATASETS[name]
    texts = read_texts(data / folder / f"{split}.jsonl", data / folder / "train.jsonl", tokenizer, number)
    texts = [text for text in texts if text["hash"] not in done]
    cache = ActivationCache.load(prepared / "cache" / "train")
    seeds = [Seed(grid / "cells" / f"minilm_{name}_clvq_{number}", host, tokenizer, cache) for number in SEEDS]
    matches = {(a, b): Match(seeds[a], seeds[b]) for a in SEEDS for b in SEEDS if a < b}
    for start in range(0, len(texts), BATCH):
        block = texts[start : start + BATCH]
        strings = [text["text"] for text in block]
        plain = [
            np.array(row["scores"])
            for row in salient_tokens(
                host,
                tokenizer,
                Dataset.from_dict({"text": strings}),
                seeds[0].model.config.lower_layer,
                n_steps=16,
                max_steps=16,
                max_length=MAX_TOKENS,
                batch_size=BATCH,
            )
        ]
        explained = [list(seed.explainer.explain(strings)) for seed in seeds]
        with without_parameter_gradients(host):
            curves = removal_curves(seeds[0], explained[0], plain)
        for place, text in enumerate(block):
            own = [each[place] for each in explained]
            [windowed] = seeds[0].explainer.windows([text["text"]]).values()
            scores = plain[place][~windowed.special]
            yield {
                "dataset": name,
                "text": text["hash"],
                "num_tokens": len(own[0].tokens),
                "num_concepts": [len(each.concepts) for each in own],
                "areas": curves[place],
                "evidence": evidence_precision(text, own, scores) if "evidence" in text else {},
                "seeds": [facts(seed, each, int(scores.argmax())) for seed, each in zip(seeds, own, strict=True)],
                "pairs": compare(own, matches),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="folder that the grid words.yaml wrote")
    parser.add_argument("data", type=Path, help="folder with the datasets")
    parser.add_argument("output", type=Path, help="file of JSON lines")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--number", type=int, default=128, help="texts per dataset")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.touch()
    for name in args.datasets:
        done = {row["text"] for row in read_rows(args.output) if row["dataset"] == name}
        for row in measure(name, args.grid, args.data, args.number, done):
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
