"""What the tests of every method call it, and its host, with."""

import pytest
import torch


@pytest.fixture
def batch():
    """States, mask with padding on both sides, and targets."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(3, 6, 32, generator=generator)
    target = torch.randn(3, 6, 32, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    return states, mask, target


@pytest.fixture(params=["width", "target", "mask", "rank", "target length", "target batch", "token mask"])
def wrong_shapes(request, batch):
    """Arguments of `forward` one of which does not fit the others."""
    states, mask, target = batch
    return {
        "width": (states[..., :-1], mask, target),
        "target": (states, mask, target[..., :-1]),
        "mask": (states, mask[:, :-1], target),
        "rank": (states[0], mask[0], target[0]),
        # These would broadcast.
        "target length": (states, mask, target[:, :1]),
        "target batch": (states, mask, target[:1]),
        "token mask": (states, mask, target, mask[:1]),
    }[request.param]


@pytest.fixture
def inputs(tokenizer):
    """Two texts for a host, the second of which is padded."""
    batch = tokenizer(["a truly wonderful film", "dull"], padding=True, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}
