import math

import pytest
import torch
import torch.nn.functional as F
from helpers.hook_hosts import count_hooks
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertForSequenceClassification

from clvq_hf import CLVQModel, ConceptModel, ConceptTable, SparseConfig, SparseDictionary
from clvq_hf.hosts import hooks

VARIANTS = SparseDictionary.ablation_variants


def by_hand(activation: str = "relu", **fields) -> SparseDictionary:
    """Three neurons on two dimensions, with round numbers."""
    fields = {"num_active": 1 if activation == "topk" else None, "sparsity_cost": 0.5, **fields}
    model = SparseDictionary(SparseConfig(hidden_size=2, codebook_size=3, activation=activation, **fields)).eval()
    encoder, decoder = model.encoder, model.decoder
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        encoder.bias.copy_(torch.tensor([0.0, -0.5, 0.25]))
        encoder.input_bias.copy_(torch.tensor([1.0, 0.0]))
        encoder.input_scale.fill_(2.0)
        encoder.initialized.fill_(True)
        if activation == "jumprelu":
            encoder.threshold.copy_(torch.tensor([2.5, 0.25, 1.0]))
        decoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]))
        decoder.bias.copy_(torch.tensor([0.5, -0.5]))
        decoder.output_scale.fill_(4.0)
    return model


# 2x - (1, 0) is (2, 1), (0, -1) and (-0.1, 0.45): scores (2, 0.5, -2.75), (0, -1.5, 1.25) and (-0.1, -0.05, -0.1).
STATES = torch.tensor([[[1.5, 0.5], [0.5, -0.5], [0.45, 0.225]]])
ACTIVATIONS = {
    "relu": [[2.0, 0.5, 0.0], [0.0, 0.0, 1.25], [0.0, 0.0, 0.0]],
    "topk": [[2.0, 0.0, 0.0], [0.0, 0.0, 1.25], [0.0, 0.0, 0.0]],
    "jumprelu": [[0.0, 0.5, 0.0], [0.0, 0.0, 1.25], [0.0, 0.0, 0.0]],
}
# fD + (0.5, -0.5); the length of 4 goes off at the end.
SCALED = {
    "relu": [[2.8, -0.1], [0.5, 0.75], [0.5, -0.5]],
    "topk": [[2.5, -0.5], [0.5, 0.75], [0.5, -0.5]],
    "jumprelu": [[0.8, -0.1], [0.5, 0.75], [0.5, -0.5]],
}
CODES = {"relu": [0, 2, 1], "topk": [0, 2, 1], "jumprelu": [1, 2, 1]}


