"""Typed answers: what `Model.predict` gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Label:
    """One class for one recording or window.

    Args:
        label: the class; None means "none of these".
        score: the probability of the best class, also where the answer is none.
        exit: the exit that answered; for several windows the deepest one used.
        milliseconds: time to the answer, reading and features included; the sum over windows.
        scores: probability by class, largest first.
        start, end: seconds in the recording.
        windows: the parts, where the recording was longer than one window.
        notes: what was odd about the input, one sentence each.
    """

    label: str | None
    score: float
    exit: str
    milliseconds: float
    scores: dict[str, float] = field(default_factory=dict)
    start: float = 0.0
    end: float = 0.0
    windows: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, start: float, end: float) -> Label:
        """The same answer placed in a recording."""
        return replace(self, start=start, end=end)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Count:
    """How many there are in one picture, recording or window.

    Args:
        count: how many, not rounded, at least 0.
        exit: the exit that answered; for several windows the deepest one used.
        milliseconds: time to the answer; the sum over windows.
        unit: what was counted, in the singular.
        density: ``(height, width)`` per pixel, where the exit gave one; not among the plain values.
        start, end: seconds in the recording.
        windows: the parts, where the recording was longer than one window.
        notes: what was odd about the input, one sentence each.
    """

    count: float
    exit: str
    milliseconds: float
    unit: str = "person"
    density: Any = field(default=None, repr=False, compare=False)
    start: float = 0.0
    end: float = 0.0
    windows: tuple[Count, ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, start: float, end: float) -> Count:
        """The same answer placed in a recording."""
        return replace(self, start=start, end=end)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: value for name, value in vars(self).items() if name not in ("density", "windows")}
        return {**plain, "windows": tuple(part.to_dict() for part in self.windows)}


@dataclass(frozen=True)
class Embedding:
    """Where one picture, recording or window lies in the network's space, and who that is.

    Args:
        label: whose embedding in the gallery is nearest; None without a gallery, and where nobody is near
            enough.
        score: how much nearer that is than the next one's: 1 minus the ratio of the two distances, from 0 to
            1; 0 without a gallery.
        exit: the exit that answered; for several windows the deepest one used.
        milliseconds: time to the answer; the sum over windows.
        vector: the embedding as the exit gave it, float32 ``(dimension,)``; of several windows their mean.
        distance: to the nearest one in the gallery; None without one.
        start, end: seconds in the recording.
        windows: the parts, where the recording was longer than one window.
        notes: what was odd about the input, one sentence each.
    """

    label: str | None
    score: float
    exit: str
    milliseconds: float
    vector: Any = field(default=None, repr=False, compare=False)
    distance: float | None = None
    start: float = 0.0
    end: float = 0.0
    windows: tuple[Embedding, ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, start: float, end: float) -> Embedding:
        """The same answer placed in a recording."""
        return replace(self, start=start, end=end)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: value for name, value in vars(self).items() if name != "windows"}
        vector = None if self.vector is None else [float(value) for value in self.vector]
        return {**plain, "vector": vector, "windows": tuple(part.to_dict() for part in self.windows)}
