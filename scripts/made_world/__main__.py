"""A world with known concepts: make one, and score concept tables by its truth.

    python scripts/made_world make worlds/small --size small --seed 0
    python scripts/reproduce.py --grid scripts/grids/world.yaml --data worlds/small --output_dir comparison/world-small
    python scripts/made_world score comparison/world-small --world worlds/small --metrics

`docs/measuring.md` explains what is in it.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from score import metric_table, score_paths, score_tables
from world import SIZES, make_world

from clvq_hf.rendering.text_tables import to_markdown

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def make(
    out: Annotated[Path, typer.Argument(help="Folder of the new world.")],
    size: Annotated[str, typer.Option(help=f"One of {', '.join(SIZES)}.")] = "small",
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
) -> None:
    """Write texts, truth and a host that is trained on them, in minutes on a CPU."""
    if size not in SIZES:
        raise typer.BadParameter(f"There is no size {size!r}; there are {', '.join(SIZES)}.")
    if out.exists() and any(out.iterdir()):
        raise typer.BadParameter(f"{out} is not empty. Choose another folder.")
    checks = make_world(out, SIZES[size], seed)
    print(f"Accuracy on test texts: host {checks['host_accuracy']:.1%}, words {checks['bag_of_words_accuracy']:.1%}.")
    for layer in checks["probe"]:
        print(
            f"Layer {layer['layer']}: a linear probe reads the sense of a word from {layer['accuracy']:.1%} of its "
            f"states; the most frequent sense is right in {layer['majority']:.1%}."
        )
    if checks["host_accuracy"] <= 0.95 or checks["bag_of_words_accuracy"] >= 0.6:
        print("The host does not know this world, or words reveal the label: do not use it. Try another seed.")
        raise typer.Exit(1)


@app.command()
def score(
    paths: Annotated[list[Path], typer.Argument(help="Folders of concept tables, of cells, or of whole grids.")],
    world: Annotated[list[Path], typer.Option(help="World of their texts; once for each.")],
    metrics: Annotated[bool, typer.Option(help="Add which metrics of the cells rank methods as truth does.")] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON lines.")] = None,
) -> None:
    """Score codes by the known senses, as Markdown."""
    rows = score_paths(paths, world)
    if output is not None:
        lines = [json.dumps({name: value for name, value in row.items() if name != "cell"}) for row in rows]
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tables = score_tables(rows)
    print(to_markdown([*tables, metric_table(rows)] if metrics else tables))


if __name__ == "__main__":
    app()
