"""Running a frozen host on tokenized batches: its inputs by name, and what it predicts."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from . import hooks


class HostRunner:
    """Prepares batches of [`TextCollator`][clvq_hf.data.tokenization.TextCollator] for a host.

    Args:
        host (`PreTrainedModel`): The model to run; may be sharded with a `device_map`.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host. With `"decoder"` the decoder
            reads the same tokens as the encoder, unshifted.

    Raises:
        UnsupportedHostError: If the host knows no attention mask and reads both ways (FNet): its states would depend on
            the padding, that is on the other texts of the batch.
    """

    def __init__(self, host: Any, stack: str | None = None) -> None:
        self.host = host
        self.stack = stack
        # By name, though most hosts swallow any keyword: a tokenizer may offer what means nothing to the host.
        self._accepted = set(inspect.signature(hooks.unwrap(host).forward).parameters)
        if "attention_mask" not in self._accepted and not hooks.residual_stream(host, stack).is_causal:
            raise hooks.UnsupportedHostError(
                f"{type(hooks.unwrap(host)).__name__} takes no attention_mask and reads both ways, so the states of a "
                "text would depend on its padding. Such a host cannot be read in batches."
            )
        self.device = hooks.input_device(host)

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The host's keyword arguments, on its device."""
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
