"""Features and targets as batches, in an order that depends on seed and epoch only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

Loader = DataLoader[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Arrays:
    """Features and targets of one part of the data; a batch has them, and each sample's place in the part.

    Args:
        inputs: float32, ``(sample, channel, time, frequency)``.
        targets: class numbers, ``(sample,)``.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.int64]

    def in_order(self, batch: int) -> Loader:
        """Every sample once."""
        return DataLoader(self._tensors(), batch_size=batch)

    def shuffled(self, batch: int, *, seed: int, rank: int = 0, devices: int = 1) -> Loader:
        """One device's share, in another order each epoch; see `Shuffled`."""
        order = Shuffled(len(self.targets), seed, rank, devices)
        # A last batch of one sample would give batch norm nothing to average over.
        drop_last = len(order) > batch and len(order) % batch == 1
        return DataLoader(self._tensors(), batch_size=batch, sampler=order, drop_last=drop_last)

    def _tensors(self) -> TensorDataset:
        items = torch.arange(len(self.targets))
        return TensorDataset(torch.from_numpy(self.inputs), torch.from_numpy(self.targets), items)


class Shuffled(Sampler[int]):
    """A random order that is the same for the same seed and epoch, so that a resumed training goes on in it.

    Lightning calls `set_epoch` before each epoch.

    Args:
        samples: how many there are.
        seed: of all orders.
        rank, devices: which of how many equal shares is given; samples that do not divide evenly are left
            out, others in each epoch.
    """

    def __init__(self, samples: int, seed: int, rank: int = 0, devices: int = 1) -> None:
        self.samples, self.seed, self.rank, self.devices = samples, seed, rank, devices
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, self.samples // self.devices)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        return iter(np.resize(order[self.rank :: self.devices], len(self)).tolist())
