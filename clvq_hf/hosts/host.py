"""Hosts: load one, find the transformers model inside its wrappers, and refuse hosts that cannot be hooked."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from .loading import PLACES, load_config, load_weights

logger = logging.get_logger(__name__)

# The release of scripts/constraints.txt, with which all tests pass.
TESTED_TRANSFORMERS = "5.23.0"


def warn_of_untested_transformers() -> None:
    """Say once that this release of transformers (5.24, not 5.23.1) is newer than what hooks were tested with."""
    release, tested = (
        tuple(int(part) for part in version.split(".")[:2])
        for version in (transformers.__version__, TESTED_TRANSFORMERS)
    )
    if release > tested:
        logger.warning_once(
            f"transformers {transformers.__version__} is newer than {TESTED_TRANSFORMERS}, the newest release that "
            "clvq-hf was tested with: hosts may have changed in ways that hooks do not notice."
        )


class UnsupportedHostError(ValueError):
    """The host's residual stream cannot be read or edited safely; the message gives the reason and a remedy."""


@contextmanager
def without_parameter_gradients(host: nn.Module) -> Generator[None]:
    """Freeze the parameters for a moment: the graph begins at the state, and no gradient accumulates in them."""
    trainable = [parameter for parameter in host.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def refusal(host: nn.Module, reason: str, remedy: str = "") -> UnsupportedHostError:
    """Make the error that names the host, the reason and the remedy."""
    kind = getattr(getattr(host, "config", None), "model_type", None)
    name = type(host).__name__ + (f" ({kind})" if kind else "")
    remedy = f" {remedy[0].upper()}{remedy[1:]}." if remedy else ""
    return UnsupportedHostError(f"The residual stream of {name} is not supported: {reason}.{remedy}")


def move_host(host: nn.Module, device: torch.device) -> None:
    """Move a host to a device, unless it has a device map or is offloaded: such a one stays where it was put."""
    if getattr(host, "hf_device_map", None) is None and not hasattr(unwrap(host), "_hf_hook"):
        host.to(device)


def unwrap(host: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside `host`.

    Args:
        host: A transformers model, or one inside PEFT or `DistributedDataParallel`.

    Raises:
        UnsupportedHostError: If the wrapper hides or copies the modules to be hooked.
    """
    model: Any = host
    while True:
        kind = type(model)
        if isinstance(model, nn.DataParallel):
            raise refusal(
                host, "DataParallel runs copies of the blocks, which hooks never see", "use the inner .module"
            )
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif any(base.__name__ in ("FullyShardedDataParallel", "FSDPModule") for base in kind.__mro__):
            raise refusal(host, "FSDP gathers the weights in its own forward", "use the host before it is sharded")
        elif kind.__name__ == "OptimizedModule":
            raise refusal(host, _COMPILED, "pass its ._orig_mod, and call that one")
        elif hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            if model.active_peft_config.is_prompt_learning:
                reason = "PEFT prompt learning adds its own positions or cache"
                raise refusal(host, reason, "use the base model, or another kind of adapter")
            model = model.get_base_model()
        else:
            break
    if not isinstance(model, PreTrainedModel):
        reason = "it is not a transformers model, so nothing confirms which modules are its blocks"
        raise refusal(host, reason, "pass the PreTrainedModel itself (accelerator.unwrap_model helps)")
    return model


def load_host(name_or_path: str, architecture: str | None = None, **kwargs: Any) -> PreTrainedModel:
    """Load a host with the head that its checkpoint was saved with.

    Args:
        name_or_path: Folder or Hub id.
        architecture: Class of transformers, such as `"BertForSequenceClassification"`. Default: the class that the
            host's config names, or the bare model; of a GGUF file, the causal language model.
        kwargs: Arguments of `from_pretrained`, such as `revision`. By default no code of the repository is run, and
            weights are read only from safetensors.

    Returns:
        The host in evaluation mode; with `output_loading_info=True` a tuple of host and loading info.

    Raises:
        OSError: If the host does not exist, or has only pickled weights.
        ValueError: If transformers has no such model class, or the host needs code of its own repository.
    """
    if architecture is None:
        places = {name: kwargs[name] for name in PLACES if name in kwargs}
        try:
            config = load_config(name_or_path, **places)
        except OSError as error:
            if Path(name_or_path).exists():
                raise
            raise OSError(
                f"There is no folder {name_or_path}, and no host of this name could be loaded from the Hub: {error}"
            ) from error
        # A GGUF file holds a language model with its head, and names no class.
        default = "AutoModelForCausalLM" if kwargs.get("gguf_file") else "AutoModel"
        architecture = next(iter(config.architectures or []), default)
        if not hasattr(transformers, architecture):
            architecture = "AutoModel"
    kind: Any = getattr(transformers, architecture, None)
    is_model = kind in (AutoModel, AutoModelForCausalLM) or (
        isinstance(kind, type) and issubclass(kind, PreTrainedModel)
    )
    if not is_model:
        raise ValueError(f"transformers has no model class {architecture!r}, which the host's config names.")
    loaded = load_weights(kind, name_or_path, **kwargs)
    # Neither the model nor its config says which file it was read from.
    (loaded[0] if isinstance(loaded, tuple) else loaded).gguf_file = kwargs.get("gguf_file")
    return loaded


@contextmanager
def evaluation_mode(model: nn.Module) -> Generator[None]:
    """Put a model in evaluation mode for the block; each module then returns to its own previous mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def input_device(host: nn.Module) -> torch.device:
    """The device for a host's inputs, even if its weights are offloaded or spread over devices."""
    model = unwrap(host)
    # Offloaded hosts keep their weights on "meta"; accelerate's hook holds the device on which they run.
    for module in model.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return model.device


def num_embeddings(model: nn.Module) -> int | None:
    """How many token ids the embedding of a model or a stack has; None if it does not say."""
    try:
        embedding = model.get_input_embeddings()  # pyrefly: ignore[not-callable]
    # How transformers says that a model, of pixels for example, has no embedding of ids.
    except (AttributeError, NotImplementedError):
        return None
    return getattr(embedding, "num_embeddings", None)


def reserved_positions(module: nn.Module) -> int:
    """How many of the first rows of an embedding are for padding (RoBERTa's positions begin after them)."""
    return module.padding_idx + 1 if isinstance(module, nn.Embedding) and module.padding_idx is not None else 0


def max_length(host: nn.Module, tokenizer: PreTrainedTokenizerBase, wanted: int | None = None) -> int | None:
    """The length, in tokens, of the longest text that a host can read.

    Args:
        host: A transformers model; see `residual_stream`.
        tokenizer: Its tokenizer.
        wanted: The caller's own upper limit.

    Returns:
        The least of `wanted` and the limits of the tokenizer, the config and the position embeddings (RoBERTa reserves
        the first ones for padding); None if nothing limits the length.
    """
    model = unwrap(host)
    limits = [
        wanted,
        tokenizer.model_max_length,
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
    ]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            limits.append(module.num_embeddings - reserved_positions(module))
    # Tokenizers without a limit have a huge one (1e30).
    return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9), default=None)


