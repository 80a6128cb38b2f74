"""`clvq-hf explain`: which concepts made the host decide, and whether it would still decide so without them."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files import drafted
from .options import BatchSize, GgufFile, Host, MaxLength, Model, TextColumn, find_texts, print_written

if TYPE_CHECKING:
    from ..explanations import Explanation

# A name that ends so is meant as a file, not as a text.
FILE_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
# Explanations that are printed rather than written.
MAX_SHOWN = 20


def run_explain(
    model: Model,
    text: Annotated[str, typer.Argument(help="A text, or a .jsonl/.csv/.tsv/.parquet file of texts.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the explanations of a file: one JSON object per line."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="The class or label that is explained, or *all*; for a language model, a continuation of the text. "
            "Default: what the host predicts."
        ),
    ] = None,
    text_column: TextColumn = None,
    host: Host = None,
    gguf_file: GgufFile = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Concept table with the words and labels of the concepts. Default: the one saved with the model."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="*integrated_gradients*, or *gradient_x_input*: faster and rougher.")
    ] = "integrated_gradients",
    long_texts: Annotated[
        str,
        typer.Option(
            help="Texts that are longer than the host can read: *windows* reads them piece by piece and averages the "
            "outputs, *truncate* reads only the beginning."
        ),
    ] = "windows",
    max_length: MaxLength = None,
    batch_size: BatchSize = 32,
) -> None:
    """Explain predictions: which concept made the model decide this, and would it still decide so without it?

    Prints the concepts of a text in order of their contribution, what the host predicts without the strongest one and
    without another one of the same text, and whether the explanation is reliable. For a file, the explanations are
    written as JSON lines; the documentation ("Explaining predictions") describes their fields.

    Examples:

    - `clvq-hf explain out "what a wonderful film"`
    - `clvq-hf explain out reviews.csv -o explanations.jsonl`
    - `clvq-hf explain out comments.csv -o explanations.jsonl --target toxic --method gradient_x_input`
    """
    from ..explanations import Explainer
    from ..models.modeling_concepts import load_with_host
    from ..rendering.terminal import open_console
    from ..tables import ConceptTable

    texts = _read(model, text, output, text_column)
    concept_model, host_model, tokenizer = load_with_host(model, host, gguf_file)
    concepts = concept_model.find_concepts() if table is None else ConceptTable.load_from_disk(table)
    explainer = Explainer(
        concept_model,
        host_model,
        tokenizer,
        concepts,
        method=method,
        max_length=max_length,
        long_texts=long_texts,
        batch_size=batch_size,
    )
    console = open_console()
    explanations = explainer.explain(texts, target)
    if output is None:
        for explanation in explanations:
            console.print(explanation)
        return
    found = _write(explanations, output)
    print_written(
        output,
        f": {found['explanations']:,} explanations, {found['reliable']:,} of them reliable; without the concept that "
        f"contributes most {found['flips']:,} predictions change, without another one of the same text "
        f"{found['control_flips']:,}.",
    )


def _read(model: str, text: str, output: Path | None, text_column: str | None) -> list[str]:
    """The texts of a file, in the column of training if the file has it; or the text itself."""
    from ..data import load_texts

    if not _is_file(text):
        if text.endswith(FILE_ENDINGS) and not any(character.isspace() for character in text):
            raise ValueError(f"There is no file {text}.")
        if output is not None:
            raise ValueError("--output is for the texts of a file. Omit it to see the explanation of one text.")
        return [text]
    if output is not None and output.exists() and output.samefile(text):
        raise ValueError(f"{output} holds the texts, and would be lost: name another file with --output.")
    try:
        recorded = find_texts(model, None, None, None, None, None).text_column
    except (ValueError, OSError):  # of the model: what loads it later tells it, too
        recorded = None
    try:
        texts = load_texts(text, text_column=text_column or recorded)["text"][:]
    except ValueError:
        if text_column is not None or recorded is None:
            raise
        texts = load_texts(text)["text"][:]
    if output is None and len(texts) > MAX_SHOWN:
        raise ValueError(f"{text} has {len(texts):,} texts. Name a file for their explanations: -o explanations.jsonl")
    return texts


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a text that is too long for a name
        return False


def _write(explanations: "Iterable[Explanation]", output: Path) -> Counter[str]:
    """Write JSON lines as they come, under another name until all are there; count what they say."""
    found: Counter[str] = Counter(explanations=0, reliable=0, flips=0, control_flips=0)
    output.parent.mkdir(parents=True, exist_ok=True)
    with drafted(output) as draft, draft.open("w", encoding="utf-8") as file:
        for explanation in explanations:
            # In ASCII: some readers of lines end them at characters that texts contain, such as U+2028.
            file.write(json.dumps(explanation.to_dict(), allow_nan=False) + "\n")
            found["explanations"] += 1
            found["reliable"] += explanation.reliable
            found["flips"] += explanation.salient is not None and explanation.salient.flips
            found["control_flips"] += explanation.control is not None and explanation.control.flips
    return found
