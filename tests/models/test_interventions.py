"""Interventions by hand on small numbers, on hosts at every kind of position, and inside `generate()`."""

import pytest
import torch
import torch.nn.functional as F
from helpers.hook_hosts import count_hooks
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.hosts import hooks
from clvq_hf.models.projections import orthonormal_rows, project, swap

EVERYWHERE = torch.ones(1, 1, dtype=torch.bool)


@pytest.fixture
def model(make_model):
    model = make_model(is_causal=True).eval()
    model.quantizer.set_codebook(torch.randn(12, 32, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture
def encoder_model(make_model):
    model = make_model().eval()
    model.quantizer.set_codebook(torch.randn(12, 32, generator=torch.Generator().manual_seed(1)))
    return model


def states_with(handle, model, host, inputs):
    """Codes of the untouched host, and its states at `lower_layer` without and with an intervention."""
    with torch.no_grad():
        plain = hooks.run(host, inputs, [model.config.lower_layer])[model.config.lower_layer]
        with handle():
            # A capture that is registered later sees the edited states.
            changed = hooks.run(host, inputs, [model.config.lower_layer])[model.config.lower_layer]
    return model.encode(plain, inputs["attention_mask"]), plain, changed


class TestByHand:
    def test_project_off_a_direction(self):
        states = torch.tensor([[[3.0, 4.0]]])
        assert project(states, torch.tensor([[0.0, 1.0]]), EVERYWHERE).tolist() == [[[3.0, 0.0]]]
        # Off (0.6, 0.8): (3, 4) is all of it.
        assert project(states, torch.tensor([[0.6, 0.8]]), EVERYWHERE).abs().max() < 1e-6

    def test_project_from_a_centre(self):
        # (3, 4) - (1, 1) is (2, 3), of which 3 lies along the second axis.
        states, centre = torch.tensor([[[3.0, 4.0]]]), torch.tensor([1.0, 1.0])
        assert project(states, torch.tensor([[0.0, 1.0]]), EVERYWHERE, centre).tolist() == [[[3.0, 1.0]]]

    def test_project_off_a_subspace_of_each_row(self):
        states = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]]])
        basis = torch.eye(3)[torch.tensor([[0, 1], [1, 2]])]
        where = torch.ones(2, 1, dtype=torch.bool)
        assert project(states, basis, where).tolist() == [[[0.0, 0.0, 3.0]], [[1.0, 0.0, 0.0]]]

    def test_swap(self):
        states = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]])
        where = torch.tensor([[True, False]])
        changed = swap(states, torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]), where)
        assert changed.tolist() == [[[12.0, 22.0], [1.0, 1.0]]]

    def test_what_lies_elsewhere_stays_even_if_it_is_not_finite(self):
        states = torch.tensor([[[3.0, 4.0], [torch.nan, 1.0]]])
        where = torch.tensor([[True, False]])
        changed = project(states, torch.tensor([[1.0, 0.0]]), where)
        assert changed[0, 0].tolist() == [0.0, 4.0] and changed[0, 1, 1] == 1.0 and changed[0, 1, 0].isnan()

    def test_dependent_rows_remove_nothing_more(self):
        rows = orthonormal_rows(torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
        torch.testing.assert_close(rows, torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1.0, 0]]))


