"""Features and targets as batches, in an order that depends on seed and epoch only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

Loader = DataLoader[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Arrays:
    """Features and targets of one part of the data.

    Args:
        inputs: float32, ``(sample, channel, time, frequency)``.
        targets: class numbers, ``(sample,)``.
        copies: augmented copies of the inputs, ``(copy, sample, channel, time, frequency)``; None for none.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.int64]
    copies: NDArray[np.float32] | None = None

    def in_order(self, batch: int) -> Loader:
        """Every sample once."""
        return DataLoader(self._tensors(), batch_size=batch)

    def shuffled(self, batch: int, *, seed: int, rank: int = 0, devices: int = 1) -> Loader:
        """One device's share, each sample or one of its copies, anew each epoch; see `Shuffled`."""
        versions = 1 if self.copies is None else 1 + len(self.copies)
        order = Shuffled(len(self.targets), seed, rank, devices, versions)
        # A last batch of one sample would give batch norm nothing to average over.
        drop_last = len(order) > batch and len(order) % batch == 1
        data = self._tensors() if self.copies is None else _Versions(self.inputs, self.targets, self.copies)
        return DataLoader(data, batch_size=batch, sampler=order, drop_last=drop_last)

    def _tensors(self) -> TensorDataset:
        return TensorDataset(torch.from_numpy(self.inputs), torch.from_numpy(self.targets))


class _Versions(Dataset[tuple[Tensor, ...]]):
    """Samples and their copies without a second array: number ``copy * samples + sample``, 0 the original."""

    def __init__(
        self, inputs: NDArray[np.float32], targets: NDArray[np.int64], copies: NDArray[np.float32]
    ) -> None:
        self.versions = [torch.from_numpy(inputs), *torch.from_numpy(copies)]
        self.targets = torch.from_numpy(targets)

    def __len__(self) -> int:
        return len(self.versions) * len(self.targets)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        version, sample = divmod(number, len(self.targets))
        return self.versions[version][sample], self.targets[sample]


class Shuffled(Sampler[int]):
    """A random order that is the same for the same seed and epoch, so that a resumed training goes on in it.

    Lightning calls `set_epoch` before each epoch.

    Args:
        samples: how many there are.
        seed: of all orders.
        rank, devices: which of how many equal shares is given; samples that do not divide evenly are left
            out, others in each epoch.
        versions: of each sample, the original and its copies; one is drawn in each epoch, and ``samples``
            times its number is added.
    """

    def __init__(self, samples: int, seed: int, rank: int = 0, devices: int = 1, versions: int = 1) -> None:
        self.samples, self.seed, self.rank, self.devices = samples, seed, rank, devices
        self.versions = versions
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, self.samples // self.devices)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.samples)
        if self.versions > 1:
            order += self.samples * generator.integers(self.versions, size=self.samples)
        return iter(np.resize(order[self.rank :: self.devices], len(self)).tolist())
