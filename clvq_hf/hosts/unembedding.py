"""Which tokens a state would predict if it were a language model's last one (the logit lens)."""

import torch
from torch import nn

from .hooks import edit, evaluation_mode, residual_stream, unwrap
from .readout import Readout
from .runner import HostRunner

# States whose logits, one for each token of the vocabulary, are computed at once.
STATES_AT_ONCE = 64


@torch.no_grad()
def next_token_logits(host: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Apply the final norm and the unembedding of a causal language model to states of any of its layers.

    The host itself does this: it runs on one token per state, and each state replaces that of the last block. So the
    norm, tied embeddings, scales and caps of the logits are the host's own, wherever its modules are.

    Args:
        host (`PreTrainedModel`): A causal language model; see `residual_stream`.
        states (`torch.Tensor` of shape `(N, d)`): States as wide as the last block's.

    Returns:
        `torch.Tensor` of shape `(N, V)`, float32, on the CPU: Logits of the next token.

    Raises:
        ValueError: If the host predicts no tokens, or the states are of another width than its last block's.
    """
    model = unwrap(host)
    if Readout.of(model).kind != "next_token":
        raise ValueError(f"A {type(model).__name__} does not predict tokens. Load the host with AutoModelForCausalLM.")
    stream = residual_stream(host)
    width = stream.hidden_sizes[-1]
    if states.ndim != 2 or states.shape[1] != width:
        raise ValueError(
            f"states must have the shape (N, {width}), as after the last block, got {tuple(states.shape)}."
        )
    runner = HostRunner(model)
    logits = []

    def replace(_: torch.Tensor) -> torch.Tensor:
        return part[:, None]

    for part in states.split(STATES_AT_ONCE):
        ids = torch.zeros(len(part), 1, dtype=torch.long)
        inputs = runner.inputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        with evaluation_mode(model), edit(host, stream.num_blocks, replace):
            logits.append(model(**inputs).logits[:, -1].float().cpu())
    return torch.cat(logits)


__all__ = ["next_token_logits"]
