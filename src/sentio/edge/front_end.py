"""Features from the box's own graph, where it was exported with one, in place of numpy."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.frontend import LogMel
from sentio.audio.windows import AudioFrontEnd
from sentio.core.anytime import MAIN
from sentio.core.artifact import ArtifactFiles
from sentio.core.errors import ArtifactError
from sentio.core.model import Model
from sentio.core.shelf import find_artifact
from sentio.edge.sessions import Session, Settings


class GraphLogMel(LogMel):
    """A log-mel whose features of one window come from an ONNX graph; all else is numpy's."""

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Features of a window of float32 samples ``(time,)``, ``(time, mel)``; others are numpy's."""
        if samples.dtype != np.float32 or samples.shape != (self.samples,):
            return super().__call__(samples)
        found: NDArray[Any] = self.session.run({"in_0": samples[None]})[0]
        return found[0, 0]


def with_front_end_graph(model: Model, artifact: str | Path, *, threads: int | None = 1) -> Model:
    """The model with features computed by its box's graph; the given one is not changed.

    Reading, resampling and windows stay numpy's, so that both ways cut a recording alike.

    Args:
        model: as `sentio.load` opened it from ``artifact``.
        artifact: exported with ``front_end=True``.
        threads: of ONNX Runtime within the graph.

    Raises:
        ArtifactError: it holds no graph of its front end, or a damaged one.
    """
    files = ArtifactFiles(find_artifact(artifact))
    facts, front_end = files.manifest.front_end_graph, model.frontend
    if (
        facts is None
        or not isinstance(front_end, AudioFrontEnd)
        or not isinstance(front_end.features, LogMel)
    ):
        raise ArtifactError(
            f"Artifact {files.path} holds no graph of its front end; export it again with --front-end"
        )
    log_mel = GraphLogMel(**{field.name: getattr(front_end.features, field.name) for field in fields(LogMel)})
    session = Session(files, facts.file, Settings(threads=threads), ["in_0"], ["out_0"])
    ends = session.shapes["in_0"][1:], session.given_shapes["out_0"][1:]
    if ends != ([front_end.window_samples], list(front_end.input_shapes[MAIN])):
        raise ArtifactError(
            f"Artifact {files.path} is damaged: {facts.file!r} does not take a window and give its features; "
            "copy or export it again"
        )
    for name, value in (("session", session), ("samples", front_end.window_samples)):
        object.__setattr__(log_mel, name, value)
    twin = copy.copy(model)
    twin.frontend = replace(front_end, features=log_mel)
    return twin
