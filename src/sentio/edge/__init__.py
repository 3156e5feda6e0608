"""The runtime of the box: exported stages in ONNX Runtime, behind the same `Model` as everywhere.

What is heavy is imported at the first call, so that ``import sentio.edge`` costs a small device nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentio.core.model import Model

#: name -> module that defines it
_MEMBERS = {
    "BoxStream": "sentio.edge.box_stream",
    "CompiledInPlace": "sentio.edge.compiled_step",
    "CompiledStep": "sentio.edge.compiled_step",
    "ExportedStep": "sentio.edge.exported_step",
    "SampleStream": "sentio.core.sample_stream",
    "SingleStream": "sentio.core.stream_batch",
    "StepInPlace": "sentio.edge.exported_step",
    "StreamBatch": "sentio.core.stream_batch",
    "Warming": "sentio.core.stream_batch",
    "load_state": "sentio.edge.state",
    "save_state": "sentio.edge.state",
}

__all__ = ["load", *_MEMBERS]


def load(
    artifact: str | Path,
    *,
    threads: int | None = None,
    provider: str | Sequence[str] | None = None,
    memory_map: bool = False,
    lean: bool = False,
) -> Model:
    """Open an exported model without PyTorch, also where PyTorch is installed.

    Args:
        artifact: a folder, or a file made by ``sentio export``; or the name of a shipped model.
        threads: within one graph; as many as the machine has cores if None.
        provider: ONNX Runtime's execution provider, such as ``cuda``, or several in order of preference; the
            CPU by default, and for what the others cannot do.
        memory_map: check files where they lie and let ONNX Runtime read them from there, so that the largest
            graph is not held in memory twice while it is opened. What is checked and what is read are then
            the same only if nobody changes the files in between.
        lean: leave weights as they are stored, see `sentio.load`.

    Returns:
        The same `Model` as in PyTorch: ``predict``, ``answer``, ``anytime``, and for a box with steps of
        streams ``step`` and ``stream``.

    Raises:
        ArtifactError: no artifact there, damaged, foreign, newer, or without exported stages.
        ConfigError: fewer threads than one, or a provider that is not there.
    """
    from sentio.core.loading import load as load_model

    return load_model(
        artifact, runtime="edge", threads=threads, provider=provider, memory_map=memory_map, lean=lean
    )


def __getattr__(name: str) -> Any:
    if name not in _MEMBERS:
        raise AttributeError(f"module 'sentio.edge' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MEMBERS[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
