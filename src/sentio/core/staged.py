"""A network as a row of named stages."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sentio.core import registry
from sentio.core.anytime import MAIN, Boundary
from sentio.core.errors import ConfigError, InputError, StageError, UnknownNameError

Shape = tuple[int, ...]

#: options that are a number of something in every network that has them
COUNTS = ("classes", "in_channels", "bands", "width")
#: what PyTorch's layers and shapes raise for a tensor that does not fit them
UNFIT = (RuntimeError, IndexError, ValueError)


def as_boundary(value: Any) -> Boundary:
    """A tensor, or named tensors, as a boundary."""
    if isinstance(value, Tensor):
        return {MAIN: value}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a stage gives a tensor or a mapping of named tensors, got {type(value).__name__}")


def as_value(boundary: Boundary) -> Any:
    """A boundary as a stage takes it: the bare tensor where ``main`` is the only one."""
    return boundary[MAIN] if boundary.keys() == {MAIN} else boundary


class Staged(nn.Module):
    """Ordered, named stages: ``net(x)`` runs them in turn.

    A stage is any module that takes what the one before it gives: a tensor, or a mapping of named tensors
    where several cross. The boundary behind a stage bears the stage's name. All tensors are batch first.

    Args:
        stages: name -> module, in order. The network's parameters keep these names
            (``stages.NAME.…``, dots in a name written ``__``).
        input_shapes: input name -> shape without the batch axis; a single input is called ``main``.
        spec: how to build this network again, ``{"network": name, "options": {...}}``; set by
            `create_network`, None for a network that is not in the registry.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module] | Iterable[tuple[str, nn.Module]],
        *,
        input_shapes: Mapping[str, Shape] | Shape | None = None,
        spec: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        pairs = list(stages.items() if isinstance(stages, Mapping) else stages)
        if not pairs:
            raise StageError("A Staged network needs at least one stage; none were given")
        self.stage_names: tuple[str, ...] = tuple(name for name, _ in pairs)
        if len(set(self.stage_names)) < len(pairs):
            raise StageError(f"Stage names must differ; got {', '.join(self.stage_names)}")
        if len({stage_key(name) for name in self.stage_names}) < len(pairs):
            raise StageError("Two stage names differ only in '.' and '__'; rename one of them")
        try:
            self.stages = nn.ModuleDict({stage_key(name): module for name, module in pairs})
        except KeyError as error:
            raise StageError(f"A stage cannot have this name in PyTorch: {error.args[0]}") from error
        shapes = {MAIN: input_shapes} if isinstance(input_shapes, tuple) else dict(input_shapes or {})
        self.input_shapes: dict[str, Shape] = {name: tuple(shape) for name, shape in shapes.items()}
        self.spec = spec

    def forward(self, x: Any) -> Any:
        """The network's output: a tensor, or named tensors where several leave the last stage.

        Raises:
            InputError: the network cannot take an input of this shape or type.
        """
        value = x
        try:
            for module in self.stages.values():
                value = module(value)
        except UNFIT as error:
            raise_if_unfit(self, x, error)
            raise
        return value

    def stage(self, name: str) -> nn.Module:
        """The module of one stage."""
        if name not in self.stage_names:
            raise UnknownNameError("stage", name, self.stage_names)
        return self.stages[stage_key(name)]

    def boundaries(self, x: Any) -> Iterator[tuple[str, Boundary]]:
        """Run stage by stage: yields (stage name, the boundary behind it)."""
        value = as_value(self.start(x))
        for name in self.stage_names:
            value = self.stages[stage_key(name)](value)
            yield name, as_boundary(value)

    def before(self, name: str) -> Staged:
        """The stages up to and including ``name``, sharing parameters: what lies before that boundary."""
        return self._part(self.stage_names[: self._index(name) + 1], self.input_shapes)

    def after(self, name: str) -> Staged:
        """The stages behind boundary ``name``: ``net.after(n)(net.before(n)(x))`` equals ``net(x)``.

        Raises:
            StageError: ``name`` is the last stage, behind which nothing lies.
        """
        rest = self.stage_names[self._index(name) + 1 :]
        if not rest:
            raise StageError(f"Nothing lies after stage {name!r}: it is the last one")
        shapes = self.boundary_shapes().get(name, {}) if self.input_shapes else {}
        return self._part(rest, shapes)

    def boundary_shapes(self, example: Any = None) -> dict[str, dict[str, Shape]]:
        """Shape of each tensor at each boundary, without the batch axis.

        Runs on the meta device (no arithmetic), or on the CPU where a stage does not support that.

        Args:
            example: an input; if None, one of the network's own ``input_shapes``.
        """
        inputs = self.start(self.example(2) if example is None else example)
        found: dict[str, dict[str, Shape]] = {}
        with evaluating(self), torch.no_grad():
            for name, boundary in _meta_boundaries(self, inputs):
                found[name] = {key: tuple(tensor.shape[1:]) for key, tensor in boundary.items()}
        return found

    def example(self, batch: int = 1, *, seed: int = 0) -> Any:
        """A random input of the network's own shape, standard normal, of the type of its weights.

        Raises:
            StageError: the network does not know its input shape.
        """
        if not self.input_shapes:
            raise StageError("This network does not know its input shape; pass an example input")
        generator = torch.Generator().manual_seed(seed)
        dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)
        return as_value(
            {
                name: torch.randn(batch, *shape, generator=generator).to(dtype)
                for name, shape in self.input_shapes.items()
            }
        )

    def start(self, x: Any) -> Boundary:
        """The input as a boundary.

        Raises:
            InputError: it is no tensor and no mapping of named ones.
        """
        if not isinstance(x, (Tensor, Mapping)):
            raise InputError(
                f"A network takes a tensor, batch first, or a mapping of named tensors, got "
                f"{type(x).__name__}; torch.as_tensor makes one of an array"
            )
        return as_boundary(x)

    def _part(self, names: Sequence[str], shapes: Mapping[str, Shape]) -> Staged:
        return Staged([(name, self.stage(name)) for name in names], input_shapes=shapes)

    def _index(self, name: str) -> int:
        if name not in self.stage_names:
            raise UnknownNameError("stage", name, self.stage_names)
        return self.stage_names.index(name)


