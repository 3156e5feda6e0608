"""One step of streams from a file that `sentio.streaming.step_graph.export_step` wrote, without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from sentio.core.arrays import NumpyArrays
from sentio.core.errors import ArtifactError, InputError
from sentio.core.stepping import STEPS, State
from sentio.edge.sessions import Settings, first_line, start_session
from sentio.edge.step_input import check_state, checked_units
from sentio.edge.stepped import STREAM, Stepped

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
}
#: outputs other than the next state
GIVEN = ("output", "valid")


class ExportedStep:
    """The step of a network without exits, as ``export_step`` wrote it: numpy in, numpy out.

    It holds no state: the state, a flat dict of arrays with one row for each stream, goes in and comes out,
    so that `sentio.edge.StreamBatch` and `sentio.edge.SingleStream` take it as they take a box's steps. May
    be used from several threads.

    Args:
        path: of the ``.onnx`` file.
        threads, provider: as for `sentio.edge.load`.

    Raises:
        ArtifactError: no such file, no step, or one that is refused.
        ConfigError: fewer threads than one, or a provider that is not there.
    """

    arrays = NumpyArrays()

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        provider: str | Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._what = f"The step {str(path)!r}"
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{self._what} cannot be read: {error.strerror or error}") from error
        self._session = start_session(memoryview(data), Settings(threads, provider), self._what)
        inputs = {entry.name: entry for entry in self._session.get_inputs()}
        outputs = {entry.name: entry for entry in self._session.get_outputs()}
        self._begins_with = self._read_facts()
        self._names = [f"state.{name}" for name in self._begins_with]
        self._next = [f"next.{name}" for name in self._begins_with]
        same = all(
            (inputs[taken].shape[1:], inputs[taken].type) == (outputs[given].shape[1:], outputs[given].type)
            for taken, given in zip(self._names, self._next, strict=True)
            if taken in inputs and given in outputs
        )
        if (
            inputs.keys() != {"x", *self._names}
            or list(outputs) != [*GIVEN, *self._next]
            or not same
            or any(entry.type not in _TYPES or not _is_batch(entry.shape) for entry in inputs.values())
            or len(inputs["x"].shape) <= self.axis
            or inputs["x"].shape[self.axis] != self.hop
        ):
            raise self._damaged("does not take and give what its metadata say")
        #: of a step's input, without the batch
        self.shape = tuple(inputs["x"].shape[1:])
        self.ndim = len(self.shape) + 1
        self._type = np.dtype(_TYPES[inputs["x"].type])
        self._kept = {
            name: (tuple(inputs[taken].shape[1:]), np.dtype(_TYPES[inputs[taken].type]))
            for name, taken in zip(self._begins_with, self._names, strict=True)
        }

    def start(self, batch: int = 1, *, like: Any = None) -> dict[str, NDArray[Any]]:
        """The state of streams that have not begun.

        Args:
            batch: number of streams.
            like: as for PyTorch's streams; the step knows its size, so only the number of rows counts.
        """
        count = batch if like is None else len(like)
        return {
            name: np.full((count, *shape), self._begins_with[name], dtype)
            for name, (shape, dtype) in self._kept.items()
        }

    def step(self, x: Any, state: State | None = None) -> Stepped:
        """One step of a batch of streams.

        Args:
            x: the next ``hop`` units, ``(batch, *shape)``.
            state: what the last step gave, one row for each stream; None to begin new ones. It is not
                changed.

        Raises:
            InputError: not ``hop`` units, values that are not finite, or a state of other streams.
            ArtifactError: the graph cannot be run.
        """
        values = self._checked(x)
        if state is None:
            state = self.start(len(values))
        else:
            check_state(state, self._kept, len(values))
        feed = {name: state[key] for name, key in zip(self._names, self._begins_with, strict=True)}
        try:
            output, valid, *after = self._session.run(None, {"x": values, **feed})
        except Exception as error:  # ONNX Runtime's types have no common base
            raise self._failed(error) from error
        return Stepped(output, valid, dict(zip(self._begins_with, after, strict=True)))

    def in_place(self, batch: int = 1, state: State | None = None) -> StepInPlace:
        """The same for streams that are always stepped together, in memory of their own, which is faster.

        Args:
            batch: number of streams that begin.
            state: to go on from; None to begin.

        Raises:
            InputError: a state of another network, or fewer streams than one.
        """
        if state is None and batch < 1:
            raise InputError(f"At least one stream can be stepped, not {batch}")
        return StepInPlace(self, self.start(batch) if state is None else state)

    def _checked(self, x: Any) -> NDArray[Any]:
        return checked_units(x, self.shape, self.axis, self.hop, self._type)

    def _read_facts(self) -> dict[str, float]:
        """The first value of each tensor of the state; the hop and the rest are set here."""
        text = self._session.get_modelmeta().custom_metadata_map.get(STREAM)
        if text is None:
            raise ArtifactError(
                f"{self._what} is a graph without {STREAM!r} in its metadata, so it is no step of a stream; "
                "write one with export_step"
            )
        try:
            facts = json.loads(text)
            self.hop, self.axis, self.warm_up = (int(facts[key]) for key in ("hop", "axis", "warm_up"))
            begins = {str(name): float(value) for name, value in facts["begins_with"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise self._damaged(f"has metadata that cannot be read ({error})") from error
        if self.hop < 1 or self.axis < 1 or self.warm_up < 0 or begins.get(STEPS) != 0:
            raise self._damaged("has metadata that say nothing of use")
        return begins

    def _damaged(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self._what} is damaged: it {what}; export it again")

    def _failed(self, error: Exception) -> ArtifactError:
        return ArtifactError(f"{self._what} cannot be run: {first_line(error)}")


class StepInPlace:
    """Streams that are always stepped together, whose state stays where ONNX Runtime reads and writes it.

    Two sets of memory take turns, so a step makes no state anew and hands none over. Not to be used from
    several threads.

    Args:
        exported: the step.
        state: of the streams; it is copied.

    Raises:
        InputError: a state of another network.
    """

    def __init__(self, exported: ExportedStep, state: Mapping[str, Any]) -> None:
        self._exported = exported
        steps = state.get(STEPS) if isinstance(state, Mapping) else None
        self.batch = len(steps) if isinstance(steps, np.ndarray) and steps.ndim else 1
        check_state(state, exported._kept, self.batch)
        first = exported.step(np.zeros((self.batch, *exported.shape), exported._type), state)
        self._x = np.zeros((self.batch, *exported.shape), exported._type)
        self._output, self._valid = np.empty_like(first.output), np.empty_like(first.valid)
        self._sets = [{name: value.copy() for name, value in kept.items()} for kept in (state, first.state)]
        self._bindings = [self._bound(*self._sets), self._bound(*reversed(self._sets))]
        self._turn = 0

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of the state as it is now."""
        return {name: value.copy() for name, value in self._sets[self._turn].items()}

    def step(self, x: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """One step of all streams.

        Args:
            x: the next ``hop`` units, ``(batch, *shape)``.

        Returns:
            output and valid, as `Stepped` has them.

        Raises:
            InputError: not ``hop`` units of as many streams, or values that are not finite; the state is as
                it was.
            ArtifactError: the graph cannot be run.
        """
        values = self._exported._checked(x)
        if len(values) != self.batch:
            raise InputError(f"There are {self.batch} streams here; got units of {len(values)}")
        np.copyto(self._x, values)
        try:
            self._exported._session.run_with_iobinding(self._bindings[self._turn])
        except Exception as error:  # ONNX Runtime's types have no common base
            raise self._exported._failed(error) from error
        self._turn = 1 - self._turn
        return self._output.copy(), self._valid.copy()

    def _bound(self, before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> ort.IOBinding:
        """Arrays on the CPU are used where they lie."""
        binding = self._exported._session.io_binding()
        for name, value in {"x": self._x, **{f"state.{key}": v for key, v in before.items()}}.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        given = {"output": self._output, "valid": self._valid}
        for name, value in {**given, **{f"next.{key}": v for key, v in after.items()}}.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(value))
        return binding


def _is_batch(shape: Sequence[Any]) -> bool:
    """Whether the first axis is open and the others are fixed."""
    return bool(shape) and not isinstance(shape[0], int) and all(isinstance(size, int) for size in shape[1:])
