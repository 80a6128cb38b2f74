import math

import pytest
import torch
import torch.nn.functional as F
from helpers.buffers_only import BuffersOnly
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from clvq_hf import CLVQConfig, CLVQModel
from clvq_hf.hosts import hooks
from clvq_hf.models.projections import project


class TestEncoder:
    def test_starts_as_the_formula_says(self, make_model):
        encoder = make_model().encoder
        assert torch.equal(encoder.linear.weight, torch.eye(32)), "post_init must not re-initialise the identity"
        assert torch.equal(encoder.linear.bias, torch.zeros(32))
        assert encoder.mix_logit.item() == pytest.approx(0.2)
        states = torch.randn(2, 3, 32)
        mix = 0.5 / (1 + math.exp(-0.2))
        assert torch.allclose(encoder(states), (1 - mix) * states + mix * F.layer_norm(states, (32,)), atol=1e-6)

    def test_uses_all_its_parameters(self, make_model):
        encoder = make_model().encoder
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.normal_()
        states = torch.randn(2, 3, 32)
        mix = 0.5 * torch.sigmoid(encoder.mix_logit)
        mixed = states @ encoder.linear.weight.T + encoder.linear.bias
        mixed = F.layer_norm(mixed, (32,), encoder.norm.weight, encoder.norm.bias)
        assert torch.allclose(encoder(states), (1 - mix) * states + mix * mixed, atol=1e-5)


class TestForward:
    def test_shapes_and_padding(self, make_model, batch):
        states, mask, _ = batch
        output = make_model(target_hidden_size=20)(states, mask, torch.randn(3, 6, 20))
        assert output.reconstruction.shape == (3, 6, 20)
        assert output.quantized.shape == output.encoder_states.shape == (3, 6, 32)
        assert output.codes.shape == (3, 6) and output.codes.dtype == torch.int64
        assert torch.equal(output.codes == -1, mask == 0)
        assert output.quantized[mask == 0].abs().sum() == 0
        assert output.loss.shape == output.perplexity.shape == ()

    def test_no_loss_without_a_target(self, make_model, batch):
        output = make_model()(batch[0], batch[1])
        assert output.loss is None and output.reconstruction_loss is None
        assert output.reconstruction is not None

    def test_loss_is_the_formula_over_real_tokens(self, make_model, batch):
        states, mask, target = batch
        model = make_model(commitment_cost=0.3).eval()
        output = model(states, mask, target)
        real = mask.bool()
        reconstruction = F.mse_loss(output.reconstruction[real], target[real])
        commitment = F.mse_loss(output.encoder_states[real], model.quantizer.codebook[output.codes[real]])
        assert output.reconstruction_loss.item() == pytest.approx(reconstruction.item(), rel=1e-5)
        assert output.commitment_loss.item() == pytest.approx(commitment.item(), rel=1e-5)
        assert output.loss.item() == pytest.approx((reconstruction + 0.3 * commitment).item(), rel=1e-5)

    def test_what_lies_on_padding_changes_nothing(self, make_model, batch):
        states, mask, target = batch
        model = make_model().eval()
        clean = model(states, mask, target)
        dirty_states = states.masked_fill(mask[..., None] == 0, float("nan"))
        dirty_target = target.masked_fill(mask[..., None] == 0, 1e6)
        dirty = model(dirty_states, mask, dirty_target)
        for name in ("loss", "codes", "perplexity", "quantized"):
            assert torch.equal(clean[name], dirty[name]), name

    def test_padding_a_text_further_keeps_its_codes_and_reconstruction(self, make_model, batch):
        model = make_model().eval()
        alone = model(batch[0][1:2, :3])
        padded = model(batch[0], batch[1])
        assert torch.equal(alone.codes[0], padded.codes[1, :3])
        assert torch.allclose(alone.reconstruction[0], padded.reconstruction[1, :3], atol=1e-5)

    def test_token_mask_limits_loss_and_codebook_but_not_codes(self, make_model, batch):
        states, mask, target = batch
        model = make_model(top_k=1, dropout=0.0).train()
        token_mask = mask.clone()
        token_mask[:, 3] = 0
        output = model(states, mask, target, token_mask=token_mask)
        assert torch.equal(output.codes >= 0, mask.bool())
        counted = token_mask.bool()
        expected = F.mse_loss(output.reconstruction[counted], target[counted])
        assert output.reconstruction_loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert model.quantizer._pending[0].sum() == counted.sum()

    def test_perplexity_of_known_codes(self, make_model):
        model = make_model(codebook_size=4).eval()
        model.quantizer.set_codebook(10 * torch.eye(4, 32))
        # Three tokens of code 0, one of code 2: H = -(¾ ln ¾ + ¼ ln ¼).
        states = 10 * torch.eye(4, 32)[None, [0, 0, 0, 2]]
        expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
        assert model(states).perplexity.item() == pytest.approx(expected, rel=1e-5)

    def test_perplexity_is_that_of_the_tokens_that_count(self, make_model):
        model = make_model(codebook_size=4).eval()
        model.quantizer.set_codebook(10 * torch.eye(4, 32))
        states = 10 * torch.eye(4, 32)[None, [0, 1, 2, 3]]
        counted = torch.tensor([[1, 1, 0, 0]])
        assert model(states, None, None, counted).perplexity.item() == pytest.approx(2)

    def test_num_items_divides_the_loss(self, make_model, batch):
        states, mask, target = batch
        model = make_model().eval()
        whole = model(states, mask, target)
        scaled = model(states, mask, target, num_items_in_batch=2 * mask.sum())
        assert scaled.loss.item() == pytest.approx(whole.loss.item() / 2, rel=1e-5)

    def test_micro_batches_add_up_to_the_gradient_of_the_whole(self, make_model, batch):
        # 6, 3 and 4 tokens: a mean of per-batch means would weight them alike.
        states, mask, target = batch
        model = make_model(top_k=1, dropout=0.0)
        model(states, mask, target).loss.backward()
        whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        for row in range(3):
            part = slice(row, row + 1)
            model(states[part], mask[part], target[part], num_items_in_batch=mask.sum()).loss.backward()
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter.grad, whole[name], atol=1e-6), name

    def test_wrong_shapes_are_refused(self, make_model, wrong_shapes):
        with pytest.raises(ValueError, match="shape"):
            make_model()(*wrong_shapes)


