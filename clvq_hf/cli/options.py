"""What several commands share: options, the texts they select, and how errors are shown."""

import errno
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

    from ..data.text_source import TextSource
    from ..judging.language_models import Estimate

Model = Annotated[str, typer.Argument(help="Folder or Hub id of a concept model.")]
_DATASET_HELP = "A .jsonl/.csv/.tsv/.parquet file, a folder with one such file per split, or a Hub dataset."
DatasetName = Annotated[str, typer.Option(help=_DATASET_HELP)]
# Of commands that find in the model what it was trained on.
KnownDataset = Annotated[
    str | None, typer.Option("--dataset", help=_DATASET_HELP + " Default: that of training, with its columns.")
]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for the model and its concept table.")]
GgufFile = Annotated[
    str | None,
    typer.Option(help="File of the host in its folder or repository, if its weights are stored as GGUF."),
]
SPLIT_HELP = (
    "Split of the texts, with or without a slice (*test[:10%]*). Use one on which nothing was trained. A single file "
    "whose name is not that of a split is cut into *train* and *test* by text hash."
)
Split = Annotated[
    str | None,
    typer.Option(help=SPLIT_HELP + " Default: what training held out; of others the whole file, or *test*."),
]
Subset = Annotated[str | None, typer.Option(help="Configuration of a Hub dataset that has several.")]
TextColumn = Annotated[
    str | None, typer.Option(help="Column of the texts. Default: the first of the usual names that exists.")
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of the labels. Default: the first of the usual names that exists.")
]
Part = Annotated[
    str | None,
    typer.Option(help="Use only this part of the split, cut by text hash: *select*, if there is no test split."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        help="Name of a class. Repeat the option for all classes, in the order of their ids. Needed if labels are "
        "numbers, or names that the host does not know.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Label of a multi-label host, or output of a regression with several, by name or number. Default: the "
        "first. A column of the dataset with the name of the label contains its labels."
    ),
]
Host = Annotated[str | None, typer.Option(help="Folder or Hub id of the host. Default: the one that the model names.")]
MaxLength = Annotated[
    int | None, typer.Option(help="Maximum tokens per text. Default: that of training, else the host's limit.")
]
MaxTexts = Annotated[int | None, typer.Option(help="Maximum number of texts, drawn at random.")]
BatchSize = Annotated[int, typer.Option(help="Texts per forward pass of the host.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.")]

# Of the commands that can mask texts.
MaskLabel = Annotated[
    list[str] | None,
    typer.Option(help="Mask texts and words of this label, whatever it is called. Repeat the option for several."),
]

# Of the commands that show the concepts of several methods to judges.
Tables = Annotated[
    list[str],
    typer.Argument(
        help="Concept tables with salience of the same texts, one per method: *name=folder*, or just a folder."
    ),
]

# Of the commands that ask language models.
JUDGE_HELP = (
    "*http://127.0.0.1:8000/v1* or *URL#MODEL*: an OpenAI-compatible endpoint. *local:…* or a folder: a model that "
    "runs here. *org/name*: a model of Inference Providers."
)
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Send without asking. The estimate is shown anyway.")]
MaxRequests = Annotated[
    int | None,
    typer.Option(min=1, help="Stop after this many requests. Answers are kept: run again to continue."),
]
MaxTokens = Annotated[
    int, typer.Option(help="Maximum tokens per answer. Use more for judges that reason before they answer.")
]
Concurrency = Annotated[int, typer.Option(help="Questions that a judge is asked at the same time.")]
Timeout = Annotated[float, typer.Option(help="Seconds until the answer of an endpoint must be complete.")]
SendToken = Annotated[
    bool,
    typer.Option(
        "--send-token", help="Send HF_TOKEN to addresses other than huggingface.co, including Inference Endpoints."
    ),
]


# Where a context keeps the names of the parameters of the command that runs, and whether it only shows its help.
_PARAMETERS, _HELPS = "clvq_hf.parameters", "clvq_hf.helps"


class ReadableErrors(TyperGroup):
    """A group of commands that shows errors which the user can fix as one line instead of a traceback.

    Arguments that a message names for Python (`text_column=…`) become options of the command (`--text-column`).
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; what the console cannot show is replaced, and costs no result."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        # Bars of datasets show each step of reading and mapping; ours show what takes time. Read when it is imported.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        return super().main(*args, **kwargs)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command, and note whether help is all that is wanted."""
        ctx.meta[_HELPS] = "--help" in args
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, and note the names of its parameters for messages."""
        found = super().resolve_command(ctx, args)
        ctx.meta[_PARAMETERS] = {parameter.name for parameter in getattr(found[1], "params", ())}
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with 1 after a `ValueError`, an `OSError` or a missing module."""

        def in_options(message: str) -> str:
            parameters = ctx.meta.get(_PARAMETERS, ())
            return re.sub(r"\b([a-z_]+)=…", lambda match: _option(match, parameters), message)

        if ctx.meta.get(_HELPS):  # nothing is loaded, so there is nothing to quieten
            return super().invoke(ctx)
        from ..rendering.terminal import clean_libraries, say

        if sys.stderr.isatty():
            say("Loading torch and transformers …", dim=True, err=True)
        try:
            with _only_what_matters(in_options), _system_errors():
                clean_libraries()
                return super().invoke(ctx)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            message = in_options(str(error))
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                message += ". Make room, and run the same command again: what was complete is still there."
            say(f"Error: {message}", fg="red", err=True)
            raise typer.Exit(1) from error


