"""Features and targets as batches, in an order that depends on seed and epoch only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from sentio.core.features import each, first_of, rows_of
from sentio.techniques.objective import SampleOrder

Loader = DataLoader[tuple[Any, ...]]


@dataclass(frozen=True)
class Arrays:
    """Features and targets of one part of the data; a batch has them, and each sample's place in the part.

    Args:
        inputs: float32, ``(sample, channel, time, frequency)``, or what ``finish`` makes so; arrays by name
            where the network takes several.
        targets: class numbers, ``(sample,)``, or arrays by name, as the task makes them.
        copies: augmented copies of the inputs, ``(copy, sample, channel, time, frequency)``; None for none.
        rows: the recording that each sample is a window of, ``(sample,)``, where an epoch is to take one
            window of each; None to take every sample.
        finish: from the inputs of a batch to what the network takes; None where they are that already.
    """

    inputs: Any
    targets: Any
    copies: NDArray[np.float32] | None = None
    rows: NDArray[np.int64] | None = None
    finish: Callable[[Any], Any] | None = None

    def __len__(self) -> int:
        return len(first_of(self.inputs))

    def in_order(self, batch: int) -> Loader:
        """Every sample once, no copies."""
        return DataLoader(_Samples(self), batch_size=batch, collate_fn=_whole)

    def shuffled(
        self, batch: int, *, seed: int, rank: int = 0, devices: int = 1, plan: SampleOrder | None = None
    ) -> Loader:
        """One device's share, each sample or one of its copies, anew each epoch; see `Shuffled`.

        With a plan, batches are drawn as it says until it gives everything, see `Planned`.
        """
        versions = 1 if self.copies is None else 1 + len(self.copies)
        order = Shuffled(len(self), seed, rank, devices, versions, self.rows)
        # A last batch of one sample would give batch norm nothing to average over.
        drop_last = len(order) > batch and len(order) % batch == 1
        if plan is None:
            return DataLoader(
                _Samples(self), batch_size=batch, sampler=order, drop_last=drop_last, collate_fn=_whole
            )
        batches = Planned(BatchSampler(order, batch, drop_last), order, plan)
        return DataLoader(_Samples(self), batch_sampler=batches, collate_fn=_whole)


class _Samples(Dataset[tuple[Any, ...]]):
    """Inputs, targets and places of a batch at once: one by one they cost as much as a small network.

    Sample ``s`` of copy ``c`` has the number ``c * samples + s``, copy 0 being the original.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.versions = [each(arrays.inputs, torch.from_numpy)]
        if arrays.copies is not None:
            self.versions += torch.from_numpy(arrays.copies)
        self.targets = each(arrays.targets, torch.from_numpy)
        self.finish = arrays.finish
        self.count = len(arrays)

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, numbers: list[int]) -> tuple[Any, ...]:
        copies, samples = np.divmod(np.array(numbers, dtype=np.int64), self.count)
        places = torch.from_numpy(samples)
        if len(self.versions) == 1:
            inputs = rows_of(self.versions[0], places)
        else:
            inputs = torch.stack([self.versions[c][s] for c, s in zip(copies, samples, strict=True)])
        if self.finish is not None:
            arrays = self.finish(each(inputs, lambda tensor: tensor.numpy()))
            inputs = each(arrays, torch.from_numpy)
        return inputs, rows_of(self.targets, places), places


def _whole(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    return batch


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
        rows: the recording of each sample; with them an epoch has one sample of each recording, drawn anew.
    """

    def __init__(
        self,
        samples: int,
        seed: int,
        rank: int = 0,
        devices: int = 1,
        versions: int = 1,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.samples, self.seed, self.rank, self.devices = samples, seed, rank, devices
        self.versions = versions
        self.epoch = 0
        self.windows: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]] | None = None
        if rows is not None:
            # The samples in the order of their recordings, and where each recording begins, and its length.
            _, begins, counts = np.unique(np.sort(rows), return_index=True, return_counts=True)
            self.windows = np.argsort(rows, kind="stable"), begins, counts

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, self._drawn // self.devices)

    @property
    def _drawn(self) -> int:
        """How many samples an epoch has."""
        return self.samples if self.windows is None else len(self.windows[1])

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self._drawn)
        if self.windows is not None:
            samples, begins, counts = self.windows
            order = samples[begins[order] + generator.integers(counts[order])]
        if self.versions > 1:
            order += self.samples * generator.integers(self.versions, size=len(order))
        return iter(np.resize(order[self.rank :: self.devices], len(self)).tolist())


class Planned(Sampler[list[int]]):
    """Batches of a technique's own order, and ordinary ones from the epoch in which that gives everything.

    Every epoch has as many batches as an ordinary one.

    Args:
        ordinary: the batches of an ordinary epoch.
        sampler: its samples; Lightning tells it the epoch.
        plan: what is drawn from before.
    """

    def __init__(self, ordinary: BatchSampler, sampler: Shuffled, plan: SampleOrder) -> None:
        self.ordinary, self.sampler, self.plan = ordinary, sampler, plan
        self.ordinary_from = plan.full_from(len(ordinary))

    def __len__(self) -> int:
        return len(self.ordinary)

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = self.sampler
        if shuffled.epoch >= self.ordinary_from:
            yield from self.ordinary
            return
        generator = np.random.default_rng([shuffled.seed, shuffled.epoch, shuffled.rank])
        drawn = self.plan.batches(
            shuffled.epoch, len(self), self.ordinary.batch_size, (shuffled.seed, shuffled.rank)
        )
        for places in drawn:
            copies = generator.integers(shuffled.versions, size=len(places))
            yield (places + shuffled.samples * copies).tolist()
