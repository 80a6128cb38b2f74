"""A world whose concepts are known: its vocabulary, its texts, and a host that is trained on them."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from datasets import Dataset
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

from clvq_hf.training.finetuning import predict

LABELS = ["minus", "plus"]
# How many voting words a text has: odd, so that words with two senses never tie.
VOTERS = (1, 3, 5)
# How many words of the other kinds a text has, from least to most.
CUES, OTHER_CUES, DISTRACTORS, FUNCTION_WORDS = (3, 5), (0, 1), (1, 3), (2, 5)
# The host sees each text once, and training ends when this share of the latest 50 batches is right.
ENOUGH, BATCH, LEARNING_RATE, WARMUP = 0.99, 64, 1e-3, 100
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]


@dataclass(frozen=True)
class Size:
    """How large a world is, and its host.

    Attributes:
        topics (`int`): Even, at least 4.
        pairs (`int`): Of words with several senses; every third pair has three senses, the others two.
        cues (`int`): Words per topic that occur mostly in its texts.
        distractors (`int`): Content words with one sense and no vote, equally frequent in all topics.
        function_words (`int`): The same, but shorter and more frequent.
        width (`int`): Of the host's states.
        host_texts (`int`): That the host is trained on.
    """

    topics: int
    pairs: int
    cues: int
    distractors: int
    function_words: int
    width: int
    host_texts: int


SIZES = {
    "small": Size(topics=4, pairs=12, cues=6, distractors=40, function_words=16, width=64, host_texts=60_000),
    "medium": Size(topics=6, pairs=24, cues=8, distractors=60, function_words=20, width=96, host_texts=100_000),
    "large": Size(topics=8, pairs=48, cues=10, distractors=150, function_words=30, width=128, host_texts=150_000),
}


def zipf(number: int) -> np.ndarray:
    """Probabilities `(number,)` that are proportional to 1, 1/2, 1/3, …"""
    shares = 1 / np.arange(1, number + 1)
    return shares / shares.sum()


@dataclass(frozen=True)
class World:
    """A vocabulary with the sense and the vote of each word in each topic.

    Words with several senses come first, in pairs: the words 2p and 2p + 1 are equally frequent, change their sense in
    the same topics, and vote for opposite labels in each. Then come the cues of the topics, distractors, and function
    words, which have one sense and no vote.

    Attributes:
        size ([`Size`]): How large.
        words (`list[str]`): The V words.
        senses (`np.ndarray`): `(V, T)`, int64: the number of the word's sense in a topic, from 0.
        votes (`np.ndarray`): `(V, T)`, int64: what this sense adds to the label, -1, 0 or 1.
    """

    size: Size
    words: list[str]
    senses: np.ndarray
    votes: np.ndarray

    @classmethod
    def make(cls, size: Size, seed: int) -> Self:
        """Draw the words, and which topics give them which sense."""
        rng = np.random.default_rng(seed)
        ambiguous, topics = 2 * size.pairs, size.topics
        number = ambiguous + topics * size.cues + size.distractors + size.function_words
        senses, votes = np.zeros((2, number, topics), dtype=np.int64)
        for pair in range(size.pairs):
            order = rng.permutation(topics)
            # A third sense has no vote, and the topics that the others leave.
            share = topics // 3 if pair % 3 == 2 else topics // 2
            rows = slice(2 * pair, 2 * pair + 2)
            senses[rows, order[share : 2 * share]] = 1
            senses[rows, order[2 * share :]] = 2
            votes[2 * pair] = np.array([1, -1, 0])[senses[2 * pair]]
            votes[2 * pair + 1] = -votes[2 * pair]
        words = _new_words(number - size.function_words, 3, rng) + _new_words(size.function_words, 2, rng)
        return cls(size, words, senses, votes)

    def texts(self, number: int, rng: np.random.Generator, known: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Draw different texts, none of them among `known`; as many of each label, as nearly as the number allows.

        Returns:
            `list[dict]`: `text`, `label`, `topic`, and one number per word in `senses` and `votes`.
        """
        rows: list[dict[str, Any]] = []
        seen = set(known)
        while len(rows) < number:
            ids, topics = self._draw(number, rng)
            for row, topic in zip(ids, topics.tolist(), strict=True):
                row = row[row >= 0]
                votes = self.votes[row, topic]
                if (votes.sum() > 0) != len(rows) % 2:
                    # Every word becomes the other one of its pair, so the votes change their signs and nothing else.
                    row = np.where(row < 2 * self.size.pairs, row ^ 1, row)
                    votes = -votes
                text = " ".join(self.words[word] for word in row)
                if text not in seen and len(rows) < number:
                    seen.add(text)
                    senses = self.senses[row, topic].tolist()
                    label = LABELS[len(rows) % 2]
                    rows.append(
                        {"text": text, "label": label, "topic": topic, "senses": senses, "votes": votes.tolist()}
                    )
        return rows

    def _draw(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Word ids `(number, S)`, -1 where a text has no more words, and topics `(number,)`."""
        size = self.size
        topics = rng.integers(size.topics, size=number)
        ambiguous = np.zeros((number, max(VOTERS)), dtype=np.int64)
        ties = np.arange(number)
        while len(ties):  # those without a majority are drawn again
            shape = len(ties), max(VOTERS)
            drawn = 2 * rng.choice(size.pairs, shape, p=zipf(size.pairs)) + rng.integers(2, size=shape)
            voters = rng.choice(VOTERS, len(ties))
            ambiguous[ties] = np.where(np.arange(shape[1]) < voters[:, None], drawn, -1)
            votes = np.where(ambiguous[ties] >= 0, self.votes[ambiguous[ties], topics[ties, None]], 0)
            ties = ties[votes.sum(axis=1) == 0]

        def some(first: np.ndarray | int, of: int, limits: tuple[int, int]) -> np.ndarray:
            least, most = limits
            ids = np.reshape(first, (-1, 1)) + rng.choice(of, (number, most), p=zipf(of))
            return np.where(np.arange(most) < rng.integers(least, most + 1, size=(number, 1)), ids, -1)

        first_cue = 2 * size.pairs
        others = (topics + rng.integers(1, size.topics, size=number)) % size.topics
        first_distractor = first_cue + size.topics * size.cues
        parts = [
            ambiguous,
            some(first_cue + topics * size.cues, size.cues, CUES),
            some(first_cue + others * size.cues, size.cues, OTHER_CUES),
            some(first_distractor, size.distractors, DISTRACTORS),
            some(first_distractor + size.distractors, size.function_words, FUNCTION_WORDS),
        ]
        return rng.permuted(np.concatenate(parts, axis=1), axis=1), topics

    def truth(self) -> dict[str, dict[str, Any]]:
        """Senses, votes by topic, and the kind of each word."""
        size = self.size
        numbers = (2 * size.pairs, size.topics * size.cues, size.distractors, size.function_words)
        kinds = np.repeat(["several senses", "cue", "distractor", "function word"], numbers).tolist()
        return {
            word: {"kind": kind, "senses": senses.tolist(), "votes": votes.tolist()}
            for word, kind, senses, votes in zip(self.words, kinds, self.senses, self.votes, strict=True)
        }


def _new_words(number: int, syllables: int, rng: np.random.Generator) -> list[str]:
    """Different made-up words, of which none is an English stop word."""
    words: dict[str, None] = {}
    while len(words) < number:
        letters = ([*"bdfgklmnprstvz"], [*"aeiou"])
        word = "".join(rng.choice(letters[place % 2]) for place in range(2 * syllables))
        if word not in ENGLISH_STOP_WORDS:
            words[word] = None
    return list(words)


def make_world(folder: Path, size: Size, seed: int, train_texts: int = 12_000, test_texts: int = 2_000) -> dict:
    """Write texts, truth, host and what was checked of them; returns the checks."""
    world = World.make(size, seed)
    rng = np.random.default_rng([seed, 1])
    known: list[str] = []
    texts = {}
    for part, number in {"train": train_texts, "test": test_texts, "host": size.host_texts}.items():
        texts[part] = world.texts(number, rng, known)
        known += [row["text"] for row in texts[part]]
    for part in ("train", "test"):
        _write(
            folder / "texts" / f"{part}.jsonl", [{key: row[key] for key in ("text", "label")} for row in texts[part]]
        )
        kept = ("text", "topic", "senses", "votes")
        _write(folder / "truth" / f"{part}.jsonl", [{key: row[key] for key in kept} for row in texts[part]])
    (folder / "truth" / "words.json").write_text(json.dumps(world.truth(), indent=1) + "\n", encoding="utf-8")
    checks: dict[str, Any] = {"bag_of_words_accuracy": bag_of_words(texts["train"], texts["test"])}
    host, tokenizer = train_host(world, texts["host"], seed)
    for part in (host, tokenizer):
        part.save_pretrained(folder / "host")
    dataset = Dataset.from_list([{"text": row["text"]} for row in texts["test"]])
    labels = np.array([LABELS.index(row["label"]) for row in texts["test"]])
    checks["host_accuracy"] = float((predict(host, tokenizer, dataset) == labels).mean())
    checks["probe"] = probe(host, tokenizer, texts["train"][:3000], texts["test"])
    (folder / "checks.json").write_text(json.dumps(checks, indent=1) + "\n", encoding="utf-8")
    return checks


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def bag_of_words(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> float:
    """Accuracy on `test` of a logistic regression on word counts."""
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    return float(model.score([row["text"] for row in test], [row["label"] for row in test]))


def train_host(
    world: World, texts: Sequence[dict[str, Any]], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A BERT of four blocks with a tokenizer that knows all words.

    It is trained to predict the label, and, as language models are, other words of the text; never senses or topics.
    """
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *world.words])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    roles = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **roles)
    set_seed(seed)
    host = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=world.size.width,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=4 * world.size.width,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
            id2label=dict(enumerate(LABELS)),
            label2id={label: number for number, label in enumerate(LABELS)},
        )
    )
    # The order of the words means nothing here: random positions would only be noise that the host has to unlearn.
    torch.nn.init.zeros_(host.bert.embeddings.position_embeddings.weight)
    optimizer = torch.optim.AdamW(host.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    recent: deque[float] = deque(maxlen=50)
    for step, start in enumerate(range(0, len(texts) - BATCH + 1, BATCH)):
        rows = texts[start : start + BATCH]
        batch = tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True)
        labels = torch.tensor([LABELS.index(row["label"]) for row in rows])
        output = host(**batch, labels=labels, output_hidden_states=True)
        loss = output.loss + 0.5 * _neighbour_loss(host, batch["input_ids"], output.hidden_states[-1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(host.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (step + 1) / WARMUP)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(float((output.logits.argmax(1) == labels).float().mean()))
        if step % 100 == 99:
            print(f"Step {step + 1}: {np.mean(recent):.1%} of the latest texts are classified correctly.", flush=True)
        if len(recent) == recent.maxlen and np.mean(recent) >= ENOUGH:
            break
    return host.eval(), tokenizer


def _neighbour_loss(host: PreTrainedModel, ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of predicting another word of the text, at random, from the last state of each word."""
    real = ids >= len(SPECIAL)
    number = real.sum(dim=1, keepdim=True)
    place = torch.arange(ids.shape[1])[None]
    distance = 1 + (torch.rand(len(ids), 1) * (number - 1)).long()
    # The words are at the places 1 to `number`, after [CLS].
    other = ids.gather(1, (place - 1 + distance) % number + 1)
    logits = states[real] @ host.bert.embeddings.word_embeddings.weight.T
    return torch.nn.functional.cross_entropy(logits, other[real])


@torch.no_grad()
def probe(
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[dict[str, Any]],
    test: Sequence[dict[str, Any]],
    min_count: int = 30,
) -> list[dict[str, float]]:
    """How well a linear probe reads the sense of a word from its state, given the word.

    A logistic regression per word with several senses and at least `min_count` occurrences in `train`.

    Returns:
        `list[dict]`: For each layer from the embeddings on, `accuracy` on `test` over all occurrences of these words,
            and of always choosing the word's most frequent sense, `majority`.
    """
    states, words, senses = zip(*(_states(host, tokenizer, rows) for rows in (train, test)), strict=True)
    figures = []
    for layer in range(states[0].shape[1]):
        right, majority = [], []
        for word in np.unique(words[0]):
            fit, held = (each == word for each in words)
            if len(np.unique(senses[0][fit])) < 2 or fit.sum() < min_count:
                continue
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
            model.fit(states[0][fit, layer], senses[0][fit])
            if held.any():
                right.append(model.predict(states[1][held, layer]) == senses[1][held])
                majority.append(np.bincount(senses[0][fit]).argmax() == senses[1][held])
        means = [float(np.concatenate(each).mean()) for each in (right, majority)]
        figures.append({"layer": layer, "accuracy": means[0], "majority": means[1]})
    return figures


def _states(
    host: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States `(N, L + 1, d)`, token ids `(N,)` and senses `(N,)` of all words."""
    states, words = [], []
    for start in range(0, len(rows), 100):
        batch = tokenizer([row["text"] for row in rows[start : start + 100]], return_tensors="pt", padding=True)
        real = batch["input_ids"] >= len(SPECIAL)
        layers = host(**batch, output_hidden_states=True).hidden_states
        states.append(torch.stack(layers, dim=2)[real].numpy())
        words.append(batch["input_ids"][real].numpy())
    return np.concatenate(states), np.concatenate(words), np.concatenate([row["senses"] for row in rows])