class TestProperties:
    @given(st.integers(0, 10_000), st.integers(1, 6))
    @settings(max_examples=30, deadline=None)
    def test_orthonormal_rows_span_the_same(self, seed, k):
        vectors = torch.randn(k, 8, generator=torch.Generator().manual_seed(seed))
        rows = orthonormal_rows(vectors)
        torch.testing.assert_close(rows @ rows.T, torch.eye(k), atol=1e-5, rtol=0)
        torch.testing.assert_close(vectors @ rows.T @ rows, vectors, atol=1e-4, rtol=1e-4)
        assert (rows[0] @ vectors[0]) > 0, "the first row keeps its sign"

    @given(st.integers(0, 10_000))
    @settings(max_examples=30, deadline=None)
    def test_projection_is_idempotent_and_never_lengthens(self, seed):
        generator = torch.Generator().manual_seed(seed)
        states = torch.randn(2, 3, 8, generator=generator)
        basis = orthonormal_rows(torch.randn(2, 8, generator=generator))
        where = torch.rand(2, 3, generator=generator) < 0.7
        once = project(states, basis, where)
        torch.testing.assert_close(project(once, basis, where), once, atol=1e-5, rtol=0)
        assert (once.norm(dim=-1) <= states.norm(dim=-1) + 1e-5).all()
        assert torch.equal(once[~where], states[~where])


