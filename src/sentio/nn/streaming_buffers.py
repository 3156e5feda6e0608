"""The last units of a stream, appended to without being copied.

A step gives a new state and leaves the old one as it is. Taken literally, a window of the last thousand units
is then copied at each step to take in one. So a kept window is a view into memory that goes on behind it: the
next unit is written there, where no state looks yet, and the new window is a view that lies further on. When
the memory ends, which is after a quarter of the window's length, the window moves to a new one.

Only one state may write behind a window. The right to is a list of one entry that the writer takes out, so
a state that is stepped a second time finds it empty and copies.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: of a kept tensor: a list of the memory it lies in and where there it ends, until somebody has taken it
_BEHIND = "_sentio_behind"
#: bytes of a window from which a copy takes longer than what it takes to go without
WORTH = 32768


def append(before: Tensor, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """``torch.cat((before, x), axis)``, and the last of it, as long as ``before``; both may be views.

    Args:
        before: what the last call gave second, or any tensor; it stays as it is.
        x: like ``before`` but in its length.
    """
    size, units = before.shape[axis], x.shape[axis]
    memory, end = _right(before)
    if memory is None or memory.shape[axis] < end + units or not _may_write(memory, x):
        room = size + max(size // 4, 8 * units)
        # Time first, so that a unit lies in one piece, however many channels it has.
        memory = x.new_empty((room, *x.shape[:axis], *x.shape[axis + 1 :])).movedim(0, axis)
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
