"""One step of streams from a library that was compiled from C, without PyTorch and ONNX Runtime."""

from __future__ import annotations

import ctypes
import json
import re
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.arrays import NumpyArrays
from sentio.core.errors import ArtifactError, InputError
from sentio.core.stepping import STEPS, State
from sentio.edge.step_input import check_state, checked_units
from sentio.edge.stepped import Stepped

#: what a state calls the numbers that the network keeps
KEPT = "kept"
#: bytes that a library's vectors are best aligned to
_ALIGNED = 64


class CompiledStep:
    """The step of a network without exits, as `sentio.exporting.c` wrote and compiled it: numpy in and out.

    It holds no state, so that `sentio.edge.StreamBatch` and `sentio.edge.SingleStream` take it as they take
    others. A state has two arrays, one row for each stream: ``steps``, and ``kept``, the numbers that the
    network keeps, in the library's order; `named` and `from_named` turn it into that of `ExportedStep` and
    back. May be used from several threads; a step computes in the one that calls it, stream after stream.

    A library is code: it runs with the rights of whoever opens it, and it ends the process where the
    processor lacks what it was compiled for. Open only what you compiled, on the machine that you compiled
    it for.

    Args:
        path: of the library.
        name: what its functions begin with; as the file is called if None.

    Raises:
        ArtifactError: no such file, or no library of a step.
    """

    arrays = NumpyArrays()

    def __init__(self, path: str | Path, *, name: str | None = None) -> None:
        self.path = Path(path)
        self._what = f"The library {str(path)!r}"
        self.name = c_name(self.path.stem) if name is None else name
        try:
            self._library = _opened(self.path)
        except OSError as error:
            raise ArtifactError(f"{self._what} cannot be opened: {error.strerror or error}") from error
        try:
            facts = json.loads(self._text(f"{self.name}_facts"))
            self._start, self._steps = (
                getattr(self._library, f"{self.name}_{x}") for x in ("start", "steps")
            )
        except (AttributeError, ValueError) as error:
            raise ArtifactError(
                f"{self._what} holds no step called {self.name!r}; compile one with sentio.exporting.c, and "
                "say its name where the file is called otherwise"
            ) from error
        self._start.argtypes, self._start.restype = [ctypes.c_void_p] * 2, None
        self._steps.argtypes, self._steps.restype = [ctypes.c_long, *[ctypes.c_void_p] * 6], None
        stream = facts["stream"]
        self.hop, self.axis, self.warm_up = (int(stream[key]) for key in ("hop", "axis", "warm_up"))
        #: of a step's input, without the batch
        self.shape = tuple(facts["takes"])
        self.ndim = len(self.shape) + 1
        self._type = np.dtype(facts["type"])
        self._gives, self._work = tuple(facts["gives"]), int(facts["work"])
        self._kept = {STEPS: ((), np.dtype(np.int64)), KEPT: ((int(facts["kept"]),), self._type)}
        self._named: dict[str, dict[str, Any]] = facts["state"]
        self._own = threading.local()

    def start(self, batch: int = 1, *, like: Any = None) -> dict[str, NDArray[Any]]:
        """The state of streams that have not begun.

        Args:
            batch: number of streams.
            like: as for PyTorch's streams; the step knows its size, so only the number of rows counts.
        """
        count = batch if like is None else len(like)
        state = {name: np.zeros((count, *shape), dtype) for name, (shape, dtype) in self._kept.items()}
        for row in range(count):
            self._start(state[STEPS][row:].ctypes.data, state[KEPT][row].ctypes.data)
        return state

    def step(self, x: Any, state: State | None = None) -> Stepped:
        """One step of a batch of streams.

        Args:
            x: the next ``hop`` units, ``(batch, *shape)``.
            state: what the last step gave, one row for each stream; None to begin new ones. It is not
                changed.

        Raises:
            InputError: not ``hop`` units, values that are not finite, or a state of other streams.
        """
        values = self._checked(x)
        if state is None:
            after = self.start(len(values))
        else:
            check_state(state, self._kept, len(values))
            after = {name: np.array(state[name], order="C") for name in self._kept}
        output = np.empty((len(values), *self._gives), self._type)
        valid = np.empty(len(values), np.bool_)
        given = (values, after[STEPS], after[KEPT], self._memory(), output, valid)
        self._steps(len(values), *(array.ctypes.data for array in given))
        return Stepped(output, valid, after)

    def in_place(self, batch: int = 1, state: State | None = None) -> CompiledInPlace:
        """The same for streams that are always stepped together, whose state stays where it is.

        Args:
            batch: number of streams that begin.
            state: to go on from; None to begin.

        Raises:
            InputError: a state of another network, or fewer streams than one.
        """
        if state is None and batch < 1:
            raise InputError(f"At least one stream can be stepped, not {batch}")
        return CompiledInPlace(self, self.start(batch) if state is None else state)

    def named(self, state: State) -> dict[str, NDArray[Any]]:
        """A state as `ExportedStep` and, in PyTorch, `sentio.stream` have it.

        Raises:
            InputError: a state of another network.
        """
        check_state(state, self._kept, _rows(state))
        kept = np.ascontiguousarray(state[KEPT])
        views = {name: self._view(kept, name).copy() for name in self._named}
        return {**views, STEPS: state[STEPS].copy()}

    def from_named(self, state: State) -> dict[str, NDArray[Any]]:
        """A state of `ExportedStep`, or of PyTorch's stream as numpy, as this step has it.

        Raises:
            InputError: a state of another network.
        """
        named = {name: (tuple(fact["shape"]), self._type) for name, fact in self._named.items()}
        check_state(state, {**named, STEPS: self._kept[STEPS]}, _rows(state))
        kept = np.empty((len(state[STEPS]), *self._kept[KEPT][0]), self._type)
        for name in self._named:
            self._view(kept, name)[...] = state[name]
        return {STEPS: state[STEPS].copy(), KEPT: kept}

    def _view(self, kept: NDArray[Any], name: str) -> NDArray[Any]:
        """A tensor of the state where it lies in what is kept."""
        fact, size = self._named[name], self._type.itemsize
        strides = [kept.strides[0], *(stride * size for stride in fact["strides"])]
        shape = [len(kept), *fact["shape"]]
        return np.lib.stride_tricks.as_strided(kept[:, fact["at"] :], shape, strides)

    def _checked(self, x: Any) -> NDArray[Any]:
        return checked_units(x, self.shape, self.axis, self.hop, self._type)

    def _memory(self) -> NDArray[Any]:
        """Memory for work, once for each thread."""
        if not hasattr(self._own, "work"):
            self._own.work = _aligned(self._work, self._type)
        work: NDArray[Any] = self._own.work
        return work

    def _text(self, symbol: str) -> str:
        first = ctypes.c_char.in_dll(self._library, symbol)
        return ctypes.string_at(ctypes.addressof(first)).decode()


