"""The command line, `clvq-hf`: one module per command, each of which imports what it needs when it runs."""

from typing import Annotated

import typer

from ..version import __version__
from .app import run_app
from .audit import run_audit
from .by_hand import find_concepts, group_concepts, hide_concepts, merge_concepts, rename_concept
from .compare import run_compare
from .concepts import concepts_group
from .demo import run_demo
from .edit import run_edit
from .evaluate import run_evaluate
from .explain import run_explain
from .info import run_info
from .judge import run_judge
from .options import ReadableErrors
from .pull import run_pull
from .push import run_push
from .report import run_report
from .study import study_group
from .train import run_train

# After the imports: the module of the command `app` had this name until here.
app = typer.Typer(
    cls=ReadableErrors,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Find the discrete concepts that a language model uses (CLVQ-VAE).\n\nSee it work with `demo`. With your own "
    "model: `train` learns concepts, then `explain`, `evaluate`, `report` and `app` use them.",
)
app.command("demo")(run_demo)
app.command("train")(run_train)
concepts_group.command("rename")(rename_concept)
concepts_group.command("merge")(merge_concepts)
concepts_group.command("group")(group_concepts)
concepts_group.command("hide")(hide_concepts)
concepts_group.command("find")(find_concepts)
app.add_typer(concepts_group, name="concepts")
app.command("explain")(run_explain)
app.command("audit")(run_audit)
app.command("edit")(run_edit)
app.command("evaluate")(run_evaluate)
app.command("report")(run_report)
app.command("app")(run_app)
app.command("compare")(run_compare)
app.command("judge")(run_judge)
app.add_typer(study_group, name="study")
app.command("push")(run_push)
app.command("pull")(run_pull)
app.command("info")(run_info)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"clvq-hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import a Python module that registers a concept method of your own. Repeat the option for several. "
            "Methods of installed packages are found without it.",
        ),
    ] = None,
) -> None:
    """Options that come before a command."""
    if imports:
        from ..models.registry import import_everywhere

        import_everywhere(imports)


__all__ = ["app"]