class TestByHand:
    @pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
    def test_forward(self, activation):
        model = by_hand(activation)
        output = model(STATES)
        torch.testing.assert_close(model.activations(STATES)[0], torch.tensor(ACTIVATIONS[activation]))
        torch.testing.assert_close(output.reconstruction[0], torch.tensor(SCALED[activation]) / 4)
        torch.testing.assert_close(model.reconstruct(STATES), output.reconstruction)
        assert output.codes.tolist() == model.encode(STATES).tolist() == [CODES[activation]]
        assert output.loss is output.reconstruction_loss is output.sparsity_loss is output.num_active is None
        active = (torch.tensor(ACTIVATIONS[activation]) > 0).sum(-1)
        assert model.num_active(STATES).tolist() == [active.tolist()]

    def test_a_skip_connection_adds_a_map_of_the_scaled_states(self):
        model = by_hand(has_skip=True)
        with torch.no_grad():
            model.decoder.skip.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        # 2x is (3, 1), (1, -1), (0.9, 0.45).
        expected = torch.tensor(SCALED["relu"]) + torch.tensor([[3.0, 2.0], [1.0, -2.0], [0.9, 0.9]])
        torch.testing.assert_close(model(STATES).reconstruction[0], expected / 4)

    def test_loss(self):
        model = by_hand()
        # In scaled states the errors are (0, -1), (0, 0) and (-2, 0).
        target = torch.tensor([[[2.8, 0.9], [0.5, 0.75], [2.5, -0.5]]]) / 4
        output = model(STATES, None, target)
        assert output.reconstruction_loss.item() == pytest.approx(5 / (3 * 2) / 16)
        assert output.sparsity_loss.item() == pytest.approx((2.5 + 1.25 + 0) / 3 / math.sqrt(2))
        assert output.num_active.item() == pytest.approx((2 + 1 + 0) / 3)
        assert output.loss.item() == pytest.approx(5 / (3 * 2) + 0.5 * 3.75 / 3 / math.sqrt(2))
        # Of the first two tokens alone, divided by 4.
        output = model(STATES, None, target, torch.tensor([[1, 1, 0]]), num_items_in_batch=torch.tensor(4))
        assert output.reconstruction_loss.item() == pytest.approx(1 / (4 * 2) / 16)
        assert output.loss.item() == pytest.approx(1 / (4 * 2) + 0.5 * 3.75 / 4 / math.sqrt(2))
        assert output.num_active.item() == pytest.approx(3 / 4)
        assert output.codes.tolist() == [[0, 2, 1]], "what does not count has a code all the same"

    def test_where_all_are_silent_the_neuron_nearest_to_its_threshold_is_the_code(self):
        # Scores (2, 0.1, -2.35) of thresholds (2.5, 0.25, 1): 0.5, 0.15 and 3.35 are missing.
        states = torch.tensor([[[1.5, 0.3]]])
        model = by_hand("jumprelu")
        assert model.activations(states).count_nonzero() == 0
        assert model.encode(states).tolist() == model(states).codes.tolist() == [[1]]
        torch.testing.assert_close(model.ablation_basis(states[0]), torch.tensor([[[0.0, 1.0]]]))

    def test_reconstruction_of_given_codes(self):
        # Each token has the neuron of its code, as active as its own strongest: 2, 1.25 and 0.
        rebuilt = by_hand().reconstruct(STATES, codes=torch.tensor([[1, 0, 2]]))
        expected = torch.tensor([[1.2 + 0.5, 1.6 - 0.5], [1.25 + 0.5, -0.5], [0.5, -0.5]]) / 4
        torch.testing.assert_close(rebuilt[0], expected)

    def test_mean_state_is_the_centre_of_unscaled_states(self):
        assert by_hand().mean_state.tolist() == [0.5, 0.0]


class TestForward:
    @pytest.mark.parametrize("activation", ["relu", "topk"])
    def test_what_lies_on_padding_changes_nothing(self, make_sparse, batch, activation):
        states, mask, target = batch
        model = make_sparse(activation=activation, num_active=4 if activation == "topk" else None)
        dirty = states.masked_fill(mask[..., None] == 0, torch.nan)
        clean, other = model(states, mask, target), model(dirty, mask, target.masked_fill(mask[..., None] == 0, 1e6))
        for name in ("loss", "reconstruction_loss", "sparsity_loss", "num_active", "codes", "reconstruction"):
            assert torch.equal(clean[name], other[name]), name
        assert torch.equal(clean.codes == -1, mask == 0)
        assert clean.reconstruction[mask == 0].abs().sum() == 0
        assert torch.equal(model.encode(dirty, mask), clean.codes)
        assert torch.equal(model.reconstruct(dirty, mask), clean.reconstruction)
        rebuilt = model.reconstruct(dirty, mask, codes=clean.codes)
        assert torch.isfinite(rebuilt).all() and rebuilt[mask == 0].abs().sum() == 0
        assert torch.equal(model.num_active(dirty, mask) == 0, (mask == 0) | (model.num_active(states) == 0))

    def test_left_and_right_padding_agree_with_none(self, make_sparse):
        model = make_sparse()
        states, empty = torch.randn(1, 4, 32), torch.randn(1, 2, 32)
        alone = model(states)
        for padded, place in (
            (torch.cat([states, empty], 1), slice(0, 4)),
            (torch.cat([empty, states], 1), slice(2, 6)),
        ):
            mask = torch.zeros(1, 6)
            mask[:, place] = 1
            output = model(padded, mask)
            assert torch.equal(output.codes[:, place], alone.codes)
            torch.testing.assert_close(output.reconstruction[:, place], alone.reconstruction)
            assert torch.equal(model.encode(padded, mask), output.codes)
            torch.testing.assert_close(model.reconstruct(padded, mask), output.reconstruction)

    def test_micro_batches_add_up_to_the_gradient_of_the_whole(self, make_sparse, batch):
        states, mask, target = batch
        model = make_sparse(sparsity_cost=0.1)
        model(states, mask, target).loss.backward()
        whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        for row in range(3):
            part = slice(row, row + 1)
            model(states[part], mask[part], target[part], num_items_in_batch=mask.sum()).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
            torch.testing.assert_close(parameter.grad, whole[name], atol=1e-6, rtol=1e-4)

    def test_a_batch_of_padding_alone(self, make_sparse, batch):
        states, _, target = batch
        output = make_sparse(revive_after=1).train()(states, torch.zeros(3, 6), target)
        output.loss.backward()
        assert output.loss == 0 and (output.codes == -1).all()

    def test_wrong_shapes_are_refused(self, make_sparse, wrong_shapes):
        with pytest.raises(ValueError, match="shape"):
            make_sparse()(*wrong_shapes)

    @given(st.integers(0, 10_000), st.integers(1, 12))
    @settings(max_examples=25, deadline=None)
    def test_topk_keeps_the_strongest_and_no_more(self, seed, k):
        config = SparseConfig(hidden_size=6, codebook_size=12, activation="topk", num_active=k)
        model = SparseDictionary(config)
        states = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
        scores, activations = model.encoder.scores(states), model.activations(states)
        assert ((activations > 0).sum(-1) <= k).all()
        torch.testing.assert_close(activations.sort(-1).values[:, -k:], scores.relu().sort(-1).values[:, -k:])
        assert torch.equal(activations[activations > 0], scores[activations > 0])


