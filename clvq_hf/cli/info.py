"""`clvq-hf info`: the description of a concept model, without its weights."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .options import Revision


def run_info(
    name: Annotated[str, typer.Argument(help="Hub id or folder of a concept model.")],
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, as JSON.")] = False,
) -> None:
    """Describe a concept model without downloading its weights.

    Examples:

    - `clvq-hf info org/clvq-gpt2-jigsaw`
    - `clvq-hf info out --json`
    """
    import json

    from rich.markup import escape
    from rich.table import Table

    from ..hub import Source
    from ..models.checkpoints import describe
    from ..rendering.terminal import open_console

    description = describe(Source(name, revision=revision))
    if as_json:
        print(json.dumps(description, indent=2))
        return
    grid = Table(title=escape(name), title_justify="left", show_header=False)
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for key, value in _rows(description):
        if value is not None:
            grid.add_row(escape(key), escape(str(value)))
    open_console().print(grid)


def _rows(description: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values to print, from a config that strangers may have written."""
    config, table, files = description["config"], description["concepts"], description["files"]
    training = config["training"] if isinstance(config.get("training"), dict) else {}
    weights = sum(size for name, size in files.items() if name.endswith(".safetensors") and "/" not in name)
    decoder = "" if config.get("has_decoder", True) else ", codebook only"
    yield "method", f"{config['model_type']}, {config.get('codebook_size', '?')} concepts{decoder}"
    host_class = config.get("host_architecture") or "class not recorded"
    yield "host", f"{config.get('host_name_or_path')} ({host_class})"
    yield "commit of the host", config.get("host_revision")
    yield "layers", f"{config['lower_layer']} → {config.get('upper_layer')}"
    yield "weights", f"{weights / 2**20:.1f} MiB"
    yield "trained on", training.get("dataset")
    yield "texts, tokens", _counts(training)
    figures = training.get("figures")
    for name, value in figures.items() if isinstance(figures, dict) else ():
        if isinstance(value, int | float):
            yield f"held-out {name.replace('_', ' ')}", f"{value:.4g}"
    yield "concept table", config.get("concepts_repo") if table is None else f"{_counts(table)} texts, tokens"
    yield "host can be verified", "yes" if description["has_reference"] else "no, there are no reference texts"
    results = description["results"] or {}
    for protocol, outcome in results.get("ablation", {}).items():
        if (value := outcome.get("token_specificity")) is not None:
            low, high = outcome.get("token_specificity_low"), outcome.get("token_specificity_high")
            interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
            yield f"token specificity ({protocol})", f"{value:.3f}{interval}"
    purity = results.get("table", {}).get("label_purity") or {}
    if purity.get("cross_fitted_purity") is not None:
        null = f" (labels permuted: {purity['null_purity']:.3f})" if purity.get("null_purity") is not None else ""
        yield "label purity", f"{purity['cross_fitted_purity']:.3f}{null}"
    yield "made with", f"clvq-hf {config['clvq_version']}"
    yield "commit", description["revision"]


def _counts(counts: dict[str, Any]) -> str | None:
    numbers = counts.get("num_texts"), counts.get("num_tokens")
    return ", ".join(f"{number:,}" for number in numbers) if all(isinstance(n, int) for n in numbers) else None
