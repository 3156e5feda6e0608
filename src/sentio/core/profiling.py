"""What each stage and each exit costs: parameters, operations, bytes that cross, milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sentio.core.anytime import FINAL, MAIN, Boundary, batch_size, points_after
from sentio.core.counting import check_rule, counted
from sentio.core.errors import ConfigError
from sentio.core.features import FrontEnd
from sentio.core.multi_exit import MultiExit
from sentio.core.numeric import whole
from sentio.core.policy import ExitCosts
from sentio.core.row_timing import due, frontend_times, row_times
from sentio.core.staged import Shape, Staged, as_boundary, as_value
from sentio.core.tables import drawn

FRONTEND, STAGE, EXIT = "frontend", "stage", "exit"


@dataclass(frozen=True)
class ProfileRow:
    """One line of a profile, in order of execution.

    Args:
        kind: ``frontend``, ``stage`` or ``exit``.
        name: of the stage or exit.
        parameters: numbers in its parameters.
        macs: work for one sample under the profile's rule; None for a front end, which is not counted.
        cumulative_macs: of everything that has run when this row is done, all exits before it included.
        path_macs: of the stages so far and of this row, no other exit.
        boundary_bytes: per sample, what crosses behind this stage: its tensors, and earlier ones that a
            later exit still reads; None for an exit.
        output_shapes: tensor name -> shape without the batch axis.
        ms, p95_ms: median and 95th percentile of the measured time, for the whole batch, an exit's with the
            decision whether to leave; None if nothing was measured.
        cumulative_ms: sum of the medians up to this row.
    """

    kind: str
    name: str
    parameters: int
    macs: int | None
    cumulative_macs: int
    path_macs: int
    boundary_bytes: int | None
    output_shapes: dict[str, Shape]
    ms: float | None = None
    p95_ms: float | None = None
    cumulative_ms: float | None = None


@dataclass(frozen=True)
class Profile:
    """The costs of a network, row by row; see `profile`.

    Args:
        rows: front end if any, stages, and each exit right behind the stage after which it is evaluated.
            The ``final`` exit is the last stage's output and has no row.
        rule: of counting.
        parameters: of the whole network, shared ones once.
        batch: samples in the timed batch.
        device, threads, torch: where and with what it was timed.
        repeats: timed runs; 0 if nothing was measured.
        answer_ms: exit -> median milliseconds of `MultiExit.predict` for the whole batch if all leave there;
            empty if nothing was measured.
    """

    rows: tuple[ProfileRow, ...]
    rule: str
    parameters: int
    batch: int
    device: str
    threads: int
    torch: str
    repeats: int
    answer_ms: dict[str, float] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Work for one sample, exits included."""
        return self.rows[-1].cumulative_macs

    def exit_macs(self) -> dict[str, int]:
        """For each exit in order, ``final`` last: the work until it has answered, earlier exits included."""
        return {name: row.cumulative_macs for name, row in self._exits()}

    def exit_ms(self) -> dict[str, float]:
        """For each exit in order: milliseconds per sample until it has answered, without the front end.

        They are those of whole answers: stages, exits, decisions, and what a call takes around them, which
        is why they come to a little more than the rows before the exit.

        Raises:
            ConfigError: the profile was made with ``measure=False``.
        """
        if not self.repeats:
            raise ConfigError("This profile has no milliseconds; make it with measure=True")
        return {name: ms / self.batch for name, ms in self.answer_ms.items()}

    @property
    def costs(self) -> ExitCosts:
        """The same as policies take it; without milliseconds if none were measured."""
        macs = self.exit_macs()
        ms = tuple(self.exit_ms().values()) if self.repeats else None
        return ExitCosts(tuple(macs), tuple(map(float, macs.values())), ms)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        facts = {key: value for key, value in vars(self).items() if key != "rows"}
        rows = [
            {**asdict(row), "output_shapes": {key: list(shape) for key, shape in row.output_shapes.items()}}
            for row in self.rows
        ]
        exits: dict[str, dict[str, float]] = {name: {"macs": macs} for name, macs in self.exit_macs().items()}
        if self.repeats:
            for name, ms in self.exit_ms().items():
                exits[name]["ms"] = ms
        return {**facts, "macs": self.macs, "rows": rows, "exits": exits}

    def table(self) -> str:
        """The rows as plain text."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="")
        table.add_column("")
        table.add_column("name")
        titles = ["parameters", self.rule, "cumulative", "path", "bytes", "output"]
        for title in [*titles, *(["ms", "p95", "cumulative ms", "answer ms"] if self.repeats else [])]:
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*self._cells(row))
        return drawn(table, width=220)

    def _cells(self, row: ProfileRow) -> list[str]:
        cells = [row.kind, row.name, f"{row.parameters:,}"]
        cells += [
            _number(value) for value in (row.macs, row.cumulative_macs, row.path_macs, row.boundary_bytes)
        ]
        cells.append(_shapes(row.output_shapes))
        if self.repeats:
            answer = row.name if row.kind == EXIT else FINAL if row is self.rows[-1] else ""
            times = (row.ms, row.p95_ms, row.cumulative_ms, self.answer_ms.get(answer))
            cells += ["" if value is None else f"{value:.3f}" for value in times]
        return cells

    def _exits(self) -> Iterator[tuple[str, ProfileRow]]:
        for row in self.rows:
            if row.kind == EXIT:
                yield row.name, row
        yield FINAL, self.rows[-1]


def profile(
    net: Any,
    x: Any = None,
    *,
    rule: str = "macs",
    measure: bool = True,
    repeats: int = 30,
    warmup: int = 5,
    threads: int | None = None,
    batch: int = 1,
) -> Profile:
    """Cost of every stage and of every exit that is switched on, in order of execution.

    Args:
        net: a `Staged`, a `MultiExit`, or a `Model`, whose front end then is row 0.
        x: an input, batch first; by default a random one of the network's own shape.
        rule: what is counted; see `sentio.core.counting.count`.
        measure: whether to run and time it too. Without, nothing is computed and large networks are quick.
        repeats, warmup: timed runs, and runs before them.
        threads: PyTorch's threads while timing; as they are set if None.
        batch: samples in the random input.

    Raises:
        ConfigError: not a network in stages, or a number out of range.
        UnknownNameError: no such rule.
        StageError: no ``x``, and the network does not know its input shape.
    """
    check_rule(rule)
    for name, value, least in (("repeats", repeats, 1), ("warmup", warmup, 0), ("batch", batch, 1)):
        if not whole(value) or value < least:
            raise ConfigError(f"profile() needs {name} of at least {least}, got {value!r}")
    if threads is not None and (not whole(threads) or threads < 1):
        raise ConfigError(f"profile() needs at least one thread, got {threads!r}")
    frontend = getattr(net, "frontend", None)
    net = net.network if hasattr(net, "frontend") else net
    if not isinstance(net, Staged | MultiExit):
        raise ConfigError(
            f"profile() takes a network in stages, got {type(net).__name__}; cut it with sentio.stage() first"
        )
    row = net if isinstance(net, MultiExit) else MultiExit(net)
    device = _device(net)
    inputs = _to(row.start(row.backbone.example(batch) if x is None else x), device)
    rows = _counted_rows(row, inputs, rule)
    if frontend is not None:
        rows.insert(0, _frontend_row(frontend))
    with _threads(threads):
        answer_ms: dict[str, float] = {}
        if measure:
            times, answers = row_times(row, inputs, repeats, warmup)
            answer_ms = {name: float(np.median(laps)) for name, laps in answers.items()}
            if frontend is not None:
                times.insert(0, frontend_times(frontend, repeats, warmup))
            rows = _with_times(rows, times)
        return Profile(
            rows=tuple(rows),
            rule=rule,
            parameters=_parameters(net),
            batch=batch_size(inputs),
            device=str(device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            repeats=repeats if measure else 0,
            answer_ms=answer_ms,
        )


def _counted_rows(net: MultiExit, inputs: Boundary, rule: str) -> list[ProfileRow]:
    rows: list[ProfileRow] = []
    seen: dict[tuple[str, str], Tensor] = {}
    boundary, stages_so_far, so_far = inputs, 0, 0
    for index, name in enumerate(net.stage_names):
        stage = net.backbone.stage(name)
        count, value = counted(stage, as_value(boundary), rule=rule)
        boundary = as_boundary(value)
        seen |= {(name, key): tensor for key, tensor in boundary.items()}
        stages_so_far += count.total
        so_far += count.total
        rows.append(
            ProfileRow(
                kind=STAGE,
                name=name,
                parameters=_parameters(stage),
                macs=count.total,
                cumulative_macs=so_far,
                path_macs=stages_so_far,
                boundary_bytes=sum(map(_sample_bytes, _crossing(net, index, seen))),
                output_shapes=_sample_shapes(boundary),
            )
        )
        for point in due(net, name):
            branch = net.branch(point.name)
            count, value = counted(branch, tuple(seen[read] for read in point.reads), rule=rule)
            so_far += count.total
            rows.append(
                ProfileRow(
                    kind=EXIT,
                    name=point.name,
                    parameters=_parameters(branch),
                    macs=count.total,
                    cumulative_macs=so_far,
                    path_macs=stages_so_far + count.total,
                    boundary_bytes=None,
                    output_shapes=_sample_shapes(as_boundary(value)),
                )
            )
    return rows


def _crossing(net: MultiExit, index: int, seen: Mapping[tuple[str, str], Tensor]) -> list[Tensor]:
    """What must go on behind a stage: its boundary, and earlier tensors that later exits read."""
    later = points_after(net.exit_points, net.stage_names, index)
    reads = {read for point in later for read in point.reads}
    return [tensor for key, tensor in seen.items() if key[0] == net.stage_names[index] or key in reads]


def _with_times(rows: list[ProfileRow], times: list[list[float]]) -> list[ProfileRow]:
    medians = [float(np.median(row)) for row in times]
    sums = np.cumsum(medians)
    return [
        replace(row, ms=ms, p95_ms=float(np.percentile(laps, 95)), cumulative_ms=float(total))
        for row, laps, ms, total in zip(rows, times, medians, sums, strict=True)
    ]


def _frontend_row(frontend: FrontEnd) -> ProfileRow:
    shapes = frontend.input_shapes
    size = sum(prod(shape) for shape in shapes.values()) * np.dtype(np.float32).itemsize
    return ProfileRow(FRONTEND, frontend.name, 0, None, 0, 0, size, dict(shapes))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _sample_bytes(tensor: Tensor) -> int:
    return prod(tensor.shape[1:]) * tensor.element_size()


def _sample_shapes(boundary: Boundary) -> dict[str, Shape]:
    return {key: tuple(tensor.shape[1:]) for key, tensor in boundary.items()}


def _device(net: nn.Module) -> torch.device:
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


def _to(boundary: Boundary, device: torch.device) -> Boundary:
    return {key: tensor.to(device) for key, tensor in boundary.items()}


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """PyTorch runs on so many threads within this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _shapes(shapes: Mapping[str, Shape]) -> str:
    """``32x17x64``, with names where there are several tensors."""
    sizes = {name: "x".join(map(str, shape)) for name, shape in shapes.items()}
    return sizes[MAIN] if sizes.keys() == {MAIN} else ", ".join(f"{k} {v}" for k, v in sizes.items())
