"""Any third-party module as a row of stages."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from sentio.core.anytime import MAIN, Boundary
from sentio.core.calling import Call, first_tensor, read_example, separate_operations
from sentio.core.errors import StageError, UnknownNameError
from sentio.core.graph import State, capture
from sentio.core.pieces import Cut, GraphStage, Layout, hold, partition
from sentio.core.staged import Staged, as_value, evaluating
from sentio.core.verifying import fresh, same_answers, verify

#: What lies behind the last cut, unless it is given another name.
REST = "rest"


def stage(
    module: nn.Module,
    at: Sequence[str],
    example: Any,
    *,
    names: Sequence[str] | None = None,
    output: str | None = None,
    check: bool = True,
) -> Staged:
    """Cut a module into stages behind the named submodules.

    An ``nn.Sequential`` that is cut between its children is split as it is. Any other module is captured as a
    graph (``torch.export``, in eval mode, any batch size) and cut there; parameters and buffers stay the
    module's own. Every tensor that is still needed behind a cut crosses it: the submodule's output as
    ``main``, others under the name of the submodule that made them. In eval mode the stages run; in train
    mode the module itself runs, so that it trains as it always did (see `CutNetwork`).

    Args:
        module: the network; left in the mode it is in, which is also the mode of the result.
        at: names of submodules, as in ``module.named_modules()``; each must run once. They are put in the
            order in which they run.
        example: an input, batch first: a tensor, a tuple of tensors (positional arguments) or a mapping
            (keyword arguments). Two samples of it are used, one is repeated.
        names: of the stages, in the order of ``at``, and optionally of what lies behind the last cut; by
            default the submodules' own and ``rest``. Nothing is added where nothing lies behind.
        output: the output that becomes the last boundary's ``main``, where the module gives several; by
            default ``logits`` where there is such an entry, else all of them by name.
        check: run fresh inputs through stages and module, and drop samples at every boundary.

    Returns:
        The stages; a `CutNetwork` unless the module was split as a Sequential.

    Raises:
        UnknownNameError: no such submodule or output; the message offers the nearest name.
        StageError: the module cannot be cut there; the message says why.
    """
    at = [at] if isinstance(at, str) else list(at)
    known = dict(module.named_modules())
    _check_names(at, list(known)[1:])
    given = [*at, REST] if names is None else list(names)
    if len(given) not in (len(at), len(at) + 1):
        raise StageError(f"{len(at)} cuts take {len(at)} names, or one more for the rest; got {len(given)}")
    stage_names, rest = dict(zip(at, given, strict=False)), given[len(at)] if len(given) > len(at) else REST
    call, inputs = read_example(module, example, output)
    modes = {m: m.training for m in known.values()}
    with evaluating(module), torch.no_grad(), separate_operations():
        order = _order_of_cuts(module, at, call, inputs, check)
        cuts = [(stage_names[name], name) for name in order]
        net = _split(module, cuts, rest, call, inputs) or _cut(module, cuts, rest, call, inputs)
        if check:
            verify(net.eval(), module, call, inputs, _mains(net))
    for part in net.modules():
        part.training = modes.get(part, module.training)
    return net


def _mains(net: Staged) -> dict[str, tuple[str, Layout]]:
    cuts = net.cuts if isinstance(net, CutNetwork) else ()
    return {cut.stage: (cut.submodule, cut.layout) for cut in cuts}


class CutNetwork(Staged):
    """Stages cut out of a module by graph, and that module.

    The stages compute what the module computes in eval mode, in either mode. In train mode ``net(x)`` and
    ``net.boundaries(x)`` run the module itself instead, with hooks where the cuts are: batch norm, dropout
    and the like do what they do in training, and what they learn is what the stages read afterwards, for both
    hold the same tensors. Boundaries then hold ``main`` alone.

    Args:
        stages: name -> `GraphStage`.
        original: the module; not a submodule of this one, so it adds nothing to the state dict.
        cuts: where the stages end.
        call: how the module is called.
        example: its inputs by name, batch first.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        original: nn.Module,
        cuts: Sequence[Cut],
        call: Call,
        example: Boundary,
    ) -> None:
        super().__init__(stages, input_shapes={name: tuple(t.shape[1:]) for name, t in example.items()})
        self._original = (original,)  # in a tuple, so that it is not registered
        self.cuts, self._call = tuple(cuts), call
        self._example = {name: tensor.cpu() for name, tensor in example.items()}
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    @property
    def original(self) -> nn.Module:
        """The module that was cut; it shares its parameters and buffers with the stages."""
        return self._original[0]

    def forward(self, x: Any) -> Any:
        """The network's output: of the module itself in train mode, of the stages in eval mode."""
        if self.training:
            *_, (_, boundary) = self._train_boundaries(self.start(x))
            return as_value(boundary)
        return super().forward(as_value(self.start(x)))

    def boundaries(self, x: Any) -> Iterator[tuple[str, Boundary]]:
        """Yields (stage name, the boundary behind it); in train mode with ``main`` alone.

        Raises:
            StageError: in train mode, the module skipped one of the submodules.
        """
        return self._train_boundaries(self.start(x)) if self.training else super().boundaries(x)

    def start(self, x: Any) -> Boundary:
        return self._call.boundary(x)

    def example(self, batch: int = 1, *, seed: int = 0) -> Any:
        """A random input like the example that the network was cut with: its shapes, dtypes and range."""
        return as_value(fresh(self._example, batch, seed))

    def train(self, mode: bool = True) -> CutNetwork:
        super().train(mode)
        self.original.train(mode)
        return self

    def follow_stages(self) -> None:
        """Make the module, and every stage, hold what the first stage that has a tensor holds.

        Moving or loading the network does this; it is needed before the module itself runs if a stage was
        moved, or was given other tensors, on its own.
        """
        parts = list(self.stages.values())
        for part in reversed(parts):
            _share(part, self.original)
        for part in parts:
            _share(self.original, part)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CutNetwork:
        self.follow_stages()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.original._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for part in self.stages.values():  # buffers were moved twice, into copies
            _share(self.original, part)
        return self

    def _train_boundaries(self, inputs: Boundary) -> Iterator[tuple[str, Boundary]]:
        original = self.original
        self.follow_stages()
        if not original.training:  # modes may have been restored module by module, which leaves it out
            original.train()
        seen: dict[str, Tensor] = {}
        hooks = [
            original.get_submodule(cut.submodule).register_forward_hook(_keeping(seen, cut))
            for cut in self.cuts
        ]
        try:
            output = self._call.run(original, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        for part in self.stages.values():  # a module may replace its buffers
            _share(original, part)
        for cut in self.cuts:
            if cut.stage not in seen:
                raise StageError(
                    f"{type(original).__name__} skipped {cut.submodule!r} in train mode, so nothing can be "
                    "read there; train exits on the frozen network (net.eval())"
                )
            yield cut.stage, {MAIN: seen[cut.stage]}
        if self.stage_names[-1] != self.cuts[-1].stage:
            yield self.stage_names[-1], output


def _after_loading(net: nn.Module, keys: Any) -> None:
    if isinstance(net, CutNetwork):
        net.follow_stages()


def _keeping(seen: dict[str, Tensor], cut: Cut) -> Callable[[nn.Module, Any, Any], None]:
    def keep(submodule: nn.Module, arguments: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            # A copy: the module may go on to change its tensor in place.
            seen[cut.stage] = cut.layout.pack(tensor).clone()

    return keep


def _share(source: nn.Module, target: nn.Module) -> None:
    """Make ``target`` hold the tensors that ``source`` holds under the same qualified names."""
    tensors = {name: table[key] for name, table, key in _slots(source)}
    for name, table, key in _slots(target):
        if name in tensors:
            table[key] = tensors[name]


def _slots(module: nn.Module) -> Iterator[tuple[str, dict[str, Any], str]]:
    for path, owner in module.named_modules(remove_duplicate=False):
        for table in (owner._parameters, owner._buffers):
            for key in table:
                yield f"{path}.{key}" if path else key, table, key


def _check_names(at: Sequence[str], known: list[str]) -> None:
    if not at:
        raise StageError("A cut needs at least one submodule; at= is empty")
    for name in at:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UnknownNameError("submodule", name, near or [n for n in known if "." not in n])
    twice = [name for name, count in Counter(at).items() if count > 1]
    if twice:
        raise StageError(f"{twice[0]!r} is named twice; a cut is made once")


def _order_of_cuts(module: nn.Module, at: list[str], call: Call, inputs: Boundary, check: bool) -> list[str]:
    """The submodules in the order in which they end, each of them once."""
    label = type(module).__name__
    ended: list[str] = []
    empty: list[str] = []

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(submodule: nn.Module, arguments: Any, output: Any) -> None:
            ended.append(name)
            if first_tensor(output) is None:
                empty.append(name)

        return note

    hooks = [module.get_submodule(name).register_forward_hook(noting(name)) for name in at]
    try:
        answer = call.run(module, inputs)
    except (StageError, UnknownNameError):
        raise
    except Exception as error:  # a user's module may raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StageError(f"{label} does not run on the example, two samples of it: {reason[0]}") from error
    finally:
        for hook in hooks:
            hook.remove()
    counts = Counter(ended)
    for name in at:
        if counts[name] == 0:
            raise StageError(
                f"No cut at {name!r}: it does not run as a module of its own; name one of its children"
                if list(module.get_submodule(name).children())
                else f"No cut at {name!r}: it does not run on the example"
            )
        if counts[name] > 1:
            raise StageError(
                f"No cut at {name!r}: it runs {counts[name]} times, so there is no one place behind it"
            )
    if empty:
        raise StageError(f"No cut at {empty[0]!r}: it gives no tensor")
    if check and not same_answers(call.run(module, inputs), answer):
        raise StageError(
            f"{label} cannot be cut: in eval mode it answers the same input in different ways, because it "
            "draws random numbers that eval() does not switch off or remembers earlier inputs"
        )
    return ended


def _split(
    module: nn.Module, cuts: list[tuple[str, str]], rest: str, call: Call, inputs: Boundary
) -> Staged | None:
    """An ``nn.Sequential`` cut between its children; None for any other module or cut."""
    children = {name: child for name, child in module._modules.items() if child is not None}
    if type(module).forward is not nn.Sequential.forward or not all(child in children for _, child in cuts):
        return None
    if call.inputs != (MAIN,) or call.keywords or call.output is not None:
        return None
    ends = {child: stage for stage, child in cuts}
    stages: dict[str, nn.Module] = {}
    part: OrderedDict[str, nn.Module] = OrderedDict()
    value: Any = inputs[MAIN]
    for name, child in children.items():
        part[name], value = child, child(value)
        if name in ends:
            if not isinstance(value, Tensor) or value.shape[:1] != inputs[MAIN].shape[:1]:
                return None
            stages[ends[name]], part = nn.Sequential(part), OrderedDict()
    if part:
        stages[rest] = nn.Sequential(part)
    return Staged(stages, input_shapes=tuple(inputs[MAIN].shape[1:]))


def _cut(
    module: nn.Module, cuts: list[tuple[str, str]], rest: str, call: Call, inputs: Boundary
) -> CutNetwork:
    captured = capture(module, [submodule for _, submodule in cuts], call, inputs)
    stages, placed = partition(captured, cuts, rest)
    _hold_unread_buffers(module, list(stages.values()))
    return CutNetwork(stages, module, placed, call, inputs)


def _hold_unread_buffers(module: nn.Module, stages: list[GraphStage]) -> None:
    """A batch norm's counter belongs in the state dict, beside the statistics that the stage reads."""
    held = {name for part in stages for name, _, _ in _slots(part)}
    for part in stages:
        for path in {name.rpartition(".")[0] for name, _, _ in list(_slots(part))}:
            owner = module.get_submodule(path)
            for key, tensor in owner._buffers.items():
                name = f"{path}.{key}" if path else key
                if tensor is not None and name not in held:
                    held.add(name)
                    hold(part, State(name, tensor, key not in owner._non_persistent_buffers_set))