class TestDecoder:
    @pytest.mark.parametrize("decoder_memory", ["quantized", "encoder"])
    def test_a_causal_model_does_not_see_the_future(self, make_model, batch, decoder_memory):
        # By self-attention or by the memory of the cross-attention.
        states, _, _ = batch
        model = make_model(is_causal=True, decoder_memory=decoder_memory).eval()
        before = model(states).reconstruction
        changed = states.clone()
        changed[:, 4:] = torch.randn(3, 2, 32) * 5
        after = model(changed).reconstruction
        assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
        assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-2)

    def test_an_encoder_model_sees_both_sides(self, make_model, batch):
        states, _, _ = batch
        model = make_model(is_causal=False).eval()
        changed = states.clone()
        changed[:, 5] *= -4
        difference = model(states).reconstruction - model(changed).reconstruction
        assert (difference[:, 0].abs().amax(-1) > 1e-6).all()

    def test_quantized_memory_closes_the_leak(self, make_model, batch):
        # Within a code, a change of the continuous state must not reach the reconstruction.
        states, _, _ = batch
        nudged = states + 1e-4 * torch.randn_like(states)
        for memory, leaks in (("quantized", False), ("encoder", True)):
            model = make_model(decoder_memory=memory).eval()
            assert torch.equal(model(states).codes, model(nudged).codes)
            same = torch.allclose(model(states).reconstruction, model(nudged).reconstruction, atol=1e-7, rtol=0)
            assert same is not leaks

    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("is_causal", [True, False])
    def test_left_padding_gives_no_nan(self, make_model, is_causal, training, grad):
        # torch's fast path for attention does, in eval without gradients, with two layers and a causal mask.
        model = make_model(is_causal=is_causal, num_decoder_layers=3).train(training)
        mask = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
        with torch.set_grad_enabled(grad):
            output = model(torch.randn(3, 5, 32), mask, torch.randn(3, 5, 32))
        assert torch.isfinite(output.reconstruction).all() and torch.isfinite(output.loss)

    def test_left_and_right_padding_agree(self, make_model):
        model = make_model(is_causal=True).eval()
        states = torch.randn(1, 4, 32)
        empty = torch.randn(1, 2, 32)
        right = model(torch.cat([states, empty], 1), torch.tensor([[1, 1, 1, 1, 0, 0]]))
        left = model(torch.cat([empty, states], 1), torch.tensor([[0, 0, 1, 1, 1, 1]]))
        assert torch.equal(right.codes[:, :4], left.codes[:, 2:])
        assert torch.allclose(right.reconstruction[:, :4], left.reconstruction[:, 2:], atol=1e-5)


