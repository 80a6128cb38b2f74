"""Repositories with concept models: the names of their files, and how these are downloaded."""

import fnmatch
import math
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import logging

from ..checksums import read_metadata
from ..reading import check_object
from ..version import __version__
from .requests import hub_api, readable_errors, with_retries

logger = logging.get_logger(__name__)

LIBRARY = "clvq_hf"
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"
REFERENCE_NAME = "reference.json"
# Hashes of the texts that a model was trained on. Stays here: with it others could tell which texts these were.
TRAINING_TEXTS_NAME = "training_texts.safetensors"
# Quantiles of the distances of training tokens to their codes.
DISTANCES_NAME = "distance_quantiles.safetensors"
# Files beside the weights that belong to them.
SIDE_FILES = (REFERENCE_NAME, TRAINING_TEXTS_NAME, DISTANCES_NAME)
# In a checkpoint that is being written, or whose writing was broken off.
UNFINISHED_NAME = ".unfinished"
RESULTS_NAME = "results.json"
# What an edit removes from a host.
EDITS_NAME = "edits.json"
CONCEPTS_FOLDER = "concepts"
TABLE_NAME = "concept_table.json"
EVALUATION_FOLDER = "evaluation"
# With the first suspects of an audit; of a local one also all the rest.
AUDIT_FOLDER, AUDIT_SUMMARY = "audit", "summary.json"
INDEX_NAME = "model.safetensors.index.json"
WEIGHTS = ("model*.safetensors", INDEX_NAME)
# Without variants, which are beside them.
WEIGHTS_OF_MODEL = ("model.safetensors", "model-*-of-*.safetensors", INDEX_NAME)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "*.model", "chat_template.jinja"),
)
# Written by other libraries and never read here: opening one runs the code in it.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.joblib")
# Files that describe the codes of a concept model, and are wrong as soon as the codes change.
CODE_DEPENDENT_FILES = (
    *(REFERENCE_NAME, DISTANCES_NAME),
    *(f"{folder}/*" for folder in (CONCEPTS_FOLDER, EVALUATION_FOLDER, AUDIT_FOLDER)),
)


@dataclass
class Source:
    """A folder, or one commit of a repository on the Hub, from which something is loaded.

    Attributes:
        name (`str`): Folder or Hub id.
        subfolder (`str`): Subfolder of either.
        revision (`str` or `None`): Branch, tag or commit. The first download replaces it by the commit, so that all
            files come from the same one.
        cache_dir (`str` or `None`): Replaces the default cache.
        local_files_only (`bool`): Whether to look only into the cache.
        force_download (`bool`): Whether the first download ignores the cache.
        repo_type (`str`): `"model"` or `"dataset"`.
        token (`str`, `bool` or `None`): Never printed or pickled.
    """

    name: str
    subfolder: str = ""
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    repo_type: str = "model"
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # Resolved once: from another working directory the same name may be a repository.
        self._root = Path(self.name).resolve() if Path(self.name).is_dir() else None
        self.name = os.fspath(self.name)
        if ".." in PurePosixPath(self.subfolder).parts or PurePosixPath(self.subfolder).is_absolute():
            raise ValueError(f"subfolder={self.subfolder!r} leads out of {self.name}.")
        if self._root is None or self.subfolder or (self._root / CONFIG_NAME).is_file():
            return
        # A run that has not ended.
        if (checkpoint := newest_checkpoint(self._root)) is not None:
            logger.warning(f"{self.name} holds no model yet; taking its newest checkpoint, {checkpoint.name}.")
            self._root = checkpoint

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "token": None}

    @property
    def is_local(self) -> bool:
        """`bool`: Whether it is a folder of this machine."""
        return self._root is not None

    @property
    def prefix(self) -> str:
        """`str`: What the paths in the repository begin with: the subfolder and a slash, or nothing."""
        return f"{self.subfolder.strip('/')}/" if self.subfolder else ""

    def fetch(self, *patterns: str) -> Path:
        """Download files.

        Args:
            *patterns (`str`): Names in the subfolder, with `*`. Names that do not exist are ignored.

        Returns:
            `Path`: The local folder that corresponds to the subfolder. It may contain other files too.

        Raises:
            HubError: If the repository or revision does not exist, or the Hub cannot be reached and the cache lacks it.
            ValueError: If the name is neither a folder nor a valid Hub id.
        """
        if self._root is not None:
            return self._root / self.subfolder
        check_repo_id(self.name)
        # Without its config nothing of it is there.
        files = "" if CONFIG_NAME in patterns else ", ".join(patterns)
        with readable_errors(self.name, files=files):
            folder = with_retries(
                lambda: snapshot_download(
                    self.name,
                    repo_type=self.repo_type,
                    revision=self.revision,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    local_files_only=self.local_files_only,
                    force_download=self.force_download,
                    allow_patterns=[self.prefix + pattern for pattern in patterns],
                    library_name=LIBRARY,
                    library_version=__version__,
                ),
                f"downloading {self.name}",
            )
        self.revision, self.force_download = Path(folder).name, False
        return Path(folder) / self.subfolder


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the last step that a trainer has saved in a folder, if there is one."""
    found = {
        step: path
        for step, path in checkpoints_by_step(folder).items()
        if (path / CONFIG_NAME).is_file() and not (path / UNFINISHED_NAME).exists()
    }
    return found[max(found)] if found else None


def checkpoints_by_step(folder: Path) -> dict[int, Path]:
    """The checkpoints of a trainer in a folder, complete or not."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    return {int(path.name[11:]): path for path in found}


