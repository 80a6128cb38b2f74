"""Configs, tokenizers and weights of models that others made: their code is not run, and pickles are not read."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file, find_adapter_config_file, is_peft_available

# Arguments of `from_pretrained` that say where a model is.
PLACES = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "gguf_file", "trust_remote_code")
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def load_config(name_or_path: Any, **kwargs: Any) -> PretrainedConfig:
    """`AutoConfig.from_pretrained`, which here refuses to run code of the repository, and does not ask either."""
    with _without_code(name_or_path):
        return AutoConfig.from_pretrained(name_or_path, **{"trust_remote_code": False, **kwargs})


def load_tokenizer(name_or_path: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """`AutoTokenizer.from_pretrained`, which here refuses to run code of the repository, and does not ask either."""
    loader: Any = AutoTokenizer  # its annotation allows None, which it never returns
    with _without_code(name_or_path):
        return loader.from_pretrained(name_or_path, **{"trust_remote_code": False, **kwargs})


def load_weights(kind: Any, name_or_path: Any, **kwargs: Any) -> Any:
    """`kind.from_pretrained` of a model, which here runs no code of the repository and reads no pickled weights.

    Args:
        kind: A class of transformers, such as `AutoModel`.
        name_or_path: Folder or Hub id.
        kwargs: Arguments of `from_pretrained`. `trust_remote_code=True` and `use_safetensors=False` are obeyed.

    Raises:
        OSError: If it does not exist, or its weights are only pickled.
        ValueError: If it needs code of its own.
    """
    kwargs = {"trust_remote_code": False, **kwargs}
    if kwargs.get("gguf_file") is None:
        kwargs.setdefault("use_safetensors", True)
        if kwargs["use_safetensors"]:
            _refuse_pickles(name_or_path, {name: kwargs[name] for name in PLACES if name in kwargs})
    with _without_code(name_or_path):
        try:
            return kind.from_pretrained(name_or_path, **kwargs)
        except OSError as error:
            if not re.search(r"no file named model\.safetensors|cannot be loaded with `safetensors`", str(error)):
                raise
            raise _pickled(name_or_path, "model.safetensors") from error


def _refuse_pickles(name_or_path: Any, places: dict[str, Any]) -> None:
    """Refuse the pickles that transformers reads although `use_safetensors` is set: those of adapters."""
    named = getattr(load_config(name_or_path, **places), "transformers_weights", None)
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise _pickled(name_or_path, str(named))
    places = {name: value for name, value in places.items() if name not in ("trust_remote_code", "gguf_file")}
    if is_peft_available() and find_adapter_config_file(str(name_or_path), **places) is not None:
        try:
            cached_file(str(name_or_path), ADAPTER_WEIGHTS, **places)
        except OSError as error:
            raise _pickled(name_or_path, ADAPTER_WEIGHTS) from error


def _pickled(name_or_path: Any, missing: str) -> OSError:
    return OSError(
        f"{name_or_path} has no weights in safetensors ({missing}), and pickled ones are not read, since a pickle can "
        "run any code. Load the model in a place where that does no harm, and save it with save_pretrained."
    )


@contextmanager
def _without_code(name_or_path: Any) -> Generator[None]:
    try:
        yield
    except ValueError as error:
        # transformers names an argument that no command has.
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{name_or_path} needs code of its own repository, which is never run, since it could do anything "
            "(trust_remote_code is False). Choose a model that transformers knows."
        ) from error


__all__ = ["load_config", "load_tokenizer", "load_weights"]