class TestAblate:
    def test_removes_the_code_where_it_occurs(self, encoder_model, host, inputs):
        codes, plain, _ = states_with(lambda: hooks.edit(host, 1, lambda x: x), encoder_model, host, inputs)
        code = int(codes[0, 2])
        _, _, changed = states_with(lambda: encoder_model.ablate(host, code), encoder_model, host, inputs)
        unit = F.normalize(encoder_model.codebook[code], dim=-1)
        here = codes == code
        assert (changed[here] @ unit).abs().max() < 1e-4
        assert torch.equal(changed[~here], plain[~here])

    def test_of_each_text_its_own_code(self, encoder_model, host, inputs):
        codes, _, _ = states_with(lambda: hooks.edit(host, 1, lambda x: x), encoder_model, host, inputs)
        own = codes[:, 1]
        _, plain, changed = states_with(
            lambda: encoder_model.ablate(host, own, positions="all"), encoder_model, host, inputs
        )
        real = inputs["attention_mask"].bool()
        for row in range(2):
            unit = F.normalize(encoder_model.codebook[own[row]], dim=-1)
            assert (changed[row, real[row]] @ unit).abs().max() < 1e-4
        assert torch.equal(changed[~real], plain[~real]), "padding stays"

    def test_several_codes_are_a_subspace(self, encoder_model, host, inputs):
        handle = lambda: encoder_model.ablate(host, [3, 7], positions="all")  # noqa: E731
        _, _, changed = states_with(handle, encoder_model, host, inputs)
        real = inputs["attention_mask"].bool()
        assert (changed[real] @ encoder_model.codebook[[3, 7]].T).abs().max() < 1e-3

    def test_swap_puts_the_mean_state_in_its_place(self, encoder_model, host, inputs):
        mean, members = torch.linspace(0, 1, 32), torch.linspace(3, 1, 32)
        handle = lambda: encoder_model.ablate(  # noqa: E731
            host, 5, positions="cls", how="swap", mean=mean, member_mean=members
        )
        _, plain, changed = states_with(handle, encoder_model, host, inputs)
        expected = plain[:, 0] - members + mean
        torch.testing.assert_close(changed[:, 0], expected)
        assert torch.equal(changed[:, 1:], plain[:, 1:])

    def test_interchange_puts_another_concept_in_its_place(self, encoder_model, host, inputs):
        means = encoder_model.member_means
        handle = lambda: encoder_model.ablate(host, 5, positions="cls", how="interchange", with_code=7)  # noqa: E731
        _, plain, changed = states_with(handle, encoder_model, host, inputs)
        torch.testing.assert_close(changed[:, 0], plain[:, 0] - means[5] + means[7])
        assert torch.equal(changed[:, 1:], plain[:, 1:])
        own = torch.tensor([7, 2])
        handle = lambda: encoder_model.ablate(host, 5, positions="cls", how="interchange", with_code=own)  # noqa: E731
        _, plain, changed = states_with(handle, encoder_model, host, inputs)
        torch.testing.assert_close(changed[:, 0], plain[:, 0] - means[5] + means[own])

    @pytest.mark.parametrize(("positions", "expected"), [("cls", [0, 0]), ("last", [5, 2])])
    def test_first_and_last_token(self, encoder_model, host, inputs, positions, expected):
        handle = lambda: encoder_model.ablate(host, 5, positions=positions)  # noqa: E731
        _, plain, changed = states_with(handle, encoder_model, host, inputs)
        moved = (changed != plain).any(-1)
        assert [row.nonzero().flatten().tolist() for row in moved] == [[place] for place in expected]

    def test_given_positions(self, encoder_model, host, inputs):
        wanted = torch.zeros(2, 6, dtype=torch.bool)
        wanted[0, 3] = wanted[1, 5] = True  # the latter is padding
        handle = lambda: encoder_model.ablate(host, 5, positions=wanted)  # noqa: E731
        _, plain, changed = states_with(handle, encoder_model, host, inputs)
        assert (changed != plain).any(-1).nonzero().tolist() == [[0, 3]]

    def test_left_padding(self, model, causal_host, tokenizer):
        tokenizer.padding_side = "left"
        batch = tokenizer(["a truly wonderful film", "dull"], padding=True, return_tensors="pt")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        _, plain, changed = states_with(
            lambda: model.ablate(causal_host, 5, positions="cls"), model, causal_host, inputs
        )
        assert (changed != plain).any(-1).nonzero().tolist() == [[0, 0], [1, 3]]

    def test_in_half_precision(self, encoder_model, host, inputs):
        host = host.to(torch.bfloat16)
        handle = lambda: encoder_model.ablate(host, 5, positions="all")  # noqa: E731
        _, plain, changed = states_with(handle, encoder_model, host, inputs)
        assert changed.dtype == torch.bfloat16 and not torch.equal(changed, plain)

    def test_is_gone_afterwards(self, encoder_model, host, inputs):
        before = host(**inputs).logits
        with pytest.raises(RuntimeError, match="boom"), encoder_model.ablate(host, 3):
            host(**inputs)
            raise RuntimeError("boom")
        assert count_hooks(host) == 0
        assert torch.equal(host(**inputs).logits, before)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"codes": 12}, "Codes run from 0 to 11"),
            ({"codes": []}, "codes must be"),
            ({"codes": 1, "how": "delete"}, "how must be one of"),
            ({"codes": 1, "how": "interchange"}, "with_code names the concept that takes the place"),
            ({"codes": 1, "how": "swap", "with_code": 2}, "with_code names the concept that takes the place"),
            ({"codes": 1, "how": "interchange", "with_code": 12}, "Codes run from 0 to 11"),
            ({"codes": 1, "positions": "first"}, "positions must be one of"),
            ({"codes": 1, "positions": torch.ones(2, 6)}, "must be bool"),
            (
                {"codes": [1, 2], "how": "swap", "mean": torch.zeros(32), "member_mean": torch.zeros(32)},
                "swap replaces the vector of one code",
            ),
        ],
    )
    def test_bad_arguments(self, encoder_model, host, arguments, message):
        with pytest.raises(ValueError, match=message):
            encoder_model.ablate(host, **arguments)
        assert count_hooks(host) == 0

    def test_a_model_that_has_not_tracked_its_members_needs_their_means(self, make_model, host):
        model = make_model(track_members=False)
        with pytest.raises(ValueError, match=r"Pass mean=members.mean and member_mean=members.means\[code\]"):
            model.ablate(host, 1, how="swap")

    def test_codes_of_another_number_of_texts(self, encoder_model, host, inputs):
        with (
            pytest.raises(ValueError, match="codes has rows for 3 texts"),
            encoder_model.ablate(host, torch.tensor([1, 2, 3])),
        ):
            host(**inputs)


