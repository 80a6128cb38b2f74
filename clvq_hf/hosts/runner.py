"""`HostRunner`: turns tokenized batches into a host's arguments."""

import inspect
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .host import UnsupportedHostError, input_device, num_embeddings, unwrap
from .probe import residual_stream, undisturbed
from .readout import Readout


class HostRunner:
    """Prepares batches of [`TextCollator`][clvq_hf.data.tokenization.TextCollator] for a host.

    What a host gives for a text must not depend on the other texts of its batch. So padding gets the id that the host's
    head takes for padding, whatever the tokenizer's is, and a head that reads padding nevertheless is refused. A
    continuation that a readout asks about is appended to each text.

    Args:
        host (`PreTrainedModel`): The model to run; may be sharded with a `device_map`.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host. With `"decoder"` the decoder
            reads the same tokens as the encoder, unshifted.
        readout (`Readout`, *optional*): What is read from the host's output; `None` if only states are.

    Raises:
        UnsupportedHostError: If the host is bidirectional and accepts no attention mask (FNet): its states would depend
            on the padding, that is, on the other texts of the batch.
    """

    def __init__(self, host: PreTrainedModel, stack: str | None = None, readout: Readout | None = None) -> None:
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
        self._readout = readout
        self.device = input_device(host)

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return the host's keyword arguments for a batch, on the host's device and without a cache.

        Raises:
            UnsupportedHostError: If the class that the host's head predicts for a text depends on its padding.
            ValueError: If a token is not in the host's embedding; the message names it.
        """
        if self._readout is not None:
            if self._readout.of_texts and len(batch["input_ids"]) > 1:
                check_head(unwrap(self.host))
            batch = self._readout.append(batch)
        inputs: dict[str, Any] = {
            name: tensor.to(self.device) for name, tensor in self.pad(batch).items() if name in self._accepted
        }
        if self.stack == "decoder":
            inputs["decoder_input_ids"] = inputs["input_ids"]
            inputs["decoder_attention_mask"] = inputs["attention_mask"]
        if "use_cache" in self._accepted:
            inputs["use_cache"] = False
        return inputs

    def inputs_of_answers(self, batch: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], torch.Tensor]:
        """The same for a host whose answers follow the texts, with the mask `(B, S')` that its logits belong to.

        Logits over a vocabulary take most of the memory, so only those from the end of the shortest text on are asked
        for, if the host can leave out the others.
        """
        inputs, mask = self.inputs(batch), batch["attention_mask"]
        if self._readout is None or not self._readout.of_vocabulary or "logits_to_keep" not in self._accepted:
            return inputs, mask
        first = int(mask.sum(1).min()) - 1
        inputs["logits_to_keep"] = torch.arange(first, mask.shape[1] + self._readout.num_added).to(self.device)
        return inputs, mask[:, first:]

    def pad(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a batch whose padding, by its `attention_mask`, has the id that the host's head takes for padding.

        Raises:
            ValueError: If a token is not in the host's embedding; the message names it.
        """
        model = unwrap(self.host)
        mask, ids = batch["attention_mask"].bool(), batch["input_ids"]
        ids = ids.masked_fill(~mask, _padding_id(model))
        size = num_embeddings(model)
        if size is not None and len(beyond := ids[ids >= size]):
            raise ValueError(
                f"Token {int(beyond[0])} of the texts is beyond the host's embedding, which has {size} rows. Is this "
                "the host's tokenizer? If tokens were added to it, save the host after "
                "host.resize_token_embeddings(len(tokenizer)) and training."
            )
        return {**batch, "input_ids": ids}


def _padding_id(model: PreTrainedModel) -> int:
    """The id that the host takes for padding, or 0 if it names none that its embedding has."""
    wanted = getattr(model.config.get_text_config(), "pad_token_id", None)
    size = num_embeddings(model)
    return wanted if wanted is not None and wanted >= 0 and (size is None or wanted < size) else 0


# The padding token of hosts whose head was tried, by host.
_CHECKED: weakref.WeakKeyDictionary[nn.Module, int | None] = weakref.WeakKeyDictionary()


def check_head(model: PreTrainedModel) -> None:
    """Refuse a head for texts that reads a position of padding: changed states there must not change its logits."""
    named = getattr(model.config.get_text_config(), "pad_token_id", None)
    if model in _CHECKED and _CHECKED[model] == named:
        return
    stream = residual_stream(model)
    last = model.get_submodule(stream.block_names[-1])
    with undisturbed(model) as inputs:
        mask = torch.ones_like(inputs["input_ids"])
        mask[0, -2:] = 0
        inputs["input_ids"][mask == 0] = _padding_id(model)
        # Heads of encoder-decoders read the end of the text.
        eos = getattr(model.config, "eos_token_id", None)
        if inputs.pop("decoder_input_ids", None) is not None and isinstance(eos, int):
            inputs["input_ids"][0, -3] = inputs["input_ids"][1, -1] = eos

        def disturb(block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            index = stream.output_index
            state = output if index is None else output[index]
            new = stream.read(state, *mask.shape).clone()
            new[mask.to(new.device) == 0] += 1 + torch.arange(new.shape[-1], device=new.device, dtype=new.dtype)
            new = stream.write(state, new)
            if index is None:
                return new
            items = [*output[:index], new, *output[index + 1 :]]
            return items if isinstance(output, list) else tuple(items)

        if "attention_mask" in inputs:
            inputs["attention_mask"] = mask
        try:
            plain = model(**inputs).logits
            handle = last.register_forward_hook(disturb)
            try:
                disturbed = model(**inputs).logits
            finally:
                handle.remove()
        except ValueError as error:
            raise _reads_padding(model, f"its head fails in a batch ({error})") from error
    if not plain.isfinite().all():
        return  # such a host is refused by whoever reads its states, which names the texts
    if not torch.allclose(plain.float(), disturbed.float(), rtol=0, atol=1e-2 * float(plain.abs().max())):
        raise _reads_padding(model, "its head reads padding")
    _CHECKED[model] = named


def _reads_padding(model: PreTrainedModel, reason: str) -> UnsupportedHostError:
    named = getattr(model.config.get_text_config(), "pad_token_id", None)
    return UnsupportedHostError(
        f"What {type(model).__name__} predicts would depend on the other texts of a batch: {reason}, and its "
        f"config has pad_token_id={named}. Set it to the id of a token that ends no text, usually the padding token of "
        "the tokenizer (host.config.pad_token_id, or pad_token_id in the host's config.json), or use a batch size of 1."
    )


__all__ = ["HostRunner", "check_head"]
