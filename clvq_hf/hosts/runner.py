"""`HostRunner`: turns tokenized batches into a host's arguments."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from .host import UnsupportedHostError, input_device, unwrap
from .probe import residual_stream


class HostRunner:
    """Prepares batches of [`TextCollator`][clvq_hf.data.tokenization.TextCollator] for a host.

    Args:
        host (`PreTrainedModel`): The model to run; may be sharded with a `device_map`.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host. With `"decoder"` the decoder
            reads the same tokens as the encoder, unshifted.

    Raises:
        UnsupportedHostError: If the host is bidirectional and accepts no attention mask (FNet): its states would depend
            on the padding, that is, on the other texts of the batch.
    """

    def __init__(self, host: PreTrainedModel, stack: str | None = None) -> None:
        self.host = host
        self.stack = stack
        model = unwrap(host)
        # By name: most hosts accept any keyword, but a tokenizer may return columns that mean nothing to the host.
        self._accepted = set(inspect.signature(model.forward).parameters)
        if "attention_mask" not in self._accepted and not residual_stream(host, stack).is_causal:
            raise UnsupportedHostError(
                f"{type(model).__name__} is bidirectional and accepts no attention_mask, so the states of a text would "
                "depend on its padding. Such a host cannot be read in batches."
            )
        self.device = input_device(host)

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return the host's keyword arguments for a batch, on the host's device and without a cache."""
        inputs: dict[str, Any] = {
            name: tensor.to(self.device) for name, tensor in batch.items() if name in self._accepted
        }
        if self.stack == "decoder":
            inputs["decoder_input_ids"] = inputs["input_ids"]
            inputs["decoder_attention_mask"] = inputs["attention_mask"]
        if "use_cache" in self._accepted:
            inputs["use_cache"] = False
        return inputs


__all__ = ["HostRunner"]