class TestSteer:
    def test_adds_the_unit_vector_times_the_norm(self, encoder_model, host, inputs):
        _, plain, changed = states_with(lambda: encoder_model.steer(host, 4, 0.5), encoder_model, host, inputs)
        real = inputs["attention_mask"].bool()
        unit = F.normalize(encoder_model.codebook[4], dim=-1)
        expected = plain + 0.5 * unit * plain.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(changed[real], expected[real])
        assert torch.equal(changed[~real], plain[~real])


class TestSplice:
    @pytest.mark.parametrize("layers", [(1, 3), (2, 2)])
    def test_replaces_the_upper_layer_by_the_reconstruction(self, make_model, host, inputs, layers):
        model = make_model(lower_layer=layers[0], upper_layer=layers[1]).eval()
        model.quantizer.set_codebook(torch.randn(12, 32))
        with torch.no_grad():
            states = hooks.run(host, inputs, list(set(layers)))
            with model.splice(host):
                spliced = hooks.run(host, inputs, [layers[1]])[layers[1]]
            expected = model(states[layers[0]], inputs["attention_mask"]).reconstruction
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(spliced[real], expected[real])
        assert torch.equal(spliced[~real], states[layers[1]][~real])
        assert count_hooks(host) == 0

    def test_codes_can_be_given(self, encoder_model):
        states = torch.randn(1, 4, 32)
        codes = encoder_model.encode(states)
        rebuilt = encoder_model.reconstruct(states)
        torch.testing.assert_close(encoder_model.reconstruct(states, codes=codes), rebuilt)
        torch.testing.assert_close(encoder_model(states).reconstruction, rebuilt)
        # The memory is closed: other states with the same codes give the same.
        torch.testing.assert_close(encoder_model.reconstruct(torch.randn(1, 4, 32), codes=codes), rebuilt)

    def test_dropout_is_off_also_in_training_mode(self, make_model):
        model = make_model(dropout=0.5).train()
        states = torch.randn(1, 4, 32)
        assert torch.equal(model.reconstruct(states), model.reconstruct(states))
        assert model.training

    def test_a_model_that_sees_the_future_is_refused_in_generation(self, encoder_model, causal_host, inputs):
        prompt = {name: tensor[:1] for name, tensor in inputs.items()}
        with pytest.raises(ValueError, match="is_causal=False"), encoder_model.splice(causal_host):
            causal_host.generate(**prompt, max_new_tokens=3, do_sample=False)


