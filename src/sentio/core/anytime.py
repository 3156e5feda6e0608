"""Anytime inference over a row of stages: the one loop every policy, deadline and runtime shares.

No PyTorch here: the loop only moves named arrays between stages and asks the row to run them, so the same
code drives a network in PyTorch and its exported stages in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: What crosses a boundary: tensor name -> array, batch first. The usual single tensor is called ``main``.
Boundary = dict[str, Any]
#: The exit behind the last stage.
FINAL = "final"
#: The name of a boundary's tensor where there is only one.
MAIN = "main"


@dataclass(frozen=True)
class ExitPoint:
    """Where an exit sits and what it reads.

    ``after`` names the stage behind which it is evaluated; ``reads`` are (boundary, tensor) pairs, a
    boundary bearing the name of the stage that ends there. The latest of them is ``after``.
    """

    name: str
    after: str
    reads: tuple[tuple[str, str], ...]


class Row(Protocol):
    """A network as the anytime loop sees it: stages and exits by name."""

    @property
    def stage_names(self) -> tuple[str, ...]: ...

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
    left: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.left = np.zeros(len(self.samples), dtype=bool)

    def drop(self, mask: Any) -> None:
        """These samples leave: no later stage computes them.

        Args:
            mask: booleans, shape ``(len(samples),)``.

        Raises:
            ValueError: the mask does not have one entry per sample of this step.
        """
        chosen = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask).astype(bool)
        if chosen.shape != self.left.shape:
            raise ValueError(
                f"drop() at exit {self.exit!r} takes one boolean for each of the {len(self.left)} samples "
                f"still in the batch, got shape {chosen.shape}"
            )
        self.left |= chosen


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
    points = [point for point in row.exit_points if evaluates is None or evaluates(point.name)]
    at: dict[str, list[ExitPoint]] = {}
    for point in points:
        at.setdefault(point.after, []).append(point)
    last_stage = points[-1].after if points else None

    boundary = row.start(inputs)
    samples = np.arange(batch_size(boundary))
    kept: dict[tuple[str, str], Any] = {}
    for index, name in enumerate(row.stage_names):
        boundary = row.run_stage(name, boundary)
        due = at.get(name, [])
        later = points_after(points, row.stage_names, index)
        wanted = {read for point in [*due, *later] for read in point.reads}
        kept = {key: value for key, value in kept.items() if key in wanted}
        kept |= {(b, t): boundary[t] for b, t in wanted if b == name}
        for point in due:
            step = Step(point.name, row.run_exit(point.name, [kept[read] for read in point.reads]), samples)
            yield step
            if step.left.any():
                rows = np.flatnonzero(~step.left)
                if not len(rows):
                    return
                samples = samples[rows]
                boundary = {key: row.take(value, rows) for key, value in boundary.items()}
                kept = {key: row.take(value, rows) for key, value in kept.items()}
        if name == last_stage:
            return


def points_after(points: Collection[ExitPoint], stages: tuple[str, ...], index: int) -> list[ExitPoint]:
    """The exits that are evaluated behind a stage later than ``stages[index]``."""
    return [point for point in points if stages.index(point.after) > index]


def batch_size(boundary: Mapping[str, Any]) -> int:
    """The number of samples in a boundary: the common length of its tensors' first axes."""
    return int(next(iter(boundary.values())).shape[0])