class TestInitialisation:
    @pytest.fixture
    def sample(self):
        generator = torch.Generator().manual_seed(0)
        lower = 7 * torch.randn(200, 32, generator=generator) + 100 * torch.randn(32, generator=generator)
        upper = 0.01 * torch.randn(200, 20, generator=generator) - 3
        return lower, upper

    def test_centres_and_scales_both_sides(self, make_sparse, sample):
        lower, upper = sample
        model = make_sparse(target_hidden_size=20)
        assert not model.is_initialized
        model.initialize_codebook(lower, upper)
        assert model.is_initialized
        centred = model.encoder.centred(lower)
        assert centred.mean(0).abs().max() < 1e-4
        assert centred.square().sum(-1).mean().sqrt().item() == pytest.approx(math.sqrt(32), rel=1e-4)
        target = model.decoder.output_scale * upper - model.decoder.bias
        assert target.mean(0).abs().max() < 1e-3
        assert target.square().sum(-1).mean().sqrt().item() == pytest.approx(math.sqrt(20), rel=1e-3)
        torch.testing.assert_close(model.mean_state, lower.mean(0), rtol=1e-4, atol=1e-3)
        # With no active neuron the reconstruction is the mean: the decoder's bias starts there.
        with torch.no_grad():
            model.encoder.bias.fill_(-1e6)
        rebuilt = model.reconstruct(lower[None])
        torch.testing.assert_close(rebuilt[0], upper.mean(0).expand(200, 20), rtol=1e-4, atol=1e-5)

    def test_without_scaling_only_the_centre_is_taken_off(self, make_sparse, sample):
        lower, upper = sample
        model = make_sparse(target_hidden_size=20, scale_states=False)
        model.initialize_codebook(lower, upper)
        assert model.encoder.input_scale == model.decoder.output_scale == 1
        torch.testing.assert_close(model.encoder.centred(lower), lower - lower.mean(0), atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(model.decoder.bias.detach(), upper.mean(0))

    def test_neurons_start_in_the_directions_of_tokens(self, make_sparse, sample):
        lower, upper = sample
        model = make_sparse(target_hidden_size=20)
        model.initialize_codebook(lower, upper)
        weight, decoder = model.encoder.weight, model.decoder.weight
        torch.testing.assert_close(weight.norm(dim=-1), torch.full((24,), 0.1))
        torch.testing.assert_close(decoder.norm(dim=-1), torch.ones(24))
        tokens = (F.normalize(weight, dim=-1) @ F.normalize(lower - lower.mean(0), dim=-1).T).max(-1)
        assert tokens.values.min() > 0.95 and len(set(tokens.indices.tolist())) == 24
        # Both ends of a neuron are of the same token.
        expected = F.normalize(upper - upper.mean(0), dim=-1)[tokens.indices]
        torch.testing.assert_close(decoder.detach(), expected, atol=1e-3, rtol=1e-3)
        assert model.encoder.bias.abs().sum() == 0

    def test_is_seeded_and_leaves_the_global_generator_alone(self, make_sparse, sample):
        states = []
        for seed in (3, 3, 4):
            model = make_sparse(target_hidden_size=20)
            before = torch.random.get_rng_state()
            model.initialize_codebook(*sample, seed=seed)
            assert torch.equal(before, torch.random.get_rng_state())
            states.append(model.codebook)
        assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])

    def test_more_neurons_than_tokens(self, make_sparse, sample):
        lower, upper = sample
        model = make_sparse(target_hidden_size=20)
        model.initialize_codebook(lower[:5], upper[:5])
        assert len(model.codebook.unique(dim=0)) == 24, "noise tells them apart"

    def test_in_half_precision(self, make_sparse, sample):
        lower, upper = sample
        model = make_sparse(target_hidden_size=20)
        model.initialize_codebook(lower.bfloat16(), upper.bfloat16())
        assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}

    @pytest.mark.parametrize("bad", ["nan", "constant"])
    def test_a_useless_sample_is_refused_and_changes_nothing(self, make_sparse, sample, bad):
        lower, upper = sample
        model = make_sparse(target_hidden_size=20)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        broken = upper.clone().fill_(1) if bad == "constant" else upper.index_fill(0, torch.tensor([3]), torch.nan)
        with pytest.raises(ValueError, match="NaN or Inf, or all of its states are the same"):
            model.initialize_codebook(lower, broken)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class TestUpdate:
    def test_decoder_rows_have_length_one_after_every_step(self, make_sparse, batch):
        model = make_sparse().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
        for _ in range(3):
            optimizer.zero_grad()
            model(*batch).loss.backward()
            optimizer.step()
            lengths = model.decoder.weight.norm(dim=-1)
            directions = F.normalize(model.decoder.weight, dim=-1).detach()
            assert (lengths - 1).abs().max() > 1e-3
            assert model.update_codebook() == 0
            torch.testing.assert_close(model.decoder.weight.norm(dim=-1), torch.ones(24))
            torch.testing.assert_close(model.decoder.weight.detach(), directions)

    @pytest.fixture
    def with_a_dead_neuron(self):
        """Neuron 2 never fires, neurons 0 and 1 always do."""
        model = by_hand(revive_after=2).train()
        with torch.no_grad():
            model.encoder.bias.copy_(torch.tensor([0.0, 0.0, -100.0]))
            model.encoder.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        states = torch.tensor([[[1.5, 0.5], [2.0, 1.0], [1.0, 3.0]]])  # centred: (2, 1), (3, 2), (1, 6)
        target = model(states).reconstruction.detach().clone()
        target[0, 1] += torch.tensor([3.0, 4.0])  # the only one that is not reconstructed
        model.discard_pending()
        return model, states, target

    def test_a_dead_neuron_starts_anew_on_what_is_reconstructed_worst(self, with_a_dead_neuron):
        model, states, target = with_a_dead_neuron
        encoder, decoder = model.encoder, model.decoder
        model(states, None, target)
        assert model.update_codebook() == 0 and encoder.steps_since_use.tolist() == [0, 0, 1]
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model(states, None, target)
        assert model.update_codebook() == 1
        assert encoder.steps_since_use.tolist() == [0, 0, 0]
        # A fifth of the mean length of the others, (3 + 1) / 2, in the direction of the token, and of its residual.
        expected = 0.2 * 2.0 * F.normalize(torch.tensor([3.0, 2.0]), dim=-1)
        torch.testing.assert_close(encoder.weight[2].detach(), expected)
        torch.testing.assert_close(decoder.weight[2].detach(), torch.tensor([0.6, 0.8]))
        assert encoder.bias[2] == 0
        for name in ("encoder.weight", "encoder.bias", "decoder.weight"):
            torch.testing.assert_close(model.state_dict()[name][:2], before[name][:2])
        # It fires now, and helps.
        old = model.state_dict()
        loss = model(states, None, target).reconstruction_loss.item()
        assert model.activations(states)[0, 1, 2] > 0
        model.load_state_dict(before)
        assert loss < model(states, None, target).reconstruction_loss.item()
        model.load_state_dict(old)

    def test_a_neuron_that_fires_in_any_batch_of_the_step_is_alive(self, with_a_dead_neuron):
        model, states, target = with_a_dead_neuron
        with torch.no_grad():
            model.encoder.bias[2] = 0.0
        firing = torch.tensor([[[0.0, -3.0]]])
        for _ in range(3):
            model(firing, None, firing)
            model(states, None, target)
            assert model.update_codebook() == 0
        assert model.encoder.steps_since_use.tolist() == [0, 0, 0]

    def test_tokens_that_do_not_count_keep_nothing_alive(self, with_a_dead_neuron):
        model, states, target = with_a_dead_neuron
        with torch.no_grad():
            model.encoder.bias[2] = 0.0
        states = torch.cat([states, torch.tensor([[[0.0, -3.0]]])], 1)
        target = torch.cat([target, torch.zeros(1, 1, 2)], 1)
        model(states, None, target, torch.tensor([[1, 1, 1, 0]]))
        model.update_codebook()
        assert model.encoder.steps_since_use.tolist() == [0, 0, 1]

    def test_a_last_batch_without_a_token_that_counts(self, with_a_dead_neuron):
        model, states, target = with_a_dead_neuron
        nothing = torch.zeros(1, 3)
        for revived in (0, 1):
            model(states, None, target)
            model(states, None, target, nothing)
            assert model.update_codebook() == revived
        torch.testing.assert_close(model.decoder.weight[2].detach(), torch.tensor([0.6, 0.8]))
        # Nor does a step without any: there is nothing to start on.
        for _ in range(3):
            model(states, None, target, nothing)
            assert model.update_codebook() == 0
        assert torch.isfinite(model.encoder.weight).all()
        with torch.no_grad():
            model.encoder.bias[2] = -100.0
        model(states, None, target)
        assert model.update_codebook() == 1

    def test_where_all_are_dead_all_start_anew(self, with_a_dead_neuron):
        model, states, target = with_a_dead_neuron
        with torch.no_grad():
            model.encoder.bias.fill_(-100.0)
        for revived in (0, 3):
            model(states, None, target)
            assert model.update_codebook() == revived
        torch.testing.assert_close(model.decoder.weight.norm(dim=-1), torch.ones(3))
        assert (model.encoder.weight.norm(dim=-1) > 0).all()

    def test_none_without_revive_after_and_none_in_evaluation(self, with_a_dead_neuron):
        model, states, target = with_a_dead_neuron
        model.eval()
        for _ in range(4):
            model(states, None, target)
            assert model.update_codebook() == 0
        model.train().config.revive_after = None
        before = model.encoder.weight.clone()
        for _ in range(4):
            model(states, None, target)
            assert model.update_codebook() == 0
        assert torch.equal(model.encoder.weight, before) and model.encoder.steps_since_use.sum() == 0

    def test_a_step_that_was_broken_off_leaves_nothing_behind(self, with_a_dead_neuron):
        model, states, target = with_a_dead_neuron
        model(states, None, target)
        model.discard_pending()
        assert model.update_codebook() == 0 and model.encoder.steps_since_use.sum() == 0


