"""The hook room: states are the host's own, edits do what they should, nothing is left behind."""

import copy
import gc
import random
import weakref

import numpy as np
import pytest
import torch
from helpers import tiny_hosts
from helpers.hook_hosts import (
    BATCH,
    LAYOUTS,
    LENGTH,
    PADDED,
    STACKS,
    count_hooks,
    inputs_for,
    output_of,
    reported_by,
)
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, EncoderDecoderCache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from clvq_hf.hosts import hooks
from clvq_hf.hosts.hooks import _Arguments
from clvq_hf.hosts.host import _CHECKPOINTS_FORWARD, TESTED_TRANSFORMERS


def assert_same_as_reported(states, reported, num_blocks):
    # Mamba and RWKV report no embedding entry; the last entry may be normed.
    first = 0 if reported[0].shape == states[0].shape and torch.equal(reported[0], states[0]) else 1
    for layer in range(first, num_blocks):
        assert torch.equal(states[layer], reported[layer - first])


class TestCapture:
    @pytest.mark.parametrize(
        ("model_type", "stack", "side"),
        [
            *((*each, "right") for each in STACKS),
            *((*each, "left") for each in (("bert", None), ("gpt2", None), ("xlnet", None), ("t5", "decoder"))),
        ],
    )
    def test_equals_output_hidden_states(self, hosts, model_type, stack, side):
        host = hosts(model_type)
        stream = hooks.residual_stream(host, stack)
        inputs = inputs_for(host, stack, side)
        seen = []
        with (
            torch.no_grad(),
            hooks.capture(
                host, range(stream.num_blocks + 1), stack, callback=lambda *arguments: seen.append(arguments)
            ) as states,
        ):
            host(**inputs)
        assert_same_as_reported(states, reported_by(host, inputs, stack), stream.num_blocks)
        assert stream.hidden_sizes == tuple(states[layer].shape[-1] for layer in sorted(states))
        ((given, mask, past_length),) = seen
        assert list(given) == list(range(stream.num_blocks + 1))
        expected = inputs.get("decoder_attention_mask" if stack == "decoder" else "attention_mask")
        assert torch.equal(mask, torch.ones(BATCH, LENGTH).bool() if expected is None else expected.bool())
        assert past_length == 0

    @pytest.mark.parametrize("model_type", ["bert", "modernbert", "fnet", "xlnet"])
    def test_encoders_are_not_causal(self, hosts, model_type):
        assert hooks.residual_stream(hosts(model_type)).is_causal is False

    @pytest.mark.parametrize("model_type", ["gpt2", "llama", "mixtral", "mamba", "rwkv", "gemma2"])
    def test_decoders_are_causal(self, hosts, model_type):
        assert hooks.residual_stream(hosts(model_type)).is_causal is True

    def test_stacks_of_an_encoder_decoder(self, hosts):
        host = hosts("t5")
        assert hooks.residual_stream(host).stack == "encoder"
        assert hooks.residual_stream(host, "encoder").is_causal is False
        assert hooks.residual_stream(host, "decoder").is_causal is True

    def test_stack_that_does_not_exist(self, hosts, bert):
        with pytest.raises(ValueError, match="not an encoder-decoder"):
            hooks.capture(bert, [1], stack="encoder")
        with pytest.raises(ValueError, match="expected 'encoder' or 'decoder'"):
            hooks.capture(hosts("t5"), [1], stack="both")

    @pytest.mark.parametrize("layer", [4, -1, 1.0, True, "1"])
    def test_layer_that_does_not_exist(self, bert, layer):
        before = count_hooks(bert)
        with pytest.raises(ValueError, match=r"3 blocks, so layers run from 0 .* to 3"):
            hooks.capture(bert, [1, layer])
        with pytest.raises(ValueError, match="3 blocks"):
            hooks.edit(bert, layer, lambda state: state)
        with pytest.raises(ValueError, match="at least one"):
            hooks.capture(bert, [])
        assert count_hooks(bert) == before

    def test_mapping(self, bert):
        inputs = inputs_for(bert)
        with hooks.capture(bert, [1]) as states:
            with pytest.raises(KeyError, match="has not been seen"):
                states[1]
            bert(**inputs)
        assert list(states) == [1] and len(states) == 1
        with pytest.raises(KeyError, match="was not requested"):
            states[2]

    def test_holds_the_latest_forward(self, bert):
        first, second = inputs_for(bert), inputs_for(bert, seed=1)
        with torch.no_grad(), hooks.capture(bert, [2]) as states:
            bert(**first)
            bert(**second)
        assert torch.equal(states[2], hooks.run(bert, second, [2])[2])

    def test_positional_arguments_and_embeddings(self, gpt2):
        inputs = inputs_for(gpt2)
        embeddings = gpt2.get_input_embeddings()(inputs["input_ids"])
        masks = []
        with torch.no_grad(), hooks.capture(gpt2, [1], callback=lambda s, mask, a: masks.append(mask)) as states:
            gpt2(inputs["input_ids"])
            first = states[1]
            gpt2(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"].float())
        assert first.shape == (BATCH, LENGTH, tiny_hosts.HIDDEN)
        assert masks[0].all()
        assert torch.equal(masks[1], inputs["attention_mask"].bool())

    def test_mask_that_cannot_be_read(self, bert):
        mask = torch.zeros(BATCH, 1, LENGTH, LENGTH)
        with hooks.capture(bert, [1]) as states:  # without a callback nobody needs it
            bert(inputs_for(bert)["input_ids"], attention_mask=mask)
        assert states[1].shape[1] == LENGTH
        with (
            hooks.capture(bert, [1], callback=lambda *seen: None),
            pytest.raises(ValueError, match="call the host with a 2-D attention_mask"),
        ):
            bert(inputs_for(bert)["input_ids"], attention_mask=mask)

    def test_gradients_flow(self, bert):
        with hooks.capture(bert, [1, 3]) as states:
            bert(**inputs_for(bert))
        (gradient,) = torch.autograd.grad(states[3].sum(), states[1])
        assert gradient.shape == states[1].shape

    @pytest.mark.parametrize(
        "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
    )
    def test_grad_modes_and_autocast(self, mode):
        host = tiny_hosts.tiny_host("bert")
        inputs = inputs_for(host)
        with mode():
            states = hooks.run(host, inputs, [0, 2])
            reported = host(**inputs, output_hidden_states=True).hidden_states
        assert torch.equal(states[2], reported[2])
        host(**inputs).last_hidden_state.sum().backward()  # the probe left no inference tensor behind

    @pytest.mark.parametrize("model_type", ["llama", "mamba", "t5"])
    def test_bfloat16(self, model_type):
        host = tiny_hosts.tiny_host(model_type).to(torch.bfloat16)
        stack = "encoder" if model_type == "t5" else None
        inputs = inputs_for(host, stack)
        with torch.no_grad():
            states = hooks.run(host, inputs, [2], stack)
        reported = reported_by(host, inputs, stack)
        assert torch.equal(
            states[2].to(torch.bfloat16), reported[2 if model_type != "mamba" else 1].to(torch.bfloat16)
        )
        plain = output_of(host, inputs)
        with hooks.edit(host, 2, lambda state: state.double(), stack):
            assert torch.equal(output_of(host, inputs), plain)


class TestProbe:
    def test_leaves_the_host_as_it_was(self):
        host = tiny_hosts.tiny_host("bert", "AutoModelForSequenceClassification").train()
        host.bert.encoder.layer[1].eval()
        host.bert.embeddings.requires_grad_(False)
        modes = [module.training for module in host.modules()]
        before = count_hooks(host)
        states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
        hooks.residual_stream(host)
        assert [module.training for module in host.modules()] == modes
        assert not any(parameter.requires_grad for parameter in host.bert.embeddings.parameters())
        assert count_hooks(host) == before
        assert random.getstate() == states[0]
        assert (np.random.get_state()[1] == states[1]).all()
        assert torch.equal(torch.get_rng_state(), states[2])

    def test_big_bird_keeps_its_sparse_attention(self):
        # A short input makes BigBird give up block-sparse attention for good.
        host = tiny_hosts.tiny_host("big_bird", attention_type="block_sparse", block_size=2, num_random_blocks=1)
        kinds = [type(module) for module in host.modules()]
        hooks.residual_stream(host)
        assert host.attention_type == "block_sparse"
        assert [type(module) for module in host.modules()] == kinds

    @pytest.mark.parametrize("model_type", ["big_bird", "bigbird_pegasus"])
    def test_padding_inside_the_stack(self, model_type):
        host = tiny_hosts.tiny_host(model_type, attention_type="block_sparse", block_size=2, num_random_blocks=1)
        stack = "encoder" if model_type == "bigbird_pegasus" else None
        ids = torch.randint(4, 60, (2, 21))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs |= {"decoder_input_ids": ids[:, :3]} if stack else {}
        np.random.seed(0)
        with torch.no_grad():
            states = hooks.run(host, inputs, [0, 1], stack)
        assert states[1].shape == (2, 21, tiny_hosts.HIDDEN)
        assert host.attention_type == "block_sparse" if stack is None else True
        plain = output_of(host, inputs)
        with hooks.edit(host, 1, lambda state: state.clone(), stack):
            assert torch.equal(output_of(host, inputs), plain)

    def test_rwkv_keeps_its_weights_consistent(self):
        # RWKV divides its weights for eval mode, and notes that it did.
        host = tiny_hosts.tiny_host("rwkv", rescale_every=2)
        twin = tiny_hosts.tiny_host("rwkv", rescale_every=2)
        with pytest.raises(hooks.UnsupportedHostError):  # the division breaks the chain of blocks
            hooks.residual_stream(host)
        inputs = {"input_ids": inputs_for(host)["input_ids"]}
        assert torch.equal(output_of(host, inputs), output_of(twin, inputs))

    @pytest.mark.slow
    def test_is_kept_and_does_not_keep_the_host_alive(self):
        host = tiny_hosts.tiny_host("bert")
        stream = hooks.residual_stream(host)
        assert hooks.residual_stream(host) is stream
        host.encoder.layer = host.encoder.layer[:2]
        assert hooks.residual_stream(host).num_blocks == 2
        host.encoder.layer.append(type(host.encoder.layer[0])(host.config).eval())
        assert hooks.residual_stream(host).num_blocks == 3
        reference = weakref.ref(host)
        del host
        gc.collect()
        assert reference() is None

    def test_tiny_vocabulary_and_one_block(self):
        host = tiny_hosts.tiny_host("llama", vocab_size=5, num_hidden_layers=1)
        assert hooks.residual_stream(host).num_blocks == 1
        assert hooks.residual_stream(host).is_causal
        assert not hooks.residual_stream(tiny_hosts.tiny_host("bert", vocab_size=5)).is_causal
        assert hooks.run(host, {"input_ids": torch.tensor([[3, 4]])}, [0, 1])[1].shape == (1, 2, tiny_hosts.HIDDEN)

    def test_shared_blocks_count_by_call(self, hosts):
        host = hosts("albert")
        stream = hooks.residual_stream(host)
        assert stream.block_names == ("encoder.albert_layer_groups.0",) * 3
        grouped = tiny_hosts.tiny_host("albert", num_hidden_layers=4, num_hidden_groups=2)
        assert [name[-1] for name in hooks.residual_stream(grouped).block_names] == list("0011")
        inputs = inputs_for(grouped)
        states = hooks.run(grouped, inputs, [1, 3])
        assert torch.equal(states[3], reported_by(grouped, inputs)[3])

    @pytest.mark.parametrize(
        ("model_type", "reason"),
        [
            ("squeezebert", "hooks on them never fire"),
            ("funnel", "do not match its own output_hidden_states"),
            ("canine", "do not match its own output_hidden_states"),
            ("perceiver", "a tiny forward with token ids only failed"),
            ("reformer", "two residual streams"),
            ("xlm", "no list of blocks"),
            ("flaubert", "no list of blocks"),
            ("hrm_text", "no list of blocks"),
            ("gemma3n_text", "several residual streams"),
            ("deepseek_v4", "several residual streams"),
        ],
    )
    def test_refused(self, model_type, reason):
        host = tiny_hosts.tiny_host(model_type)
        before = count_hooks(host)
        with pytest.raises(hooks.UnsupportedHostError, match=reason):
            hooks.capture(host, [1])
        assert count_hooks(host) == before

    def test_states_that_do_not_depend_on_the_input(self):
        host = tiny_hosts.tiny_host("gpt2")
        nn.init.zeros_(host.wte.weight)
        with pytest.raises(hooks.UnsupportedHostError, match="do not depend on its input"):
            hooks.residual_stream(host)

    def test_not_a_transformers_model(self):
        with pytest.raises(hooks.UnsupportedHostError, match="not a transformers model"):
            hooks.capture(nn.Linear(2, 2), [0])


class TestEdit:
    @pytest.mark.parametrize(("model_type", "stack"), LAYOUTS)
    def test_identity_and_full_patch(self, hosts, model_type, stack):
        host = hosts(model_type)
        inputs, others = inputs_for(host, stack), inputs_for(host, stack, seed=1)
        plain, other = output_of(host, inputs), output_of(host, others)
        assert not torch.equal(plain, other)
        layers = range(hooks.residual_stream(host, stack).num_blocks + 1)
        with torch.no_grad():
            donor = hooks.run(host, others, layers, stack)
        for layer in layers:
            with hooks.edit(host, layer, lambda state: state.clone(), stack):
                assert torch.equal(output_of(host, inputs), plain)
            with hooks.edit(host, layer, lambda state, new=donor[layer]: new, stack):
                assert torch.equal(output_of(host, inputs), other)
        assert torch.equal(output_of(host, inputs), plain)

    @pytest.mark.parametrize("layer", [0, 2])
    def test_captures_and_output_hidden_states_see_it(self, bert, layer):
        reported_by(bert, inputs_for(bert))  # transformers installs its own hooks first
        with (
            torch.no_grad(),
            hooks.capture(bert, [layer]) as states,
            hooks.edit(bert, layer, lambda state: torch.full_like(state, 2.0)),
        ):
            reported = bert(**inputs_for(bert), output_hidden_states=True).hidden_states
        assert (states[layer] == 2).all()
        assert (reported[layer] == 2).all()

    def test_earlier_layers_are_not_touched(self, bert):
        inputs = inputs_for(bert)
        plain = hooks.run(bert, inputs, [0, 1, 2, 3])
        with hooks.capture(bert, [0, 1, 2, 3]) as states, hooks.edit(bert, 2, lambda state: state + 1):
            bert(**inputs)
        assert [torch.equal(states[i], plain[i]) for i in range(4)] == [True, True, False, False]
        assert torch.equal(states[2], plain[2] + 1)

    def test_several_edits_run_last_registered_first(self, bert):
        with (
            hooks.capture(bert, [1]) as states,
            hooks.edit(bert, 1, lambda state: state + 1),
            hooks.edit(bert, 1, lambda state: state * 0),
        ):
            bert(**inputs_for(bert))
        assert (states[1] == 1).all()

    def test_in_place(self, hosts):
        for model_type in ("bert", "xlnet", "longformer"):
            host = hosts(model_type)
            with torch.no_grad(), hooks.capture(host, [1]) as states, hooks.edit(host, 1, lambda state: state.zero_()):
                host(**inputs_for(host))
            assert (states[1] == 0).all()

    def test_never_applied(self, bert):
        with pytest.warns(RuntimeWarning, match="never applied"), hooks.edit(bert, 1, torch.zeros_like):
            pass

    @pytest.mark.parametrize("fn", [lambda state: state[:, :1], lambda state: None])
    def test_wrong_result(self, bert, fn):
        before = count_hooks(bert)
        wrong = pytest.raises(ValueError, match="must return a tensor of the shape it received")
        with wrong, hooks.edit(bert, 1, fn):
            bert(**inputs_for(bert))
        assert count_hooks(bert) == before

    def test_gradient_through_an_edit(self, bert):
        shift = torch.zeros(tiny_hosts.HIDDEN, requires_grad=True)
        with hooks.edit(bert, 1, lambda state: state + shift):
            bert(**inputs_for(bert)).pooler_output.sum().backward()
        assert shift.grad.abs().sum() > 0
        bert.zero_grad()


class ToyBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, hidden_states):
        self.calls += 1
        return hidden_states + self.linear(hidden_states)


