"""The order in which texts are seen: grouped by length, and a function of seed and epoch alone."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Long enough to find neighbours of about the same length, short enough that epochs differ.
BATCHES_PER_BUCKET = 50


class EpochLengthSampler(Sampler[int]):
    """Shuffled indices in which each *global* batch holds texts of about the same length.

    The permutation is a function of `(seed, epoch)`: every process draws the same one, and a resumed run the one that
    it was interrupted in. (The sampler of transformers has neither a seed nor an epoch.) Buckets are sized by the
    batch of a whole optimizer step, so one process with a batch of 8 and two with a batch of 4 see the same steps.

    Args:
        lengths (`Sequence[int]`): Length of each text in tokens.
        global_batch_size (`int`): Texts per optimizer step: over all processes and accumulated batches.
        seed (`int`): Seed of the permutations.
    """

    def __init__(self, lengths: Sequence[int], global_batch_size: int, seed: int) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of `epoch`; takes effect at the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        shuffled = torch.randperm(len(self), generator=generator)
        buckets = shuffled.split(self.global_batch_size * BATCHES_PER_BUCKET)
        grouped = torch.cat([bucket[self.lengths[bucket].argsort(descending=True, stable=True)] for bucket in buckets])
        batches = list(grouped.split(self.global_batch_size))
        # Batches are shuffled too, or every bucket would run from long texts to short ones. A short last batch stays
        # last, or the ones after it would no longer be aligned with optimizer steps.
        order = torch.randperm(len(self) // self.global_batch_size, generator=generator).tolist()
        rest = range(len(order), len(batches))
        for index in (*order, *rest):
            yield from batches[index].tolist()
