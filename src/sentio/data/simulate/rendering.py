"""Scenes to files: `render_street` for what has to be found in time, `render_clips` for what has to be named.

Every scene has random numbers of its own, so the files do not depend on how many processes made them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sentio import __version__
from sentio.core.errors import ArtifactError, ConfigError
from sentio.data.dataset import Dataset
from sentio.data.simulate.events import KINDS
from sentio.data.simulate.jobs import Cancel, Job, Rendered, all_sounds, processes, rendered, write
from sentio.data.simulate.own_samples import OwnSamples, own_samples
from sentio.data.simulate.scene import BACKGROUND, HeardEvent

Progress = Callable[[int, int], None]
Row = tuple[Any, ...]

SETTINGS = "simulation.json"
#: raised when the same settings give other samples than before
FORMAT = 1
RATES = (8000, 48000)
#: a scene of a street lasts at most this long, s
SCENE = 60.0
LABELS = ("filename", "onset", "offset", "event_label", "distance_m", "speed_mps", "snr_db")
SCENES = ("filename", "seconds", "surroundings", "background", "background_db", "scale_db")
META = (
    *("filename", "label", "onset", "offset", "distance_m", "speed_mps", "snr_db"),
    *("surroundings", "background", "background_db", "scale_db"),
)


def render_street(
    out: str | Path,
    *,
    minutes: float,
    seed: int = 0,
    rate: int = 16000,
    samples: str | Path | Dataset | None = None,
    polyphony: int = 2,
    workers: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """Streets with events and the times at which they are heard.

    Writes ``audio/street_000.wav`` and so on (a minute each, the last may be shorter), ``labels.csv`` (an
    event a line), ``scenes.csv`` (a scene a line) and ``simulation.json``. A folder that holds the same
    rendering already is left as it is; one that was interrupted is rendered again.

    Args:
        out: a folder, made if it is not there.
        minutes: of sound in all.
        seed: of all that is random.
        rate: samples per second, 8000 to 48000.
        samples: labelled sounds to use in place of the parametric ones, as `sentio.open_data` takes them.
        polyphony: at most this many events at once.
        workers: processes; by default one per core, or this one alone for less than a minute of sound and
            in a script that does not begin its work under ``if __name__ == "__main__":``, as more need.
        progress: called with (scenes done, scenes in all).
        cancel: asked between scenes; true stops the work.

    Returns:
        The folder.

    Raises:
        ConfigError: a setting is not possible.
        InputError: the samples cannot be used.
        ArtifactError: the folder holds something else, or cannot be written.
        CancelledError: ``cancel`` said so.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"A street takes more than 0 minutes, got {minutes!r}")
    if polyphony < 1:
        raise ConfigError(f"The polyphony must be at least 1, got {polyphony!r}")
    check_settings(seed, rate, workers)
    own = None if samples is None else own_samples(samples, rate)
    total = max(1, round(minutes * 60 * rate)) / rate
    jobs = []
    for number in range(math.ceil(total / SCENE - 1e-9)):
        seconds = min(SCENE, total - number * SCENE)
        jobs.append(Job(f"street_{number:03d}.wav", (seed, 0, number), seconds, rate, polyphony))
    settings = _settings(own, kind="street", minutes=minutes, polyphony=polyphony, seed=seed, rate=rate)

    def labels(done: Sequence[Rendered]) -> list[Row]:
        return [(one.filename, *_times(e), e.label, *_facts(e)) for one in done for e in one.events]

    def scenes(done: Sequence[Rendered]) -> list[Row]:
        return [(one.filename, f"{one.plan.seconds:.3f}", *_where(one)) for one in done]

    tables = {"scenes.csv": (SCENES, scenes), "labels.csv": (LABELS, labels)}
    return _render(Path(out), settings, jobs, tables, own, workers, progress, cancel)


