"""Scenes rendered to files, in this process or in several; which does not matter to the files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from sentio.core.errors import CancelledError
from sentio.data.processes import cores, importable, in_processes
from sentio.data.simulate import scene
from sentio.data.simulate.own_samples import OwnSamples, sounds
from sentio.data.simulate.scene import HeardEvent, Plan, Scene, Sounds

Cancel = Callable[[], bool]

#: so much sound is rendered in this process alone where nothing else is asked for, s
FEW = 60.0


@dataclass(frozen=True)
class Job:
    """One scene to be rendered, as plain values that another process can take.

    Args:
        filename: of the sound.
        key: of its random numbers.
        seconds, rate, polyphony: settings; see `sentio.data.simulate.scene.plan_street`.
        label: a clip's class; None for a street.
        kinds: which kinds of events there are, a name in `sentio.data.simulate.events.KINDS`.
    """

    filename: str
    key: tuple[int, ...]
    seconds: float
    rate: int
    polyphony: int = 2
    label: str | None = None
    kinds: str = "street"


@dataclass(frozen=True)
class Rendered:
    """What became of a job: the plan, the events that are heard in it, and dB it was turned down by."""

    filename: str
    plan: Plan
    events: tuple[HeardEvent, ...]
    scale: float


def all_sounds(own: OwnSamples | None, kinds: str) -> Sounds:
    """The kinds of events: parametric ones by the name of their set, or a user's own."""
    from sentio.data.simulate.events import KINDS

    return Sounds(KINDS[kinds]) if own is None else sounds(own)


def processes(jobs: Sequence[Job], workers: int | None) -> int:
    """How many processes render; 1 is this one."""
    if workers is None:
        workers = cores() if sum(job.seconds for job in jobs) > FEW and importable() else 1
    return min(workers, len(jobs))


def rendered(
    jobs: Sequence[Job], own: OwnSamples | None, folder: Path, count: int, cancel: Cancel | None
) -> Iterator[Rendered]:
    """Render all jobs in so many processes, and give them in the order in which they are finished."""
    yield from in_processes(
        partial(_portion, own=own, folder=folder), jobs, count, lambda done: _stop_if(cancel, done, len(jobs))
    )


def _portion(jobs: Sequence[Job], own: OwnSamples | None, folder: Path) -> list[Rendered]:
    return [_finish(job, all_sounds(own, job.kinds), folder) for job in jobs]


def _finish(job: Job, made: Sounds, folder: Path) -> Rendered:
    """Render one job to its file."""
    length = {"seconds": job.seconds, "rate": job.rate}
    if job.label is None:
        plan = scene.plan_street(made, job.key, polyphony=job.polyphony, **length)  # type: ignore[arg-type]
    else:
        plan = scene.plan_clip(made, job.label, job.key, **length)  # type: ignore[arg-type]
    found = scene.render(plan, made)
    write(folder / job.filename, _wav(found, job.rate))
    return Rendered(job.filename, plan, found.events, found.scale)


def _stop_if(cancel: Cancel | None, done: int, total: int) -> None:
    if cancel is not None and cancel():
        raise CancelledError(f"Rendering was stopped on request after {done} of {total} scenes")


def _wav(found: Scene, rate: int) -> bytes:
    whole = np.round(found.samples * 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, whole, rate, subtype="PCM_16", format="WAV")
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