def create_network(name: str, **options: Any) -> Staged:
    """Build a registered network by name.

    Args:
        name: as listed by ``sentio models``.
        options: the constructor's keyword options, e.g. ``classes=10``.

    Raises:
        UnknownNameError, ConfigError: no such network or option, or a value that an option cannot have.
    """
    entry = registry.find("network", name)
    for option, parameter in entry.options().items():
        value = options.get(option, parameter.default)
        counts = option in COUNTS and isinstance(parameter.default, int)
        if counts and not (isinstance(value, Integral) and int(value) > 0):
            raise ConfigError(
                f"Option {option!r} of network {name!r} is a whole number from 1 up, got {value!r}"
            )
    try:
        net: Staged = registry.build("network", name, **options)
    # PyTorch's layers refuse a width of -8 or a dropout of 2 each in words of their own.
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(
            f"Network {name!r} cannot be built with {given or 'its defaults'}: {reason}"
        ) from error
    net.spec = {"network": name, "options": dict(options)}
    if not net.input_shapes:
        net.input_shapes = dict(entry.input_shapes)
    return net


def reset_classifier(net: Staged, classes: int) -> Staged:
    """The same network with a new last stage for ``classes`` classes; all other weights are kept.

    Of the last stage stays what it names in ``kept_at_reset``, as a transformer's last layer norm.

    Args:
        net: a registered network (`create_network`), on the CPU.
        classes: width of the new output.

    Returns:
        A new network; ``net`` is not changed.

    Raises:
        ConfigError: the network is not in the registry, so nothing says how to build its head.
    """
    if net.spec is None:
        raise ConfigError(
            "Only a registered network's classifier can be reset; give a network of your own a new last stage"
        )
    fresh = create_network(net.spec["network"], **{**net.spec["options"], "classes": classes})
    fresh.input_shapes = dict(net.input_shapes)
    for name in net.stage_names[:-1]:
        fresh.stage(name).load_state_dict(net.stage(name).state_dict())
    old, new = (each.stage(net.stage_names[-1]) for each in (net, fresh))
    for part in getattr(new, "kept_at_reset", ()):
        new.get_submodule(part).load_state_dict(old.get_submodule(part).state_dict())
    return fresh


