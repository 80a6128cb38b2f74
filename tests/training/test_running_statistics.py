import pytest
import torch

from clvq_hf.training.running_statistics import RunningStatistics

NAMES = ("loss", "reconstruction_loss", "commitment_loss")


@pytest.fixture
def batches(make_model):
    """Batches of unlike size and mask, from a target with a large mean, and the model that reads them."""
    model = make_model().eval()
    generator = torch.Generator().manual_seed(0)
    batches = []
    for rows, length in ((3, 7), (1, 2), (5, 11)):
        states = torch.randn(rows, length, 32, generator=generator)
        target = 1000 + torch.randn(rows, length, 32, generator=generator)
        mask = torch.rand(rows, length, generator=generator) > 0.3
        mask[:, 0] = True
        batches.append((states, mask, target))
    return model, batches


def test_figures_are_those_of_all_tokens_at_once(batches):
    model, batches = batches
    statistics = RunningStatistics(NAMES, 12, 32, torch.device("cpu"))
    targets, residuals, codes, commitments = [], [], [], []
    for states, mask, target in batches:
        output = model(states, mask, target)
        statistics.update(output, target, mask, mask.sum())
        targets.append(target[mask].double())
        residuals.append((output.reconstruction[mask] - target[mask]).double())
        commitments.append((output.encoder_states[mask] - model.quantizer.codebook[output.codes[mask]]).double())
        codes.append(output.codes[mask])
    target, residual, code = torch.cat(targets), torch.cat(residuals), torch.cat(codes)
    variance = (target - target.mean(0)).square().sum()
    frequency = torch.bincount(code).double() / len(code)
    figures = statistics.compute()
    assert figures["explained_variance"] == pytest.approx((1 - residual.square().sum() / variance).item(), rel=1e-4)
    assert figures["reconstruction_loss"] == pytest.approx(residual.square().mean().item(), rel=1e-5)
    assert figures["commitment_loss"] == pytest.approx(torch.cat(commitments).square().mean().item(), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(torch.special.entr(frequency).sum().exp().item(), rel=1e-5)
    assert figures["active_codes"] == (frequency > 0).sum()


def test_variance_survives_a_large_mean(make_model):
    # Σy² - (Σy)²/n in float32 would be off by more than the variance itself.
    model = make_model().eval()
    states, target = torch.randn(4, 50, 32), 1e4 + torch.randn(4, 50, 32)
    statistics = RunningStatistics(NAMES, 12, 32, torch.device("cpu"))
    for part in range(4):
        output = model(states[part : part + 1], None, target[part : part + 1])
        output.reconstruction = target[part : part + 1] + 0.5
        mask = torch.ones(1, 50)
        statistics.update(output, target[part : part + 1], mask, 50)
    flat = target.flatten(0, 1).double()
    variance = (flat - flat.mean(0)).square().mean().item()
    assert statistics.compute()["explained_variance"] == pytest.approx(1 - 0.25 / variance, rel=1e-3)


def test_figures_of_any_name_are_means_over_tokens(make_sparse):
    model = make_sparse().eval()
    statistics = RunningStatistics(("loss", *model.loss_names), 24, 32, torch.device("cpu"))
    active, tokens = [], 0
    for rows, length in ((3, 7), (1, 2)):
        states, target = torch.randn(rows, length, 32), torch.randn(rows, length, 32)
        mask = torch.ones(rows, length)
        mask[:, 0] = 0
        output = model(states, None, target, mask)
        statistics.update(output, target, mask, mask.sum())
        active.append(model.activations(states)[:, 1:].flatten(0, 1))
        tokens += rows * (length - 1)
    active, figures = torch.cat(active), statistics.compute()
    assert set(figures) == {"loss", *model.loss_names, "explained_variance", "perplexity", "active_codes"}
    assert figures["num_active"] == pytest.approx((active > 0).sum().item() / tokens, rel=1e-5)
    assert figures["sparsity_loss"] == pytest.approx(active.sum().item() / tokens / 32**0.5, rel=1e-5)
    expected = figures["reconstruction_loss"] + model.config.sparsity_cost * figures["sparsity_loss"]
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)


def test_nothing_seen_gives_nothing():
    assert RunningStatistics(NAMES, 12, 32, torch.device("cpu")).compute() == {}


def test_what_the_mean_of_each_code_explains(batches):
    model, batches = batches
    statistics = RunningStatistics(NAMES, 12, 32, torch.device("cpu"), by_code=True)
    targets, codes = [], []
    for states, mask, target in batches:
        output = model(states, mask, target)
        statistics.update(output, target, mask, mask.sum())
        targets.append(target[mask].double())
        codes.append(output.codes[mask])
    target, code = torch.cat(targets), torch.cat(codes)
    used = code.unique()
    means = torch.stack([target[code == each].mean(0) if each in used else target.mean(0) for each in range(12)])
    within = (target - means[code]).square().sum() / (len(code) - len(used))
    whole = (target - target.mean(0)).square().sum() / (len(code) - 1)
    assert statistics.compute()["code_explained_variance"] == pytest.approx(float(1 - within / whole), abs=1e-5)