def check_repo_id(name: str) -> None:
    """Raise `ValueError` if a name is no valid Hub id."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name} is neither a folder here nor the name of a repository (org/name).") from error


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that belong in a repository, by name: model, references, card, tokenizer; no pickles."""
    patterns = (CONFIG_NAME, CARD_NAME, REFERENCE_NAME, DISTANCES_NAME, *WEIGHTS, *TOKENIZER_FILES, "LICENSE*")
    return {
        file.name: file for file in sorted(folder.iterdir()) if file.is_file() and matches_any(file.name, patterns)
    }


def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path matches one of the patterns, whose `*` does not match `/`."""
    return any(name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def file_sizes(source: Source) -> dict[str, int]:
    """Size in bytes of each file of a folder or repository, by name, without downloading any.

    Where the Hub may not be asked they are those that the cache has.
    """
    if source.is_local:
        return {name: file.stat().st_size for name, file in checkpoint_files(source.fetch()).items()}
    if source.local_files_only or constants.HF_HUB_OFFLINE:
        folder = source.fetch(CONFIG_NAME)
        files = [file for file in folder.rglob("*") if file.is_file()]
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    with readable_errors(source.name):
        entries = list(
            hub_api(source.token).list_repo_tree(
                source.name, source.subfolder or None, recursive=True, revision=source.revision
            )
        )
    return {entry.path.removeprefix(source.prefix): entry.size for entry in entries if isinstance(entry, RepoFile)}


# Parts of `results.json` with figures: name → the figures of one measurement, by their names.
_FIGURES = ("table", "ablation", "fidelity", "bottleneck", "words")


def read_results(file: Path) -> dict[str, Any]:
    """Read the `results.json` of an evaluation.

    Raises:
        ValueError: If it is damaged, or its figures are no figures.
    """
    remedy = "Run `clvq-hf evaluate` again, with --overwrite."
    results, _ = read_metadata(file, remedy)
    check_object(results.get("texts", {}), f"{file} (texts)", remedy=remedy)
    for part in _FIGURES:
        for name, figures in check_object(results.get(part, {}), f"{file} ({part})", remedy=remedy).items():
            for figure, value in check_object(figures, f"{file} ({part}, {name})", remedy=remedy).items():
                is_text = isinstance(value, str) and not figure.endswith("_verdict")
                if is_text or (isinstance(value, float) and not math.isfinite(value)):
                    raise ValueError(f"{file} is damaged: {figure} of {part}, {name}, is {value!r:.40}. {remedy}")
    return results


__all__ = [
    "Source",
    "check_repo_id",
    "checkpoint_files",
    "checkpoints_by_step",
    "file_sizes",
    "matches_any",
    "newest_checkpoint",
    "read_results",
]