def render_clips(
    out: str | Path,
    *,
    per_class: int,
    seconds: float = 2.0,
    seed: int = 0,
    rate: int = 16000,
    kinds: Literal["street", "everyday", "all"] = "street",
    samples: str | Path | Dataset | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """Clips with one event each, and clips of the class ``background`` with none: data for training.

    Writes ``audio/CLASS_0000.wav`` and so on, ``meta.csv`` and ``simulation.json``; `sentio.open_data` takes
    the folder. At least half a second of an event lies in its clip, or all of it.

    Args:
        per_class: clips of each class.
        seconds: length of a clip, at least 0.1.
        kinds: the ten of a street, eight of house, farm and shore, or all; without ``samples`` only.
        out, seed, rate, samples, workers, progress, cancel: as for `render_street`.

    Returns:
        The folder.

    Raises:
        ConfigError, InputError, ArtifactError, CancelledError: as for `render_street`.
    """
    if per_class < 1:
        raise ConfigError(f"There must be at least 1 clip per class, got {per_class!r}")
    if not (math.isfinite(seconds) and 0.1 <= seconds <= SCENE):
        raise ConfigError(f"A clip lasts from 0.1 to {SCENE:.0f} seconds, got {seconds!r}")
    if kinds not in KINDS:
        raise ConfigError(f"Clips are made of the kinds {', '.join(KINDS)}, got {kinds!r}")
    if samples is not None and kinds != "street":
        raise ConfigError(f"Samples of your own take the place of the kinds {kinds!r}; give one of the two")
    check_settings(seed, rate, workers)
    own = None if samples is None else own_samples(samples, rate)
    jobs = []
    labels = sorted([*all_sounds(own, kinds).kinds, BACKGROUND])
    for place, (label, stem) in enumerate(zip(labels, stems(labels), strict=True)):
        for number in range(per_class):
            name = f"{stem}_{number:04d}.wav"
            jobs.append(Job(name, (seed, 1, place, number), seconds, rate, label=label, kinds=kinds))
    other = {} if kinds == "street" else {"kinds": kinds}
    settings = _settings(
        own, kind="clips", **other, per_class=per_class, seconds=seconds, seed=seed, rate=rate
    )

    def rows(done: Sequence[Rendered]) -> list[Row]:
        found: list[Row] = []
        for job, one in zip(jobs, done, strict=True):
            heard = [cell for e in one.events for cell in (*_times(e), *_facts(e))] or [""] * 5
            found.append((one.filename, job.label, *heard, *_where(one)))
        return found

    return _render(Path(out), settings, jobs, {"meta.csv": (META, rows)}, own, workers, progress, cancel)


def check_settings(seed: int, rate: int, workers: int | None) -> None:
    if seed < 0:
        raise ConfigError(f"A seed is a whole number from 0, got {seed!r}")
    if not RATES[0] <= rate <= RATES[1] or rate != int(rate):
        raise ConfigError(f"The rate must be from {RATES[0]} to {RATES[1]} samples per second, got {rate!r}")
    if workers is not None and workers < 1:
        raise ConfigError(f"There must be at least 1 worker, got {workers!r}")


def stems(labels: Sequence[str]) -> list[str]:
    """Labels as beginnings of file names, different on any system."""
    plain = [re.sub(r"[^a-zA-Z0-9-]", "_", label)[:40] for label in labels]
    if plain == list(labels) and len({label.casefold() for label in labels}) == len(labels):
        return plain
    return [f"{place:03d}_{stem}" for place, stem in enumerate(plain)]


def _times(event: HeardEvent) -> tuple[str, str]:
    return f"{event.onset:.3f}", f"{event.offset:.3f}"


def _facts(event: HeardEvent) -> tuple[str, str, str]:
    return f"{event.distance:.1f}", f"{event.speed:.1f}", f"{event.snr:.1f}"


def _where(one: Rendered) -> tuple[str, str, str, str]:
    plan = one.plan
    return plan.surroundings.name, plan.background, f"{plan.level:.1f}", f"{one.scale:.2f}"


def _settings(own: OwnSamples | None, **given: Any) -> dict[str, Any]:
    """What the files follow from, as JSON gives it back; and notes."""
    known = {"format": FORMAT, "sentio": __version__, **given}
    known["samples"] = None if own is None else own.identity
    known["notes"] = [] if own is None else list(own.notes)
    found: dict[str, Any] = json.loads(json.dumps(known, default=lambda number: number.item()))
    return found


def _render(
    out: Path,
    settings: dict[str, Any],
    jobs: Sequence[Job],
    tables: Mapping[str, tuple[Row, Callable[[Sequence[Rendered]], list[Row]]]],
    own: OwnSamples | None,
    workers: int | None,
    progress: Progress | None,
    cancel: Cancel | None,
) -> Path:
    """All files of a rendering, the tables last: only a finished one has them.

    Args:
        tables: by file name, the header and what makes the rows.
        out, settings, jobs, own, workers, progress, cancel: as their names say.
    """
    sound = out / "audio"
    files = [*(out / name for name in tables), *(sound / job.filename for job in jobs)]
    if begun(out, settings) and all(file.is_file() for file in files):
        if progress is not None:
            progress(len(jobs), len(jobs))
        return out
    try:
        sound.mkdir(parents=True, exist_ok=True)
        for name in tables:
            (out / name).unlink(missing_ok=True)
        write(out / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
        done: dict[str, Rendered] = {}
        for one in rendered(jobs, own, sound, processes(jobs, workers), cancel):
            done[one.filename] = one
            if progress is not None:
                progress(len(done), len(jobs))
        in_order = [done[job.filename] for job in jobs]
        for name, (header, rows) in tables.items():
            write(out / name, table([header, *rows(in_order)]))
    except OSError as error:
        raise ArtifactError(f"{out} could not be written: {error.strerror or error}") from error
    return out


def begun(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a folder holds the same rendering, finished or not; False if it is empty or not there.

    Raises:
        ArtifactError: it holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or {**found, "notes": None} != {**settings, "notes": None}:
        what = "another rendering" if isinstance(found, dict) else "something else"
        raise ArtifactError(f"{out} holds {what}, so nothing is rendered there; choose another folder")
    return True


def table(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