class TestPrecision:
    def test_autocast_gives_the_codes_of_encode(self, make_model):
        model = make_model(codebook_size=12).train()
        model.quantizer.top_k = 1
        states = torch.randn(4, 50, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(states, None, torch.randn(4, 50, 32))
            inside = model.encode(states)
        assert torch.equal(output.codes, model.encode(states)) and torch.equal(inside, output.codes)
        assert output.encoder_states.dtype == torch.float32
        assert model.quantizer._pending[1].dtype == torch.float32
        output.loss.backward()
        model.update_codebook()
        assert {tensor.dtype for name, tensor in model.quantizer.state_dict().items() if "ema" in name} == {
            torch.float32
        }

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_casting_keeps_encoder_and_quantizer_in_float32(self, make_model, dtype):
        model = make_model()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        states = torch.randn(2, 9, 32)
        codes = model.encode(states)
        model.to(dtype)
        for name, tensor in model.state_dict().items():
            if name.startswith(("encoder.", "quantizer.")):
                assert torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype, name
            else:
                assert tensor.dtype == dtype, name
        assert torch.equal(model.encode(states), codes)
        assert model.dtype == dtype

    def test_loading_in_half_precision_keeps_the_codebook(self, make_model, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path)
        half = CLVQModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert half.dtype == torch.bfloat16
        assert {parameter.dtype for parameter in half.encoder.parameters()} == {torch.float32}
        assert torch.equal(half.quantizer.ema_sums, model.quantizer.ema_sums)
        states = torch.randn(2, 9, 32)
        assert torch.equal(half.encode(states), model.encode(states))
        assert torch.isfinite(half(states, None, states).loss)

    def test_moving_between_devices_keeps_working(self, make_model):
        model = make_model()
        assert model.to("meta").quantizer.ema_sums.is_meta


class TestSaveAndLoad:
    def trained(self, make_model, **fields) -> CLVQModel:
        model = make_model(**fields).train()
        for _ in range(3):
            model(torch.randn(4, 6, 32), None, torch.randn(4, 6, 32)).loss.backward()
            model.update_codebook()
        model.quantizer.initialized.fill_(True)
        return model

    def test_round_trip_is_exact(self, make_model, tmp_path):
        model = self.trained(make_model, revive_after=7)
        model.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").is_file()
        loaded = CLVQModel.from_pretrained(tmp_path)
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert loaded.is_initialized

    def test_training_goes_on_after_a_reload(self, make_model, tmp_path):
        model = self.trained(make_model, top_k=1, dropout=0.0)
        model.save_pretrained(tmp_path)
        loaded = CLVQModel.from_pretrained(tmp_path).train()
        states, target = torch.randn(4, 6, 32), torch.randn(4, 6, 32)
        for each in (model, loaded):
            each(states, None, target)
            each.update_codebook()
        assert torch.equal(model.codebook, loaded.codebook)

    def test_auto_classes(self, make_model, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path)
        assert isinstance(AutoConfig.from_pretrained(tmp_path), CLVQConfig)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert isinstance(loaded, CLVQModel)
        assert torch.equal(loaded.codebook, model.codebook)

    @pytest.mark.slow
    def test_every_missing_key_is_an_error(self, make_model, tmp_path):
        model = make_model(num_decoder_layers=1)
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        assert set(tensors) == set(model.state_dict()), "every buffer is persistent"
        for name in tensors:
            rest = {other: tensor for other, tensor in tensors.items() if other != name}
            save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
            with pytest.raises(ValueError, match=name):
                CLVQModel.from_pretrained(tmp_path)

    def test_a_pickle_is_not_read(self, make_model, tmp_path):
        model = make_model()
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"pickled weights .* no safetensors"):
            CLVQModel.from_pretrained(tmp_path)

    def test_loading_info_on_request(self, make_model, tmp_path):
        make_model().save_pretrained(tmp_path)
        model, info = CLVQModel.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(model, CLVQModel) and not info["missing_keys"]


