"""Push the metrics of `clvq_hf.metrics` to the Hub, each as a Space that `evaluate.load` takes.

    python scripts/push_metrics.py org
    python scripts/push_metrics.py org --names label_purity ablation_drop --private

Afterwards `evaluate.load("org/label_purity")` gives what `evaluate.load(clvq_hf.metrics.path("label_purity"))` gives,
without this library. The page to try a metric on, its requirements and the standard parts of its card are written here.
A push that failed is repeated by the same command; files that a metric no longer has are deleted.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm.auto import tqdm

from clvq_hf import metrics
from clvq_hf.hub.requests import HubError
from clvq_hf.hub.uploads import commit_files
from clvq_hf.version import __version__

# What a metric may import, by the name of the module.
REQUIREMENTS = {
    "datasets": "datasets>=4.0",
    "evaluate": "evaluate>=0.4.6",
    "numpy": "numpy>=1.26",
    "scipy": "scipy>=1.15",
    "sklearn": "scikit-learn>=1.5",
}
# The settings of every Space, after the title, the colours and the description, which are the metric's own.
SPACE = """sdk: gradio
sdk_version: 3.19.1
app_file: app.py
pinned: false
tags:
- evaluate
- metric
"""
APP = '''"""A page on which the metric can be tried, as a Space of the Hugging Face Hub."""

from functools import partial
from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

metric = evaluate.load(str(Path(__file__).with_name("{name}.py")))
# The widget has fields for columns only.
metric.compute = partial(metric.compute, **{settings})
launch_gradio_widget(metric)
'''
# Settings that a metric requires besides its columns: the size of the paper's codebook.
APP_SETTINGS = {"codebook_usage": {"codebook_size": 400}}


def metric_files(name: str) -> dict[str, Path | bytes]:
    """The files of a metric by their place in its Space, with those that are the same for all metrics.

    Args:
        name (`str`): One of `clvq_hf.metrics.names`.

    Returns:
        `dict[str, Path | bytes]`: The metric's modules, `README.md`, `app.py` and `requirements.txt`.
    """
    folder = Path(metrics.path(name))
    modules = {file.name: file for file in sorted(folder.glob("*.py")) if file.name != "__init__.py"}
    written = {
        "README.md": write_card(name),
        "app.py": APP.format(name=name, settings=APP_SETTINGS.get(name, {})),
        "requirements.txt": "".join(f"{line}\n" for line in sorted(read_requirements(modules.values()))),
    }
    return {**modules, **{place: text.encode() for place, text in written.items()}}


def write_card(name: str) -> str:
    """The metric's README with the settings of its Space and its citation."""
    _, settings, card = Path(metrics.path(name), "README.md").read_text(encoding="utf-8").split("---\n", 2)
    citation = importlib.import_module(f"clvq_hf.metrics.{name}.{name}")._CITATION
    body, separator, references = card.partition("\n## Further References\n")
    return f"---\n{settings}{SPACE}---\n{body}\n## Citation\n\n```bibtex\n{citation}```\n{separator}{references}"


def read_requirements(modules: Iterable[Path]) -> set[str]:
    """What the modules import beyond the standard library and their siblings, as lines of `requirements.txt`."""
    names = set()
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    return {REQUIREMENTS[name] for name in names - sys.stdlib_module_names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("organization", help="user or organization; the Spaces are ORGANIZATION/METRIC")
    parser.add_argument("--names", nargs="+", choices=metrics.names, default=metrics.names, help="all if not given")
    parser.add_argument("--private", action="store_true", help="make new Spaces private")
    args = parser.parse_args()
    for name in tqdm(args.names, desc="Pushing metrics", unit="metric"):
        try:
            commit = commit_files(
                metric_files(name),
                f"{args.organization}/{name}",
                repo_type="space",
                space_sdk="gradio",
                stale=("*.py", "*.txt"),
                private=args.private or None,
                commit_message=f"clvq-hf {__version__}",
            )
        except HubError as error:
            sys.exit(f"{error} Run the same command again; what was pushed is not sent twice.")
        tqdm.write(f"{args.organization}/{name}: {commit.commit_url}", file=sys.stdout)


if __name__ == "__main__":
    main()