class CompiledInPlace:
    """Streams that are always stepped together, whose state stays where the library reads and writes it.

    Not to be used from several threads.

    Args:
        compiled: the step.
        state: of the streams; it is copied.

    Raises:
        InputError: a state of another network.
    """

    def __init__(self, compiled: CompiledStep, state: State) -> None:
        self.batch = _rows(state)
        check_state(state, compiled._kept, self.batch)
        self._compiled = compiled
        self._state = {name: np.array(value, order="C") for name, value in state.items()}
        self._output = np.empty((self.batch, *compiled._gives), compiled._type)
        self._valid = np.empty(self.batch, np.bool_)
        self._memory = _aligned(compiled._work, compiled._type)
        arrays = (self._state[STEPS], self._state[KEPT], self._memory, self._output, self._valid)
        self._pointers = [array.ctypes.data for array in arrays]

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of the state as it is now."""
        return {name: value.copy() for name, value in self._state.items()}

    def step(self, x: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """One step of all streams.

        Args:
            x: the next ``hop`` units, ``(batch, *shape)``.

        Returns:
            output and valid, as `Stepped` has them.

        Raises:
            InputError: not ``hop`` units of as many streams, or values that are not finite; the state is as
                it was.
        """
        values = self._compiled._checked(x)
        if len(values) != self.batch:
            raise InputError(f"There are {self.batch} streams here; got units of {len(values)}")
        self._compiled._steps(self.batch, values.ctypes.data, *self._pointers)
        return self._output.copy(), self._valid.copy()


def c_name(text: str) -> str:
    """A name as C may have it."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return f"_{name}" if not name or name[0].isdigit() else name


def _opened(path: Path) -> ctypes.CDLL:
    """A library, anew where it was compiled anew.

    The loader gives what it has opened by a name before, whatever lies there now, so each time it gets
    another name.
    """
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / path.name
        link.symlink_to(path.resolve(strict=True))
        return ctypes.CDLL(str(link))


def _rows(state: Any) -> int:
    """Of how many streams a state is, if it is one."""
    steps = state.get(STEPS) if isinstance(state, Mapping) else None
    return len(steps) if isinstance(steps, np.ndarray) and steps.ndim else 1


def _aligned(size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    memory = np.empty(size * dtype.itemsize + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size * dtype.itemsize].view(dtype)
