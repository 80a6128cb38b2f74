"""Packages that only some features need, and the extras of setup.cfg that install them."""

import importlib.util
from collections.abc import Iterable

# The names under which the packages of each extra are imported.
PACKAGES: dict[str, tuple[str, ...]] = {
    "evaluation": ("captum", "concept_erasure", "evaluate", "scipy"),
    "comparison": ("yaml", "matplotlib"),
    "report": ("matplotlib", "PIL", "wordcloud"),
    "judging": ("krippendorff", "scipy"),
    "app": ("captum", "gradio", "starlette"),
}
# Where a package is called differently when it is installed.
_INSTALLED_AS = {"concept_erasure": "concept-erasure", "yaml": "pyyaml", "PIL": "pillow"}


def require(feature: str, *extras: str, packages: Iterable[str] | None = None) -> None:
    """Check that what a feature needs is installed, before it does anything.

    Args:
        feature (`str`): Its name, as the subject of a sentence.
        extras (`str`): Extras of setup.cfg, such as `"evaluation"`.
        packages (`Iterable[str]`, *optional*): The packages of these extras that it needs: all if not given.

    Raises:
        ModuleNotFoundError: Naming everything that is missing, and the one command that installs it.
    """
    wanted = None if packages is None else set(packages)
    missing = {
        extra: [name for name in PACKAGES[extra] if (wanted is None or name in wanted) and not is_installed(name)]
        for extra in extras
    }
    names = list(dict.fromkeys(name for each in missing.values() for name in each))
    if not names:
        return
    listed = " and ".join(filter(None, [", ".join(_called(names[:-1])), *_called(names[-1:])]))
    needed = ",".join(extra for extra, each in missing.items() if each)
    raise ModuleNotFoundError(f'{feature} needs {listed}: pip install "clvq-hf[{needed}]".', name=names[0])


def is_installed(name: str) -> bool:
    """Whether a package can be imported; it is not."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it has been replaced by nothing
        return False


def _called(names: list[str]) -> list[str]:
    return [_INSTALLED_AS.get(name, name) for name in names]


__all__ = ["PACKAGES", "is_installed", "require"]
