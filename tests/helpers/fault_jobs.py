"""What is killed besides commands: functions of the library, and a cell of a comparison in this process."""

from pathlib import Path


def build_cache(host: str, texts: str, folder: str) -> None:
    """Extract the states of a file's texts into a cache of several shards."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from clvq_hf import ActivationCache, load_texts

    model = AutoModelForSequenceClassification.from_pretrained(host).eval()
    ActivationCache.build(
        folder,
        model,
        AutoTokenizer.from_pretrained(host),
        load_texts(texts),
        lower_layer=2,
        upper_layer=4,
        max_length=12,
        texts_per_shard=20,
    )


def compare(grid: str, folder: str) -> None:
    """Prepare a host and run every cell, one after the other, as workers of `clvq-hf compare` do."""
    from clvq_hf.comparison.cell import open_cell, run_cell
    from clvq_hf.comparison.grid import load_grid
    from clvq_hf.comparison.prepared_hosts import open_host, prepare_host
    from clvq_hf.comparison.report import write_report

    plan, output = load_grid(Path(grid)), Path(folder)
    for cell in plan.cells():
        key = cell.host, cell.dataset, plan.methods[cell.method].host
        if open_host(plan, *key, output) is None:
            prepare_host(plan, *key, output)
        if open_cell(plan, cell, output) is None:
            run_cell(plan, cell, output)
    write_report(output)