class TestAblationBasis:
    def test_picks_the_strongest_neurons(self):
        basis = by_hand().ablation_basis(STATES[0], k=3)
        # Activations (2, 0.5, 0): two rows. (0, 0, 1.25): one. None: the one that comes nearest to it.
        half = math.sqrt(0.5)
        expected = torch.tensor(
            [
                [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]],
                [[-half, -half], [0.0, 0.0], [0.0, 0.0]],
                [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]],
            ]
        )
        torch.testing.assert_close(basis, expected)

    def test_decoder_rows(self):
        basis = by_hand().ablation_basis(STATES[0], k=2, variant="decoder")
        # (0.6, 0.8) without its part along (1, 0); one row each for the others.
        expected = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 0.0]], [[0.6, 0.8], [0.0, 0.0]]])
        torch.testing.assert_close(basis, expected)

    def test_by_gradient_picks_what_speaks_most_for_the_prediction(self):
        model = by_hand()
        # W∇ = (-1, 3, -2): f·(W∇) = (-2, 1.5, 0), (0, 0, -2.5), 0. The strongest neuron of the first token is not it,
        # and that of the second one speaks against the prediction. D∇ = (-1, 1.8, 3): (-2, 0.9, 0), (0, 0, 3.75), 0.
        gradients = torch.tensor([[-1.0, 3.0]]).expand(3, 2)
        nothing = [0.0, 0.0]
        for variant, rows in (
            ("encoder_by_gradient", ([0.0, 1.0], nothing)),
            ("decoder_by_gradient", ([0.6, 0.8], [0.0, 1.0])),
        ):
            basis = model.ablation_basis(STATES[0], k=2, variant=variant, gradients=gradients)
            expected = torch.tensor([[rows[0], nothing], [rows[1], nothing], [nothing, nothing]])
            torch.testing.assert_close(basis, expected)
        # The other way round for the other prediction.
        basis = model.ablation_basis(STATES[0], k=1, variant="encoder_by_gradient", gradients=-gradients)
        half = math.sqrt(0.5)
        torch.testing.assert_close(basis[:2, 0], torch.tensor([[1.0, 0.0], [-half, -half]]))

    def test_the_first_row_is_the_direction_of_the_code(self, make_sparse):
        model = make_sparse()
        states = torch.randn(7, 32)
        codes = model.encode(states[None])[0]
        torch.testing.assert_close(model.ablation_basis(states), model.directions(codes))
        torch.testing.assert_close(model.ablation_basis(states, k=5)[:, :1], model.directions(codes))

    @given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(VARIANTS))
    @settings(max_examples=40, deadline=None)
    def test_is_orthonormal(self, seed, k, variant):
        torch.manual_seed(seed)
        model = SparseDictionary(SparseConfig(hidden_size=16, codebook_size=30, activation="topk", num_active=4))
        states = torch.randn(6, 16)
        basis = model.ablation_basis(states, k, variant, torch.randn(6, 16))
        assert basis.shape == (6, k, 16) and basis.dtype == torch.float32
        gram, kept = basis @ basis.transpose(1, 2), (basis.norm(dim=-1) > 0).float()
        torch.testing.assert_close(gram, torch.diag_embed(kept), atol=1e-5, rtol=0)
        assert (kept.sum(-1) <= min(k, 4)).all()
        assert "gradient" in variant or (kept[:, 0] == 1).all()

    def test_refusals(self, make_sparse):
        states = torch.randn(3, 32)
        model, narrow, bare = make_sparse(), make_sparse(target_hidden_size=20), make_sparse().codebook_only()
        with pytest.raises(ValueError, match="no ablation variant 'both'"):
            model.ablation_basis(states, variant="both")
        for variant in ("encoder_by_gradient", "decoder_by_gradient"):
            with pytest.raises(ValueError, match=f"'{variant}' needs gradients"):
                model.ablation_basis(states, variant=variant)
        for variant in ("decoder", "decoder_by_gradient"):
            with pytest.raises(ValueError, match="Decoder rows are 20 wide, states of lower_layer 32"):
                narrow.ablation_basis(states, variant=variant, gradients=states)
        for each in (narrow, bare):
            assert each.ablation_basis(states, variant="encoder_by_gradient", gradients=states).shape == (3, 1, 32)
        for variant in ("decoder", "decoder_by_gradient"):
            with pytest.raises(ValueError, match="codebook without its decoder"):
                bare.ablation_basis(states, variant=variant, gradients=states)
        with pytest.raises(ValueError, match="shape"):
            model.ablation_basis(states[:, :-1])


