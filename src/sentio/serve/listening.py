"""Listening: a recording or a stream answered window after window, each window by its own deadline.

Memory stays the same however long the stream is: one window of samples is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.io import Sound, blocks
from sentio.audio.spectrogram import spectrogram
from sentio.audio.windows import AudioFrontEnd
from sentio.core.errors import ConfigError, InputError
from sentio.core.model import Model
from sentio.core.policy import (
    Combine,
    Deadline,
    ExitCosts,
    Mask,
    Memory,
    Policy,
    check_exits,
    combine_of,
)
from sentio.core.prediction import Label
from sentio.core.timing import timed_costs
from sentio.data.simulate.labels import Event

#: the class that stands for nothing in particular, as `sentio.data.simulate` calls it
BACKGROUND = "background"
#: windows over which the time to each exit is measured before listening begins
MEASURED = 8


@dataclass(frozen=True)
class Heard:
    """One window.

    Args:
        start, end: seconds from the start of the stream.
        label: the answer; None means "none of these".
        score: the probability of the best class.
        exit: the exit that answered.
        milliseconds: features and network, from the window's last sample to its answer.
        in_time: the answer came by the deadline; True where there is none.
    """

    start: float
    end: float
    label: str | None
    score: float
    exit: str
    milliseconds: float
    in_time: bool


@dataclass(frozen=True)
class Segment:
    """A run of windows with one answer.

    Neighbouring windows overlap where the hop is shorter than the window; a segment begins and ends half-way
    in the overlap.

    Args:
        start, end: seconds.
        label: of all its windows.
        score: the highest.
        exits: windows answered by each exit.
        milliseconds: the longest of its windows.
        windows: how many.
    """

    start: float
    end: float
    label: str | None
    score: float
    exits: dict[str, int]
    milliseconds: float
    windows: int


@dataclass(frozen=True)
class Listening:
    """What was heard in one recording, and how quickly.

    Args:
        source: the file.
        seconds: of sound.
        elapsed: seconds of wall-clock time to read and answer all of it.
        deadline_ms: for each window; None without one.
        windows: every answer, in order.
        segments: the same, runs of one answer joined.
        truth: what there is to hear, where that is known; None where it is not.
        labels: that the model knows.
        right: share of windows answered rightly; None where the truth is not known.
        found: events of the truth that have a segment of their label over them; None without truth.
        false_alarms: segments over no event of their label, background and "none of these" aside.
    """

    source: str
    seconds: float
    elapsed: float
    deadline_ms: float | None
    windows: tuple[Heard, ...]
    segments: tuple[Segment, ...]
    truth: tuple[Event, ...] | None
    labels: tuple[str, ...]
    right: float | None = None
    found: int | None = None
    false_alarms: int | None = None

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for each second of sound; below 1 keeps up with a live stream."""
        return self.elapsed / self.seconds

    @cached_property
    def spectrogram(self) -> NDArray[np.float32]:
        """Of the whole recording in dB, ``(time, frequency)``, mel bands; reads the file."""
        return spectrogram(self.source)

    @property
    def late(self) -> int:
        """Windows answered after their deadline."""
        return sum(not window.in_time for window in self.windows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the spectrogram."""
        facts = {key: value for key, value in vars(self).items() if key != "spectrogram"}
        for name in ("windows", "segments", "truth"):
            facts[name] = None if facts[name] is None else [asdict(each) for each in facts[name]]
        return {**facts, "real_time_factor": self.real_time_factor, "late": self.late}


def listen(
    model: Model,
    source: str | PathLike[str] | Iterable[Sound],
    *,
    hop: float | None = None,
    deadline_ms: float | None = None,
    policy: Policy | None = None,
) -> Iterator[Heard]:
    """Answer about a stream, window by window, as the windows become complete.

    The deadline is for features and network together: what the features have used up is taken from the
    network's share, which leaves at the exit that can still be reached. How long each exit takes is measured
    here, on this machine and runtime, before anything is read. A window is answered by the first exit even
    where the deadline has passed, and says so.

    Args:
        model: with a front end for sound.
        source: a sound file, or blocks of sound as a microphone gives them: mono, at the front end's rate,
            of any length, without end if need be.
        hop: seconds between windows; by default the window's own length.
        deadline_ms: milliseconds from a window's last sample to its answer.
        policy: leaves earlier than the deadline asks for; by default the model's own.

    Yields:
        one answer for each window. The last window ends with the sound, as in `Model.predict`; sound
        shorter than a window is padded with silence.

    Raises:
        ConfigError: the model counts, or has no front end for sound; a hop or a deadline that is not above 0;
            the policy names no exit of the model.
        InputError: the sound cannot be read, or blocks have another rate or several channels.
    """
    frontend = check_listening(model, hop=hop, deadline_ms=deadline_ms)
    chosen = policy or model.policy
    # Behind a deadline an exit that does not exist would be one that is never reached.
    check_exits(chosen, model.row.exit_names)
    costs = None if deadline_ms is None else _measured(model, frontend)
    return _answers(model, frontend, source, hop or frontend.window, deadline_ms, chosen, costs)


def check_listening(model: Model, **above_0: float | None) -> AudioFrontEnd:
    """The model's front end for sound, and numbers that have to be above 0 where they are given.

    Raises:
        ConfigError: there is none, or one is not; or the model counts, where events are wanted.
    """
    frontend = model.frontend
    if not isinstance(frontend, AudioFrontEnd):
        raise ConfigError(f"Model {model.name!r} has no front end for sound, so it cannot listen")
    if model.task.name == "counting":
        raise ConfigError(
            f"Model {model.name!r} counts, and listening tells events apart; sentio predict --windows gives "
            "the count of each window"
        )
    for what, value in above_0.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{what} must be a number above 0, got {value!r}")
    return frontend


def check_block(block: Sound, rate: int) -> None:
    """A block is mono at a front end's rate.

    Raises:
        InputError: it is not.
    """
    if block.rate != rate or len(block.samples) != 1:
        raise InputError(
            f"The front end takes mono blocks at {rate} Hz, got {len(block.samples)} channels at "
            f"{block.rate} Hz; mix and resample them first"
        )


def hear(
    model: Model,
    path: str | PathLike[str],
    *,
    hop: float | None = None,
    deadline_ms: float | None = None,
    policy: Policy | None = None,
    truth: Sequence[Event] | None = None,
    in_steps: bool = False,
) -> Listening:
    """Listen to a whole file as fast as it can be answered, and compare with the truth where that is known.

    Which windows count as right is said at `is_right`.

    Args:
        model, hop, deadline_ms, policy: as for `listen`.
        path: a sound file.
        truth: the events in this file; others' are left out.
        in_steps: with the steps of a box for streams, see `sentio.serve.stream_listening`.

    Raises:
        ConfigError, InputError: as for `listen`; or a hop beside ``in_steps``, or a file too short for them.
    """
    if in_steps:
        from sentio.serve.stream_listening import listen_in_steps

        if hop is not None:
            raise ConfigError("The hop of steps is the box's own, written by sentio export --stream --hop N")
        windows = listen_in_steps(model, path, deadline_ms=deadline_ms, policy=policy)
    else:
        windows = listen(model, path, hop=hop, deadline_ms=deadline_ms, policy=policy)
    begun = perf_counter()
    heard = tuple(windows)
    elapsed = perf_counter() - begun
    if not heard:
        raise InputError(f"The recording {str(path)!r} is too short: its stream ends before the first answer")
    segments = tuple(_segments(heard))
    facts: dict[str, Any] = {}
    events = None
    if truth is not None:
        events = tuple(event for event in truth if Path(event.filename).name == Path(path).name)
        facts = _compared(heard, segments, events)
    return Listening(
        source=str(path),
        seconds=heard[-1].end,
        elapsed=elapsed,
        deadline_ms=deadline_ms,
        windows=heard,
        segments=segments,
        truth=events,
        labels=tuple(getattr(model.task, "labels", ())),
        **facts,
    )


def is_right(window: Heard, truth: Sequence[Event]) -> bool:
    """Whether a window's answer is right.

    It is, if it is the label of an event that fills at least a quarter of the window or lies at least half
    inside it; where there is no such event, if it is "background" or "none of these".
    """
    there = set()
    for event in truth:
        shared = min(window.end, event.offset) - max(window.start, event.onset)
        if shared >= 0.25 * (window.end - window.start) or shared >= 0.5 * (event.offset - event.onset):
            there.add(event.label)
    return window.label in there if there else window.label in (None, BACKGROUND)


@dataclass(frozen=True)
class ByDeadline:
    """A policy, and leaving when the next exit would come too late, whichever is first."""

    policy: Policy
    deadline: Deadline
    costs: ExitCosts

    @property
    def measure(self) -> str | None:
        return self.policy.measure

    @property
    def combine(self) -> Combine | None:
        return combine_of(self.policy)

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self,
        confidence: NDArray[np.floating[Any]] | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        late, _ = self.deadline.decide(confidence, prediction, exit, self.costs, elapsed, {})
        if not self.policy.evaluates(exit):
            return late, memory
        leave, memory = self.policy.decide(confidence, prediction, exit, costs, elapsed, memory)
        return leave | late, memory


def _answers(
    model: Model,
    frontend: AudioFrontEnd,
    source: str | PathLike[str] | Iterable[Sound],
    hop: float,
    deadline_ms: float | None,
    policy: Policy,
    costs: ExitCosts | None,
) -> Iterator[Heard]:
    rate = frontend.features.rate
    for start, samples in _windows(source, frontend, max(1, round(hop * rate))):
        begun = perf_counter()
        prepared = frontend.prepare((samples, rate))
        features_ms = (perf_counter() - begun) * 1000.0
        silence = model.task.silence()
        if prepared.silent[0] and silence is not None:
            found: Label = replace(silence, milliseconds=features_ms)
        else:
            chosen = policy
            if deadline_ms is not None and costs is not None:
                # Even a hundredth of a millisecond that is left asks for the first exit.
                left = Deadline(max(deadline_ms - features_ms, 0.01))
                chosen = ByDeadline(policy, left, costs)
            answers = model.answer(prepared.inputs, policy=chosen)
            spent = (perf_counter() - begun) * 1000.0
            exit = answers.exit_names()[0]
            found = model.task.decode(answers.outputs[0], exit=exit, milliseconds=spent)
        in_time = deadline_ms is None or found.milliseconds <= deadline_ms
        end = start + len(samples)
        yield Heard(
            start / rate, end / rate, found.label, found.score, found.exit, found.milliseconds, in_time
        )


def _windows(
    source: str | PathLike[str] | Iterable[Sound], frontend: AudioFrontEnd, step: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """First sample and samples of each window, cut as `sentio.audio.windows` cuts a whole recording."""
    rate, length = frontend.features.rate, frontend.window_samples
    if isinstance(source, str | PathLike):
        source = blocks(source, seconds=min(step, length) / rate, rate=rate, mono=True)
    kept = np.empty(0, np.float32)
    place = following = 0  # of the first sample kept, and of the next window
    last = None  # where the latest window began
    for block in source:
        check_block(block, rate)
        kept = np.concatenate([kept, block.samples[0]])
        end = place + len(kept)
        while following + length <= end:
            yield following, kept[following - place :][:length]
            last, following = following, following + step
        # What may be part of a window to come: the next one, or the one that ends with the sound.
        drop = max(0, min(following, end - length) - place)
        kept, place = kept[drop:], place + drop
    if last is None:
        if not len(kept):
            raise InputError("The stream ended before it gave a sample")
        yield 0, kept
    elif place + len(kept) - length - last >= frontend.features.hop_length:
        yield place + len(kept) - length, kept[-length:]


def _measured(model: Model, frontend: AudioFrontEnd) -> ExitCosts:
    """Milliseconds to each exit on this machine, the median over a few windows of noise."""
    generator = np.random.Generator(np.random.PCG64(0))
    samples = generator.normal(0, 0.1, frontend.window_samples).astype(np.float32)
    inputs = frontend.prepare((samples, frontend.features.rate)).inputs
    return timed_costs(
        model.row,
        inputs,
        model.costs,
        repeats=MEASURED,
        task=model.task,
        temperatures=model.temperatures,
    )


def _segments(windows: Sequence[Heard]) -> Iterator[Segment]:
    edges = [
        windows[0].start,
        *((before.end + after.start) / 2 for before, after in pairwise(windows)),
        windows[-1].end,
    ]
    place = 0
    for label, run in groupby(windows, key=lambda window: window.label):
        part = list(run)
        exits: dict[str, int] = {}
        for window in part:
            exits[window.exit] = exits.get(window.exit, 0) + 1
        yield Segment(
            edges[place],
            edges[place + len(part)],
            label,
            max(window.score for window in part),
            exits,
            max(window.milliseconds for window in part),
            len(part),
        )
        place += len(part)


def _compared(
    windows: Sequence[Heard], segments: Sequence[Segment], events: Sequence[Event]
) -> dict[str, Any]:
    def over(segment: Segment, event: Event) -> bool:
        shared = min(segment.end, event.offset) - max(segment.start, event.onset)
        return segment.label == event.label and shared > 0

    alarms = [segment for segment in segments if segment.label not in (None, BACKGROUND)]
    return {
        "right": float(np.mean([is_right(window, events) for window in windows])),
        "found": sum(any(over(segment, event) for segment in segments) for event in events),
        "false_alarms": sum(not any(over(segment, event) for event in events) for segment in alarms),
    }
