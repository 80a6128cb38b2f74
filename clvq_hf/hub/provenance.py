"""Where a concept model came from: which host at which commit, which tokenizer, which library versions."""

import os
import re
from importlib import metadata
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import PreTrainedModel
from transformers.utils import logging

from ..hosts import hooks
from ..hosts.identity import tokenizer_fingerprint
from .requests import hub_api

logger = logging.get_logger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
# Hidden states, codes and training depend on these.
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "datasets")


def describe_host(host: PreTrainedModel) -> dict[str, str | None]:
    """The config fields that identify a host, which may be wrapped by PEFT or DDP.

    Its name (of a folder the absolute path), its commit (if the cache holds only one), its class (or that of the PEFT
    wrapper), its dtype and, if `load_host` read it from one, its GGUF file.
    """
    model = hooks.unwrap(host)
    name = recorded_name(getattr(model.config, "_name_or_path", None))
    outer = getattr(host, "module", host)
    return {
        "host_name_or_path": name,
        # transformers records the commit before 5.23; since then only the cache knows it.
        "host_revision": getattr(model.config, "_commit_hash", None) or cached_commit(name or ""),
        "host_architecture": type(outer if hasattr(outer, "peft_config") else model).__name__,
        "host_dtype": str(model.dtype).removeprefix("torch."),
        "host_gguf_file": vars(model).get("gguf_file"),
    }


def is_hub_id(name: str | None) -> bool:
    """Whether a name is a valid repository id, and neither a folder nor a file of this machine."""
    if not name or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def recorded_name(name: str | None) -> str | None:
    """The name to record: the absolute path of a folder or file, else the name as it is.

    In another working directory, a relative path may be the id of somebody else's repository.
    """
    return str(Path(name).resolve()) if name and Path(name).exists() else name or None


def name_beside(name: str | None, folder: str | Path) -> str | None:
    """The name to record in a folder that others may get: the path of a model from there, such as `../out`.

    Hub ids stay as they are. What has nothing in common with the folder but the root is shortened as by `public_name`,
    since its way would tell what only its owner needs to know.
    """
    if not name or not Path(name).exists():
        return public_name(name)
    here, there = Path(folder).resolve(), Path(name).resolve()
    if (here.drive, here.parts[1:2]) != (there.drive, there.parts[1:2]):
        return public_name(str(there))
    way = Path(os.path.relpath(there, here)).as_posix()
    return way if way.startswith(".") else f"./{way}"


def public_name(name: str | None) -> str | None:
    """The name to publish: Hub ids and plain names as they are, paths and URLs shortened to `./last-part`.

    No Hub id starts with a dot, so that nobody confuses the two. `None` stays `None`.
    """
    if not name or is_hub_id(name):
        return name
    parts = re.split(r"[/\\]+", name.rstrip("/\\"))
    return name if len(parts) == 1 and not Path(name).exists() else f"./{parts[-1]}"


def cached_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of a model that this machine has downloaded, without a request to the Hub; `None` if unknown.

    Without a revision it is known only if the cache holds no other commit: a loaded model does not record it.
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
    """The commit of a host's branch or tag; `revision` if the Hub cannot be reached, `None` for folders and if unknown.

    The cache takes precedence over the Hub, because the branch may have moved since the download.
    """
    if name is None or not is_hub_id(name):
        return None
    if (commit := cached_commit(name, revision)) is not None:
        return commit
    if revision is None:
        logger.warning(
            f"The commit of {name} is not known, so model.load_host() will load the newest. Name the branch, tag or "
            "commit that you loaded: CLVQConfig.from_host(…, host_revision=…)."
        )
        return None
    try:
        return hub_api().model_info(name, revision=revision).sha
    except (HTTPError, OSError):
        logger.warning(f"The commit of {name} at {revision!r} is not known: the Hub could not be asked.")
        return revision


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a model's codes depend on, by name."""
    return {name: metadata.version(name) for name in LIBRARIES}


__all__ = [
    "cached_commit",
    "describe_host",
    "is_hub_id",
    "library_versions",
    "name_beside",
    "public_name",
    "recorded_name",
    "resolve_commit",
    "tokenizer_fingerprint",
]
