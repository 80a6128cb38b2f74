"""Push the metrics of `clvq_hf.metrics` to the Hub, each as a Space that `evaluate.load` takes.

    python scripts/push_metrics.py org
    python scripts/push_metrics.py org --names label_purity ablation_drop --private

Afterwards `evaluate.load("org/label_purity")` gives what `evaluate.load(clvq_hf.metrics.path("label_purity"))` gives,
without this library. A push that failed is repeated by the same command; files that a metric no longer has are deleted.
"""

import argparse
import sys
from pathlib import Path

from tqdm.auto import tqdm

from clvq_hf import metrics
from clvq_hf.hub.uploads import commit_files
from clvq_hf.hub.requests import HubError
from clvq_hf.version import __version__


def metric_files(name: str) -> dict[str, Path]:
    """The files of a metric by their place in its Space; what marks a package means nothing there."""
    folder = Path(metrics.path(name))
    return {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and file.name != "__init__.py"}


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
