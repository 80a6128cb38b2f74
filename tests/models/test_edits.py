"""Edits by hand on small numbers, on a host, in `generate()`, and as files."""

import json

import pytest
import torch
from helpers.hook_hosts import count_hooks
from helpers.made_clusters import clusters_by_hand

from clvq_hf.hosts import hooks
from clvq_hf.models import ConceptEdit


@pytest.fixture
def model(host, inputs):
    """Clusters around the states of three tokens of the first text."""
    states = hooks.run(host, inputs, [1])[1].detach()
    return clusters_by_hand(host, vectors=states[0, 1:4])


def states_of(host, inputs):
    with torch.no_grad():
        return hooks.run(host, inputs, [1])[1]


class TestByHand:
    """Centroids 4·e₀, 4·e₁ and 4·e₂; their mean is 4/3 in each of these dimensions."""

    @pytest.fixture
    def model(self, host):
        return clusters_by_hand(host, vectors=4 * torch.eye(3, 32))

    @pytest.fixture
    def states(self):
        states = torch.zeros(1, 4, 32)
        states[0, 0, 0], states[0, 1, 1], states[0, 2, 2] = 5, 5, 5
        states[0, :, 3] = 2
        return states

    @pytest.mark.parametrize(
        ("arguments", "first", "second"),
        [
            # 5 − 4 + 4/3, and 4/3 in the other dimensions.
            ({"how": "mean"}, [5 - 8 / 3, 4 / 3, 4 / 3, 2], [4 / 3, 5 - 8 / 3, 4 / 3, 2]),
            # Off the first two axes.
            ({"how": "project"}, [0, 0, 0, 2], [0, 0, 0, 2]),
            # 4·e₀ and 4·e₁ make way for 4·e₂, the only one that is left.
            ({"how": "interchange"}, [1, 0, 4, 2], [0, 1, 4, 2]),
        ],
    )
    def test_how(self, model, host, states, arguments, first, second):
        mask = torch.tensor([[True, True, True, False]])
        with model.edit(host, [0, 1], **arguments) as edit:
            changed, where = edit.changed(states, mask)
            host(input_ids=torch.tensor([[1, 2]]))
        assert where.tolist() == [[True, True, False, False]], "padding stays, and so does what is allowed"
        torch.testing.assert_close(changed[0, :2, :4], torch.tensor([first, second], dtype=torch.float32))
        assert torch.equal(changed[0, 2:], states[0, 2:])

    def test_all_tokens_lose_the_direction(self, model, host, states):
        states[0, 2, 0] = 1
        edit = model.edit(host, 0, how="project", positions="all")
        changed, where = edit.changed(states, torch.tensor([[True, True, True, False]]))
        assert where.tolist() == [[True, True, True, False]] and (changed[..., 0] == 0).all()

    def test_a_sink_stays(self, model, host, states):
        states[0, 0, 0] = 1000
        edit = model.edit(host, [0, 1])
        changed, where = edit.changed(states, torch.ones(1, 4, dtype=torch.bool))
        assert not where[0, 0] and torch.equal(changed[0, 0], states[0, 0])

    def test_each_concept_has_its_own_replacement(self, model, host, states):
        edit = model.edit(host, [0, 1], how="interchange", with_codes=2)
        assert edit.with_codes == (2, 2)
        with pytest.raises(ValueError, match="not forbidden"):
            model.edit(host, [0, 1], how="interchange", with_codes=[2, 0])


class TestOnAHost:
    def test_is_that_of_ablate(self, model, host, inputs):
        for how, theirs in (("mean", "swap"), ("project", "project")):
            with torch.no_grad(), model.edit(host, 1, how=how):
                ours = host(**inputs).logits
            with torch.no_grad(), model.ablate(host, 1, how=theirs):
                torch.testing.assert_close(ours, host(**inputs).logits)

    def test_holds_until_it_is_removed(self, model, host, inputs):
        plain, before = states_of(host, inputs), count_hooks(host)
        edit = model.edit(host, [0, 1, 2])
        assert edit.is_applied and not torch.equal(states_of(host, inputs), plain)
        edit.remove()
        edit.remove()
        assert not edit.is_applied and torch.equal(states_of(host, inputs), plain) and count_hooks(host) == before
        with edit:
            assert not torch.equal(states_of(host, inputs), plain)
        assert torch.equal(states_of(host, inputs), plain) and count_hooks(host) == before

    def test_in_generate(self, causal_host, inputs):
        """Every new token is edited like those of the prompt: generating is as if each step read the whole text."""
        states = hooks.run(causal_host, inputs, [1])[1].detach()
        model = clusters_by_hand(causal_host, vectors=states[0, 1:4])
        prompt = {name: tensor[:1] for name, tensor in inputs.items()}
        with torch.no_grad(), model.edit(causal_host, [0, 2]):
            cached = causal_host.generate(**prompt, max_new_tokens=5, do_sample=False)
            whole = causal_host.generate(**prompt, max_new_tokens=5, do_sample=False, use_cache=False)
        assert torch.equal(cached, whole)

    def test_directions_are_projected(self, make_sparse, host, inputs):
        model = make_sparse().eval()
        edit = model.edit(host, [3, 5])
        assert edit.how == "project"
        with pytest.raises(ValueError, match="how='project'"):
            model.edit(host, 3, how="mean")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"forbid": []}, "list of numbers"),
            ({"forbid": [3]}, r"0 to 2; forbid=… has \[3\]"),
            ({"forbid": -1}, "0 to 2"),
            ({"forbid": "1"}, "list of numbers"),
            ({"forbid": [0.5]}, "list of numbers"),
            ({"forbid": 1, "how": "swap"}, "how must be one of"),
            ({"forbid": 1, "how": "mean", "positions": "all"}, "with how='project'"),
            ({"forbid": 1, "with_codes": 2}, "how='interchange'"),
            ({"forbid": [0, 1, 2], "how": "interchange"}, "All concepts are forbidden"),
        ],
    )
    def test_refusals(self, model, host, arguments, message):
        before = count_hooks(host)
        with pytest.raises(ValueError, match=message):
            model.edit(host, **arguments)
        assert count_hooks(host) == before


class TestFiles:
    def test_is_loaded_as_it_was_saved(self, model, host, inputs, tmp_path):
        edit = model.edit(host, [2, 0], how="interchange")
        edited = states_of(host, inputs)
        file = edit.save(tmp_path / "edited")
        edit.remove()
        for place in (file, file.parent):
            with model.load_edit(host, place) as loaded:
                assert (loaded.forbid, loaded.how, loaded.with_codes) == ((2, 0), "interchange", (1, 1))
                assert torch.equal(states_of(host, inputs), edited)
        noted = json.loads(file.read_text())
        assert noted["forbid"] == [2, 0] and noted["fingerprint"] == model.fingerprint() and noted["layer"] == 1

    def test_refuses_another_host_and_damage(self, model, host, tmp_path):
        edit = model.edit(host, 0)
        file = edit.save(tmp_path)
        edit.remove()
        with torch.no_grad():
            host.classifier.bias += 1
        with pytest.raises(ValueError, match="host"):
            model.load_edit(host, file)
        with pytest.raises(ValueError, match="There is no file"):
            model.load_edit(host, tmp_path / "nothing")
        file.write_text(file.read_text().replace('"mean"', '"project"'))
        with pytest.raises(ValueError, match="damaged"):
            model.load_edit(host, file)

    def test_the_type_is_public(self, model, host):
        assert isinstance(model.edit(host, 0), ConceptEdit)