class TestAttentionSinks:
    """The first token of each text is one, from below the concepts' layers on."""

    @pytest.fixture
    def sunk(self, causal_host):
        def grow(states, mask, past_length):
            return torch.cat([states[:, :1] * (500 if past_length == 0 else 1), states[:, 1:]], dim=1)

        with hooks.edit(causal_host, 0, grow, with_mask=True):
            yield causal_host

    @pytest.mark.parametrize("length", [1, 2, 6])
    @pytest.mark.parametrize("kind", ["ablate code", "ablate all", "ablate cls", "swap", "steer", "splice"])
    def test_stay_as_they_are(self, model, sunk, kind, length):
        layer = model.config.upper_layer if kind == "splice" else model.config.lower_layer
        handles = {
            "ablate code": lambda: model.ablate(sunk, range(12)),
            "ablate all": lambda: model.ablate(sunk, 3, positions="all"),
            "ablate cls": lambda: model.ablate(sunk, 3, positions="cls"),
            "swap": lambda: model.ablate(
                sunk, 3, positions="all", how="swap", mean=torch.zeros(32), member_mean=torch.ones(32)
            ),
            "steer": lambda: model.steer(sunk, 3, 2.0),
            "splice": lambda: model.splice(sunk),
        }
        ids = torch.arange(2000, 2000 + length)[None]
        with torch.no_grad():
            plain = hooks.run(sunk, {"input_ids": ids}, [layer])[layer]
            with handles[kind]():
                changed = hooks.run(sunk, {"input_ids": ids}, [layer])[layer]
        assert plain[0, 0].norm() > 100 * plain[0, 1:].norm(dim=-1).sum() / max(length - 1, 1)
        assert torch.equal(changed[:, 0], plain[:, 0])
        assert kind == "ablate cls" or (changed[:, 1:] != plain[:, 1:]).any(-1).all()

    def test_given_positions_are_the_callers(self, model, sunk):
        ids, where = torch.arange(2000, 2006)[None], torch.tensor([True] + [False] * 5)
        with torch.no_grad():
            plain = hooks.run(sunk, {"input_ids": ids}, [1])[1]
            with model.ablate(sunk, 3, positions=where):
                changed = hooks.run(sunk, {"input_ids": ids}, [1])[1]
        assert (changed != plain).any(-1).tolist() == [where.tolist()]

    @pytest.mark.parametrize("kind", ["ablate", "steer", "splice"])
    def test_stay_in_generation(self, model, sunk, inputs, kind):
        prompt = {name: tensor[:1] for name, tensor in inputs.items()}
        handles = {
            "ablate": lambda: model.ablate(sunk, [2, 3], positions="all"),
            "steer": lambda: model.steer(sunk, 4, 2.0),
            "splice": lambda: model.splice(sunk),
        }
        with handles[kind]():
            generated = sunk.generate(
                **prompt, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            whole = sunk(generated.sequences[:, :-1], use_cache=False).logits
        steps = torch.stack(generated.logits, dim=1)
        torch.testing.assert_close(steps, whole[:, prompt["input_ids"].shape[1] - 1 :], atol=1e-4, rtol=1e-4)


class TestGenerate:
    """Each intervention holds at every step: greedy generation equals running the whole text without a cache."""

    @pytest.mark.parametrize("kind", ["ablate", "ablate_all", "steer", "splice"])
    def test_equals_running_without_a_cache(self, model, causal_host, inputs, kind):
        prompt = {name: tensor[:1] for name, tensor in inputs.items()}
        handles = {
            "ablate": lambda: model.ablate(causal_host, list(range(6))),
            "ablate_all": lambda: model.ablate(causal_host, [2, 3], positions="all"),
            "steer": lambda: model.steer(causal_host, 4, 2.0),
            "splice": lambda: model.splice(causal_host),
        }
        with handles[kind]():
            generated = causal_host.generate(
                **prompt, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            whole = causal_host(generated.sequences[:, :-1], use_cache=False).logits
        steps = torch.stack(generated.logits, dim=1)
        torch.testing.assert_close(steps, whole[:, prompt["input_ids"].shape[1] - 1 :], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(steps[:, 0], causal_host(**prompt).logits[:, -1], atol=1e-4), "it did something"

    def test_positions_of_the_prompt_stay_there(self, model, causal_host, inputs):
        prompt = {name: tensor[:1] for name, tensor in inputs.items()}
        length = prompt["input_ids"].shape[1]
        seen = []
        wanted = torch.zeros(length, dtype=torch.bool)
        wanted[1] = True
        with (
            model.ablate(causal_host, 5, positions=wanted),
            hooks.capture(causal_host, [1], callback=lambda states, mask, past: seen.append(states[1])),
        ):
            generated = causal_host.generate(**prompt, max_new_tokens=3, do_sample=False)
        with torch.no_grad(), model.ablate(causal_host, 5, positions=F.pad(wanted, (0, 2))):
            whole = hooks.run(causal_host, {"input_ids": generated[:, :-1], "use_cache": False}, [1])[1]
        torch.testing.assert_close(torch.cat(seen, dim=1), whole, atol=1e-4, rtol=1e-4)

    def test_beams_are_refused_with_a_splice(self, model, causal_host, inputs):
        prompt = {name: tensor[:1] for name, tensor in inputs.items()}
        with pytest.raises(ValueError, match="num_beams=1"), model.splice(causal_host):
            causal_host.generate(**prompt, max_new_tokens=3, num_beams=2)