class TestConceptModel:
    def test_ablation_basis_is_the_unit_code_vector(self, make_model):
        model = make_model().eval()
        states = torch.randn(7, 32)
        basis = model.ablation_basis(states)
        assert basis.shape == (7, 1, 32)
        codes = model.encode(states[None])[0]
        assert torch.allclose(basis[:, 0], F.normalize(model.codebook[codes], dim=-1))
        assert torch.allclose(basis @ basis.transpose(1, 2), torch.ones(7, 1, 1), atol=1e-6)

    def test_initialize_codebook(self, make_model):
        model = make_model(codebook_init="random")
        assert not model.is_initialized
        states = torch.randn(40, 32)
        model.initialize_codebook(states, seed=3)
        assert model.is_initialized
        encoded = model.encoder(states)
        distances = (model.quantizer.codebook[:, None] - encoded).norm(dim=-1)
        assert distances.amin(1).max() < 1e-4, "random codes are states of the sample"
        nearest = distances.argmin(0)
        means = torch.stack([states[nearest == code].mean(0) for code in range(12)])
        torch.testing.assert_close(model.codebook, means, msg="what a code is in the host: the mean of its members")

    def test_a_method_of_buffers_only_can_be_saved(self, make_config, tmp_path):
        model = BuffersOnly(make_config())
        model.centroids[0] = 7.0
        assert model.device == torch.device("cpu") and model.dtype == torch.float32
        model.save_pretrained(tmp_path)
        assert torch.equal(BuffersOnly.from_pretrained(tmp_path).centroids, model.centroids)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiled_forward_gives_the_same(make_model, batch, training):
    model = make_model(top_k=1, dropout=0.0).train(training)
    compiled = torch.compile(model, fullgraph=True)
    expected, got = model(*batch), compiled(*batch)
    assert torch.equal(expected.codes, got.codes)
    assert torch.allclose(expected.loss, got.loss, rtol=1e-4)


