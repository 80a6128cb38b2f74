"""Hidden states of two layers of a frozen host, extracted batch by batch."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.runner import HostRunner

# Of what an extractor returns, the arguments of a concept model's `forward`.
MODEL_INPUTS = ("hidden_states", "attention_mask", "target_hidden_states", "token_mask")
# In median norms of a text's states. Attention sinks have 100 to 1,000, other tokens up to 3.
MASSIVE_NORM = 10
# Of fewer tokens the median says nothing: half of them may be sinks.
MIN_OWN_TOKENS = 4


class HiddenStateExtractor:
    """Runs a frozen host on tokenized batches and returns the states of two layers.

    The host runs in evaluation mode, without gradients, and stops after `upper_layer` unless it is asked something.
    Its own mode is restored. With `stack="decoder"` the decoder reads the same tokens as the encoder, unshifted.

    Args:
        host (`PreTrainedModel`): The model to read; may be sharded with a `device_map`.
        lower_layer (`int`): Layer of `hidden_states`.
        upper_layer (`int`): Layer of `target_hidden_states`.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.
        readout (`Readout`, *optional*): What the host is asked about each text besides; then it runs to its end.

    Raises:
        UnsupportedHostError: If the host is bidirectional and accepts no attention mask (FNet): its states would depend
            on the padding, that is, on the other texts of the batch.
    """

    def __init__(
        self,
        host: PreTrainedModel,
        lower_layer: int,
        upper_layer: int,
        stack: str | None = None,
        readout: Readout | None = None,
    ) -> None:
        self.lower_layer = lower_layer
        self.upper_layer = upper_layer
        self._readout = readout
        self._runner = HostRunner(host, stack, readout)

    def __call__(
        self, batch: Mapping[str, torch.Tensor], device: torch.device | None = None
    ) -> dict[str, torch.Tensor]:
        """Extract the states of a batch of [`TextCollator`][clvq_hf.data.TextCollator].

        Args:
            batch (`Mapping[str, torch.Tensor]`): The host's inputs, `token_mask` and `text_index`.
            device (`torch.device`, *optional*): Device of the result. Default: the states remain on the host's device,
                the rest on that of the batch.

        Returns:
            `dict[str, torch.Tensor]`: `hidden_states` `(B, S, d)`, `target_hidden_states` `(B, S, d')`, `input_ids`,
            `attention_mask`, `token_mask` and `sink_mask` `(B, S)`, `text_index` `(B,)`, and with a readout
            `prediction` `(B,)`. `sink_mask` is 1 on attention sinks of either layer, `token_mask` 0. `MODEL_INPUTS`
            are those that a concept model's `forward` takes.
        """
        return self.of_pairs(batch, [(self.lower_layer, self.upper_layer)], device)[0]

    @torch.no_grad()
    def of_pairs(
        self, batch: Mapping[str, torch.Tensor], pairs: Sequence[tuple[int, int]], device: torch.device | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """Extract the states of several pairs of lower and upper layer in one pass: for each what a call returns."""
        runner, width = self._runner, batch["attention_mask"].shape[1]
        layers = sorted({layer for pair in pairs for layer in pair})
        mask = batch["attention_mask"].bool()
        shared = {name: batch[name] for name in ("input_ids", "attention_mask", "text_index")}
        with hooks.evaluation_mode(runner.host):
            if self._readout is None:
                states = hooks.run(runner.host, runner.inputs(batch), layers, stack=runner.stack)
            else:
                with hooks.capture(runner.host, layers, stack=runner.stack) as captured:
                    logits = self._readout(runner.host(**runner.inputs(batch)), mask, batch["token_mask"])
                    # A continuation that is asked about follows the text.
                    states = {layer: captured[layer][:, :width] for layer in layers}
                shared["prediction"] = self._readout.predict(logits)
        usual_norms = hooks.residual_stream(runner.host, runner.stack).usual_norms
        sinks = {
            layer: attention_sinks(state, mask.to(state.device), usual_norms[layer]).to(mask.device)
            for layer, state in states.items()
        }
        if device is not None:
            states = {layer: state.to(device) for layer, state in states.items()}
            shared = {name: tensor.to(device) for name, tensor in shared.items()}
        results = []
        for lower, upper in pairs:
            either = sinks[lower] | sinks[upper]
            masks = {"token_mask": batch["token_mask"] * ~either, "sink_mask": either.to(batch["token_mask"].dtype)}
            results.append(
                {
                    **shared,
                    "hidden_states": states[lower],
                    "target_hidden_states": states[upper],
                    **{name: mask if device is None else mask.to(device) for name, mask in masks.items()},
                }
            )
        return results


def attention_sinks(states: torch.Tensor, mask: torch.Tensor, usual_norms: Sequence[float] = ()) -> torch.Tensor:
    """Find tokens whose state is far longer than is usual: more than ten times the median.

    Decoders park attention on a token without content, mostly the first one, whose state grows a hundredfold (massive
    activations, arXiv 2402.17762). Any product with such states reflects the sink and nothing else.

    Args:
        states (`torch.Tensor` of shape `(B, S, d)`): States of one layer.
        mask (`torch.Tensor` of shape `(B, S)`, bool): Real tokens.
        usual_norms (`Sequence[float]`): What else the median of a text of fewer than four tokens is over, so that it
            has something to be compared with:
            [`residual_stream(host, stack).usual_norms[layer]`][clvq_hf.hosts.ResidualStream].

    Returns:
        `torch.Tensor` of shape `(B, S)`, bool.
    """
    norms = torch.where(mask, states.float().norm(dim=-1), torch.nan)
    own = norms.nanmedian(dim=-1, keepdim=True).values
    usual = torch.cat([norms, norms.new_tensor(usual_norms).expand(len(norms), -1)], dim=-1)
    # The norms of a host that was trained after they were noted are others, so only short texts go by them.
    is_short = mask.sum(dim=-1, keepdim=True) < MIN_OWN_TOKENS
    return mask & (norms > MASSIVE_NORM * torch.where(is_short, usual.nanmedian(dim=-1, keepdim=True).values, own))


def check_finite(
    values: torch.Tensor, text_index: torch.Tensor | Sequence[int], what: str, mask: torch.Tensor | None = None
) -> None:
    """Check that no value `(B, …)` of a batch is NaN or Inf; with a mask `(B, S)`, only those of real tokens.

    Raises:
        ValueError: If one is; the message names the first ten texts and a remedy.
    """
    finite = values.isfinite()
    if mask is not None:
        finite = finite.all(-1) | ~mask.to(values.device)
    is_bad = ~finite.flatten(1).all(-1)
    if is_bad.any():
        indices = torch.as_tensor(text_index).cpu()[is_bad.cpu()].tolist()
        raise ValueError(
            f"NaN or Inf in {what}, in the texts with the indices {indices[:10]}. Look at these texts, or run the host "
            "in a wider dtype (bfloat16 or float32 instead of float16)."
        )


def check_states(states: Mapping[str, torch.Tensor], batch_name: str) -> None:
    """Check that the states of real tokens are finite; states of padding may be anything."""
    for name in ("hidden_states", "target_hidden_states"):
        check_finite(states[name], states["text_index"], f"{name} of {batch_name}", states["attention_mask"].bool())


__all__ = ["MODEL_INPUTS", "HiddenStateExtractor", "attention_sinks", "check_finite", "check_states"]