class Toy(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self):
        super().__init__(PretrainedConfig(vocab_size=16))
        self.embed = nn.Embedding(16, 4)
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(3))
        self.drop, self.repeat, self.mutate = None, 0, False

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, return_dict=True):
        state = self.embed(input_ids)
        states = [state]
        for index, block in enumerate(self.blocks):
            if index == self.drop:
                continue
            state = block(state)
            states.append(state.clone())
            if self.mutate:
                state.add_(1)
        for _ in range(self.repeat):
            state = self.blocks[2](state)
        return BaseModelOutput(last_hidden_state=state, hidden_states=tuple(states) if output_hidden_states else None)


class TestNothingIsLeft:
    @pytest.fixture
    def toy(self):
        torch.manual_seed(0)
        return Toy().eval()

    @pytest.fixture
    def ids(self):
        return torch.tensor([[1, 2, 3], [4, 5, 6]])

    def test_adds_and_removes(self, toy, ids):
        plain = toy(ids).last_hidden_state
        with hooks.capture(toy, [0, 1, 3]) as states:
            assert count_hooks(toy) == 2 + 1 + 3  # one forward of the stack, the first input, three blocks
            toy(ids)
        assert count_hooks(toy) == 0
        assert torch.equal(states[3], plain)
        with hooks.edit(toy, 2, torch.zeros_like):
            assert not torch.equal(toy(ids).last_hidden_state, plain)
        assert count_hooks(toy) == 0
        assert torch.equal(toy(ids).last_hidden_state, plain)

    def test_handle_without_with(self, toy, ids):
        handle = hooks.capture(toy, [1])
        toy(ids)
        handle.remove()
        handle.remove()
        assert count_hooks(toy) == 0
        assert handle[1].shape == (2, 3, 4)

    def test_after_an_exception(self, toy, ids):
        plain = toy(ids).last_hidden_state
        with pytest.raises(RuntimeError, match="mine"), hooks.capture(toy, [1]), hooks.edit(toy, 2, torch.zeros_like):
            raise RuntimeError("mine")
        with pytest.raises(IndexError), hooks.capture(toy, [1], stop=True):
            toy(torch.tensor([[99]]))
        assert count_hooks(toy) == 0
        assert torch.equal(toy(ids).last_hidden_state, plain)

    def test_half_failed_registration(self, toy, monkeypatch):
        hooks.residual_stream(toy)
        monkeypatch.setattr(
            toy.blocks[2], "register_forward_hook", lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("full"))
        )
        with pytest.raises(RuntimeError, match="full"):
            hooks.capture(toy, [0, 3])
        assert count_hooks(toy) == 0

    def test_other_hooks_stay(self, toy, ids):
        calls = []
        toy.blocks[1].register_forward_hook(lambda *args: calls.append(1))
        with hooks.capture(toy, [2]):
            toy(ids)
        toy(ids)
        assert count_hooks(toy) == 1 and len(calls) == 5  # three forwards of the probe

    @pytest.mark.parametrize("fault", [{"drop": 0}, {"drop": 1}, {"drop": 2}, {"repeat": 1}])
    def test_blocks_out_of_turn(self, toy, ids, fault):
        hooks.residual_stream(toy)
        vars(toy).update(fault)
        with pytest.raises(RuntimeError, match="Layers cannot be distinguished"), hooks.capture(toy, [3]):
            toy(ids)
        assert count_hooks(toy) == 0

    def test_block_run_alone(self, toy):
        with pytest.raises(RuntimeError, match="outside of its stack's forward"), hooks.capture(toy, [3]):
            toy.blocks[0](torch.zeros(1, 2, 4))

    def test_usual_norms_are_of_tokens_from_the_whole_vocabulary(self):
        host = tiny_hosts.tiny_host("llama", vocab_size=600)
        with torch.no_grad():
            host.embed_tokens.weight[:40] *= 1000
        norms = torch.tensor(hooks.residual_stream(host).usual_norms)
        assert norms.shape == (4, 14)
        assert norms[0].median() < 10 * host.embed_tokens.weight[40:].norm(dim=-1).median()

    def test_output_changed_in_place(self, toy):
        toy.mutate = True
        with pytest.raises(hooks.UnsupportedHostError, match="in place"):
            hooks.capture(toy, [1])

    def test_two_at_once(self, toy, ids):
        with hooks.capture(toy, [1]) as first, hooks.capture(toy, [2], stop=True) as second:
            toy(ids)
        assert set(first) == {1} and set(second) == {2}
        assert count_hooks(toy) == 0


