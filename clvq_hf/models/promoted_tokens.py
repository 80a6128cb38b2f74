"""The tokens that a concept promotes: its tokens' mean last state, through the host's final norm and unembedding."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import batches_by_length
from ..data.extraction import HiddenStateExtractor, check_states
from ..data.tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts
from ..hosts import hooks
from ..hosts.unembedding import next_token_logits
from .modeling_base import BaseConceptModel

# Only the tokens that are most likely after the concept: differences are largest for tokens that never follow anything.
NUM_LIKELY = 100


@torch.no_grad()
def promoted_tokens(
    model: BaseConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    codes: Sequence[int],
    *,
    k: int,
    text_column: str,
    max_length: int | None,
    batch_size: int,
) -> dict[int, list[tuple[str, float]]]:
    """See [`ConceptModel.promoted_tokens`][clvq_hf.ConceptModel.promoted_tokens]."""
    config, stream = model.config, hooks.residual_stream(host)
    width = stream.hidden_sizes[-1]
    next_token_logits(host, torch.zeros(1, width))  # refuses other hosts before the pass
    check_texts(dataset, text_column)
    ensure_pad_token(tokenizer)
    tokenized = tokenize_texts(dataset, tokenizer, text_column, hooks.max_length(host, tokenizer, max_length))
    wanted = sorted(set(codes))
    if wrong := [code for code in wanted if not 0 <= code < config.codebook_size]:
        raise ValueError(f"Codes run from 0 to {config.codebook_size - 1}, got {wrong[0]}.")
    # The last row is that of all other codes.
    rows = torch.full((config.codebook_size,), len(wanted))
    rows[wanted] = torch.arange(len(wanted))
    sums = torch.zeros(len(wanted) + 1, width, dtype=torch.float64)
    counts = torch.zeros(len(wanted) + 1)
    extract = HiddenStateExtractor(host, config.lower_layer, stream.num_blocks, config.stack)
    for number, (_, batch) in enumerate(batches_by_length(tokenized, TextCollator(tokenizer), batch_size)):
        states = extract(batch, device=model.device)
        check_states(states, f"batch {number}")
        counted = states["token_mask"].bool()
        found = rows[model.encode(states["hidden_states"], states["attention_mask"])[counted].cpu()]
        sums.index_add_(0, found, states["target_hidden_states"][counted].double().cpu())
        counts.index_add_(0, found, torch.ones(len(found)))
    means = torch.cat([sums[:-1], sums.sum(0, keepdim=True)])
    means /= torch.cat([counts[:-1], counts.sum()[None]]).clamp(min=1)[:, None]
    # Embeddings may have more rows than the tokenizer has tokens.
    logits = next_token_logits(host, means.float())[:, : len(tokenizer)]
    likely = logits[:-1].topk(min(max(NUM_LIKELY, k), logits.shape[1]), dim=-1).indices
    scores, order = (logits[:-1] - logits[-1]).gather(-1, likely).sort(dim=-1, descending=True, stable=True)
    ids, scores = likely.gather(-1, order)[:, :k].numpy(), scores[:, :k].numpy()
    return {
        code: _decoded(tokenizer, ids[row], scores[row]) if counts[row] > 0 else [] for row, code in enumerate(wanted)
    }


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray, scores: np.ndarray) -> list[tuple[str, float]]:
    return [(tokenizer.decode([token]), score) for token, score in zip(ids.tolist(), scores.tolist(), strict=True)]


__all__ = ["promoted_tokens"]
