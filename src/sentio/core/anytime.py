"""Anytime inference over a row of stages: the one loop every policy, deadline and runtime shares.

No PyTorch here: the loop only moves named arrays between stages and asks the row to run them, so the same
code drives a network in PyTorch and its exported stages in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError, StageError

#: What crosses a boundary: tensor name -> array, batch first. The usual single tensor is called ``main``.
Boundary = dict[str, Any]
#: What an exit reads: a boundary and one of its tensors.
Read = tuple[str, str]
#: The exit behind the last stage.
FINAL = "final"
#: The name of a boundary's tensor where there is only one.
MAIN = "main"


class ExitPoint(NamedTuple):
    """Where an exit sits and what it reads.

    ``after`` names the stage behind which it is evaluated; ``reads`` are (boundary, tensor) pairs, a
    boundary bearing the name of the stage that ends there. The latest of them is ``after``.
    """

    name: str
    after: str
    reads: tuple[Read, ...]


class Row(Protocol):
    """A network as the anytime loop sees it: stages and exits by name.

    A row may also offer ``run_stages(names, boundary)``, which runs consecutive stages in one call; the loop
    then comes back to Python only where an exit is due or reads, which a small network feels.
    """

    @property
    def stage_names(self) -> tuple[str, ...]: ...

    @property
    def exit_names(self) -> tuple[str, ...]:
        """All exits in order, those switched off included; the last is ``final``."""
        ...

    @property
    def exit_points(self) -> tuple[ExitPoint, ...]:
        """The exits that are switched on, in the order of evaluation; the last is ``final``."""
        ...

    def start(self, inputs: Any) -> Boundary:
        """The network's input as a boundary."""
        ...

    def run_stage(self, name: str, boundary: Boundary) -> Boundary: ...

    def run_exit(self, name: str, tensors: list[Any]) -> Any: ...

    def take(self, array: Any, rows: NDArray[np.intp]) -> Any:
        """The given rows of an array's first axis."""
        ...

    def to_numpy(self, array: Any) -> NDArray[Any]: ...


@dataclass
class Step:
    """One evaluated exit: its output and the samples it belongs to.

    ``samples`` holds, for each row of ``output``, the index of the sample in the batch that was given.
    """

    exit: str
    output: Any
    samples: NDArray[np.intp]
    _left: NDArray[np.bool_] | None = field(default=None, init=False, repr=False)

    @property
    def left(self) -> NDArray[np.bool_]:
        """Which samples have been dropped here, ``(len(samples),)``."""
        return np.zeros(len(self.samples), dtype=bool) if self._left is None else self._left

    def drop(self, mask: Any) -> None:
        """These samples leave: no later stage computes them.

        To be called before the iteration goes on; called again, it drops these samples too.

        Args:
            mask: booleans, an array, tensor or list of shape ``(len(samples),)``.

        Raises:
            InputError: the mask is not one boolean for each sample of this step.
        """
        chosen = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
        if chosen.shape != self.samples.shape or chosen.dtype != np.bool_:
            raise InputError(
                f"drop() at exit {self.exit!r} takes one boolean for each of the {len(self.samples)} samples "
                f"still in the batch, got {chosen.dtype} of shape {chosen.shape}"
            )
        self._left = chosen if self._left is None else self._left | chosen


def anytime(
    row: Row,
    inputs: Any,
    *,
    evaluates: Callable[[str], bool] | None = None,
) -> Iterator[Step]:
    """Run a row stage by stage and yield every exit as it is reached.

    Samples dropped from a step are taken out of everything that later stages and exits still need; when
    none is left the loop ends. Stopping the iteration stops the computation.

    Args:
        row: the network.
        inputs: its input, an array or named arrays, batch first.
        evaluates: which exits to compute; all that are switched on if None. Computation ends at the last
            exit that is evaluated.
    """
    points = tuple(point for point in row.exit_points if evaluates is None or evaluates(point.name))
    run_stages = getattr(row, "run_stages", None) or partial(_one_by_one, row)
    boundary = row.start(inputs)
    samples = _everyone(batch_size(boundary))
    kept: dict[Read, Any] = {}
    for leg in _legs(points, row.stage_names):
        boundary = run_stages(leg.stages, boundary)
        kept |= read_boundary(leg.stages[-1], boundary, leg.reads)
        for point in leg.due:
            step = Step(point.name, row.run_exit(point.name, [kept[read] for read in point.reads]), samples)
            yield step
            if step._left is not None and step._left.any():
                rows = np.flatnonzero(~step._left)
                if not len(rows):
                    return
                samples = samples[rows]
                boundary = {key: row.take(value, rows) for key, value in boundary.items()}
                kept = {key: row.take(value, rows) for key, value in kept.items()}
        kept = {key: kept[key] for key in leg.later}


@lru_cache(maxsize=64)
def _everyone(count: int) -> NDArray[np.intp]:
    """The indices of all samples; shared between calls, so they cannot be written to."""
    samples = np.arange(count)
    samples.flags.writeable = False
    return samples


class _Leg(NamedTuple):
    """Stages that run without a stop, and what is due behind the last of them."""

    stages: tuple[str, ...]
    reads: tuple[Read, ...]  # of the boundary behind them
    due: tuple[ExitPoint, ...]
    later: tuple[Read, ...]  # of this and earlier boundaries, by later exits


@lru_cache(maxsize=64)
def _legs(points: tuple[ExitPoint, ...], stages: tuple[str, ...]) -> tuple[_Leg, ...]:
    """The way from exit to exit; it stops behind each stage where an exit is due or reads."""
    names = {name for point in points for name in (point.after, *(boundary for boundary, _ in point.reads))}
    legs, begin, seen = [], 0, set()
    for end in sorted(map(stages.index, names)):
        name = stages[end]
        due = tuple(point for point in points if point.after == name)
        later = {read for point in points_after(points, stages, end) for read in point.reads}
        reads = {read for read in later.union(*(point.reads for point in due)) if read[0] == name}
        seen |= reads
        legs.append(_Leg(stages[begin : end + 1], tuple(reads), due, tuple(later & seen)))
        begin = end + 1
    return tuple(legs)


def _one_by_one(row: Row, names: tuple[str, ...], boundary: Boundary) -> Boundary:
    for name in names:
        boundary = row.run_stage(name, boundary)
    return boundary


def read_boundary(name: str, boundary: Boundary, wanted: Collection[Read]) -> dict[Read, Any]:
    """What the ``wanted`` (boundary, tensor) pairs name in the boundary called ``name``.

    Raises:
        StageError: the boundary has no such tensor.
    """
    found = {}
    for read in wanted:
        if read[0] == name:
            if read[1] not in boundary:
                raise StageError(
                    f"An exit reads tensor {read[1]!r} behind stage {name!r}, which gives only: "
                    f"{', '.join(boundary)}"
                )
            found[read] = boundary[read[1]]
    return found


def points_after(points: Collection[ExitPoint], stages: tuple[str, ...], index: int) -> list[ExitPoint]:
    """The exits that are evaluated behind a stage later than ``stages[index]``."""
    return [point for point in points if stages.index(point.after) > index]


def batch_size(boundary: Mapping[str, Any]) -> int:
    """The number of samples in a boundary: the common length of its tensors' first axes.

    Raises:
        InputError: there is no tensor, or their lengths differ.
    """
    sizes = {int(tensor.shape[0]) for tensor in boundary.values()}
    if len(sizes) != 1:
        lengths = {name: int(tensor.shape[0]) for name, tensor in boundary.items()}
        raise InputError(f"The tensors of a batch need one common first axis, got lengths {lengths}")
    return sizes.pop()
