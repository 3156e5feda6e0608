"""The last units of a stream, appended to without being copied.

A step gives a new state and leaves the old one as it is. Taken literally, a window of the last thousand units
is then copied at each step to take in one. So a kept window is a view into memory that goes on behind it: the
next unit is written there, where no state looks yet, and the new window is a view that lies further on. When
the memory ends, after a quarter of the window's length or a few units, the window moves to a new one.

Only one state may write behind a window. The right to is a list of one entry that the writer takes out, so
a state that is stepped a second time finds it empty and copies.

In what order a window's axes lie in memory is the reader's choice, an `Order`: a matrix product wants the
channels of all units that it reads in one piece, PyTorch's convolutions want the channels of a position.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: of a kept tensor: a list of the memory it lies in and where there it ends, until somebody has taken it
_BEHIND = "_sentio_behind"
#: bytes of a window from which a copy takes longer than what it takes to go without
WORTH = 65536


class Order(NamedTuple):
    """How the axes of a tensor lie in memory.

    Args:
        axes: of the tensor, from the outermost in memory to the innermost.
        back: where each axis of the tensor is among ``axes``.
        place: where the axis of time is among ``axes``.
    """

    axes: tuple[int, ...]
    back: tuple[int, ...]
    place: int


def order(*axes: int, axis: int) -> Order:
    """An `Order` with time on ``axis`` of the tensor."""
    back = tuple(axes.index(each) for each in range(len(axes)))
    return Order(axes, back, axes.index(axis))


def joined(before: Tensor, x: Tensor, axis: int, lies: Order | None) -> Tensor:
    """``torch.cat((before, x), axis)``, with its axes in memory as they should lie."""
    if lies is None:
        return torch.cat((before, x), axis)
    parts = (before.permute(lies.axes), x.permute(lies.axes))
    return torch.cat(parts, lies.place).permute(lies.back)


def append(before: Tensor, x: Tensor, axis: int, lies: Order | None = None) -> tuple[Tensor, Tensor]:
    """``torch.cat((before, x), axis)``, and the last of it, as long as ``before``; both may be views.

    Args:
        before: what the last call gave second, or any tensor; it stays as it is.
        x: like ``before`` but in its length.
        lies: how the axes lie in new memory; time first if None, so that a unit lies in one piece.
    """
    size, units = before.shape[axis], x.shape[axis]
    memory, end = _right(before)
    if memory is None or memory.shape[axis] < end + units or not _may_write(memory, x):
        # A quarter more, but room for some units in short windows.
        room = size + max(size // 4, units, min(size, 8 * units))
        memory = _empty(x, axis, room, lies)
        memory.narrow(axis, 0, size).copy_(before)
        end = size
    memory.narrow(axis, end, units).copy_(x)
    window = memory.narrow(axis, end - size, size + units)
    kept = window.narrow(axis, units, size)
    setattr(kept, _BEHIND, [(memory, end + units)])
    return window, kept


def pays(before: Tensor) -> bool:
    """Whether `append` is faster than a copy, and possible here: not for gradients, nor in a graph."""
    large = before.numel() * before.element_size() >= WORTH
    return large and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def is_appended(kept: Tensor) -> bool:
    """Whether a window was made by `append`, so that the next step may write behind it."""
    return hasattr(kept, _BEHIND)


def _empty(x: Tensor, axis: int, room: int, lies: Order | None) -> Tensor:
    """Memory like ``x`` with ``room`` units."""
    if lies is None:
        return x.new_empty((room, *x.shape[:axis], *x.shape[axis + 1 :])).movedim(0, axis)
    sizes = [room if each == axis else x.shape[each] for each in lies.axes]
    return x.new_empty(sizes).permute(lies.back)


def _right(kept: Tensor) -> tuple[Tensor | None, int]:
    """The memory behind a window and where it ends there, for the one who asks first."""
    try:
        memory, end = getattr(kept, _BEHIND).pop()
    except (AttributeError, IndexError):
        return None, 0
    return memory, end


def _may_write(memory: Tensor, x: Tensor) -> bool:
    """PyTorch lets nobody write into what inference mode has made, outside of it."""
    same = memory.dtype == x.dtype and memory.device == x.device
    return same and (torch.is_inference_mode_enabled() or not memory.is_inference())