_COMPILED = "compiled code keeps the hooks of its compilation or ignores hooks, so edits could be skipped silently"


def refuse_compiled(model: PreTrainedModel, hooked: Iterable[str]) -> None:
    """Raise if a module that has to run a hook, or the module around it, is compiled. This runs at each capture."""
    names = {"", *hooked}
    for name in names | {name.rpartition(".")[0] for name in names}:
        module = model.get_submodule(name)
        if module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule":
            raise refusal(model, f"{name or 'it'} is compiled, and {_COMPILED}", "use a host that is not compiled")


def check_checkpointing(scope: nn.Module, blocks: list[nn.Module]) -> None:
    """Raise if gradient checkpointing would run the blocks' hooks again in the backward pass.

    Blocks of the class `GradientCheckpointingLayer` checkpoint their `forward`, inside their hooks, and are safe.
    Others are called inside the checkpoint, so an edit removed by then would be missing in the backward pass.
    """
    if not (scope.training and torch.is_grad_enabled()):
        return
    if all(_CHECKPOINTS_FORWARD and isinstance(block, GradientCheckpointingLayer) for block in blocks):
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in scope.modules()):
        raise UnsupportedHostError(
            f"{type(scope).__name__} repeats its blocks and their hooks in the backward pass (gradient checkpointing); "
            "call gradient_checkpointing_disable() or put the host in eval mode."
        )


# Older releases of transformers checkpoint `__call__`, hooks included.
_CHECKPOINTS_FORWARD = "__call__" not in vars(GradientCheckpointingLayer)