class TestStop:
    def test_blocks_above_are_not_run(self):
        toy = Toy().eval()
        ids = torch.tensor([[1, 2, 3]])
        hooks.residual_stream(toy)
        for block in toy.blocks:
            block.calls = 0
        with hooks.capture(toy, [0, 2], stop=True) as states:
            toy(ids)
            raise AssertionError("the host was not stopped")
        assert [block.calls for block in toy.blocks] == [1, 1, 0]
        assert set(states) == {0, 2}
        hooks.run(toy, {"input_ids": ids}, [0])
        assert [block.calls for block in toy.blocks] == [1, 1, 0]

    @pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "t5", "mamba"])
    def test_the_next_forward_is_a_normal_one(self, hosts, model_type):
        host = hosts(model_type)
        stack = hooks.residual_stream(host).stack
        inputs = inputs_for(host, stack)
        plain, reported = output_of(host, inputs), reported_by(host, inputs, stack)
        before = count_hooks(host)
        with hooks.capture(host, [1], stop=True):
            host(**inputs, output_hidden_states=True)  # stopped while transformers collects
        assert count_hooks(host) == before
        assert torch.equal(output_of(host, inputs), plain)
        again = reported_by(host, inputs, stack)
        assert len(again) == len(reported)
        assert all(torch.equal(a, b) for a, b in zip(again, reported, strict=True))

    def test_run_equals_capture(self, hosts):
        host = hosts("bert", "AutoModelForSequenceClassification")
        inputs = {**inputs_for(host), "labels": torch.tensor([0, 1])}
        states = hooks.run(host, inputs, [2, 1])
        assert list(states) == [2, 1]
        assert torch.equal(states[1], reported_by(host, inputs)[1])

    def test_of_an_encoder_keeps_the_decoder_from_running(self, hosts):
        host = hosts("bart")
        calls = []
        handle = host.decoder.register_forward_hook(lambda *args: calls.append(1))
        hooks.run(host, inputs_for(host, "encoder"), [3], "encoder")
        handle.remove()
        # The three forwards of the probe, if it had not run yet, and none of the stopped host.
        assert len(calls) in (0, 3)