class TestCentredStates:
    def test_codes_are_differences_from_the_mean_of_the_sample(self, make_model):
        model = make_model(center_states=True, codebook_init="random").eval()
        states = torch.randn(200, 32) + 5
        model.initialize_codebook(states)
        torch.testing.assert_close(model.encoder.center, states.mean(0))
        # Interventions are about the members' states, from the same mean.
        expected = torch.nn.functional.normalize(model.member_means - states.mean(0), dim=-1)[:, None]
        torch.testing.assert_close(model.directions(torch.arange(12)), expected)

    def test_in_a_model_that_has_not_tracked_its_members_the_codebook_is_the_encoders(self, make_model):
        model = make_model(center_states=True, codebook_init="random", track_members=False).eval()
        states = torch.randn(200, 32) + 5
        model.initialize_codebook(states)
        assert model.member_means is None
        torch.testing.assert_close(model.codebook, model.quantizer.codebook + states.mean(0))
        torch.testing.assert_close(model.mean_state, model.quantizer.codebook.mean(0) + states.mean(0))
        expected = torch.nn.functional.normalize(model.quantizer.codebook, dim=-1)[:, None]
        torch.testing.assert_close(model.directions(torch.arange(12)), expected)

    def test_a_common_shift_changes_nothing(self, make_model):
        states = torch.randn(2, 9, 32)
        codes, bases = [], []
        for shift in (0.0, 7.0):
            model = make_model(center_states=True).eval()
            model.initialize_codebook((states + shift).flatten(0, 1), seed=0)
            codes.append(model.encode(states + shift))
            bases.append(model.ablation_basis((states + shift)[0]))
        assert torch.equal(*codes)
        torch.testing.assert_close(*bases, atol=1e-4, rtol=1e-4)

    def test_a_common_shift_of_the_host_is_no_part_of_a_concept(self, make_model, host, inputs):
        """All states moved by 7: what is removed is the same."""
        code, where = 5, torch.ones(2, 6, dtype=torch.bool)
        with torch.no_grad():
            states = hooks.run(host, inputs, [1])[1]
        changed = []
        for shift in (0.0, 7.0):
            model = make_model(center_states=True).eval()
            model.initialize_codebook((states + shift).flatten(0, 1), seed=0)
            torch.testing.assert_close(model.projection_centre, states.flatten(0, 1).mean(0) + shift)
            basis = model.directions(torch.tensor([code]))[0]
            changed.append(project(states + shift, basis, where, model.projection_centre) - shift)
        torch.testing.assert_close(*changed, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(changed[0], states)
        assert not make_model().projection_centre.any()

    def test_the_mean_is_saved_and_decides_the_codes(self, make_model, tmp_path):
        model = make_model(center_states=True).eval()
        states = torch.randn(3, 20, 32) + 2
        model.initialize_codebook(states.flatten(0, 1))
        model.save_pretrained(tmp_path)
        loaded = CLVQModel.from_pretrained(tmp_path)
        assert torch.equal(loaded.encode(states), model.encode(states))
        fingerprint = model.fingerprint()
        with torch.no_grad():
            model.encoder.center += 1
        assert model.fingerprint() != fingerprint

    def test_without_it_there_is_no_such_tensor(self, make_model):
        assert "encoder.center" not in make_model().state_dict()


def test_a_decoder_without_layers_is_a_linear_map_of_each_code(make_model):
    model = make_model(num_decoder_layers=0).eval()
    model.initialize_codebook(torch.randn(100, 32))
    output = model(torch.randn(2, 5, 32))
    torch.testing.assert_close(output.reconstruction, model.decoder.head(output.quantized))


class TestLinearEncoder:
    def test_defaults_follow_the_encoder(self, make_config):
        residual, linear = make_config(), make_config(encoder="linear")
        assert (residual.codebook_init, residual.scale_targets) == ("spherical-kmeans++", False)
        assert (linear.codebook_init, linear.scale_targets) == ("kmeans++", True)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"codebook_space": "functional"}, "needs encoder='linear'"),
            ({"encoder": "linear", "center_states": True}, "a linear one always centres"),
            ({"encoder": "mlp"}, "encoder must be one of"),
            ({"encoder": "linear", "codebook_space": "fisher"}, "codebook_space must be one of"),
        ],
    )
    def test_what_does_not_go_together(self, make_config, fields, message):
        with pytest.raises(ValueError, match=message):
            make_config(**fields)

    def test_the_loss_is_in_units_of_each_dimensions_deviation(self, make_model):
        model = make_model(encoder="linear", commitment_cost=0.0).eval()
        scale = torch.logspace(-1, 3, 32)
        states, targets = torch.randn(300, 32), torch.randn(300, 32) * scale + 7
        model.initialize_codebook(states, targets)
        output = model(states[None, :50], None, targets[None, :50])
        deviation = targets.std(0)
        expected = ((output.reconstruction[0] - targets[:50]) / deviation).square().mean()
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)
        head = (output.reconstruction[0] - targets.mean(0)) / deviation
        assert head.std() < 3, "what the decoder's last layer gives is of the size of one"

    def test_codes_are_the_nearest_in_its_space(self, make_model):
        model = make_model(encoder="linear", codebook_space="functional").eval()
        states = torch.randn(400, 32) + 3
        model.initialize_codebook(states, states, sensitivity=torch.diag(torch.linspace(0, 1, 32)))
        mapped = (states - states.mean(0)) @ model.encoder.weight.T
        expected = torch.cdist(mapped, model.quantizer.codebook).argmin(-1)
        assert torch.equal(model.encode(states[None])[0], expected)
        members = torch.stack([states[expected == code].mean(0) for code in range(12)])
        torch.testing.assert_close(model.codebook, members, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("encoder", ["linear", "frozen"])
    def test_is_saved_with_its_members(self, make_model, tmp_path, encoder):
        model = make_model(encoder=encoder).eval()
        states = torch.randn(400, 32)
        model.initialize_codebook(states, 100 * states)
        model.save_pretrained(tmp_path)
        again = CLVQModel.from_pretrained(tmp_path)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        assert again.fingerprint() == model.fingerprint()
        few = model.codebook_only()
        assert torch.equal(few.encode(states[None]), model.encode(states[None]))
        assert torch.equal(few.codebook, model.codebook)