@contextmanager
def _system_errors() -> Generator[None]:
    """Raise `OSError` where safetensors, tokenizers (in Rust) and torch tell an error of the system in words."""
    try:
        yield
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)|inline_container\.cc", str(error))
        if found is None or isinstance(error, OSError):
            raise
        # torch.save says no more than that less was written than it wanted.
        number = int(found[1] or errno.ENOSPC)
        raise OSError(number, os.strerror(number)) from error


class _Warnings(logging.Handler):
    """Prints each warning of this package once."""

    def __init__(self, in_options: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._in_options, self._printed = in_options, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Print it, unless it was printed before."""
        from ..rendering.terminal import say

        message = self._in_options(record.getMessage())
        if message not in self._printed:
            self._printed.add(message)
            say(f"Warning: {message}", fg="yellow", err=True)


@contextmanager
def _only_what_matters(in_options: Callable[[str], str]) -> Generator[None]:
    """Show our warnings like errors, and hide what other libraries have for programmers (`-W` shows their warnings)."""
    from transformers.utils import logging as transformers_logging

    logger, handler = logging.getLogger(__package__.partition(".")[0]), _Warnings(in_options)
    if any(isinstance(other, _Warnings) for other in logger.handlers):  # the group is part of another one
        yield
        return
    logger.addHandler(handler)
    # A bar of transformers appears only if it would be there for a while, such as that of a large model's weights.
    before = transformers_logging.set_tqdm_hook(lambda bar, args, options: bar(*args, **{"delay": 3.0, **options}))
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.filterwarnings("default", module=r"clvq_hf\b")
            yield
    finally:
        transformers_logging.set_tqdm_hook(before)
        logger.removeHandler(handler)


def _option(match: re.Match[str], parameters: Collection[str]) -> str:
    if match[1] in parameters:
        return "--" + match[1].replace("_", "-")
    # The command takes all other arguments of training as settings.
    return f"--set {match[0]}" if "settings" in parameters else match[0]


def find_texts(
    model: str,
    dataset: str | None,
    subset: str | None,
    text_column: str | None,
    label_column: str | None,
    label: list[str] | None,
) -> "TextSource":
    """The texts that a command reads: those of training unless another dataset is named, with its columns.

    In another dataset columns that are called as those of training are taken first.

    Raises:
        ValueError: If no dataset is named, and the model does not record what it was trained on.
    """
    from dataclasses import replace

    from ..data.text_source import TextSource
    from ..hub import Source
    from ..hub.provenance import recorded_name
    from ..models.checkpoints import read_config

    try:
        known = TextSource.of(read_config(Source(model)).get("training"))
    except (ValueError, OSError):  # of the model, which raises it again when it is loaded
        if dataset is None:
            raise
        known = None
    if dataset is None and known is None:
        raise ValueError(f"{model} does not record which texts it was trained on. Name texts with dataset=….")
    if known is None or (dataset is not None and recorded_name(dataset) != known.dataset):
        columns = (None, None) if known is None else (known.text_column, known.label_column)
        known = TextSource(str(dataset), usual_columns=columns)
    given = {"subset": subset, "text_column": text_column, "label_column": label_column, "label_names": label or None}
    return replace(known, **{name: value for name, value in given.items() if value is not None})


def measured_split(source: "TextSource", split: str | None, part: str | None) -> tuple[str | None, str | None]:
    """Split and part to measure on: those named, else what training held out, else the whole of a file, else *test*."""
    if split is None and part is None:
        split, part = source.eval_split, source.eval_part
    return split or source.eval_split or (None if Path(source.dataset).is_file() else "test"), part


def select_texts(texts: "Dataset", part: str | None, max_texts: int | None, seed: int) -> "Dataset":
    """A part of a split, cut by text hash, and at most `max_texts` of its texts, drawn at random."""
    from ..data.text_source import select_part
    from ..data.transforms import shuffle_rows

    texts = select_part(texts, part)
    if max_texts is None or len(texts) <= max_texts:
        return texts
    return shuffle_rows(texts, seed).select(range(max_texts))


def make_confirmation(yes: bool, console: "Console") -> "Callable[[list[Estimate]], None]":
    """A function that shows an estimate of the requests, and asks unless there is nothing to send."""
    import sys

    from ..rendering.text_tables import ReportTable, print_tables

    def confirm(estimates: "list[Estimate]") -> None:
        new_requests = sum(estimate.requests for estimate in estimates)
        header = ["judge", "questions", "new requests", "input tokens, about", "output tokens, at most"]
        rows = [[judge, *(f"{count:,}" for count in counts)] for judge, *counts in map(astuple, estimates)]
        print_tables([ReportTable("Estimate", header, rows)], console)
        if not new_requests or yes:
            return
        if not sys.stdin.isatty():
            raise ValueError(f"{new_requests:,} requests would be sent, which may cost money. Add --yes to send them.")
        typer.confirm(f"Send {new_requests:,} requests?", abort=True)

    return confirm


def print_written(path: Path, what: str = "", console: "Console | None" = None) -> None:
    """Print where results are; `what` continues the sentence."""
    from rich.markup import escape

    from ..rendering.terminal import open_console

    slash = "/" if path.is_dir() else ""
    (console or open_console()).print(f"Written to [bold]{escape(str(path))}{slash}[/]{what}", soft_wrap=True)
