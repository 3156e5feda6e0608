"""Streams as they come: one by itself, or many that join, leave and are late, stepped together.

No PyTorch here: the same code holds the streams of a network in PyTorch and those of exported steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from sentio.core.arrays import Arrays
from sentio.core.errors import ConfigError, InputError
from sentio.core.stepping import STEPS, State


class Steps(Protocol):
    """A network on streams; ``warm_up`` is by exit where there are exits, which ``exit_names`` then lists."""

    @property
    def arrays(self) -> Arrays: ...
    @property
    def hop(self) -> int: ...
    @property
    def axis(self) -> int: ...
    @property
    def ndim(self) -> int: ...
    @property
    def warm_up(self) -> int | Mapping[str, int]: ...

    def start(self, batch: int = 1, *, like: Any = None) -> dict[str, Any]: ...
    def step(self, x: Any, state: Any = None, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Warming:
    """There is no answer yet.

    Args:
        steps_left: steps until the first.
    """

    steps_left: int


class Answer(NamedTuple):
    """What one stream got from a step.

    Args:
        output: its row of the output, or `Warming`: how long there is none yet.
        exit: that answered, None for a network without exits.
    """

    output: Any
    exit: str | None = None


class SingleStream:
    """One stream that takes its input in pieces of any length and holds its state.

    Args:
        stream: made by `sentio.stream`, or of a box (`Model.stream`).
        state: to go on from, one row; None to begin.
        options: of the stream's step, such as ``policy=``.
    """

    def __init__(self, stream: Steps, state: State | None = None, **options: Any) -> None:
        self.stream, self.state, self.options = stream, state, options
        self._waiting = _Waiting(stream)

    def push(self, x: Any) -> list[Answer]:
        """The answers that the next units bring, one for each hop that is full.

        Args:
            x: without the batch axis, with any number of units.

        Raises:
            InputError: no units, or of another shape than before; the stream is as it was.
        """
        before, state = self._waiting.units, self.state
        answers = []
        try:
            self._waiting.add(x)
            while self._waiting.ready:
                result = self.stream.step(self._waiting.next()[None], self.state, **self.options)
                self._waiting.drop()
                self.state = result.state
                answers += _answers(self.stream, result)
        except BaseException:
            self._waiting.units, self.state = before, state
            raise
        return answers


class StreamBatch:
    """Many streams through one network: each step takes those that have a whole hop waiting.

    A stream that is late is left out and goes on where it was. Stepped alone, a stream's answers are bit for
    bit those of `SingleStream`; in company they are the same up to the rounding of larger products.

    Args:
        stream: made by `sentio.stream`, or of a box (`Model.stream`).
        like: an input ``(batch, ...)`` of the streams' size and type; the network's own if None.
        options: of the stream's step, such as ``policy=``.
    """

    def __init__(self, stream: Steps, *, like: Any = None, **options: Any) -> None:
        self.stream, self.options = stream, options
        self._arrays = stream.arrays
        self._begin = stream.start(1, like=None if like is None else like[:1])
        self._slots: dict[str, Any] = {name: self._arrays.copy(row) for name, row in self._begin.items()}
        self._free: list[int] = [0]
        self._places: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The streams, in the order in which they joined."""
        return tuple(self._places)

    @property
    def ready(self) -> tuple[Hashable, ...]:
        """The streams that have a whole hop waiting."""
        return tuple(name for name, waiting in self._waiting.items() if waiting.ready)

    def join(self, name: Hashable, state: State | None = None) -> None:
        """A new stream, or one that goes on from a state of one row.

        Raises:
            ConfigError: the name is taken.
            InputError: the state is of another network or size.
        """
        if name in self._places:
            raise ConfigError(f"A stream called {name!r} is in the batch already; choose another name")
        row = self._begin if state is None else state
        self._check(row)
        if not self._free:
            self._grow()
        place = self._free.pop()
        for key, value in row.items():
            self._slots[key][place] = value[0]
        self._places[name], self._waiting[name] = place, _Waiting(self.stream)

    def leave(self, name: Hashable) -> dict[str, Any]:
        """Take a stream out; its state, with which it can join again here or elsewhere.

        Units that wait for a whole hop are dropped; push them again where it goes on.

        Raises:
            InputError: no such stream.
        """
        state = self.state(name)
        self._free.append(self._places.pop(name))
        del self._waiting[name]
        return state

    def state(self, name: Hashable) -> dict[str, Any]:
        """A copy of one stream's state.

        Raises:
            InputError: no such stream.
        """
        place = self._place(name)
        return {key: self._arrays.copy(slots[place : place + 1]) for key, slots in self._slots.items()}

    def push(self, name: Hashable, x: Any) -> None:
        """Units of one stream, any number, without the batch axis.

        Raises:
            InputError: no such stream, or another shape than before.
        """
        self._place(name)
        self._waiting[name].add(x)

    def run(self, names: Iterable[Hashable] | None = None) -> dict[Hashable, Answer]:
        """One step of every stream that is ready, in one batch; if it fails, all streams are as they were.

        Args:
            names: only these; all that are ready if None.

        Returns:
            Answers by name; empty if none is ready.

        Raises:
            InputError: no such stream, one of ``names`` is not ready, or units of different sizes.
        """
        chosen = list(self.ready if names is None else dict.fromkeys(names))
        for name in chosen:
            self._place(name)
            if not self._waiting[name].ready:
                raise InputError(f"Stream {name!r} has no whole hop waiting; push more, or leave it out")
        if not chosen:
            return {}
        chunks = self._arrays.concatenate([part[None] for part in self._chunks(chosen)], 0)
        places = np.array([self._places[name] for name in chosen], dtype=np.intp)
        everything = places.tolist() == list(range(len(self._slots[STEPS])))
        state = (
            self._slots
            if everything
            else {key: self._arrays.take(slots, places) for key, slots in self._slots.items()}
        )
        result = self.stream.step(chunks, state, **self.options)
        for name in chosen:
            self._waiting[name].drop()
        for key, value in result.state.items():
            if value is not self._slots[key]:
                self._arrays.put(self._slots[key], places, value)
        return dict(zip(chosen, _answers(self.stream, result), strict=True))

    def _chunks(self, names: list[Hashable]) -> list[Any]:
        chunks = [self._waiting[name].next() for name in names]
        sizes = [tuple(chunk.shape) for chunk in chunks]
        for name, size in zip(names, sizes, strict=True):
            if size != sizes[0]:
                raise InputError(
                    f"Streams of one batch have units of one size: a step of {names[0]!r} is {sizes[0]}, of "
                    f"{name!r} {size}; let the one that is wrong leave"
                )
        return chunks

    def _place(self, name: Hashable) -> int:
        try:
            return self._places[name]
        except KeyError:
            raise InputError(f"No stream called {name!r} is in the batch; join it first") from None

    def _check(self, row: State) -> None:
        if not isinstance(row, Mapping) or not all(map(self._arrays.knows, row.values())):
            raise InputError(f"A state is a dict of {self._arrays.kind}s, got {type(row).__name__}")
        wanted = {key: tuple(value.shape) for key, value in self._begin.items()}
        given = {key: tuple(value.shape) for key, value in row.items()}
        if wanted != given:
            odd = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))[0]
            raise InputError(
                f"The state does not fit: {odd!r} has shape {given.get(odd)}, and {wanted.get(odd)} is "
                "needed; it is of another network, another input size or several streams"
            )

    def _grow(self) -> None:
        size = len(self._slots[STEPS])
        self._slots = {key: self._arrays.concatenate((slots, slots), 0) for key, slots in self._slots.items()}
        self._free = list(range(2 * size - 1, size - 1, -1))


