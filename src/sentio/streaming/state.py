"""The state of streams: named tensors, one row for each stream, that can be kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.stepping import STEPS
from sentio.nn.streaming import State


def save_state(path: str | Path, state: State) -> None:
    """Write a state as safetensors.

    Raises:
        InputError: it cannot be written there.
    """
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
        InputError: ``rows`` says of each stream whether it is meant, and not which are.
    """
    index = torch.as_tensor(rows)
    if index.dtype == torch.bool:
        raise InputError("take() is given the numbers of rows; of a mask, mask.nonzero().flatten()")
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


def check_eval(stream: nn.Module, net: nn.Module) -> None:
    """A stream steps in eval mode, and so does its network, which others may have put into another.

    Raises:
        ConfigError: either is in training mode.
    """
    if stream.training or net.training:
        raise ConfigError("A stream steps in eval mode; call its eval() first, and clip() to train")


def as_chunk(x: Tensor, hop: int, axis: int, ndim: int) -> Tensor:
    """A step's input with its axis of time.

    Raises:
        InputError: it is no tensor, or not ``hop`` units of at least one stream.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"A step takes a tensor, got {type(x).__name__}; torch.as_tensor makes one")
    if hop == 1 and x.ndim == ndim - 1:
        x = x.unsqueeze(axis)
    if x.ndim != ndim or x.shape[axis] != hop:
        raise InputError(f"A step takes {hop} units on axis {axis} of {ndim}, got shape {tuple(x.shape)}")
    if x.shape[0] == 0:
        raise InputError(f"A step takes at least one stream, got shape {tuple(x.shape)}")
    return x


def steps_taken(state: State, x: Tensor) -> Tensor:
    """Steps that each stream has taken, int64 ``(batch,)``.

    Raises:
        InputError: it is no state, or not of as many streams as ``x``.
    """
    if STEPS not in state:
        raise InputError("The state has no 'steps'; pass what the last step gave, or None to begin")
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
