"""Push the metrics of `clvq_hf.metrics` to the Hub, each as a Space that `evaluate.load` takes.

    python scripts/push_metrics.py org
    python scripts/push_metrics.py org --names label_purity ablation_drop --private

Afterwards `evaluate.load("org/label_purity")` gives what `evaluate.load(clvq_hf.metrics.path("label_purity"))` gives,
without this library. The page to try a metric on and its requirements are written here. Its card is the README of its
folder, with inputs, figures and examples out of the docstrings.
A push that failed is repeated by the same command; files that a metric no longer has are deleted.
"""

import argparse
import ast
import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent
from types import ModuleType

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


# What comes between a README's description of the metric and the rest of it.
USAGE = """## How to Use

```python
import evaluate

metric = evaluate.load("{organization}/{name}")
```

Rows can be added in batches (`add_batch`); their size changes nothing.

### Inputs

{inputs}

### Output Values

{outputs}

### Examples

{examples}

"""


def metric_files(organization: str, name: str) -> dict[str, Path | bytes]:
    """The files of a metric by their place in its Space, with those that are the same for all metrics.

    Args:
        organization (`str`): Owner of the Space.
        name (`str`): One of `clvq_hf.metrics.names`.

    Returns:
        `dict[str, Path | bytes]`: The metric's modules, `README.md`, `app.py` and `requirements.txt`.
    """
    folder = Path(metrics.path(name))
    modules = {file.name: file for file in sorted(folder.glob("*.py")) if file.name != "__init__.py"}
    written = {
        "README.md": write_card(organization, name),
        "app.py": APP.format(name=name, settings=APP_SETTINGS.get(name, {})),
        "requirements.txt": "".join(f"{line}\n" for line in sorted(read_requirements(modules.values()))),
    }
    return {**modules, **{place: text.encode() for place, text in written.items()}}


def write_card(organization: str, name: str) -> str:
    """The metric's README with the settings of its Space, how to use it, and its citation."""
    _, settings, card = Path(metrics.path(name), "README.md").read_text(encoding="utf-8").split("---\n", 2)
    module = importlib.import_module(f"clvq_hf.metrics.{name}.{name}")
    description, rest = re.split(r"^(?=## (?:Values|Limitations))", card, maxsplit=1, flags=re.MULTILINE)
    body, separator, references = rest.partition("\n## Further References\n")
    arguments = re.sub(r"^(\w.*?) (\(.+?\)):", r"- **\1** \2:", read_sections(module, "Args"), flags=re.MULTILINE)
    examples = re.sub(r"^>>> metric = .*\n", "", read_sections(module, "Examples"), flags=re.MULTILINE)
    usage = USAGE.format(
        organization=organization,
        name=name,
        inputs=arguments,
        outputs=read_sections(module, "Returns"),
        examples=examples.replace("\n>>> ", "\n```python\n>>> ", 1) + "\n```",
    )
    title, question = name.replace("_", " ").title(), module.__doc__.partition("\n")[0]
    front_matter = f'---\ntitle: {title}\n{settings}description: "{question}"\n{SPACE}---\n'
    citation = f"## Citation\n\n```bibtex\n{module._CITATION}```\n"
    return f"{front_matter}{description}{usage}{body}\n{citation}{separator}{references}"


def read_sections(module: ModuleType, title: str) -> str:
    """The sections of a metric's docstring whose title begins so, as Markdown."""
    found = re.findall(rf"^{title}.*:\n((?: .*\n|\n)+)", module._INPUTS_DESCRIPTION, re.MULTILINE)
    # References to other docstrings lead nowhere from here.
    return re.sub(r"\[(`\w+`)\](?!\()", r"\1", "\n".join(dedent(text).strip() for text in found))


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
                metric_files(args.organization, name),
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
