"""A host of the grid on one of its datasets: made ready once, for all methods and seeds."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)

from ..checksums import read_metadata, read_rows, write_metadata, write_rows
from ..data.activation_cache import ActivationCache
from ..data.labels import host_labels, label_names
from ..data.texts import PARTS, split_texts, without_texts
from ..data.tokenization import ensure_pad_token
from ..data.transforms import shuffle_rows
from ..evaluation.ablation.words import WordMeans, fit_words
from ..files import replaced
from ..hosts import hooks
from ..hosts.host import load_host
from ..hosts.identity import check_identity, host_identity
from ..hosts.loading import load_tokenizer
from ..reading import check_object
from ..tables.attribution import salient_tokens
from ..training.finetuning import fine_tune, load_classifier, predict
from .grid import DatasetSpec, Grid, HostSpec, Sizes, digest
from .sources import Sources

REMEDY = "Choose another output folder, or start anew what differs with overwrite=True (--overwrite)."
RECORD_NAME = "host.json"
VALIDATION_SHARE = 0.1
CACHED = ("train", "validation")
# Many processes write to one terminal.
QUIET = {"disable_tqdm": True, "logging_strategy": "no"}


@dataclass(frozen=True)
class PreparedHost:
    """What all cells of a host and dataset share, on disk.

    Attributes:
        folder (`Path`): Where it is.
        record (`dict`): `linear_explained_variance` (of the best linear map of a token's lower to its upper state),
            `accuracy` on the test texts, `majority` (share of their most frequent label), `at_chance`,
            sizes, seconds, and what it was made with.
    """

    folder: Path
    record: dict[str, Any]

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Host and tokenizer.

        Raises:
            ValueError: If it is not the host that was prepared.
        """
        host = load_host(str(self.folder / "host"))
        noted = {"host": self.record["content"]} if "content" in self.record else None
        check_identity(noted, {"host": host_identity(host)}, f"The prepared host in {self.folder}", REMEDY)
        return host, load_tokenizer(self.folder / "host")

    def cache(self, part: str) -> ActivationCache:
        """States of `"train"` or `"validation"`."""
        return ActivationCache.load(self.folder / "cache" / part)

    def texts(self, part: str) -> Dataset:
        """Texts and labels of `"train"` or `"test"`."""
        return self._rows(f"texts/{part}")

    @property
    def words(self) -> WordMeans | None:
        """Mean states of words, from every text that is not measured; `None` if nothing that is measured needs them."""
        folder = self.folder / "words"
        return WordMeans.load(folder) if folder.is_dir() else None

    @property
    def salience(self) -> Dataset | None:
        """Of the test texts; `None` for hosts that cannot be ablated."""
        return self._rows("salience") if (self.folder / "salience").is_dir() else None

    def _rows(self, name: str) -> Dataset:
        return read_rows(self.folder / name, f"Remove {self.folder}, and run the same command again.")


def host_folder(output_dir: Path, host: str, dataset: str, variant: str) -> Path:
    """Return the folder of a prepared host."""
    return output_dir / "hosts" / f"{host}_{dataset}_{variant}"


def open_host(
    grid: Grid, host: str, dataset: str, variant: str, output_dir: Path, sources: Sources | None = None
) -> PreparedHost | None:
    """The prepared host if it is there, `None` if it has yet to be made.

    Raises:
        ValueError: If one is there that was made with other settings, or, if they are given, from other sources.
    """
    folder = host_folder(output_dir, host, dataset, variant)
    if not (folder / RECORD_NAME).is_file():
        return None
    file = folder / RECORD_NAME
    record = check_object(read_metadata(file, REMEDY)[0], str(file), {"digest": str}, REMEDY)
    if record["digest"] != digest(grid.host_settings(host, dataset, variant)):
        raise ValueError(f"{folder} was made with other settings than the grid's. {REMEDY}")
    if sources is not None:
        check_identity(
            record.get("identity"), sources.of_host(host, dataset), f"The prepared host in {folder}", REMEDY
        )
    return PreparedHost(folder, record)


def prepare_host(grid: Grid, host: str, dataset: str, variant: str, output_dir: Path) -> PreparedHost:
    """Load or train a host, extract its activations, find the salient tokens of the test texts and the words' means.

    Its folder is there when it is complete.

    Args:
        grid ([`Grid`][clvq_hf.comparison.Grid]): The grid.
        host (`str`): Name of a host.
        dataset (`str`): Name of a dataset.
        variant (`str`): `"fine-tuned"`, `"pretrained"` or `"reinitialised"`.
        output_dir (`Path`): The grid's folder.

    Raises:
        ValueError: If texts, layers or tokenizer do not fit.
    """
    if (prepared := open_host(grid, host, dataset, variant, output_dir)) is not None:
        return prepared
    folder = host_folder(output_dir, host, dataset, variant)
    with replaced(folder) as building:
        record = _prepare_in(building, grid, host, dataset, variant)
    return PreparedHost(folder, record)


def _prepare_in(building: Path, grid: Grid, host: str, dataset: str, variant: str) -> dict[str, Any]:
    started = time.monotonic()
    spec, sizes = grid.hosts[host], grid.sizes_of(host)
    settings = grid.evaluation_of(host)
    parts, unmeasured, names = _texts(grid.datasets[dataset], sizes)
    set_seed(0)
    model, tokenizer = _host(spec, variant, parts["host_train"], names, sizes.max_length)
    parts = {part: host_labels(texts, model, complete=True) for part, texts in parts.items()}
    model.save_pretrained(building / "host")
    tokenizer.save_pretrained(building / "host")
    seconds = {"fine_tune": time.monotonic() - started}
    for part in CACHED:
        ActivationCache.build(
            building / "cache" / part,
            model,
            tokenizer,
            parts[part],
            lower_layer=spec.lower_layer,
            upper_layer=spec.upper_layer,
            stack=spec.stack,
            max_length=sizes.max_length,
            batch_size=settings.batch_size,
        )
    for part in ("train", "test"):
        write_rows(parts[part], building / "texts" / part)
    seconds["activations"] = time.monotonic() - started - sum(seconds.values())
    linear = _linear_explained_variance(*(ActivationCache.load(building / "cache" / part) for part in CACHED))
    predictions = predict(model, tokenizer, parts["test"], sizes.max_length, settings.batch_size)
    labels = np.asarray(parts["test"]["label"])[predictions >= 0]
    correct = predictions[predictions >= 0] == labels
    by_majority = labels == np.bincount(labels).argmax()
    # Paired by text, one-sided at 5 %.
    gain = correct.astype(float) - by_majority
    at_chance = bool(gain.mean() <= 1.645 * gain.std(ddof=1) / np.sqrt(len(gain)))
    if variant == "fine-tuned" and not at_chance:
        salience = salient_tokens(
            model,
            tokenizer,
            parts["test"],
            spec.lower_layer,
            stack=spec.stack,
            method=settings.attribution,
            n_steps=settings.n_steps,
            max_steps=settings.max_steps,
            sign=settings.sign,
            max_length=sizes.max_length,
            batch_size=settings.batch_size,
        )
        write_rows(salience, building / "salience")
    seconds["salience"] = time.monotonic() - started - sum(seconds.values())
    if variant == "fine-tuned" and grid.needs_words(host) and not at_chance:
        fit_words(
            model,
            tokenizer,
            unmeasured,
            spec.lower_layer,
            stack=spec.stack,
            max_length=sizes.max_length,
            batch_size=settings.batch_size,
        ).save(building / "words")
        seconds["words"] = time.monotonic() - started - sum(seconds.values())
    stream = hooks.residual_stream(model, spec.stack)
    made_with = grid.host_settings(host, dataset, variant)
    record = {
        "digest": digest(made_with),
        "identity": Sources(grid).of_host(host, dataset),
        "content": host_identity(model),
        "architecture": type(model).__name__,
        "num_parameters": model.num_parameters(),
        "num_blocks": stream.num_blocks,
        "layers": [spec.lower_layer, spec.upper_layer],
        "hidden_size": stream.hidden_sizes[spec.lower_layer],
        "linear_explained_variance": linear,
        "accuracy": float(correct.mean()),
        "majority": float(by_majority.mean()),
        "at_chance": at_chance,
        "label_names": parts["test"].features["label"].names,
        "num_texts": {part: len(texts) for part, texts in parts.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "settings": made_with,
    }
    write_metadata(building / RECORD_NAME, record)
    return record


def _linear_explained_variance(train: ActivationCache, validation: ActivationCache) -> float:
    """Share of the upper states' variance that the best linear map of a token's lower state explains.

    It tells what to expect of a method that, like this map, sees one token at a time.
    """
    names = ("hidden_states", "target_hidden_states")
    states, targets = (train.counted(name).float().numpy() for name in names)
    held_out, target = (validation.counted(name).float().numpy() for name in names)
    with threadpool_limits(1):  # the last digits of products depend on it
        estimate = Ridge().fit(states, targets).predict(held_out)
    return max(0.0, float(r2_score(target, estimate, multioutput="variance_weighted")))


def _texts(spec: DatasetSpec, sizes: Sizes) -> tuple[dict[str, Dataset], Dataset, list[str]]:
    """`host_train`, `train`, `validation` and `test`, disjoint; every text but those of `test`; names of the labels."""

    def at_most(texts: Dataset, number: int | None) -> Dataset:
        texts = shuffle_rows(without_texts(texts, [""]), 0)
        return texts if number is None else texts.select(range(min(number, len(texts))))

    whole = spec.load(spec.train_split)
    split = split_texts(whole, PARTS)
    evaluated = test = spec.load(spec.eval_split)
    if spec.eval_part is not None:
        test = split_texts(test, PARTS)[spec.eval_part]
    test = without_texts(test, [*split["host_train"]["text"], *split["codebook_train"]["text"]])
    if len(test) == 0:
        raise ValueError(f"Every text that the dataset {spec.name} is to be measured on is trained on: see eval_part.")
    concepts = at_most(split["codebook_train"], sizes.train_texts)
    held_out = max(1, int(VALIDATION_SHARE * len(concepts)))
    test = at_most(test, sizes.test_texts)
    every = concatenate_datasets([texts.select_columns("text") for texts in (whole, evaluated)])
    parts = {
        "host_train": at_most(split["host_train"], sizes.host_texts),
        "train": concepts.select(range(held_out, len(concepts))),
        "validation": concepts.select(range(held_out)),
        "test": test,
    }
    return parts, without_texts(every, ["", *test["text"]]), label_names(whole)


def _host(
    spec: HostSpec, variant: str, texts: Dataset, names: list[str], max_length: int | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if spec.from_scratch is not None:
        model, tokenizer = _from_scratch(spec, texts, names)
        needs_training = True
    else:
        tokenizer = load_tokenizer(spec.model, **spec.load)
        ensure_pad_token(tokenizer)
        model, needs_training = load_classifier(spec.model, tokenizer, names, **spec.load)
    if variant == "pretrained" and not needs_training:
        raise ValueError(
            f"The host {spec.name} is fine-tuned already, so there is no pretrained one to compare it with."
        )
    if variant == "reinitialised":
        model = type(model)(model.config)
    elif variant == "fine-tuned" and needs_training:
        fine_tune(model, tokenizer, texts, max_length=max_length, **{**QUIET, **spec.fine_tune})
    return model.eval(), tokenizer


def _from_scratch(spec: HostSpec, texts: Dataset, names: list[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier with fresh weights, and a byte-level BPE tokenizer that is trained on its texts."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts["text"],
        trainers.BpeTrainer(
            vocab_size=spec.vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    config = AutoConfig.for_model(
        spec.from_scratch,
        vocab_size=bpe.get_vocab_size(),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        **spec.config,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    if not hooks.residual_stream(model, spec.stack).is_causal:
        # Encoders classify by their first token; causal models by the last one, whatever it is.
        ends = [("<s>", 0), ("</s>", 2)]
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    roles = zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True)
    return model, PreTrainedTokenizerFast(tokenizer_object=bpe, cls_token="<s>", sep_token="</s>", **dict(roles))


__all__ = ["PreparedHost", "open_host", "prepare_host"]
