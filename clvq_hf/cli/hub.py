"""What `clvq-hf push`, `clvq-hf pull` and `clvq-hf info` do; `cli.py` holds their options."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoModel

from ..hub.repositories import (
    CARD_NAME,
    CONCEPTS_FOLDER,
    CONFIG_NAME,
    EVALUATION_FOLDER,
    LIBRARY,
    REFERENCE_NAME,
    TOKENIZER_FILES,
    WEIGHTS,
    Source,
    check_repo_id,
    checkpoint_files,
    file_sizes,
)
from ..hub.requests import readable_errors, with_retries
from ..models.checkpoints import check_checkpoint, describe
from ..models.publishing import publish
from ..tables.concept_table import ConceptTable
from ..version import __version__

# What a download into a folder leaves there.
PULLED = f".cache/huggingface/download/{CONFIG_NAME}.metadata"


def run_push(folder: Path, repo_id: str, table: Path | None, codebook_only: bool, **arguments: Any) -> None:
    """Check a folder by loading it, then push it."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    concepts = None if table is None else ConceptTable.load_from_disk(table)
    check_checkpoint(Source(str(folder)))
    model = AutoModel.from_pretrained(folder, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as scratch:
        if codebook_only:
            for name, file in checkpoint_files(folder).items():
                if not name.endswith((".safetensors", ".safetensors.index.json")):
                    shutil.copy(file, Path(scratch) / name)
            model.codebook_only().save_pretrained(scratch)
            folder = Path(scratch)
        commit = publish(folder, repo_id, concepts=concepts, **arguments)
    Console().print(f"Pushed: [bold]{escape(commit.pr_url or commit.commit_url)}[/]")


def run_pull(repo_id: str, output_dir: Path, revision: str | None, concepts: bool) -> None:
    """Download a repository into a folder from which `from_pretrained` and the other commands work."""
    check_repo_id(repo_id)
    taken = output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir()))
    if taken and not (output_dir / PULLED).is_file():
        raise ValueError(
            f"{output_dir} exists, and was not made by `clvq-hf pull`; choose another --output-dir, or remove it."
        )
    source = Source(repo_id, revision=revision)
    describe(source)  # raises for what is no concept model, before much is downloaded
    patterns = [CONFIG_NAME, CARD_NAME, REFERENCE_NAME, *WEIGHTS, *TOKENIZER_FILES, f"{EVALUATION_FOLDER}/*"]
    patterns += [f"{CONCEPTS_FOLDER}/*"] if concepts else []
    with readable_errors(repo_id):
        with_retries(
            lambda: snapshot_download(
                repo_id,
                revision=source.revision,
                local_dir=output_dir,
                allow_patterns=patterns,
                library_name=LIBRARY,
                library_version=__version__,
            ),
            f"downloading {repo_id}",
        )
    # What an earlier pull has left: old weights would be loaded in place of new shards.
    there = set(file_sizes(source))
    for pattern in (REFERENCE_NAME, *WEIGHTS, f"{CONCEPTS_FOLDER}/*", f"{EVALUATION_FOLDER}/*"):
        for file in output_dir.glob(pattern):
            if str(file.relative_to(output_dir).as_posix()) not in there:
                file.unlink()
    AutoModel.from_pretrained(output_dir, trust_remote_code=False)
    Console().print(f"{escape(repo_id)} is in [bold]{escape(str(output_dir))}/[/].")


def run_info(name: str, revision: str | None, as_json: bool) -> None:
    """Print what a folder or repository says of itself, without its weights."""
    told = describe(Source(name, revision=revision))
    if as_json:
        print(json.dumps(told, indent=2))
        return
    shown = Table(title=escape(name), title_justify="left", show_header=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    for key, value in _lines(told):
        shown.add_row(escape(key), escape(value))
    Console().print(shown)


def _lines(told: dict[str, Any]) -> list[tuple[str, str]]:
    config, table, results = told["config"], told["concepts"], told["results"]
    training = config["training"] if isinstance(config.get("training"), dict) else {}
    weights = sum(size for name, size in told["files"].items() if name.endswith(".safetensors") and "/" not in name)
    decoder = "" if config.get("has_decoder", True) else ", codebook alone"
    lines = [
        ("method", f"{config['model_type']}, {config.get('codebook_size', '?')} concepts{decoder}"),
        ("host", f"{config.get('host_name_or_path')} ({config.get('host_architecture') or 'class not recorded'})"),
        ("commit of the host", config.get("host_revision")),
        ("layers", f"{config['lower_layer']} → {config.get('upper_layer')}"),
        ("weights", f"{weights / 2**20:.1f} MiB"),
        ("trained on", training.get("dataset")),
        ("texts, tokens", _both(training.get("num_texts"), training.get("num_tokens"))),
        *((f"held-out {name.replace('_', ' ')}", f"{value:.4g}") for name, value in _figures(training)),
        ("concept table", _table_line(table, config)),
        ("host can be verified", "yes" if told["has_reference"] else "no: there are no reference texts"),
        *_measured(results),
        ("made with", f"clvq-hf {config['clvq_version']}"),
        ("commit", told["revision"]),
    ]
    return [(key, str(value)) for key, value in lines if value is not None]


def _table_line(table: dict[str, Any] | None, config: dict[str, Any]) -> str | None:
    if table is not None:
        return f"{_both(table.get('num_texts'), table.get('num_tokens'))} texts, tokens"
    return config.get("concepts_repo")


def _both(first: int | None, second: int | None) -> str | None:
    return f"{first:,}, {second:,}" if isinstance(first, int) and isinstance(second, int) else None


def _figures(training: dict[str, Any]) -> list[tuple[str, float]]:
    figures = training.get("figures")
    figures = figures.items() if isinstance(figures, dict) else ()
    return [(name, value) for name, value in figures if isinstance(value, int | float)]


def _measured(results: dict[str, Any] | None) -> list[tuple[str, str]]:
    if results is None:
        return []
    lines = []
    for protocol, figures in results.get("ablation", {}).items():
        if (value := figures.get("token_specificity")) is not None:
            low, high = figures.get("token_specificity_low"), figures.get("token_specificity_high")
            interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
            lines.append((f"token specificity ({protocol})", f"{value:.3f}{interval}"))
    purity = results.get("table", {}).get("label_purity")
    if purity is not None and purity.get("cross_fitted_purity") is not None:
        null = f" (labels permuted: {purity['null_purity']:.3f})" if purity.get("null_purity") is not None else ""
        lines.append(("label purity", f"{purity['cross_fitted_purity']:.3f}{null}"))
    return lines


__all__ = ["run_info", "run_pull", "run_push"]