def raise_if_unfit(net: Staged, x: Any, error: Exception) -> None:
    """Say in one sentence why a network failed, where its input is of another shape or type than it takes.

    Args:
        net: the network.
        x: what it was given.
        error: what it raised.

    Raises:
        InputError: a tensor has another type than the weights, other axes or channels than the network's own
            input, or an axis that is shorter.
    """
    said = str(error)
    if "memory" in said:  # none is left, which the shape does not explain
        return
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), None)
    for name, tensor in (x if isinstance(x, Mapping) else {MAIN: x}).items():
        if not isinstance(tensor, Tensor):
            continue
        # A network may take whole numbers, as one of words does: its type is wrong only where that is said.
        mistyped = "type" in said or "not implemented for" in said
        if mistyped and dtype is not None and tensor.dtype != dtype:
            raise InputError(
                f"Input {name!r} is {_plain_type(tensor.dtype)} and the network's weights are "
                f"{_plain_type(dtype)}; convert the input with .to(torch.{_plain_type(dtype)})"
            ) from error
        own, given = net.input_shapes.get(name, ()), tuple(tensor.shape)
        if not own:
            continue
        usual = f"(batch, {', '.join(map(str, own))})"
        if len(given) != len(own) + 1 or given[1] != own[0]:
            raise InputError(
                f"The network cannot take input {name!r} of shape {given}: its own is {usual}; give as many "
                "axes and channels"
            ) from error
        if any(size < least for size, least in zip(given[1:], own, strict=True)):
            raise InputError(
                f"Input {name!r} of shape {given} is too small for the network, whose own is {usual}; give a "
                "larger one, such as a longer window"
            ) from error


def _plain_type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def stage_key(name: str) -> str:
    """A stage's name as a module's: PyTorch allows no dots there."""
    return name.replace(".", "__")


def copied(net: nn.Module) -> Any:
    """A copy of a network that shares nothing with it.

    Pruned ones too, and those with the older norms of weights: what their hooks make at each call out of
    parameters is no leaf, which PyTorch does not copy.
    """
    made: dict[int, Any] = {}
    for module in net.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                made[id(value)] = value.detach().clone()
    return copy.deepcopy(net, made)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Within this context a network is in eval mode; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in net.modules()]
    for module, _ in modes:  # not net.eval(): a mode is restored only where it was noted
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _meta_boundaries(net: Staged, inputs: Boundary) -> Iterator[tuple[str, Boundary]]:
    def to_meta(boundary: Boundary) -> Boundary:
        return {key: tensor.to("meta") for key, tensor in boundary.items()}

    value = to_meta(inputs)
    try:
        found = []
        for name in net.stage_names:
            module = net.stage(name)
            state = {k: v.to("meta") for k, v in [*module.named_parameters(), *module.named_buffers()]}
            value = as_boundary(torch.func.functional_call(module, state, (as_value(value),)))
            found.append((name, value))
    except (NotImplementedError, RuntimeError):
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        real = {
            key: tensor.to(device) if not tensor.is_meta else torch.zeros(tensor.shape, device=device)
            for key, tensor in inputs.items()
        }
        found = list(net.boundaries(as_value(real)))
    yield from found