class TestWrappers:
    HEADS = [
        ("bert", "AutoModelForMaskedLM"),
        ("roberta", "AutoModelForSequenceClassification"),
        ("distilbert", "AutoModelForTokenClassification"),
        ("gpt2", "AutoModelForSequenceClassification"),
        ("llama", "AutoModelForCausalLM"),
        ("qwen2", "AutoModelForTokenClassification"),
        ("bart", "AutoModelForSequenceClassification"),
        ("bart", "AutoModelForCausalLM"),
        ("t5", "AutoModelForSeq2SeqLM"),
        ("t5", "AutoModelForTokenClassification"),
        ("trocr", "AutoModelForCausalLM"),
        ("encoder-decoder", "AutoModelForSeq2SeqLM"),
    ]

    @pytest.mark.parametrize(("model_type", "auto_class"), HEADS)
    def test_task_heads(self, hosts, model_type, auto_class):
        host = hosts(model_type, auto_class)
        stack = hooks.residual_stream(host).stack
        inputs = inputs_for(host, stack, side="left")
        if model_type == "bart" and auto_class == "AutoModelForSequenceClassification":
            inputs = {"input_ids": inputs["input_ids"].clone(), "attention_mask": inputs["attention_mask"]}
            inputs["input_ids"][:, -1] = host.config.eos_token_id
        with torch.no_grad():  # attention takes another kernel with gradients
            states = hooks.run(host, inputs, [0, 2])
        reported = reported_by(host, inputs, stack)
        assert torch.equal(states[0], reported[0])
        assert torch.equal(states[2], reported[2])

    def test_peft(self):
        peft = pytest.importorskip("peft")
        host = tiny_hosts.tiny_host("llama", "AutoModelForSequenceClassification")
        inputs = inputs_for(host)
        plain = hooks.run(host, inputs, [2])[2]
        config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(host, config)
        states = hooks.run(adapted, inputs, [2])
        assert not torch.equal(states[2], plain)
        assert torch.equal(states[2], reported_by(adapted, inputs)[2])
        with adapted.disable_adapter():
            assert torch.equal(hooks.run(adapted, inputs, [2])[2], plain)
        assert adapted.training

    def test_peft_prompt_learning_is_refused(self):
        peft = pytest.importorskip("peft")
        host = tiny_hosts.tiny_host("gpt2", "AutoModelForCausalLM")
        adapted = peft.get_peft_model(host, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
        with pytest.raises(hooks.UnsupportedHostError, match="prompt learning"):
            hooks.capture(adapted, [1])

    def test_distributed(self, tmp_path):
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            host = tiny_hosts.tiny_host("bert", "AutoModelForSequenceClassification")
            inputs = {**inputs_for(host), "labels": torch.tensor([0, 1])}
            plain = hooks.run(host, inputs, [2])[2]
            wrapped = nn.parallel.DistributedDataParallel(host)
            assert torch.equal(hooks.run(wrapped, inputs, [2])[2], plain)
            wrapped(**inputs).loss.backward()  # a stopped forward does not upset the next one
            assert host.classifier.weight.grad is not None
            from torch.distributed.fsdp import fully_shard

            mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
            with pytest.raises(hooks.UnsupportedHostError, match="FSDP"):
                hooks.capture(fully_shard(tiny_hosts.tiny_host("bert"), mesh=mesh), [1])
        finally:
            torch.distributed.destroy_process_group()

    def test_data_parallel_is_refused(self, bert):
        with pytest.raises(hooks.UnsupportedHostError, match=r"DataParallel .*\. Use the inner \.module"):
            hooks.capture(nn.DataParallel(bert), [1])

    @pytest.mark.parametrize("how", ["cpu", "disk"])
    def test_offload(self, how, tmp_path):
        accelerate = pytest.importorskip("accelerate")
        host = tiny_hosts.tiny_host("llama", "AutoModelForCausalLM")
        inputs = inputs_for(host)
        plain, expected = output_of(host, inputs), reported_by(host, inputs)
        if how == "cpu":
            accelerate.cpu_offload(host, torch.device("cpu"))
        else:
            accelerate.disk_offload(host, str(tmp_path), torch.device("cpu"))
        with torch.no_grad():
            states = hooks.run(host, inputs, [0, 2])
        assert torch.equal(states[0], expected[0])
        assert torch.equal(states[2], expected[2])
        assert torch.equal(output_of(host, inputs), plain)
        with hooks.edit(host, 0, lambda state: state * 0):
            assert not torch.equal(output_of(host, inputs), plain)

    @pytest.mark.slow
    def test_compiled_is_refused(self):
        host = tiny_hosts.tiny_host("bert")
        with pytest.raises(hooks.UnsupportedHostError, match=r"Pass its \._orig_mod"):
            hooks.capture(torch.compile(host), [1])
        hooks.capture(host, [1]).remove()
        host.encoder.layer[1].compile()
        with pytest.raises(hooks.UnsupportedHostError, match=r"encoder\.layer\.1 is compiled"):
            hooks.capture(host, [1])


class TestTrainMode:
    def test_states_are_those_of_train_mode(self):
        host = tiny_hosts.tiny_host("bert").train()
        inputs = inputs_for(host)
        torch.manual_seed(0)
        first = hooks.run(host, inputs, [2])[2]
        assert not torch.equal(first, hooks.run(host, inputs, [2])[2])
        assert host.training

    @pytest.mark.parametrize("model_type", ["bart", "opt"])
    def test_layerdrop_is_noticed(self, model_type):
        names = {"bart": "encoder_layerdrop", "opt": "layerdrop"}
        host = tiny_hosts.tiny_host(model_type, **{names[model_type]: 0.2}).train()
        stack = "encoder" if model_type == "bart" else None
        inputs = inputs_for(host, stack)
        outcomes = set()
        for seed in range(12):
            torch.manual_seed(seed)
            try:
                hooks.run(host, inputs, [3], stack)
                outcomes.add("ran")
            except RuntimeError as error:
                assert "LayerDrop" in str(error)
                outcomes.add("raised")
        assert outcomes == {"ran", "raised"}

    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("model_type", ["bert", "llama", "t5"])
    def test_gradient_checkpointing(self, model_type, reentrant):
        stack = "encoder" if model_type == "t5" else None

        def gradients(checkpointing):
            host = tiny_hosts.tiny_host(model_type, attention_probs_dropout_prob=0.0).train().double()
            for module in host.modules():
                module.p = 0.0 if isinstance(module, nn.Dropout) else getattr(module, "p", None)
            if checkpointing:
                host.gradient_checkpointing_enable({"use_reentrant": reentrant})
                host.enable_input_require_grads()
            seen = []
            with (
                hooks.capture(host, [1, 2], stack, callback=lambda states, mask, past: seen.append(states)) as states,
                hooks.edit(host, 1, lambda state: state * 1.5, stack),
            ):
                output = host(**inputs_for(host, stack)).last_hidden_state
            output.pow(2).sum().backward()  # the hooks are gone by now
            assert len(seen) == 1
            return [p.grad for p in host.parameters() if p.grad is not None], states[2].detach()

        if not _CHECKPOINTS_FORWARD:
            with pytest.raises(hooks.UnsupportedHostError, match="gradient checkpointing"):
                gradients(True)
            return
        (plain, state), (recomputed, same) = gradients(False), gradients(True)
        assert torch.equal(state, same)
        assert len(plain) == len(recomputed)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, recomputed, strict=True))

    def test_gradient_checkpointing_around_the_hooks_is_refused(self):
        class Checkpointed(Toy):
            supports_gradient_checkpointing = True
            gradient_checkpointing = True

        toy = Checkpointed().train()
        with hooks.capture(toy, [1]), pytest.raises(hooks.UnsupportedHostError, match="gradient checkpointing"):
            toy(torch.tensor([[1, 2]]))
        with torch.no_grad(), hooks.capture(toy, [1]) as states:  # nothing is run again without a backward pass
            toy(torch.tensor([[1, 2]]))
        assert states[1].shape == (1, 2, 4)