class _Waiting:
    """Units of one stream that wait for a whole hop."""

    def __init__(self, stream: Steps) -> None:
        self.hop, self.axis, self.ndim = stream.hop, stream.axis - 1, stream.ndim - 1
        self._arrays = stream.arrays
        #: all that have been pushed and not stepped; None before the first
        self.units: Any = None

    @property
    def ready(self) -> bool:
        return self.units is not None and self.units.shape[self.axis] >= self.hop

    def add(self, x: Any) -> None:
        if not self._arrays.knows(x):
            raise InputError(f"A stream's units come as one {self._arrays.kind}, got {type(x).__name__}")
        if x.ndim != self.ndim:
            raise InputError(
                f"A stream's units have {self.ndim} axes, without the batch and with time as axis "
                f"{self.axis}; got shape {tuple(x.shape)}"
            )
        if self.units is None:  # a copy: the caller may write the next units where these lie
            self.units = self._arrays.concatenate((x,), self.axis)
            return
        sizes = [list(part.shape) for part in (self.units, x)]
        for size in sizes:
            size[self.axis] = 0
        if sizes[0] != sizes[1]:
            raise InputError(
                f"The stream's units had shape {tuple(self.units.shape)} with time as axis {self.axis}, now "
                f"{tuple(x.shape)}; a stream keeps its size"
            )
        self.units = self._arrays.concatenate((self.units, x), self.axis)

    def next(self) -> Any:
        assert self.units is not None
        return self._arrays.narrow(self.units, self.axis, 0, self.hop)

    def drop(self) -> None:
        length = self.units.shape[self.axis]
        self.units = self._arrays.narrow(self.units, self.axis, self.hop, length - self.hop)


def _answers(stream: Steps, result: Any) -> list[Answer]:
    """Each stream's part of a step's result."""
    rows = range(len(result.output))
    valid, steps = result.valid.tolist(), result.state[STEPS].tolist()
    warm_up = stream.warm_up if isinstance(stream.warm_up, int) else min(stream.warm_up.values())
    names = getattr(stream, "exit_names", None)
    exits = [None for _ in rows] if names is None else [names[index] for index in result.exit.tolist()]
    return [
        Answer(result.output[row], exits[row]) if valid[row] else Answer(Warming(warm_up + 1 - steps[row]))
        for row in rows
    ]
