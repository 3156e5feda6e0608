"""PyTorch's ONNX exporter, quietly, with plain errors and no traces of this machine in the file."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from sentio.core.errors import MissingExtraError

OPSET = 18


def check_exporter() -> None:
    """Refuse early where the exporter cannot run: PyTorch says so less clearly.

    Raises:
        MissingExtraError: what it needs is not installed.
    """
    if find_spec("onnxscript") is None:
        raise MissingExtraError("The ONNX exporter", "export")


def clear_traces(program: Any) -> None:
    """Take node metadata out, which quotes source lines and the paths of this machine."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program.model)


def plain_name(label: str) -> str:
    """A label as part of a file's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in label)


def reason(error: BaseException) -> str:
    """The first line of the innermost error, in plain text."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n")[0][:300]
    return text or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter reports progress and advice to users of its own interface; none of it is for ours."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        silent = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
