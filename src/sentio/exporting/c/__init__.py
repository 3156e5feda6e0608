"""A stream's step as C: one file that needs nothing but the C library, and the library compiled from it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sentio.core.errors import MissingExtraError

__all__ = ["compile_c", "write_c"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sentio.exporting.c' has no attribute {name!r}")
    try:
        value = getattr(import_module("sentio.exporting.c.step_in_c"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "onnx":
            raise
        raise MissingExtraError("onnx, which sentio.exporting.c needs,", "export") from error
    globals()[name] = value
    return value
