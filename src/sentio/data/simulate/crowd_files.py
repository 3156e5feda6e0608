"""Scenes of crowds as files, which a counter can be trained and tested on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from sentio import __version__
from sentio.core.errors import ArtifactError, CancelledError, ConfigError
from sentio.data.crowd_tables import CROWD_COLUMNS, CROWDS, HEAD_COLUMNS, HEADS
from sentio.data.processes import cores, importable, in_processes
from sentio.data.simulate.crowd import CONDITIONS, CrowdPicture, CrowdSettings, crowd_picture
from sentio.data.simulate.jobs import write
from sentio.data.simulate.rendering import SETTINGS, begun, check_settings, table
from sentio.vision.density_picture import write_png

#: every scene is under the next condition in turn
MIXED = "mixed"
#: raised when the same settings give other files than before
FORMAT = 1
#: fewer scenes are rendered in this process alone where nothing else is asked for
FEW = 40

#: a scene: its stem, its part, the key of its random numbers, its condition
Job = tuple[str, str, tuple[int, ...], str]
#: its stem and where the heads are
Done = tuple[str, list[tuple[float, float]]]


def render_crowds(
    out: str | Path,
    *,
    train: int = 240,
    validation: int = 40,
    test: int = 40,
    size: tuple[int, int] = (96, 128),
    people: tuple[int, int] = (0, 60),
    condition: str = "clear",
    seed: int = 0,
    rate: int = 16000,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """Pictures of crowds, a second of sound each, and where the heads are.

    Writes ``pictures/train_0000.png`` and so on, ``sounds/train_0000.wav``, ``crowds.csv`` (a picture a line:
    filename, part, sound, people, condition), ``heads.csv`` (a head a line: filename, x, y) and
    ``simulation.json``; `sentio.open_data` takes the folder. A folder that holds the same rendering already
    is left as it is; one that was interrupted is rendered again.

    Args:
        out: a folder, made if it is not there.
        train, validation, test: scenes of each part.
        size: (height, width) of the pictures in pixels.
        people: fewest and most in a picture.
        condition: one of `CONDITIONS`, or ``mixed`` for each in turn.
        seed: of all that is random; the same people stand there under every condition.
        rate: of the sound, 8000 to 48000 Hz.
        workers: processes; by default one per core, or this one alone for a few scenes and in a script that
            does not begin its work under ``if __name__ == "__main__":``.
        progress: called with (scenes done, scenes in all).
        cancel: asked between scenes; true stops the work.

    Returns:
        The folder.

    Raises:
        ConfigError: a setting is not possible.
        ArtifactError: the folder holds something else, or cannot be written.
        CancelledError: ``cancel`` said so.
    """
    parts = {"train": train, "val": validation, "test": test}
    if train < 1 or min(parts.values()) < 0:
        raise ConfigError(
            f"Crowds need at least 1 scene to train on and no negative numbers, got {train} to train, "
            f"{validation} to validate and {test} to test"
        )
    if condition != MIXED and condition not in CONDITIONS:
        raise ConfigError(
            f"A crowd's condition is one of {', '.join(CONDITIONS)}, {MIXED}, got {condition!r}"
        )
    check_settings(seed, rate, workers)
    plain = CrowdSettings(size=size, people=people, rate=rate)
    jobs = [
        (
            f"{part}_{number:04d}",
            part,
            (seed, place, number),
            CONDITIONS[number % len(CONDITIONS)] if condition == MIXED else condition,
        )
        for place, (part, count) in enumerate(parts.items())
        for number in range(count)
    ]
    folder = Path(out)
    settings = json.loads(
        json.dumps(
            {
                "format": FORMAT,
                "sentio": __version__,
                "kind": "crowds",
                "scenes": parts,
                "size": size,
                "people": people,
                "condition": condition,
                "seed": seed,
                "rate": rate,
                "notes": [],
            }
        )
    )
    files = [folder / place for job in jobs for place in _files(job[0])]
    if begun(folder, settings) and all(p.is_file() for p in (folder / CROWDS, folder / HEADS, *files)):
        if progress is not None:
            progress(len(jobs), len(jobs))
        return folder
    try:
        heads = _render(folder, settings, jobs, plain, workers, progress, cancel)
        rows = [(*_names(stem, part), len(heads[stem]), kind) for stem, part, _, kind in jobs]
        spots = [(_files(job[0])[0], f"{x:.2f}", f"{y:.2f}") for job in jobs for x, y in heads[job[0]]]
        write(folder / HEADS, table([HEAD_COLUMNS, *spots]))
        write(folder / CROWDS, table([(*CROWD_COLUMNS, "condition"), *rows]))
    except OSError as error:
        raise ArtifactError(f"{folder} could not be written: {error.strerror or error}") from error
    return folder


def _render(
    folder: Path,
    settings: dict[str, Any],
    jobs: Sequence[Job],
    plain: CrowdSettings,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
    cancel: Callable[[], bool] | None,
) -> dict[str, list[tuple[float, float]]]:
    """The pictures and the sounds; gives the heads by scene."""
    for name in ("pictures", "sounds"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in (CROWDS, HEADS):  # only a finished rendering has them
        (folder / name).unlink(missing_ok=True)
    write(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    if workers is None:
        workers = cores() if len(jobs) > FEW and importable() else 1

    def check(done: int) -> None:
        if cancel is not None and cancel():
            raise CancelledError(f"Rendering was stopped on request after {done} of {len(jobs)} scenes")

    work = partial(_portion, folder=folder, settings=plain)
    found: dict[str, list[tuple[float, float]]] = {}
    for stem, points in in_processes(work, jobs, min(workers, len(jobs)), check):
        found[stem] = points
        if progress is not None:
            progress(len(found), len(jobs))
    return found


def _portion(jobs: Sequence[Job], folder: Path, settings: CrowdSettings) -> list[Done]:
    found: list[Done] = []
    for stem, _, key, condition in jobs:
        given = {**vars(settings), "condition": condition}
        scene = crowd_picture(key, CrowdSettings(**given))
        picture, sound = (folder / place for place in _files(stem))
        write_png(picture, scene.pixels)
        write(sound, _wav(scene))
        found.append((stem, [(float(x), float(y)) for x, y in scene.points]))
    return found


def _files(stem: str) -> tuple[str, str]:
    """A scene's picture and sound, relative to the folder."""
    return f"pictures/{stem}.png", f"sounds/{stem}.wav"


def _names(stem: str, part: str) -> tuple[str, str, str]:
    """The first cells of a scene's line."""
    picture, sound = _files(stem)
    return picture, part, sound


def _wav(scene: CrowdPicture) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, scene.sound, scene.rate, subtype="PCM_16", format="WAV")
    return file.getvalue()
