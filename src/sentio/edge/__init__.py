"""The runtime of the box: exported stages in ONNX Runtime, behind the same `Model` as everywhere."""

from __future__ import annotations

from pathlib import Path

from sentio.core.loading import load as load_model
from sentio.core.model import Model


def load(artifact: str | Path, *, threads: int | None = None) -> Model:
    """Open an exported model without PyTorch, also where PyTorch is installed.

    Args:
        artifact: a folder, or a file made by ``sentio export``.
        threads: of ONNX Runtime; as many as the machine has cores if None.

    Raises:
        ArtifactError: no artifact there, damaged, foreign, newer, or without exported stages.
    """
    return load_model(artifact, runtime="edge", threads=threads)
