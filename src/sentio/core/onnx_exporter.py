"""PyTorch's ONNX exporter, quietly, with plain errors and no traces of this machine in the file."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
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


def to_program(module: Any, inputs: Mapping[str, Any], outputs: Sequence[str], *, dynamic_shapes: Any) -> Any:
    """A module as the exporter's program, without traces of this machine.

    Args:
        module: in eval mode.
        inputs: example tensors by the names that they shall have, in the order in which it takes them.
        outputs: names of what it gives.
        dynamic_shapes: as for ``torch.export``.

    Raises:
        Exception: whatever the exporter wraps a module's errors in; `reason` says it plainly.
    """
    import torch
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with quiet(), _translations_kept():
        program: Any = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
        # Node metadata quotes source lines and paths.
        ClearMetadataAndDocStringPass()(program.model)
    return program


@contextlib.contextmanager
def _translations_kept() -> Iterator[None]:
    """Let the exporter read its translations of operators once, not for every graph.

    It parses the source of some five hundred functions at each export, which takes longer than a small
    graph does. Where this PyTorch does not do it in the place that is known here, nothing is changed.
    """
    import torch

    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    registry: Any = ONNXRegistry
    found = vars(registry).get("from_torchlib")
    if not isinstance(found, classmethod):
        yield
        return

    def kept(cls: Any, opset_version: int = OPSET) -> Any:
        # A library that is imported later brings operators, and then there are more translations.
        operators = len(torch._C._dispatch_get_all_op_names())
        first = _translations(found.__func__, cls, opset_version, operators)
        # What one export adds must not be there in the next.
        again = copy.copy(first)
        again.functions = {name: list(known) for name, known in first.functions.items()}
        return again

    registry.from_torchlib = classmethod(kept)
    try:
        yield
    finally:
        registry.from_torchlib = found


@cache
def _translations(build: Any, cls: Any, opset_version: int, operators: int) -> Any:
    return build(cls, opset_version=opset_version)


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
