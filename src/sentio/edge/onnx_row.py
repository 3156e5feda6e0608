"""Exported stages as a row: ONNX Runtime and numpy, no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import FINAL, MAIN, Boundary, ExitPoint
from sentio.core.artifact import ArtifactFiles
from sentio.core.errors import ArtifactError, ConfigError
from sentio.core.manifest import EXIT, STAGE, ExitFacts, GraphFacts
from sentio.edge.box_stream import BoxStream
from sentio.edge.sessions import Session, Settings, fits
from sentio.edge.step_input import shown


class OnnxRow:
    """A row of ONNX graphs, one per stage and one per exit; takes and gives numpy arrays.

    Sessions of ONNX Runtime are safe to run from several threads, and nothing is kept between calls.

    Args:
        files: the artifact, with exported stages.
        settings: how graphs are run.

    Raises:
        ArtifactError: a graph is damaged, is refused, or does not fit the one before it.
        ConfigError: the provider cannot be started.
    """

    runtime = "edge"

    def __init__(self, files: ArtifactFiles, settings: Settings) -> None:
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
        self._files, self._settings = files, settings
        self._graphs = {
            key: (
                Session(
                    files,
                    facts.file,
                    settings,
                    [f"in_{index}" for index in range(len(facts.inputs))],
                    [f"out_{index}" for index in range(len(facts.outputs))],
                ),
                facts,
            )
            for key, facts in manifest.graphs.items()
        }
        self._check(manifest.exits)

    def start(self, inputs: Any) -> Boundary:
        arrays = inputs if isinstance(inputs, Mapping) else {MAIN: inputs}
        return {name: np.ascontiguousarray(_array(array)) for name, array in arrays.items()}

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

    def stream(self, **options: Any) -> BoxStream:
        """The network on streams, from the artifact's step graphs; opened anew at each call.

        Args:
            options: of `BoxStream`: policy, task, costs, temperatures.

        Raises:
            ConfigError: the artifact holds none.
            ArtifactError: one is damaged or does not fit.
        """
        if self._files.manifest.stream is None:
            raise ConfigError(
                f"Artifact {self._files.path} holds no steps of streams; write them with: sentio export "
                "--stream, or sentio.export(model, path, stream=sentio.stream(model.network))"
            )
        return BoxStream(self._files, self._settings, **options)

    def check_outputs(self, wanted: int) -> None:
        """Every exit gives that many values for each sample, as far as its shape is fixed.

        Raises:
            ArtifactError: one does not.
        """
        last = STAGE + self.stage_names[-1]
        for key, (session, facts) in self._graphs.items():
            if key.startswith(EXIT) or key == last:
                name = f"out_{facts.outputs.index(MAIN) if key == last else 0}"
                shape = session.given_shapes[name]
                if not fits(shape, [wanted, *shape[2:]]):
                    raise session.damaged(
                        f"gives shape {shown(shape)}, where {wanted} values for each sample are expected"
                    )

    def _run(self, key: str, tensors: list[Any]) -> list[Any]:
        return self._graphs[key][0].run({f"in_{index}": tensor for index, tensor in enumerate(tensors)})

    def _check(self, exits: Sequence[ExitFacts]) -> None:
        """Graphs take what those before them give, and give what the manifest says, where sizes are fixed."""
        given: dict[str, Any] = {
            name: (list(shape), "tensor(float)") for name, shape in self.input_shapes.items()
        }
        found: dict[str, Any] = {}
        for name in self.stage_names:
            session, facts = self._graphs[STAGE + name]
            self._compare(session, facts, given)
            given = {
                tensor: (session.given_shapes[out][1:], session.given_types[out])
                for tensor, out in zip(facts.outputs, session.given_shapes, strict=True)
            }
            found |= {f"{name}/{tensor}": known for tensor, known in given.items()}
        for e in exits:
            session, facts = self._graphs[EXIT + e.name]
            self._compare(session, facts, found)
            self._gives_numbers(session, "out_0")
            shape = session.given_shapes["out_0"]
            if not fits(shape, [e.outputs, *shape[2:]]):
                raise session.damaged(
                    f"gives shape {shown(shape)}, and exit {e.name!r} has {e.outputs} outputs"
                )
        session, facts = self._graphs[STAGE + self.stage_names[-1]]
        self._gives_numbers(session, f"out_{facts.outputs.index(MAIN)}")
        for session, facts in self._graphs.values():
            for name, said in zip(session.given_shapes, facts.shapes or (), strict=False):
                shape = session.given_shapes[name]
                if not fits(shape, said):
                    raise session.damaged(
                        f"gives {name!r} of shape {shown(shape)}, where the manifest says "
                        f"{shown([None, *said])}"
                    )

    def _compare(self, session: Session, facts: GraphFacts, given: Mapping[str, Any]) -> None:
        for index, tensor in enumerate(facts.inputs):
            session.check(f"in_{index}", *given[tensor])

    def _gives_numbers(self, session: Session, name: str) -> None:
        if session.given_types[name] != "tensor(float)":
            raise session.damaged(f"gives {session.given_types[name]} where tensor(float) is expected")


def _array(value: Any) -> NDArray[Any]:
    """An array; a tensor of PyTorch as float32, which graphs take."""
    found: NDArray[Any] = value.detach().cpu().float().numpy() if hasattr(value, "detach") else value
    return found


def open_row(
    files: ArtifactFiles,
    *,
    threads: int | None = None,
    provider: str | Sequence[str] | None = None,
    memory_map: bool = False,
    lean: bool = False,
) -> OnnxRow:
    """The exported stages of an artifact; options as for `sentio.edge.load`.

    Raises:
        ArtifactError: it holds none, or damaged ones.
        ConfigError: fewer threads than one, or a provider that is not there.
    """
    settings = Settings(threads, provider, memory_map, lean)
    if not files.manifest.graphs:
        raise ArtifactError(
            f"Artifact {files.path} holds no exported stages; write them with: sentio export {files.path} DIR"
        )
    return OnnxRow(files, settings)
