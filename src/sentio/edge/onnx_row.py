"""Exported stages as a row: ONNX Runtime and numpy, no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sentio.core.anytime import FINAL, MAIN, Boundary, ExitPoint
from sentio.core.artifact import ArtifactFiles
from sentio.core.errors import ArtifactError
from sentio.core.manifest import EXIT, STAGE, GraphFacts
from sentio.edge.external_data import has_external_data

#: of ONNX Runtime: only what is fatal is logged; everything else reaches the caller as an error
FATAL = 4


class OnnxRow:
    """A row of ONNX graphs, one per stage and one per exit; takes and gives numpy arrays.

    Sessions of ONNX Runtime are safe to run from several threads, and nothing is kept between calls.

    Args:
        files: the artifact, with exported stages.
        threads: within one graph; None leaves the choice to ONNX Runtime.

    Raises:
        ArtifactError: a graph is damaged, keeps tensors in other files, or does not fit the one before it.
    """

    runtime = "edge"

    def __init__(self, files: ArtifactFiles, *, threads: int | None = None) -> None:
        manifest = files.manifest
        self.stage_names = tuple(manifest.network.stages)
        self.exit_names = manifest.exit_names()
        self.input_shapes = {name: tuple(shape) for name, shape in manifest.network.input_shapes.items()}
        by_name = {e.name: e for e in manifest.exits}
        on = [by_name[name] for name in self.exit_names[:-1] if by_name[name].on]
        last = self.stage_names[-1]
        self.exit_points = (
            *(ExitPoint(e.name, e.after, tuple(e.reads)) for e in on),
            ExitPoint(FINAL, last, ((last, MAIN),)),
        )
        options = ort.SessionOptions()
        options.log_severity_level = FATAL
        # Each graph has threads of its own; spinning, those of one would take time from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        self._where = str(files.path)
        self._graphs = {
            key: (_session(files, facts, options), facts) for key, facts in manifest.graphs.items()
        }
        self._check_shapes(manifest.exits)

    def start(self, inputs: Any) -> Boundary:
        arrays = inputs if isinstance(inputs, Mapping) else {MAIN: inputs}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def run_stage(self, name: str, boundary: Boundary) -> Boundary:
        facts = self._graphs[STAGE + name][1]
        outputs = self._run(STAGE + name, [boundary[tensor] for tensor in facts.inputs])
        return dict(zip(facts.outputs, outputs, strict=True))

    def run_exit(self, name: str, tensors: list[Any]) -> Any:
        return tensors[0] if name == FINAL else self._run(EXIT + name, tensors)[0]

    def take(self, array: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
        return array[rows]

    def to_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def _run(self, key: str, tensors: list[Any]) -> list[Any]:
        session, facts = self._graphs[key]
        try:
            return session.run(None, {f"in_{index}": tensor for index, tensor in enumerate(tensors)})
        except Exception as error:  # ONNX Runtime's types have no common base
            raise ArtifactError(
                f"Artifact {self._where}: {facts.file!r} cannot be run: {_first_line(error)}"
            ) from error

    def _check_shapes(self, exits: Any) -> None:
        """Each graph takes what the graphs before it give, as far as their shapes are fixed."""
        given = {name: [None, *shape] for name, shape in self.input_shapes.items()}
        found: dict[str, list[Any]] = {}
        for name in self.stage_names:
            session, facts = self._graphs[STAGE + name]
            self._compare(facts, session, [given[tensor] for tensor in facts.inputs])
            given = {
                tensor: out.shape for tensor, out in zip(facts.outputs, session.get_outputs(), strict=True)
            }
            found |= {f"{name}/{tensor}": shape for tensor, shape in given.items()}
        for e in exits:
            session, facts = self._graphs[EXIT + e.name]
            self._compare(facts, session, [found[read] for read in facts.inputs])

    def _compare(self, facts: GraphFacts, session: ort.InferenceSession, given: list[list[Any]]) -> None:
        for entry, shape in zip(session.get_inputs(), given, strict=True):
            fixed = [
                (a, b)
                for a, b in zip(entry.shape[1:], shape[1:], strict=False)
                if isinstance(a, int) and isinstance(b, int)
            ]
            if len(entry.shape) != len(shape) or any(a != b for a, b in fixed):
                raise ArtifactError(
                    f"Artifact {self._where} is damaged: {facts.file!r} takes shape {_shape(entry.shape)} "
                    f"where it is given {_shape(shape)}; copy or export it again"
                )


def open_row(files: ArtifactFiles, *, threads: int | None = None) -> OnnxRow:
    """The exported stages of an artifact.

    Raises:
        ArtifactError: it holds none, or damaged ones.
    """
    if not files.manifest.graphs:
        raise ArtifactError(
            f"Artifact {files.path} holds no exported stages; write them with: sentio export {files.path} DIR"
        )
    return OnnxRow(files, threads=threads)


def _session(files: ArtifactFiles, facts: GraphFacts, options: ort.SessionOptions) -> ort.InferenceSession:
    data = files.read(facts.file)
    try:
        outside = has_external_data(data)
        session = None if outside else ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's types have no common base
        raise ArtifactError(
            f"Artifact {files.path}: {facts.file!r} is not a usable ONNX graph: {_first_line(error)}"
        ) from error
    if session is None:
        raise ArtifactError(
            f"Artifact {files.path} is refused: {facts.file!r} keeps tensors in other files, which a Sentio "
            "artifact does not do"
        )
    names = [entry.name for entry in session.get_inputs()]
    if names != [f"in_{i}" for i in range(len(facts.inputs))] or len(session.get_outputs()) != len(
        facts.outputs
    ):
        raise ArtifactError(
            f"Artifact {files.path} is damaged: {facts.file!r} does not take and give what it should; "
            "copy or export it again"
        )
    return session


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _shape(shape: list[Any]) -> str:
    return "(" + ", ".join("batch" if index == 0 else str(size) for index, size in enumerate(shape)) + ")"
