"""What a grid reads from elsewhere, by content: hosts, texts, and models that are loaded by `path`.

A grid names folders and files, which may be trained on or edited in place between two runs in one folder.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ..data.texts import texts_fingerprint
from ..hub.provenance import cached_commit
from .grid import Cell, DatasetSpec, Grid

# What a host and its tokenizer, or a concept model, is read from.
_HOST_FILES = (
    "config.json",
    "*.safetensors",
    "*.bin",
    "*.gguf",
    "tokenizer*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
_MODEL_FILES = ("*.safetensors", "cfg.json")


class Sources:
    """The sources of a grid; each is read once, when it is first asked for."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._texts = cache(_texts)
        self._files = cache(_content)

    def of_host(self, host: str, dataset: str) -> dict[str, Any]:
        """Identity of what a prepared host is made from: the host, unless it is trained from scratch, and the texts."""
        spec = self._grid.hosts[host]
        identity: dict[str, Any] = dict(self._texts(self._grid.datasets[dataset]))
        if spec.model is None:
            return identity
        content = self._files(spec.model, spec.load.get("revision"), spec.load.get("subfolder", ""), _HOST_FILES)
        return {**identity, "host": {"name": spec.model, "content": content}}

    def of_cell(self, cell: Cell) -> dict[str, Any]:
        """The same for a cell, with the model that its method loads, if it loads one."""
        identity, config = self.of_host(cell.host, cell.dataset), self._grid.methods[cell.method].config
        if "path" not in config:
            return identity
        place = config["path"], config.get("revision"), config.get("subfolder", "")
        return {**identity, "model": f"{config['path']} ({self._files(*place, _MODEL_FILES)})"}


def _texts(spec: DatasetSpec) -> dict[str, str]:
    splits = {"training_texts": spec.train_split, "test_texts": spec.eval_split}
    return {name: texts_fingerprint(spec.load(split)) for name, split in splits.items()}


def _content(name: str, revision: str | None, subfolder: str, patterns: Iterable[str]) -> str | None:
    """16 hexadecimal digits of a folder's files, or the commit of a repository; `None` if that is not known."""
    if not Path(name).exists():
        return cached_commit(name, revision)
    folder = Path(name) / subfolder
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


__all__ = ["Sources"]
