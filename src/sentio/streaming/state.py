"""The state of streams: named tensors, one row for each stream, that can be kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sentio.core.errors import ConfigError, InputError
from sentio.core.stepping import STEPS
from sentio.nn.streaming import State


def save_state(path: str | Path, state: State) -> None:
    """Write a state as safetensors.

    Raises:
        InputError: it is no state, or cannot be written there.
    """
    check_state(state)
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        # Cloned, since some may lie in one memory, such as the ages of parts that have not begun.
        whole = {name: x.clone(memory_format=torch.contiguous_format) for name, x in state.items()}
        save_file(whole, str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"The state cannot be written to {str(path)!r}: {error}") from error


def load_state(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a state that `save_state` wrote.

    Raises:
        InputError: no such file, or it is no state.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(str(path), device=str(device))
    except (OSError, SafetensorError) as error:
        raise InputError(f"The state {str(path)!r} cannot be read: {error}") from error
    if STEPS not in state:
        raise InputError(f"The file {str(path)!r} holds no state of a stream; it has no {STEPS!r}")
    return state


def take(state: State, rows: Sequence[int] | Tensor) -> dict[str, Tensor]:
    """The states of some of the streams, in the order of ``rows``.

    Raises:
        InputError: it is no state, or ``rows`` are not numbers of its rows; a mask's are
            ``mask.nonzero().flatten()``.
    """
    check_state(state)
    index = torch.as_tensor(rows)
    if not index.numel():
        index = index.to(torch.int64)
    if index.dtype == torch.bool:
        raise InputError("take() is given the numbers of rows; of a mask, mask.nonzero().flatten()")
    size = len(state[STEPS])
    if index.is_floating_point() or index.ndim != 1 or bool(((index < 0) | (index >= size)).any()):
        raise InputError(f"take() is given the numbers of rows, 0 to {size - 1} here, got {index.tolist()}")
    index = index.to(torch.int64)
    return {name: tensor.index_select(0, index.to(tensor.device)) for name, tensor in state.items()}


def stack(states: Sequence[State]) -> dict[str, Tensor]:
    """Streams side by side in one state.

    Raises:
        InputError: they are of different networks or sizes.
    """
    kinds = [{name: tensor.shape[1:] for name, tensor in state.items()} for state in states]
    if not kinds or any(kind != kinds[0] for kind in kinds):
        raise InputError("States can be stacked where they are of one network and size, at least one of them")
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def check_state(state: Any) -> None:
    """Something is a state, as far as one can see without its network.

    Raises:
        InputError: it is not.
    """
    values = state.values() if isinstance(state, Mapping) else [state]
    odd = [type(value).__name__ for value in values if not isinstance(value, Tensor)]
    if odd or not isinstance(state, Mapping):
        raise InputError(f"A state is a dict of tensors, as a step gives it, got {', '.join(odd) or 'one'}")
    if STEPS not in state:
        raise InputError("The state has no 'steps'; pass what the last step gave, or None to begin")


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """The layers of a network that keep statistics of what they see in training mode."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


def check_eval(stream: Any, net: nn.Module) -> None:
    """A stream steps in eval mode, and so does its network, which others may have put into another.

    Raises:
        ConfigError: either is in training mode, or a batch norm in it, which would take the streams' units
            for its statistics.
    """
    if stream.training or net.training or any(norm.training for norm in stream.norms):
        raise ConfigError("A stream steps in eval mode; call its eval() first, and clip() to train")


def as_chunk(x: Tensor, hop: int, axis: int, ndim: int, shape: tuple[int, ...] | None) -> Tensor:
    """A step's input with its axis of time.

    Raises:
        InputError: it is no tensor, or not ``hop`` units of at least one stream, with the channels of
            ``shape``, which is that of clips without the batch.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"A step takes a tensor, got {type(x).__name__}; torch.as_tensor makes one")
    if hop == 1 and x.ndim == ndim - 1:
        x = x.unsqueeze(axis)
    if x.ndim != ndim or x.shape[axis] != hop:
        raise InputError(f"A step takes {hop} units on axis {axis} of {ndim}, got shape {tuple(x.shape)}")
    if x.shape[0] == 0:
        raise InputError(f"A step takes at least one stream, got shape {tuple(x.shape)}")
    if shape is not None and axis != 1 and x.shape[1] != shape[0]:
        raise InputError(f"A step takes {shape[0]} channels, got shape {tuple(x.shape)}")
    return x


def refuse_unfit(x: Any, net: nn.Module, shape: tuple[int, ...] | None, axis: int, units: int | None) -> None:
    """Say what is wrong with an input on which a network has failed, as far as the input shows it.

    Args:
        x: the input.
        net: whose weights have the type that it takes.
        shape: of its clips, without the batch; None if not known.
        axis: of time in the input.
        units: of time that it takes, None for any number.

    Raises:
        InputError: the input is of another type or size.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"A stream takes tensors, got {type(x).__name__}; torch.as_tensor makes one")
    weights = next((p for p in net.parameters() if p.is_floating_point()), None)
    kind = x.dtype if weights is None or torch.is_autocast_enabled(x.device.type) else weights.dtype
    sizes: list[Any] = list(x.shape[1:] if shape is None else shape)
    if shape is not None and (units is not None or len(x.shape) == len(shape) + 1):
        sizes[axis - 1] = x.shape[axis] if units is None else units
    if x.dtype != kind or sizes != list(x.shape[1:]):
        wanted = ", ".join(map(str, sizes))
        raise InputError(
            f"The stream takes {str(kind).removeprefix('torch.')} of shape (batch, {wanted}), got "
            f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
        )


def steps_taken(state: State, x: Tensor) -> Tensor:
    """Steps that each stream has taken, int64 ``(batch,)``.

    Raises:
        InputError: it is no state, or not of as many streams as ``x``.
    """
    if not isinstance(state, Mapping) or STEPS not in state:
        check_state(state)
    steps = state[STEPS]
    if len(steps) != len(x):
        raise InputError(
            f"The state is of {len(steps)} streams and the input of {len(x)}; give as many of both"
        )
    return steps


def is_warm(steps: Tensor, settled: int) -> bool:
    """Whether no stream is so young that something before its start has to be blanked.

    Off the CPU the answer is no: asking would wait for the device, which costs more than blanking.
    """
    if settled == 0:
        return True
    if torch.compiler.is_exporting() or steps.device.type != "cpu":
        return False
    return int(steps.min()) >= settled
