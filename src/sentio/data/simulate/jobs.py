"""Scenes rendered to files, in this process or in several; which does not matter to the files."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sentio.core.errors import CancelledError, ConfigError
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
    """

    filename: str
    key: tuple[int, ...]
    seconds: float
    rate: int
    polyphony: int = 2
    label: str | None = None


@dataclass(frozen=True)
class Rendered:
    """What became of a job: the plan, the events that are heard in it, and dB it was turned down by."""

    filename: str
    plan: Plan
    events: tuple[HeardEvent, ...]
    scale: float


def all_sounds(own: OwnSamples | None) -> Sounds:
    """The kinds of events: the parametric ones, or a user's own."""
    from sentio.data.simulate.events import EVENTS

    return Sounds(EVENTS) if own is None else sounds(own)


def processes(jobs: Sequence[Job], workers: int | None) -> int:
    """How many processes render; 1 is this one."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = cores if sum(job.seconds for job in jobs) > FEW and _importable() else 1
    return min(workers, len(jobs))


def _importable() -> bool:
    """Whether a new process may import the program that runs, as multiprocessing does.

    A script that does not guard its work would do it all again there.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or getattr(main, "__spec__", None) is not None:
        return True
    try:
        return "__main__" in Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def rendered(
    jobs: Sequence[Job], own: OwnSamples | None, folder: Path, count: int, cancel: Cancel | None
) -> Iterator[Rendered]:
    """Render all jobs in so many processes, and give them in the order in which they are finished."""
    if count == 1:
        made = all_sounds(own)
        for number, job in enumerate(jobs):
            _stop_if(cancel, number, len(jobs))
            yield _finish(job, made, folder)
        return
    # A forked child could inherit a lock that a thread of PyTorch's holds; these start afresh.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    # Small portions: cancelling is quick, and no process waits long for the last.
    portion = max(1, min(16, len(jobs) // (4 * count)))
    pool = ProcessPoolExecutor(
        count, multiprocessing.get_context(method), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        waiting: set[Future[list[Rendered]]] = {
            pool.submit(_portion, jobs[start : start + portion], own, folder)
            for start in range(0, len(jobs), portion)
        }
        finished = 0
        while waiting:
            _stop_if(cancel, finished, len(jobs))
            ready, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in ready:
                for one in future.result():
                    finished += 1
                    yield one
    except BrokenProcessPool as error:
        raise ConfigError(
            "The processes that render ended early; in a script, call this under "
            "if __name__ == '__main__':, or use one worker"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _portion(jobs: Sequence[Job], own: OwnSamples | None, folder: Path) -> list[Rendered]:
    made = all_sounds(own)
    return [_finish(job, made, folder) for job in jobs]


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
