"""Where a concept model came from: which host, which commit of it, which tokenizer, which libraries."""

import hashlib
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..hosts import hooks
from .requests import hub_api

logger = logging.get_logger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
# What decides states, codes and training.
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "datasets")


def describe_host(host: Any) -> dict[str, str | None]:
    """The fields of a config that name a host.

    Args:
        host (`PreTrainedModel`): A transformers model, also inside PEFT or DDP.

    Returns:
        `dict[str, str | None]`: `host_name_or_path` (of folders the absolute path), `host_revision` (the commit, if
        this machine has loaded only one), `host_architecture` (the class; that of the PEFT wrapper if there is one),
        `host_dtype`.
    """
    model = hooks.unwrap(host)
    name = recorded_name(getattr(model.config, "_name_or_path", None))
    outer = getattr(host, "module", host)
    return {
        "host_name_or_path": name,
        # Releases of transformers before 5.23 kept it; now the cache tells.
        "host_revision": getattr(model.config, "_commit_hash", None) or cached_commit(name or ""),
        "host_architecture": type(outer if hasattr(outer, "peft_config") else model).__name__,
        "host_dtype": str(model.dtype).removeprefix("torch."),
    }


def is_hub_id(name: str | None) -> bool:
    """Whether a name can be that of a repository, and is no folder or file of this machine."""
    if not name or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def recorded_name(name: str | None) -> str | None:
    """A name as it is noted down: of folders and files the absolute path.

    Seen from another folder, a relative path may be the id of somebody's repository.
    """
    return str(Path(name).resolve()) if name and Path(name).exists() else name or None


def cached_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of a repository that this machine has loaded, without asking the Hub.

    Args:
        name (`str`): Hub id of a model; a folder has no commit.
        revision (`str`, *optional*): Branch, tag or commit. If not given, the commit is known only if there is no
            other in the cache: a loaded model does not tell which revision it was loaded at.

    Returns:
        `str` or `None`: 40 hexadecimal digits; `None` if nobody knows.
    """
    if not is_hub_id(name):
        return None
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    if revision is None:
        folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
        commits = {file.parent.name for file in folder.glob(f"*/{constants.CONFIG_NAME}")}
        return commits.pop() if len(commits) == 1 else None
    file = try_to_load_from_cache(name, constants.CONFIG_NAME, revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def resolve_commit(name: str | None, revision: str | None) -> str | None:
    """The commit that a branch or tag of a host is at.

    What this machine has loaded counts first, for the branch may have moved since; then what the Hub says.

    Args:
        name (`str`, *optional*): Hub id or folder.
        revision (`str`, *optional*): Branch, tag or commit; the one that was loaded here, if not given.

    Returns:
        `str` or `None`: 40 hexadecimal digits; `None` for folders, and where nobody knows.
    """
    if not is_hub_id(name):
        return None
    if (commit := cached_commit(name, revision)) is not None:
        return commit
    if revision is None:
        logger.warning(
            f"Which commit of {name} the host is of is not known, so model.load_host() will take the newest. Name the "
            "branch, tag or commit that you loaded: CLVQConfig.from_host(…, host_revision=…)."
        )
        return None
    try:
        return hub_api().model_info(name, revision=revision).sha
    except (HTTPError, OSError):
        logger.warning(f"The commit of {name} at {revision!r} is not known: the Hub could not be asked.")
        return revision


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """64 hexadecimal digits of a tokenizer's vocabulary.

    How it splits and which special tokens it adds is seen from the token ids of reference texts instead; which token
    pads changes no code.
    """
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a model is."""
    return {name: metadata.version(name) for name in LIBRARIES}


def public_name(name: str | None) -> str | None:
    """A name as strangers may see it.

    Args:
        name (`str`, *optional*): Of a host, dataset or judge.

    Returns:
        `str` or `None`: Hub ids and plain names as they are; of paths and addresses the last part, as `./part`, which no
        id can be.
    """
    if not name or is_hub_id(name):
        return name
    parts = re.split(r"[/\\]+", name.rstrip("/\\"))
    return name if len(parts) == 1 and not Path(name).exists() else f"./{parts[-1]}"


__all__ = [
    "cached_commit",
    "describe_host",
    "is_hub_id",
    "library_versions",
    "public_name",
    "recorded_name",
    "resolve_commit",
    "tokenizer_fingerprint",
]
