import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from clvq_hf.training.sampling import EpochLengthSampler


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=300), batch=st.integers(1, 40))
def test_every_text_once_an_epoch(lengths, batch):
    sampler = EpochLengthSampler(lengths, batch, seed=3)
    for epoch in range(3):
        assert sorted(epoch_of(sampler, epoch)) == list(range(len(lengths)))


def test_a_function_of_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    first, second = EpochLengthSampler(lengths, 8, seed=1), EpochLengthSampler(lengths, 8, seed=1)
    epochs = [epoch_of(first, epoch) for epoch in range(3)]
    assert epoch_of(second, 2) == epochs[2], "no matter what was drawn before"
    assert epochs[0] != epochs[1] != epochs[2]
    assert epoch_of(EpochLengthSampler(lengths, 8, seed=2), 0) != epochs[0]


def test_batches_hold_texts_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 200, 4000)
    order = np.array(list(EpochLengthSampler(lengths, 8, seed=0)))
    padded = lengths[order].reshape(-1, 8).max(1).sum() * 8
    assert padded < 1.05 * lengths.sum()
    random = lengths[np.random.default_rng(1).permutation(4000)].reshape(-1, 8).max(1).sum() * 8
    assert random > 1.6 * lengths.sum()


def test_batches_are_not_sorted_by_length():
    lengths = np.arange(4000)
    means = lengths[list(EpochLengthSampler(lengths, 8, seed=0))].reshape(-1, 8).mean(1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@pytest.mark.parametrize(("processes", "batch", "accumulation"), [(2, 4, 1), (4, 2, 1), (2, 2, 2), (1, 4, 2)])
def test_optimizer_steps_are_the_same_for_any_number_of_processes(processes, batch, accumulation):
    lengths = np.random.default_rng(0).integers(1, 60, 83)
    alone = list(EpochLengthSampler(lengths, 8, seed=1))
    shards = [
        list(
            BatchSamplerShard(
                BatchSampler(EpochLengthSampler(lengths, 8, seed=1), batch, drop_last=False), processes, rank
            )
        )
        for rank in range(processes)
    ]
    for step in range(len(lengths) // 8):
        texts = [
            index
            for shard in shards
            for part in shard[step * accumulation : (step + 1) * accumulation]
            for index in part
        ]
        assert sorted(texts) == sorted(alone[step * 8 : step * 8 + 8])
