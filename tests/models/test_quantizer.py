import pytest
import torch

from clvq_hf import CLVQConfig, TopKQuantizer


def quantizer_of(codebook, **fields) -> TopKQuantizer:
    codebook = torch.as_tensor(codebook, dtype=torch.float32)
    config = CLVQConfig(
        hidden_size=codebook.shape[1], codebook_size=len(codebook), num_attention_heads=1, **{"top_k": 1, **fields}
    )
    quantizer = TopKQuantizer(config)
    quantizer.set_codebook(codebook)
    return quantizer


def test_two_updates_by_hand():
    # Codes (0,0) and (4,0), γ = 0.5. Update 1: the tokens (1,0), (0,2) are nearest to code 0, (3,0) to code 1.
    #   N = .5·(1,1) + .5·(2,1) = (1.5, 1);  W = .5·((0,0),(4,0)) + .5·((1,2),(3,0)) = ((.5,1), (3.5,0))
    #   e ≈ W/N = ((1/3, 2/3), (3.5, 0))
    # Update 2: the tokens (2,0), (4,2): distances to e₀ are 3.2 and 15.2, to e₁ 2.25 and 4.25: both are code 1.
    #   N = (.75, 1.5);  W = ((.25,.5), .5·(3.5,0) + .5·(6,2)) = ((.25,.5), (4.75,1));  e = ((1/3,2/3), (19/6,2/3))
    quantizer = quantizer_of([[0, 0], [4, 0]], ema_decay=0.5, ema_epsilon=1e-8).train()
    mask = torch.tensor([[True, True, True, False]])
    _, vectors, codes = quantizer(torch.tensor([[[1.0, 0], [0, 2], [3, 0], [9, 9]]]), mask)
    assert codes.tolist() == [[0, 0, 1, -1]]
    assert vectors.tolist() == [[[0, 0], [0, 0], [4, 0], [0, 0]]]
    assert torch.equal(quantizer.ema_counts, torch.ones(2)), "nothing moves before update()"
    quantizer.update()
    assert quantizer.ema_counts.tolist() == [1.5, 1.0]
    assert quantizer.ema_sums.tolist() == [[0.5, 1.0], [3.5, 0.0]]
    assert torch.allclose(quantizer.codebook, torch.tensor([[1 / 3, 2 / 3], [3.5, 0]]))
    _, _, codes = quantizer(torch.tensor([[[2.0, 0], [4, 2]]]), torch.ones(1, 2, dtype=torch.bool))
    assert codes.tolist() == [[1, 1]]
    quantizer.update()
    assert quantizer.ema_counts.tolist() == [0.75, 1.5]
    assert quantizer.ema_sums.tolist() == [[0.25, 0.5], [4.75, 1.0]]
    assert torch.allclose(quantizer.codebook, torch.tensor([[1 / 3, 2 / 3], [19 / 6, 2 / 3]]))


def test_laplace_smoothing_happens_at_use():
    quantizer = quantizer_of([[2.0], [6.0]], ema_epsilon=0.5)
    quantizer.ema_counts.copy_(torch.tensor([3.0, 1.0]))
    # N̂ = (N+ε)/(ΣN+Kε)·ΣN = (3.5, 1.5)/5·4 = (2.8, 1.2); the raw counts stay as they are.
    assert torch.allclose(quantizer.codebook, torch.tensor([[2 / 2.8], [6 / 1.2]]))
    assert quantizer.ema_counts.tolist() == [3.0, 1.0]


def test_samples_the_nearest_by_softmax_of_the_squared_distance():
    # Distances of 0 to (1, -2, 3, 10): 1, 4, 9, 100; top 3, T = 2.
    quantizer = quantizer_of([[1.0], [-2.0], [3.0], [10.0]], top_k=3, temperature=2.0).train()
    torch.manual_seed(0)
    _, _, codes = quantizer(torch.zeros(1, 200_000, 1), torch.ones(1, 200_000, dtype=torch.bool))
    expected = torch.softmax(-torch.tensor([1.0, 4.0, 9.0]) / 2, dim=0)
    observed = torch.bincount(codes.flatten(), minlength=4) / 200_000
    # Four standard errors of a frequency over 200,000 draws are below 0.005.
    assert torch.allclose(observed[:3], expected, atol=0.005)
    assert observed[3] == 0


def test_argmin_in_evaluation_and_in_encode():
    quantizer = quantizer_of(torch.randn(20, 3), top_k=10, temperature=100.0)
    states, mask = torch.randn(2, 50, 3), torch.ones(2, 50, dtype=torch.bool)
    nearest = torch.cdist(states, quantizer.codebook[None]).argmin(-1)
    assert torch.equal(quantizer.eval()(states, mask)[2], nearest)
    assert torch.equal(quantizer.train().encode(states, mask), nearest)


