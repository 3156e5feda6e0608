"""Listening step by step: a box with steps of streams answers at each hop and computes nothing twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from math import ceil
from os import PathLike
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.io import Sound, blocks
from sentio.audio.windows import SILENT_PEAK
from sentio.core.model import Model
from sentio.core.policy import Deadline, ExitCosts, Fixed, Policy, check_exits
from sentio.core.sample_stream import SampleStream
from sentio.core.timing import WARMING
from sentio.serve.listening import MEASURED, ByDeadline, Heard, check_block, check_listening


def listen_in_steps(
    model: Model,
    source: str | PathLike[str] | Iterable[Sound],
    *,
    deadline_ms: float | None = None,
    policy: Policy | None = None,
) -> Iterator[Heard]:
    """Answer about a stream at each step of a box that was exported with steps of streams.

    The first answer comes when the first exit has heard a whole window, and then there is one for each step.
    An answer is about the samples that its exit looks back on. What the sound holds after its last whole
    step is not heard.

    Args:
        model: of such a box, with a front end that makes frames of samples as they come.
        source: as for `sentio.serve.listening.listen`.
        deadline_ms: milliseconds from a step's last sample to its answer; how long a step takes to each exit
            is measured before anything is read.
        policy: leaves earlier than the deadline asks for; by default the model's own.

    Yields:
        one answer for each step.

    Raises:
        ConfigError: the model has no such front end or no steps, a deadline that is not above 0, or the
            policy names no exit of the steps.
        InputError: the sound cannot be read, or blocks have another rate or several channels.
    """
    frontend = check_listening(model, deadline_ms=deadline_ms)
    chosen = policy or model.policy
    stream = model.stream(policy=chosen, samples=True)
    check_exits(chosen, stream.exit_names)
    if deadline_ms is not None:
        costs, frames_ms = timed_steps(stream)
        # Even a hundredth of a millisecond that is left asks for the first exit.
        chosen = ByDeadline(chosen, Deadline(max(deadline_ms - frames_ms, 0.01)), costs)
    return _answers(model, stream, source, deadline_ms, chosen, frontend.window_samples)


def _answers(
    model: Model,
    stream: SampleStream,
    source: str | PathLike[str] | Iterable[Sound],
    deadline_ms: float | None,
    policy: Policy,
    window: int,
) -> Iterator[Heard]:
    rate, hop, silence = stream.rate, stream.hop, model.task.silence()
    peaks: deque[float] = deque(maxlen=ceil(window / hop))
    state = None
    for step, samples in enumerate(_hops(source, rate, hop)):
        begun = perf_counter()
        peaks.append(float(np.abs(samples).max()))
        result = stream.step(samples[None], state, policy)
        state = result.state
        spent = (perf_counter() - begun) * 1000.0
        if not result.valid[0]:
            continue
        exit = stream.exit_names[result.exit[0]]
        if max(peaks) < SILENT_PEAK and silence is not None:
            found = replace(silence, milliseconds=spent)
        else:
            found = model.task.decode(result.output[0], exit=exit, milliseconds=spent)
        start = (step - stream.warm_up[exit]) * hop
        end = min(start + stream.delay[exit] + 1, (step + 1) * hop)
        in_time = deadline_ms is None or spent <= deadline_ms
        yield Heard(start / rate, end / rate, found.label, found.score, found.exit, spent, in_time)


def timed_steps(stream: SampleStream) -> tuple[ExitCosts, float]:
    """Milliseconds of a step on this machine: of the network to each exit, and of the front end.

    Medians over a few steps past the warm-up of every exit, where nothing has to be caught up.
    """
    random = np.random.Generator(np.random.PCG64(0))
    samples = random.normal(0, 0.1, (1, stream.hop)).astype(np.float32)
    kept, steps = stream.front_end.start(), np.zeros(1, np.int64)
    frames_ms, _ = _timed(lambda _: stream.front_end.step(samples, kept, steps), 0)
    ms, macs = [], []
    for name in stream.exit_names:
        lap, last = _timed(partial(stream.step, samples, policy=Fixed(name)), stream.warm_up[name])
        ms.append(max(lap - frames_ms, 0.0))
        macs.append(float(last.macs[0]))
    return ExitCosts(stream.exit_names, tuple(macs), tuple(np.maximum.accumulate(ms).tolist())), frames_ms


def _timed(step: Callable[[Any], Any], warm_up: int) -> tuple[float, Any]:
    """Milliseconds of the last steps, and what the last gave; each is given the state of the one before."""
    laps, state, result = [], None, None
    for _ in range(warm_up + WARMING + MEASURED):
        begun = perf_counter()
        result = step(state)
        laps.append((perf_counter() - begun) * 1000.0)
        state = getattr(result, "state", None)
    return float(np.median(laps[-MEASURED:])), result


def _hops(
    source: str | PathLike[str] | Iterable[Sound], rate: int, hop: int
) -> Iterator[NDArray[np.float32]]:
    """Whole steps of samples; the rest at the end is left out."""
    if isinstance(source, str | PathLike):
        source = blocks(source, seconds=hop / rate, rate=rate, mono=True)
    kept = np.empty(0, np.float32)
    for block in source:
        check_block(block, rate)
        kept = np.concatenate([kept, block.samples[0]])
        while len(kept) >= hop:
            yield kept[:hop]
            kept = kept[hop:]