class TestCodebookOnly:
    def test_encodes_and_ablates_alike(self, make_sparse, batch):
        states, mask, _ = batch
        model = make_sparse(activation="topk", num_active=4).eval()
        model.initialize_codebook(states[mask.bool()], states[mask.bool()])
        bare = model.codebook_only()
        assert bare.decoder is None and not bare.training and bare.is_initialized
        assert bare.fingerprint() == model.fingerprint()
        assert torch.equal(bare.encode(states, mask), model.encode(states, mask))
        assert torch.equal(bare(states, mask).codes, model(states, mask).codes)
        assert bare(states, mask).reconstruction is None
        assert torch.equal(bare.ablation_basis(states[0], 3), model.ablation_basis(states[0], 3))
        assert torch.equal(bare.num_active(states, mask), model.num_active(states, mask))
        for call in (lambda: bare.reconstruct(states), lambda: bare(states, target_hidden_states=states)):
            with pytest.raises(ValueError, match="codebook without its decoder"):
                call()
        assert model.decoder is not None and model.config.has_decoder

    def test_the_fingerprint_is_of_what_decides_the_codes(self, make_sparse):
        model = make_sparse()
        before = model.fingerprint()
        with torch.no_grad():
            model.decoder.weight.add_(1)
            model.decoder.output_scale.fill_(9)
            model.encoder.steps_since_use.add_(1)
        assert model.fingerprint() == before
        for name in ("weight", "bias", "input_bias", "input_scale"):
            tensor = getattr(model.encoder, name)
            with torch.no_grad():
                tensor.add_(1)
            assert model.fingerprint() != before, name
            with torch.no_grad():
                tensor.sub_(1)
        prints = {make_sparse(activation="topk", num_active=number).fingerprint() for number in (3, 4)}
        assert len({before, *prints}) == 3