class TestGenerate:
    @pytest.mark.parametrize("model_type", ["gpt2", "llama", "mamba", "gemma2", "qwen3_next"])
    def test_steps_of_a_decoder(self, hosts, model_type):
        host = hosts(model_type, "AutoModelForCausalLM")
        inputs = inputs_for(host, side="left")
        steps = []

        def note(states, mask, past_length):
            steps.append((tuple(states[2].shape[:2]), tuple(mask.shape), int(mask.sum()), past_length))

        with hooks.capture(host, [2], callback=note):
            host.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
        real = BATCH * LENGTH - PADDED
        assert steps[0] == ((BATCH, LENGTH), (BATCH, LENGTH), real, 0)
        # Mamba's cache is a state that does not say how many positions went into it.
        lengths = [None, None] if model_type == "mamba" else [LENGTH, LENGTH + 1]
        assert steps[1:] == [((BATCH, 1), (BATCH, 1), BATCH, length) for length in lengths]

    @pytest.mark.parametrize("model_type", ["t5", "bart"])
    def test_encoder_runs_once(self, hosts, model_type):
        host = hosts(model_type, "AutoModelForSeq2SeqLM")
        inputs = inputs_for(host)
        seen = {"encoder": [], "decoder": []}  # the second capture probes the host, which the first must not notice
        with (
            hooks.capture(host, [1], "encoder", callback=lambda s, m, a: seen["encoder"].append((m.clone(), a))),
            hooks.capture(host, [1], "decoder", callback=lambda s, m, a: seen["decoder"].append((m.shape[1], a))),
        ):
            host.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, decoder_start_token_id=1)
        ((mask, past_length),) = seen["encoder"]
        assert torch.equal(mask, inputs["attention_mask"].bool()) and past_length == 0
        assert [length for length, _ in seen["decoder"]] == [1, 1, 1]
        assert [past_length for _, past_length in seen["decoder"]] == [0, 1, 2]

    def test_edit_changes_what_is_generated(self, gpt2):
        inputs = inputs_for(gpt2, side="left")
        arguments = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        plain = gpt2.generate(**inputs, **arguments)
        with hooks.edit(gpt2, 3, lambda state: -state):
            edited = gpt2.generate(**inputs, **arguments)
        assert not torch.equal(edited, plain)
        assert torch.equal(gpt2.generate(**inputs, **arguments), plain)


