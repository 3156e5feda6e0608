"""A network with exits, and how exits are attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sentio.core import registry
from sentio.core.anytime import FINAL, MAIN, Boundary, ExitPoint, Step, anytime
from sentio.core.errors import ConfigError, StageError, UnknownNameError
from sentio.core.staged import Shape, Staged, as_boundary, as_value, stage_key


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
        self.backbone = backbone
        order = sorted(specs, key=lambda spec: backbone.stage_names.index(spec.after))
        self.specs: tuple[ExitSpec, ...] = tuple(order)
        self.branches = nn.ModuleDict({stage_key(spec.name): branches[spec.name] for spec in order})
        self._off: frozenset[str] = frozenset()

    @property
    def stage_names(self) -> tuple[str, ...]:
        return self.backbone.stage_names

    @property
    def exit_names(self) -> tuple[str, ...]:
        """All exits, those switched off included, ``final`` last."""
        return (*(spec.name for spec in self.specs), FINAL)

    @property
    def exit_points(self) -> tuple[ExitPoint, ...]:
        """The exits that are switched on, in order, ``final`` last."""
        last = self.stage_names[-1]
        points = [ExitPoint(s.name, s.after, s.reads) for s in self.specs if s.name not in self._off]
        return (*points, ExitPoint(FINAL, last, ((last, MAIN),)))

    def switch(self, *names: str, on: bool) -> None:
        """Switch exits on or off; with no names, all of them. ``final`` stays on."""
        for name in names:
            if name not in self.exit_names[:-1]:
                raise UnknownNameError("exit", name, self.exit_names[:-1])
        chosen = frozenset(names or self.exit_names[:-1])
        self._off = self._off - chosen if on else self._off | chosen

    def branch(self, name: str) -> nn.Module:
        """The module of one exit."""
        if name not in self.exit_names[:-1]:
            raise UnknownNameError("exit", name, self.exit_names[:-1])
        return self.branches[stage_key(name)]

    def forward(self, x: Any) -> dict[str, Tensor]:
        """Every exit that is switched on, by name, in order; ``final`` last."""
        points = self.exit_points
        kept: dict[tuple[str, str], Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for name, boundary in self.backbone.boundaries(x):
            kept |= {(b, t): boundary[t] for p in points for b, t in p.reads if b == name}
            for point in points:
                if point.after == name:
                    outputs[point.name] = self.run_exit(point.name, [kept[read] for read in point.reads])
        return outputs

    def anytime(self, x: Any, *, evaluates: Callable[[str], bool] | None = None) -> Iterator[Step]:
        """The exits as they are reached; see `sentio.core.anytime.anytime`.

        Runs in the mode the network is in: call ``net.eval()`` first, and wrap in ``torch.no_grad()``
        where no gradient is wanted.
        """
        return anytime(self, x, evaluates=evaluates)

    # The row, as the anytime loop sees it

    def start(self, inputs: Any) -> Boundary:
        return self.backbone.start(inputs)

    def run_stage(self, name: str, boundary: Boundary) -> Boundary:
        return as_boundary(self.backbone.stages[stage_key(name)](as_value(boundary)))

    def run_exit(self, name: str, tensors: list[Tensor]) -> Tensor:
        if name == FINAL:
            return tensors[0]
        output: Tensor = self.branches[stage_key(name)](*tensors)
        return output

    def take(self, array: Tensor, rows: NDArray[np.intp]) -> Tensor:
        return array.index_select(0, torch.from_numpy(rows).to(array.device))

    def to_numpy(self, array: Tensor) -> NDArray[Any]:
        values: NDArray[Any] = array.detach().float().cpu().numpy()
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
        ConfigError: an option does not exist, a name is taken, or the kind does not fit the shape.
    """
    at = [at] if isinstance(at, str) else list(at)
    backbone = net.backbone if isinstance(net, MultiExit) else net
    branches = {s.name: net.branch(s.name) for s in net.specs} if isinstance(net, MultiExit) else {}
    specs = list(net.specs) if isinstance(net, MultiExit) else []
    for stage_name in at:
        if stage_name not in backbone.stage_names:
            raise UnknownNameError("stage", stage_name, backbone.stage_names)
    names = list(at) if names is None else list(names)
    pairs = [((stage, MAIN),) for stage in at] if reads is None else [tuple(r) for r in reads]
    if not len(at) == len(names) == len(pairs):
        raise ConfigError(f"{len(at)} stages, {len(names)} names and {len(pairs)} reads must be equally many")
    shapes = backbone.boundary_shapes(example)
    for name, stage_name, wanted in zip(names, at, pairs, strict=True):
        if name in branches or name == FINAL:
            raise ConfigError(f"An exit called {name!r} exists already; pass other names=")
        found = tuple(_shape_read(shapes, backbone.stage_names, stage_name, *read) for read in wanted)
        branches[name] = registry.build("exit", kind, found, classes, **options)
        specs.append(ExitSpec(name, kind, stage_name, wanted, classes, dict(options), found))
    return MultiExit(backbone, branches, specs)


def _shape_read(
    shapes: dict[str, dict[str, Shape]], stages: tuple[str, ...], after: str, boundary: str, tensor: str
) -> Shape:
    if boundary not in shapes:
        raise UnknownNameError("boundary", boundary, stages)
    if stages.index(boundary) > stages.index(after):
        raise ConfigError(f"An exit behind {after!r} cannot read boundary {boundary!r}, which comes later")
    if tensor not in shapes[boundary]:
        raise UnknownNameError(f"tensor at boundary {boundary!r}", tensor, tuple(shapes[boundary]))
    return shapes[boundary][tensor]