def test_a_large_common_mean_does_not_drown_the_distances():
    # Hidden states share a large mean; in float32 ||z||² - 2ze + ||e||² would round all differences away.
    codebook = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    states = codebook[None, [2, 0, 1]] + 0.01
    quantizer = quantizer_of(codebook + 3000)
    assert quantizer.encode(states + 3000, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[2, 0, 1]]


def test_straight_through_gradient():
    quantizer = quantizer_of([[0.0, 0.0], [4.0, 0.0]])
    states = torch.tensor([[[1.0, 1.0], [3.0, 0.0]]], requires_grad=True)
    quantized, _, _ = quantizer(states, torch.tensor([[True, True]]))
    assert torch.equal(quantized, torch.tensor([[[0.0, 0.0], [4.0, 0.0]]]))
    (quantized * torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).sum().backward()
    assert torch.equal(states.grad, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))


def test_only_counted_tokens_move_the_codebook():
    quantizer = quantizer_of([[0.0], [4.0]], ema_decay=0.0).train()
    states = torch.tensor([[[1.0], [1.0], [3.0], [float("inf")]]])
    real = torch.tensor([[True, True, True, False]])
    counted = torch.tensor([[True, False, True, True]])
    _, _, codes = quantizer(torch.where(real[..., None], states, 0), real, counted)
    quantizer.update()
    assert codes.tolist() == [[0, 0, 1, -1]], "a token that does not count still has a code"
    assert quantizer.ema_counts.tolist() == [1.0, 1.0]
    assert quantizer.ema_sums.tolist() == [[1.0], [3.0]]


def test_zero_states_are_tokens_like_others():
    quantizer = quantizer_of([[0.0], [4.0]], ema_decay=0.0).train()
    quantizer(torch.zeros(1, 3, 1), torch.ones(1, 3, dtype=torch.bool))
    quantizer.update()
    assert quantizer.ema_counts.tolist() == [3.0, 0.0]


def test_split_batches_give_the_update_of_the_whole():
    codebook, states = torch.randn(5, 3), torch.randn(8, 7, 3)
    mask = torch.rand(8, 7) > 0.3
    whole, split = quantizer_of(codebook).train(), quantizer_of(codebook).train()
    whole(states, mask)
    for part, part_mask in zip(states.split([1, 5, 2]), mask.split([1, 5, 2]), strict=True):
        split(part, part_mask)
    whole.update()
    split.update()
    assert torch.allclose(whole.ema_sums, split.ema_sums, atol=1e-6)
    assert torch.equal(whole.ema_counts, split.ema_counts)


def test_nothing_changes_in_evaluation():
    quantizer = quantizer_of(torch.randn(5, 3)).eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
    assert quantizer.update() == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in quantizer.state_dict().items())


def test_nan_is_refused_before_the_codebook_is_touched():
    quantizer = quantizer_of(torch.randn(5, 3)).train()
    before = quantizer.codebook.clone()
    states = torch.randn(2, 4, 3)
    states[1, 2, 0] = float("nan")
    quantizer(states, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN or Inf"):
        quantizer.update()
    assert torch.equal(quantizer.codebook, before)


def test_revival():
    quantizer = quantizer_of([[0.0], [100.0], [-100.0]], revive_after=2, ema_decay=0.5).train()
    mask = torch.ones(1, 4, dtype=torch.bool)
    states = torch.tensor([[[0.1], [0.2], [0.3], [0.4]]])
    quantizer(states, mask)
    assert quantizer.update() == 0
    assert quantizer.updates_since_use.tolist() == [0, 1, 1]
    quantizer(states, mask)
    assert quantizer.update() == 2
    assert quantizer.updates_since_use.tolist() == [0, 0, 0]
    assert quantizer.ema_counts[1:].tolist() == [1.0, 1.0]
    revived = {round(value, 4) for value in quantizer.ema_sums[1:].flatten().tolist()}
    assert len(revived) == 2 and revived <= {0.1, 0.2, 0.3, 0.4}, "distinct states of the last batch"


def test_revival_is_off_by_default():
    quantizer = quantizer_of([[0.0], [100.0]], ema_decay=0.5).train()
    for _ in range(5):
        quantizer(torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))
        assert quantizer.update() == 0
    assert quantizer.codebook[1].item() == pytest.approx(100, rel=1e-3)
