"""A network with exits, and how exits are attached."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sentio.core import registry
from sentio.core.answering import Answers, answer
from sentio.core.anytime import FINAL, MAIN, Boundary, ExitPoint, Read, Step, anytime, read_boundary
from sentio.core.errors import ConfigError, StageError, UnknownNameError
from sentio.core.policy import ExitCosts, Policy
from sentio.core.staged import (
    UNFIT,
    Shape,
    Staged,
    as_boundary,
    as_value,
    evaluating,
    raise_if_unfit,
    stage_key,
)
from sentio.core.task import Task


@dataclass(frozen=True)
class ExitSpec:
    """An exit as it was asked for: enough to build it again."""

    name: str
    kind: str
    after: str
    reads: tuple[tuple[str, str], ...]
    outputs: int
    options: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()


class MultiExit(nn.Module):
    """A `Staged` network with branches that answer early.

    ``net(x)`` gives every exit that is switched on, by name, the last stage's output as ``final``;
    ``net.anytime(x)`` gives them one by one and lets samples leave in between.

    Args:
        backbone: the network.
        branches: exit name -> module; takes the tensors it reads, gives an output.
        specs: one `ExitSpec` for each branch.

    Raises:
        StageError: branches and specs do not agree, or a name cannot be used.
        UnknownNameError: an exit sits at, or reads, a stage that does not exist.
    """

    def __init__(
        self,
        backbone: Staged,
        branches: Mapping[str, nn.Module] | None = None,
        specs: Sequence[ExitSpec] = (),
    ) -> None:
        super().__init__()
        branches = dict(branches or {})
        if [spec.name for spec in specs] != list(branches):
            raise StageError("Each branch needs a spec of the same name, in the same order")
        if FINAL in branches:
            raise StageError(f"The name {FINAL!r} belongs to the exit behind the last stage")
        for spec in specs:
            check_reads(spec, backbone.stage_names)
        self.backbone = backbone
        self.stage_names: tuple[str, ...] = backbone.stage_names
        self.specs: tuple[ExitSpec, ...] = tuple(
            sorted(specs, key=lambda spec: backbone.stage_names.index(spec.after))
        )
        self.branches = nn.ModuleDict()
        for spec in self.specs:
            _add_branch(self.branches, spec.name, branches[spec.name])
        self._off: frozenset[str] = frozenset()
        self._points = self._points_on()

    @property
    def exit_names(self) -> tuple[str, ...]:
        """All exits, those switched off included, ``final`` last."""
        return (*(spec.name for spec in self.specs), FINAL)

    @property
    def exit_points(self) -> tuple[ExitPoint, ...]:
        """The exits that are switched on, in order, ``final`` last."""
        return self._points

    def switch(self, *names: str, on: bool) -> None:
        """Switch exits on or off; with no names, all of them. ``final`` stays on."""
        for name in names:
            if name not in self.exit_names[:-1]:
                raise UnknownNameError("exit", name, self.exit_names[:-1])
        chosen = frozenset(names or self.exit_names[:-1])
        self._off = self._off - chosen if on else self._off | chosen
        self._points = self._points_on()

    @property
    def switched_off(self) -> tuple[str, ...]:
        """The exits that are switched off, in order."""
        return tuple(spec.name for spec in self.specs if spec.name in self._off)

    def branch(self, name: str) -> nn.Module:
        """The module of one exit."""
        if name not in self.exit_names[:-1]:
            raise UnknownNameError("exit", name, self.exit_names[:-1])
        return self.branches[stage_key(name)]

    def forward(self, x: Any, exits: Collection[str] | None = None) -> dict[str, Tensor]:
        """Every exit that is switched on, by name, in order; ``final`` last.

        Args:
            x: the input, batch first.
            exits: only these; nothing behind the last of them is computed.
        """
        return self.tapped(x, exits)[0]

    def tapped(
        self, x: Any, exits: Collection[str] | None = None, taps: Collection[Read] = ()
    ) -> tuple[dict[str, Tensor], dict[Read, Tensor]]:
        """Exits as `forward` gives them, and tensors at boundaries, from one run.

        Args:
            x: the input, batch first.
            exits: only these, of those that are switched on; all of them if None.
            taps: (boundary, tensor) pairs. Nothing behind the last exit and tap is computed.

        Raises:
            UnknownNameError: no such boundary or exit.
            StageError: a boundary has no such tensor.
        """
        for name, _ in taps:
            if name not in self.stage_names:
                raise UnknownNameError("boundary", name, self.stage_names)
        exits = (exits,) if isinstance(exits, str) else exits
        known = self.exit_names
        for name in exits or ():
            if name not in known:
                raise UnknownNameError("exit", name, known)
        points = [point for point in self.exit_points if exits is None or point.name in exits]
        wanted = {read for point in points for read in point.reads} | set(taps)
        kept: dict[Read, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for name, boundary in self.backbone.boundaries(x):
            kept |= read_boundary(name, boundary, wanted)
            for point in points:
                if point.after == name:
                    outputs[point.name] = self.run_exit(point.name, [kept[read] for read in point.reads])
            if len(outputs) == len(points) and all(read in kept for read in taps):
                break
        return outputs, {read: kept[read] for read in taps}

    def anytime(self, x: Any, *, evaluates: Callable[[str], bool] | None = None) -> Iterator[Step]:
        """The exits as they are reached; see `sentio.core.anytime.anytime`.

        Runs in the mode the network is in: call ``net.eval()`` first, and wrap in ``torch.no_grad()``
        where no gradient is wanted.
        """
        return anytime(self, x, evaluates=evaluates)

    def predict(
        self,
        x: Any,
        policy: Policy,
        *,
        task: Task | None = None,
        costs: ExitCosts | None = None,
        temperatures: Mapping[str, float] | None = None,
    ) -> Answers:
        """Answer every sample from the exit where the policy lets it leave, in eval mode, without gradients.

        Args:
            x: the input, batch first.
            policy: e.g. ``sentio.Confidence(0.9)``.
            task: says what confidence means; None for a classifier with logits as outputs.
            costs: of the exits (``sentio.profile(net, x).costs``), for `Deadline` and `Budget`.
            temperatures: exit -> temperature by which its output is divided.

        Returns:
            outputs ``(batch, ...)`` as numpy, the exit of each sample, confidence and milliseconds.

        Raises:
            ConfigError, InputError: as for `sentio.core.answering.answer`, or the network cannot take an
                input of this shape or type.
        """
        try:
            with evaluating(self) if self.training else nullcontext(), torch.inference_mode():
                return answer(self, x, policy, task, costs=costs, temperatures=temperatures)
        except UNFIT as error:
            raise_if_unfit(self.backbone, x, error)
            raise

    def _points_on(self) -> tuple[ExitPoint, ...]:
        last = self.stage_names[-1]
        points = [ExitPoint(s.name, s.after, s.reads) for s in self.specs if s.name not in self._off]
        return (*points, ExitPoint(FINAL, last, ((last, MAIN),)))

    # The row, as the anytime loop sees it

    def start(self, inputs: Any) -> Boundary:
        return self.backbone.start(inputs)

    def run_stage(self, name: str, boundary: Boundary) -> Boundary:
        return as_boundary(self.backbone.stages[stage_key(name)](as_value(boundary)))

    def run_stages(self, names: Sequence[str], boundary: Boundary) -> Boundary:
        """Run consecutive stages, the first of which takes ``boundary``; the boundary behind the last."""
        value = as_value(boundary)
        begin = self.stage_names.index(names[0])
        for module in islice(self.backbone.stages.values(), begin, begin + len(names)):
            value = module(value)
        return as_boundary(value)

    def run_exit(self, name: str, tensors: list[Tensor]) -> Tensor:
        if name == FINAL:
            return tensors[0]
        output: Tensor = self.branches[stage_key(name)](*tensors)
        return output

    def take(self, array: Tensor, rows: NDArray[np.intp]) -> Tensor:
        return array.index_select(0, torch.from_numpy(rows).to(array.device))

    def to_numpy(self, array: Tensor) -> NDArray[Any]:
        values: NDArray[Any] = (array if array.dtype is torch.float32 else array.float()).numpy(force=True)
        return values


def add_exits(
    net: Staged | MultiExit,
    kind: str,
    *,
    at: Sequence[str],
    classes: int,
    names: Sequence[str] | None = None,
    reads: Sequence[Sequence[tuple[str, str]]] | None = None,
    example: Any = None,
    **options: Any,
) -> MultiExit:
    """Attach one exit of a kind behind each of the named stages; input shapes are inferred.

    Args:
        net: the network; exits it already has are kept.
        kind: ``pooled-linear``, ``cnn-ee``, ``sl-vit``, … (``sentio models`` lists them).
        at: the stages behind which exits are attached.
        classes: width of each exit's output.
        names: the exits' names; by default the stages' own.
        reads: for each exit the (boundary, tensor) pairs it reads; by default ``(stage, "main")``.
        example: an input to infer shapes from, where the network does not know its own.
        options: of the exit's constructor.

    Raises:
        UnknownNameError: no such stage, tensor or kind of exit.
        ConfigError: the network is not in stages, an option does not exist, a name is taken, or the kind does
            not fit the shape.
    """
    if not isinstance(net, (Staged, MultiExit)):
        raise ConfigError(
            f"add_exits() takes a network in stages, got {type(net).__name__}; "
            "cut it with sentio.stage() first"
        )
    at = [at] if isinstance(at, str) or not isinstance(at, Iterable) else list(at)
    backbone = net.backbone if isinstance(net, MultiExit) else net
    branches = {s.name: net.branch(s.name) for s in net.specs} if isinstance(net, MultiExit) else {}
    specs = list(net.specs) if isinstance(net, MultiExit) else []
    off = net.switched_off if isinstance(net, MultiExit) else ()
    device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    for stage_name in at:
        if stage_name not in backbone.stage_names:
            raise UnknownNameError("stage", stage_name, backbone.stage_names)
    names = list(at) if names is None else list(names)
    pairs = (
        [((stage, MAIN),) for stage in at]
        if reads is None
        else [tuple((boundary, tensor) for boundary, tensor in wanted) for wanted in reads]
    )
    if not len(at) == len(names) == len(pairs):
        raise ConfigError(f"{len(at)} stages, {len(names)} names and {len(pairs)} reads must be equally many")
    shapes = backbone.boundary_shapes(example)
    for name, stage_name, wanted in zip(names, at, pairs, strict=True):
        if name in branches or name == FINAL:
            raise ConfigError(f"An exit called {name!r} exists already; pass other names=")
        spec = ExitSpec(name, kind, stage_name, wanted, classes, dict(options))
        check_reads(spec, backbone.stage_names)
        found = tuple(_shape_read(shapes, *read) for read in wanted)
        branches[name] = registry.build("exit", kind, found, classes, **options).to(device)
        specs.append(replace(spec, shapes=found))
    result = MultiExit(backbone, branches, specs)
    if off:
        result.switch(*off, on=False)
    return result


def check_reads(spec: ExitSpec, stages: tuple[str, ...]) -> None:
    """An exit sits behind a stage of the row, and reads nothing that comes later.

    Raises:
        UnknownNameError: there is no such stage or boundary.
        ConfigError: it reads nothing, or a boundary behind its own place.
    """
    if spec.after not in stages:
        raise UnknownNameError("stage", spec.after, stages)
    if not spec.reads:
        raise ConfigError(f"Exit {spec.name!r} reads nothing; name at least one (boundary, tensor)")
    for boundary, _ in spec.reads:
        if boundary not in stages:
            raise UnknownNameError("boundary", boundary, stages)
        if stages.index(boundary) > stages.index(spec.after):
            raise ConfigError(
                f"Exit {spec.name!r} behind {spec.after!r} cannot read boundary {boundary!r}, "
                "which comes later"
            )


def _add_branch(branches: nn.ModuleDict, name: str, module: nn.Module) -> None:
    key = stage_key(name)
    try:
        if key in branches:
            raise KeyError(key)
        branches.add_module(key, module)
    except KeyError as error:  # PyTorch keeps some names for itself
        raise StageError(f"An exit cannot be called {name!r} here; choose another name") from error


def _shape_read(shapes: dict[str, dict[str, Shape]], boundary: str, tensor: str) -> Shape:
    if tensor not in shapes[boundary]:
        raise UnknownNameError(f"tensor at boundary {boundary!r}", tensor, tuple(shapes[boundary]))
    return shapes[boundary][tensor]
