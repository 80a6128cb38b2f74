"""What `clvq-hf concepts build` and `clvq-hf evaluate` do; `cli.py` holds their options."""

from pathlib import Path

from datasets import Dataset
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..data.texts import PARTS, label_names, load_texts, split_texts
from ..evaluation.evaluate import EvaluationSettings, evaluate_concepts
from ..hub.provenance import recorded_name
from ..metrics.results_tables import report_tables
from ..models.modeling_concepts import load_with_host
from ..rendering.text_tables import print_tables, to_markdown
from ..tables.concepts import Concept


def run_concepts(
    model: str,
    dataset: str,
    output_dir: Path,
    split: str,
    part: str | None,
    host: str | None,
    show: int,
    min_tokens: int,
    stop_words: bool,
    max_length: int | None,
    max_texts: int | None,
    batch_size: int,
    seed: int,
) -> None:
    """Build a concept table, save it, print its purest concepts."""
    concept_model, host_model, tokenizer = load_with_host(model, host)
    texts = _at_most(_part(load_texts(dataset, split), part), max_texts, seed)
    table = concept_model.concept_table(
        host_model,
        tokenizer,
        texts,
        split=part or split,
        dataset_name=recorded_name(dataset),
        max_length=max_length,
        batch_size=batch_size,
        output_dir=output_dir,
    )
    console = Console()
    console.print(escape(repr(table)))
    if show:
        print_concepts(table.purest(show, min_tokens, stop_words=stop_words), console)
    console.print(f"Saved to [bold]{escape(str(output_dir))}/[/].")


def run_evaluate(
    model: str,
    dataset: str,
    output_dir: Path,
    split: str,
    part: str | None,
    train_split: str | None,
    train_part: str | None,
    max_train_texts: int,
    host: str | None,
    max_texts: int | None,
    settings: EvaluationSettings,
) -> None:
    """Measure everything, print the tables, write `results.md`."""
    concept_model, host_model, tokenizer = load_with_host(model, host)
    train = None
    names = None
    if train_split is not None:
        train = load_texts(dataset, train_split)
        names = label_names(train) if "label" in train.column_names else None
        train = _at_most(_part(train, train_part), max_train_texts, settings.seed)
    texts = _at_most(_part(load_texts(dataset, split, label_names=names), part), max_texts, settings.seed)
    results = evaluate_concepts(
        concept_model,
        host_model,
        tokenizer,
        texts,
        output_dir,
        train=train,
        split=part or split,
        dataset_name=recorded_name(dataset),
        settings=settings,
    )
    console = Console()
    tables = report_tables(results)
    print_tables(tables, console)
    (output_dir / "results.md").write_text("# Results\n\n" + to_markdown(tables), encoding="utf-8")
    console.print(
        f"Written to [bold]{escape(str(output_dir))}/[/]: results.json, results.md, and what is behind them."
    )


def print_concepts(concepts: list[Concept], console: Console, title: str = "The purest concepts") -> None:
    """Print concepts with their words and a sentence each, the concept's words marked."""
    # Where there is no bold, in a file or a pipe, stars mark the words.
    mark = "" if console.is_terminal else "*"
    shown = Table(title=title, title_justify="left")
    for column, justify in (("code", "right"), ("tokens", "right"), ("purity", "right"), ("label", "left")):
        shown.add_column(column, justify=justify, no_wrap=True)
    shown.add_column("top words", ratio=2)
    shown.add_column("a sentence", ratio=3)
    for concept in concepts:
        example = concept.examples[0] if concept.examples else None
        shown.add_row(
            str(concept.code),
            str(concept.num_tokens),
            "–" if concept.purity is None else f"{concept.purity:.0%}",
            escape(concept.label or "–"),
            escape(", ".join(word for word, _ in concept.top_words)),
            "" if example is None else example.marked(f"[bold yellow]{mark}", f"{mark}[/]", escape),
        )
    console.print(shown)


def _part(texts: Dataset, part: str | None) -> Dataset:
    if part is None:
        return texts
    if part not in PARTS:
        raise ValueError(f"There is no part {part!r} of a split; there are {', '.join(PARTS)}.")
    return split_texts(texts, PARTS)[part]


def _at_most(texts: Dataset, number: int | None, seed: int) -> Dataset:
    if number is None or len(texts) <= number:
        return texts
    return texts.shuffle(seed=seed).select(range(number))