def test_smollm2(smollm2_dir):
    host = AutoModelForCausalLM.from_pretrained(smollm2_dir).eval()
    stream = hooks.residual_stream(host)
    assert (stream.num_blocks, stream.hidden_sizes[0], stream.is_causal) == (30, 576, True)
    ids = torch.randint(100, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad(), hooks.capture(host, range(31)) as states:
        host(**inputs)
    reported = reported_by(host, inputs)
    assert all(torch.equal(states[layer], reported[layer]) for layer in range(30))
    assert not torch.equal(states[30], reported[30])  # reported after the final norm


class TestCaches:
    """A cache is known by what it is: releases call the argument `past_key_values`, `cache_params` or `cache`."""

    def past_length(self, host, **arguments):
        stream, ids = hooks.residual_stream(host), torch.ones(1, 1, dtype=torch.int64)
        return _Arguments(stream, host, (), {"input_ids": ids, **arguments}).past_length()

    @pytest.mark.parametrize("name", ["past_key_values", "cache", "memory"])
    def test_by_any_name(self, hosts, name):
        host, cache = hosts("llama"), DynamicCache()
        assert self.past_length(host, **{name: cache}) == 0
        cache.update(torch.zeros(1, 4, 5, 8), torch.zeros(1, 4, 5, 8), 0)
        assert self.past_length(host, **{name: cache}) == 5
        assert self.past_length(host, **{name: EncoderDecoderCache(cache, DynamicCache())}) == 5
        assert self.past_length(host, **{name: cache, "attention_mask": torch.ones(1, 6)}) == 5

    def test_recurrent_states(self, hosts):
        host = hosts("llama")
        for state in ([torch.zeros(1, 2)], ((torch.zeros(1, 2),),), [None, torch.zeros(2)]):
            assert self.past_length(host, anything=state) is None
        for other in ([], None, "text", True, [1, 2], torch.zeros(1, 2)):
            assert self.past_length(host, anything=other) == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"attention_mask": torch.ones(1, 4)}, "an attention mask of 4 positions for 1 tokens"),
            ({"position_ids": torch.tensor([[3]])}, "position_ids from 3 on"),
        ],
    )
    def test_a_text_that_goes_on_without_one_is_refused(self, hosts, arguments, message):
        with pytest.raises(ValueError, match=f"{message}.*use_cache=False"):
            self.past_length(hosts("llama"), **arguments)

    def test_positions_that_begin_after_those_of_padding(self, hosts):
        # RoBERTa's first text position is the one after its padding token.
        assert self.past_length(hosts("roberta"), position_ids=torch.tensor([[1]])) == 0
        with pytest.raises(ValueError, match="position_ids from 2 on"):
            self.past_length(hosts("roberta"), position_ids=torch.tensor([[2]]))

    def test_a_whole_text_with_positions_of_left_padding(self, gpt2):
        ids, mask = torch.arange(4, 9)[None], torch.tensor([[0, 0, 1, 1, 1]])
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
        with hooks.capture(gpt2, [2], callback=lambda *_: None) as states:
            gpt2(ids, attention_mask=mask, position_ids=positions)
        assert len(states) == 1


def test_a_newer_release_of_transformers_is_named(hosts, monkeypatch):
    said = []
    monkeypatch.setattr("clvq_hf.hosts.host.logger.warning_once", said.append)
    for version, expected in (("5.23.4", 0), ("5.24.0.dev0", 1), ("6.0.0", 1), ("5.9.1", 0)):
        said.clear()
        monkeypatch.setattr("transformers.__version__", version)
        hooks.residual_stream(hosts("bert"))
        assert len(said) == expected
        assert all(f"transformers {version} is newer than {TESTED_TRANSFORMERS}" in message for message in said)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_host_with_damaged_weights_is_told_from_one_that_is_not_supported(host, value):
    damaged = copy.deepcopy(host)
    with torch.no_grad():
        next(damaged.parameters()).fill_(value)
    with pytest.raises(
        hooks.UnsupportedHostError, match="NaN or infinite on a tiny input, so its weights are damaged"
    ):
        hooks.residual_stream(damaged)
