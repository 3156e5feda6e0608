"""Whether somebody follows the operations of torch, so that a shorter way past them would mislead."""

from __future__ import annotations

import torch
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_followed() -> bool:
    """Whether what runs now is being compiled, exported, traced, or watched by one of torch's modes."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or _get_current_dispatch_mode() is not None
        or _get_current_function_mode() is not None
    )
