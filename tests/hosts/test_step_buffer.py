"""The buffer follows the cache of `generate()`: it continues, rolls back, and refuses beam search."""

import pytest
import torch
from transformers import GenerationMixin

from clvq_hf.hosts.hooks import capture
from clvq_hf.hosts.step_buffer import BEAM_SEARCH, StepBuffer


def steps(*values):
    return torch.tensor([values, values])


def test_a_call_without_a_cache_replaces_the_tensors():
    buffer = StepBuffer()
    assert len(buffer) == 0
    buffer.add({"a": steps(1, 2, 3)}, 0)
    buffer.add({"a": steps(4, 5)}, 0)
    assert len(buffer) == 2 and torch.equal(buffer["a"], steps(4, 5))


@pytest.mark.parametrize("past_length", [3, None])
def test_a_call_with_a_cache_is_appended(past_length):
    buffer = StepBuffer()
    buffer.add({"a": steps(1, 2, 3), "b": steps(0, 0, 0)}, 0)
    buffer.add({"a": steps(4), "b": steps(1)}, past_length)
    assert len(buffer) == 4
    assert torch.equal(buffer["a"], steps(1, 2, 3, 4)) and torch.equal(buffer["b"], steps(0, 0, 0, 1))


def test_a_shorter_cache_rolls_the_buffer_back():
    buffer = StepBuffer()
    buffer.add({"a": steps(1, 2, 3)}, 0)
    buffer.add({"a": steps(4, 5)}, 3)
    buffer.add({"a": steps(9)}, 4)
    assert torch.equal(buffer["a"], steps(1, 2, 3, 4, 9))


def test_a_cache_filled_before_the_first_call_is_no_part_of_it():
    buffer = StepBuffer()
    buffer.add({"a": steps(7)}, 5)
    assert torch.equal(buffer["a"], steps(7))


def test_beam_search_of_the_installed_transformers_is_recognised(gpt2):
    assert callable(getattr(GenerationMixin, BEAM_SEARCH)), "transformers renamed its beam search"
    buffer = StepBuffer()

    def add(states, mask, past_length):
        buffer.add({"states": states[2]}, past_length)

    prompt = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "pad_token_id": 0, "do_sample": False}
    with capture(gpt2, [2], callback=add):
        gpt2.generate(**prompt, **options)
        assert len(buffer) == 5
        with pytest.raises(ValueError, match="Beam search reorders rows"):
            gpt2.generate(**prompt, **options, num_beams=2)