class TestSaveAndLoad:
    @pytest.mark.parametrize(
        "fields",
        [
            {"revive_after": 3},
            {"activation": "topk", "num_active": 4, "target_hidden_size": 20},
            {"activation": "jumprelu", "has_skip": True},
        ],
    )
    def test_round_trip_is_exact(self, make_sparse, tmp_path, fields):
        model = make_sparse(**fields)
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 9)
        model.save_pretrained(tmp_path)
        for kind in (SparseDictionary, ConceptModel, AutoModel):
            loaded = kind.from_pretrained(tmp_path)
            assert type(loaded) is SparseDictionary
            assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
            assert set(loaded.state_dict()) == set(model.state_dict())
            for name, tensor in model.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], tensor), name

    def test_every_missing_key_is_an_error(self, make_sparse, tmp_path):
        model = make_sparse(activation="jumprelu", has_skip=True)
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        assert set(tensors) == set(model.state_dict()), "every buffer is persistent"
        for name in tensors:
            rest = {other: tensor for other, tensor in tensors.items() if other != name}
            save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
            with pytest.raises(ValueError, match=name):
                SparseDictionary.from_pretrained(tmp_path)

    def test_another_type_is_refused(self, make_sparse, tmp_path):
        make_sparse().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="of the type 'sparse_dictionary', but CLVQModel"):
            CLVQModel.from_pretrained(tmp_path)

    def test_loaded_without_its_decoder(self, make_sparse, tmp_path):
        model = make_sparse()
        model.save_pretrained(tmp_path)
        bare = SparseDictionary.from_pretrained(tmp_path, has_decoder=False)
        assert bare.decoder is None and bare.fingerprint() == model.fingerprint()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_keeps_it_in_float32(self, make_sparse, tmp_path, dtype):
        model = make_sparse()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        model.save_pretrained(tmp_path)
        states = torch.randn(2, 9, 32)
        expected = model(states, None, states)
        for half in (SparseDictionary.from_pretrained(tmp_path, dtype=dtype), model.to(dtype)):
            assert half.dtype == torch.float32
            for name, tensor in before.items():
                found = half.state_dict()[name]
                assert found.dtype == torch.float32 and torch.equal(found, tensor), name
            assert not half.is_initialized
            assert torch.equal(half(states, None, states).loss, expected.loss)
            assert half.reconstruct(states.to(dtype)).dtype == torch.float32

    def test_autocast_changes_nothing(self, make_sparse):
        model = make_sparse()
        states, target = torch.randn(4, 50, 32), torch.randn(4, 50, 32)
        plain = model(states, None, target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = model(states, None, target)
        for name in ("loss", "codes", "reconstruction", "num_active"):
            assert torch.equal(plain[name], inside[name]), name


class TestOnAHost:
    @pytest.fixture
    def model(self, make_sparse, host, tokenizer, texts, fit):
        return fit(make_sparse(activation="topk", num_active=4), host, tokenizer, texts)

    def states(self, host, inputs, layer):
        with torch.no_grad():
            return hooks.run(host, inputs, [layer])[layer]

    def test_attach(self, model, host, inputs):
        with model.attach(host) as tap:
            host(**inputs)
        assert torch.equal(tap.codes, model.encode(tap.hidden_states, inputs["attention_mask"]))
        assert tap.target_hidden_states.shape == (2, 6, 32)

    def test_ablate_removes_the_encoder_row(self, model, host, inputs):
        plain = self.states(host, inputs, 1)
        codes = model.encode(plain, inputs["attention_mask"])
        code = int(codes[0, 2])
        with model.ablate(host, code):
            changed = self.states(host, inputs, 1)
        here = codes == code
        # Of what the neuron reads, which is centred, nothing is left: W(s·x - b_in) is 0.
        assert model.encoder.input_bias.norm() > 0.1
        centred = model.encoder.input_scale * changed[here] - model.encoder.input_bias
        assert (centred @ F.normalize(model.encoder.weight[code], dim=-1)).abs().max() < 1e-5
        assert not torch.equal(changed[here], plain[here]) and torch.equal(changed[~here], plain[~here])

    def test_a_row_is_no_state_to_be_swapped(self, model, host):
        with pytest.raises(ValueError, match="the concepts of a SparseDictionary are directions: use how='project'"):
            model.ablate(host, 3, how="swap")
        assert count_hooks(host) == 0

    def test_steer(self, model, host, inputs):
        plain = self.states(host, inputs, 1)
        with model.steer(host, 4, 0.5):
            changed = self.states(host, inputs, 1)
        real = inputs["attention_mask"].bool()
        unit = F.normalize(model.encoder.weight[4], dim=-1)
        expected = plain + 0.5 * unit * plain.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(changed[real], expected[real])

    @pytest.mark.parametrize("layers", [(1, 3), (2, 2)])
    def test_splice(self, make_sparse, host, tokenizer, texts, inputs, fit, layers):
        model = fit(make_sparse(lower_layer=layers[0], upper_layer=layers[1]), host, tokenizer, texts)
        lower, upper = self.states(host, inputs, layers[0]), self.states(host, inputs, layers[1])
        with model.splice(host):
            spliced = self.states(host, inputs, layers[1])
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(spliced[real], model.reconstruct(lower, inputs["attention_mask"])[real])
        assert torch.equal(spliced[~real], upper[~real]) and count_hooks(host) == 0

    def test_generation_with_a_splice_equals_running_without_a_cache(
        self, make_sparse, causal_host, tokenizer, texts, fit, inputs
    ):
        model = fit(make_sparse(), causal_host, tokenizer, texts)
        prompt = {name: tensor[:1] for name, tensor in inputs.items()}
        with model.splice(causal_host):
            generated = causal_host.generate(
                **prompt, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            whole = causal_host(generated.sequences[:, :-1], use_cache=False).logits
        steps = torch.stack(generated.logits, dim=1)
        torch.testing.assert_close(steps, whole[:, prompt["input_ids"].shape[1] - 1 :], atol=1e-4, rtol=1e-4)

    @pytest.mark.slow
    def test_concept_table_and_verify(self, model, host, tokenizer, texts):
        table = model.concept_table(host, tokenizer, texts)
        for row in (0, 17):
            encoded = tokenizer(texts[row]["text"], return_tensors="pt")
            codes = model.encode(self.states(host, dict(encoded), 1))[0].tolist()
            found = [
                code for text, code in zip(table.column("text_id"), table.column("code"), strict=True) if text == row
            ]
            assert found == codes
        model.record_host(host, tokenizer)
        assert model.verify(host, tokenizer)
        other = BertForSequenceClassification(host.config).eval()
        assert not model.verify(other)


class TestOnTheHub:
    @pytest.mark.slow
    def test_everything_comes_back(self, hub, hub_host, tokenizer, texts, fit):
        torch.manual_seed(0)
        config = SparseConfig.transcoder(hub_host, 1, 3, codebook_size=24, num_active=4)
        model = fit(SparseDictionary(config), hub_host, tokenizer, texts)
        model.record_host(hub_host, tokenizer)
        table = model.concept_table(hub_host, tokenizer, texts)
        model.push_to_hub("org/transcoder", concepts=table)
        for loaded in (
            SparseDictionary.from_pretrained("org/transcoder"),
            AutoModel.from_pretrained("org/transcoder"),
        ):
            assert type(loaded) is SparseDictionary and loaded.fingerprint() == model.fingerprint()
            for name, tensor in model.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], tensor), name
        host = loaded.load_host()
        assert type(host) is BertForSequenceClassification
        assert loaded.verify(host, loaded.load_tokenizer())
        assert isinstance(loaded.concepts, ConceptTable)
        assert loaded.concepts.tokens.to_dict() == table.tokens.to_dict()
        card = hub.files("org/transcoder")["README.md"].decode()
        assert 'SparseDictionary.from_pretrained("org/transcoder")' in card and "CLVQModel" not in card
        assert "Learned with a transcoder" in card and "- transcoder\n" in card and "vector-quantization" not in card

    def test_pushed_without_its_decoder(self, hub, hub_host, tokenizer, texts, fit, make_sparse):
        model = fit(make_sparse(has_skip=True), hub_host, tokenizer, texts)
        model.push_to_hub("org/sae", codebook_only=True)
        bare = SparseDictionary.from_pretrained("org/sae")
        assert bare.decoder is None and bare.fingerprint() == model.fingerprint()
