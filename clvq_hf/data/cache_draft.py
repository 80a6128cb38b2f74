"""An activation cache that is being built: whole or absent, resumed, and of one process."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..checksums import check_file, read_metadata, write_metadata
from ..files import drafted

METADATA_NAME = "activations.json"


class CacheDraft:
    """A cache that is being built, in a folder `.building-…` in its own.

    An earlier cache remains until the new one is complete. What dies goes on at its last whole shard: the name of the
    folder says of which host, texts and layers its shards are.

    Args:
        path (`Path`): The cache's folder, which this process has locked.
        metadata (`dict`): What is written beside the shards.
        form (`list`): What else the shards depend on, as JSON.
        num_shards (`int`): How many there will be.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], form: list[Any], num_shards: int) -> None:
        self.path, self._metadata = path, metadata
        content = json.dumps({**metadata, "host_name_or_path": None, "form": form}, sort_keys=True)
        self._key = hashlib.sha256(content.encode()).hexdigest()[:12]
        self._building = path / f".building-{self._key}"
        self._shards = [f"shard-{self._key}-{number:05d}.safetensors" for number in range(num_shards)]
        for left_over in path.glob(".building-*"):
            if left_over != self._building:
                shutil.rmtree(left_over)
        self._building.mkdir(exist_ok=True)

    def tidy(self) -> None:
        """Leave nothing behind that holds no shard."""
        if self._building.exists() and not any(self._building.glob("shard-*")):
            shutil.rmtree(self._building)

    def has_shard(self, number: int) -> bool:
        """Whether the shard is there from an earlier attempt, as it was written."""
        name = self._shards[number]
        try:
            noted = read_metadata(self._building / f"{name}.json", "")[1]
            check_file(self._building / name, noted.get(name, {}), "")
        except (OSError, ValueError):
            return False
        return True

    def add_shard(self, number: int, tensors: dict[str, torch.Tensor]) -> None:
        """Write a shard, and its checksum: an attempt that goes on must not take a damaged one."""
        name = self._shards[number]
        self._write(tensors, name)
        write_metadata(self._building / f"{name}.json", {}, [name])

    def finish(self, sensitivity: torch.Tensor) -> None:
        """Make this the folder's cache: shards first, then the metadata that name them; at last the old ones go."""
        name = f"sensitivity-{self._key}.safetensors"
        self._write({"sensitivity": sensitivity}, name)
        names = [*self._shards, name]
        for each in names:
            (self._building / each).replace(self.path / each)
        metadata = {"shards": self._shards, "sensitivity": name, **self._metadata}
        write_metadata(self.path / METADATA_NAME, metadata, names)
        shutil.rmtree(self._building)
        for file in data_files(self.path):
            if file.name not in names:
                file.unlink()

    def _write(self, tensors: dict[str, torch.Tensor], name: str) -> None:
        with drafted(self._building / name) as draft:
            save_file(tensors, draft)


def data_files(path: Path) -> list[Path]:
    """The tensors of a cache, in a folder that may contain other files."""
    return [*path.glob("shard-*.safetensors"), *path.glob("sensitivity*.safetensors")]


def is_cache_folder(path: Path) -> bool:
    """Whether a folder is empty, holds a cache, or what was left of one that was not finished."""
    others = [file for file in path.iterdir() if file.name != ".lock" and not file.name.startswith(".building-")]
    return not others or (path / METADATA_NAME).is_file() or bool(data_files(path))


__all__ = ["METADATA_NAME", "CacheDraft", "data_files", "is_cache_folder"]
