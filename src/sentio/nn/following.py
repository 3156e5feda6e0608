"""Whether somebody follows the operations of torch, so that a shorter way past them would mislead."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_forward_differentiated() -> bool:
    """Whether tensors may carry tangents, which needs no gradients to be enabled."""
    return forward_ad._current_level >= 0


def is_followed() -> bool:
    """Whether what runs now is compiled, exported, traced, transformed by ``torch.func``, differentiated
    forwards, or watched by a mode.
    """
    return (
        torch.compiler.is_compiling()  # first, since it is all that a compiler understands here
        or is_forward_differentiated()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _get_current_dispatch_mode() is not None
        or _get_current_function_mode() is not None
    )
