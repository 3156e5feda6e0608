"""Reads the pickles of CIFAR's Python version without letting them run anything.

A pickle is a program that may call what it names. Here the only names it may say stand for classes of this
file that keep what they are given, so the worst that a stranger's file can do is to be refused. Arrays come
out as their type, shape and bytes, from which they are made afterwards.
"""

from __future__ import annotations

import pickle
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands for ``numpy.ndarray``."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, *_: Any) -> bytes:
    """Stands for ``_codecs.encode``, with which Python 3 pickles bytes for Python 2."""
    if not isinstance(text, str):
        raise pickle.UnpicklingError("it encodes what is no text")
    return text.encode("latin-1")


class _Inert(pickle.Unpickler):
    KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_inert(path: Path, shown: Path) -> dict[str, Any]:
    """The dictionary that a file holds: text, numbers, lists and byte arrays only.

    Args:
        path: the file.
        shown: what messages call it.

    Raises:
        InputError: it is no such pickle, is damaged, or asks for anything else.
    """
    try:
        with path.open("rb") as file:
            found = _Inert(file, encoding="latin-1").load()
    # A damaged pickle raises whatever its instructions lead to; none of them can do anything.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{shown} is not read, since it is damaged or no file of CIFAR's "
            f"({reason}); take the binary version"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{shown} holds {type(found).__name__}, and a file of CIFAR's holds a dictionary")
    return {key: _plain(value, shown) for key, value in found.items() if isinstance(key, str)}


def _plain(value: Any, shown: Path) -> Any:
    if not isinstance(value, _Array):
        return value
    try:
        _, shape, kind, fortran, content = value.state
        if isinstance(content, str):  # bytes of Python 2
            content = content.encode("latin-1")
        if kind.code != "u1" or fortran or prod(shape) != len(content):
            raise ValueError("it is of another kind, or another size")
        found: NDArray[np.uint8] = np.frombuffer(content, np.uint8).reshape(shape)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{shown} holds an array that is not of whole bytes; take the binary version"
        ) from error
    return found
