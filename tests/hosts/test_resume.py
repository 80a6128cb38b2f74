"""Resuming equals running the whole host, for every kind of block output, and leaves the host as it was."""

import pytest
import torch
from helpers.hook_hosts import LAYOUTS, count_hooks, inputs_for, output_of

from clvq_hf.hosts.hooks import edit
from clvq_hf.hosts.resume import resume


def no_cache(host, inputs):
    return {**inputs, "use_cache": False} if hasattr(host.config, "use_cache") else inputs


def values(output):
    return output.logits if "logits" in output else output.last_hidden_state


class TestResume:
    @pytest.mark.parametrize(("model_type", "stack"), LAYOUTS)
    def test_equals_a_whole_run_with_the_state_edited(self, hosts, model_type, stack):
        host = hosts(model_type)
        inputs = no_cache(host, inputs_for(host, stack))
        for layer in (0, 2):
            upper = resume(host, inputs, layer, stack)
            torch.testing.assert_close(values(upper.output), output_of(host, inputs), rtol=0, atol=0)
            with torch.no_grad():
                torch.testing.assert_close(values(upper(upper.state)), values(upper.output), rtol=0, atol=0)
                changed = upper.state * 0.5 + 0.1
                resumed = values(upper(changed))
            with edit(host, layer, lambda _, state=changed: state, stack=stack):
                torch.testing.assert_close(resumed, output_of(host, inputs), rtol=0, atol=0)

    def test_the_lower_blocks_do_not_run_again(self, bert):
        calls = []
        hooks_ = [
            block.attention.register_forward_hook(lambda *_, number=number: calls.append(number))
            for number, block in enumerate(bert.encoder.layer)
        ]
        upper = resume(bert, inputs_for(bert), 2)
        calls.clear()
        upper(upper.state)
        for hook in hooks_:
            hook.remove()
        assert calls == [2]

    def test_gradients_reach_the_state(self, bert):
        upper = resume(bert, inputs_for(bert), 1)
        state = upper.state.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(upper(state).last_hidden_state.sum(), state)
        whole = []
        with edit(bert, 1, lambda seen: whole.append(seen.detach().requires_grad_()) or whole[0]):
            output = bert(**inputs_for(bert)).last_hidden_state
        torch.testing.assert_close(gradient, torch.autograd.grad(output.sum(), whole[0])[0], rtol=0, atol=0)

    def test_leaves_the_host_as_it_was_also_after_an_error(self, bert):
        before = count_hooks(bert)  # transformers leaves its own where states were reported
        upper = resume(bert, inputs_for(bert), 2)
        with pytest.raises(ValueError, match="shape"):
            upper(upper.state[:, :3])
        assert count_hooks(bert) == before
        assert not any("forward" in vars(module) for module in bert.modules())

    def test_keeps_a_forward_that_somebody_else_has_set(self, gpt2):
        block = gpt2.transformer.h[0]
        original = block.forward
        block.forward = lambda *args, **kwargs: original(*args, **kwargs)
        try:
            mine = block.forward
            upper = resume(gpt2, no_cache(gpt2, inputs_for(gpt2)), 1)
            upper(upper.state)
            assert block.forward is mine
        finally:
            del block.forward

    def test_refuses_a_layer_that_does_not_exist(self, bert):
        with pytest.raises(ValueError, match="Layer 9 does not exist"):
            resume(bert, inputs_for(bert), 9)
