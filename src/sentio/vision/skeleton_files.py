"""Skeleton files of NTU RGB+D: text, a few lines for each body in each frame.

A. Shahroudy, J. Liu, T.-T. Ng, G. Wang, *NTU RGB+D: A Large Scale Dataset for 3D Human Activity Analysis*,
CVPR 2016. A file says the number of frames; each frame the number of bodies; each body ten values, its number
of joints, and twelve values for each joint, of which the first three are metres from the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.vision.skeleton_layout import JOINTS

#: frames a second of Kinect v2
RATE = 30.0
#: a header that promises more frames than this is damaged
MOST_FRAMES = 10_000_000
#: values of a body and of a joint
BODY_VALUES, JOINT_VALUES = 10, 12


@dataclass(frozen=True, eq=False)
class Skeletons:
    """Poses of the bodies in a recording.

    Args:
        poses: float32 metres, ``(time, body, joint, 3)``; zeros where a body is not seen.
        bodies: the tracker's name of each body.
        notes: what was odd about the file and how it was met, one sentence each.
    """

    poses: NDArray[np.float32]
    bodies: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Whether each body is there, ``(time, body)``."""
        seen: NDArray[np.bool_] = self.poses.any(axis=(2, 3))
        return seen


def read_skeletons(path: str | PathLike[str]) -> Skeletons:
    """Read a ``.skeleton`` file.

    A body whose numbers cannot be read is left out of that frame, and a file that is cut off is used up to
    there; notes say so.

    Raises:
        InputError: there is no such file, it is no skeleton file, or nobody is seen in it.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="ascii", errors="strict").split("\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no skeleton file: it is not text") from error
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    reader = _Lines(lines)
    promised = reader.count()
    if promised is None or promised > MOST_FRAMES:
        raise InputError(f"{path} is no skeleton file: its first line is not a number of frames")
    frames: list[dict[str, NDArray[np.float32]]] = []
    broken = 0
    for _ in range(promised):
        frame = _frame(reader, str(path))
        if frame is None:
            break
        bodies, bad = frame
        broken += bad
        frames.append(bodies)
    return _gather(str(path), frames, promised, broken)


class _Lines:
    """Lines that are taken one after the other."""

    def __init__(self, lines: list[str]) -> None:
        self.lines, self.place = lines, 0

    def take(self) -> str | None:
        if self.place >= len(self.lines):
            return None
        self.place += 1
        return self.lines[self.place - 1]

    def count(self) -> int | None:
        """A line with one whole number from 0 up; None for any other line, or none."""
        line = self.take()
        return int(line) if line is not None and line.isdecimal() and len(line) < 19 else None


def _frame(reader: _Lines, path: str) -> tuple[dict[str, NDArray[np.float32]], int] | None:
    """The bodies of a frame by name, and how many could not be read; None where the file is cut off."""
    count = reader.count()
    if count is None:
        return None
    bodies: dict[str, NDArray[np.float32]] = {}
    broken = 0
    for _ in range(count):
        head, joints = reader.take(), reader.count()
        if head is None or joints is None:
            return None
        if joints != JOINTS:
            raise InputError(
                f"{path} line {reader.place} has a body of {joints} joints; {JOINTS} are read, those of "
                "Kinect v2"
            )
        rows = [reader.take() for _ in range(joints)]
        if rows[-1] is None:
            return None
        pose = _pose([row for row in rows if row is not None])
        values = head.split()
        if pose is None or len(values) != BODY_VALUES:
            broken += 1
        else:
            bodies[values[0]] = pose
    return bodies, broken


def _pose(rows: list[str]) -> NDArray[np.float32] | None:
    """The joints of a body; None where a number is missing or is none."""
    cells = [row.split() for row in rows]
    if any(len(row) != JOINT_VALUES for row in cells):
        return None
    try:
        pose = np.array([row[:3] for row in cells], dtype=np.float64).astype(np.float32)
    except ValueError:
        return None
    return pose if np.isfinite(pose).all() else None


def _gather(path: str, frames: list[dict[str, NDArray[np.float32]]], promised: int, broken: int) -> Skeletons:
    names = tuple(dict.fromkeys(name for frame in frames for name in frame))
    if not names:
        raise InputError(f"{path} shows nobody in any frame that can be read; leave it out")
    poses = np.zeros((len(frames), len(names), JOINTS, 3), np.float32)
    for time, frame in enumerate(frames):
        for name, pose in frame.items():
            poses[time, names.index(name)] = pose
    notes = []
    if len(frames) < promised:
        notes.append(f"{path} is cut off: {len(frames)} of {promised} frames were read")
    if broken:
        notes.append(f"{path} has broken bodies ({broken}), which were left out of their frames")
    empty = sum(not frame for frame in frames)
    if empty:
        notes.append(f"{path} shows nobody in {empty} of {len(frames)} frames")
    return Skeletons(poses, names, tuple(notes))


def write_skeletons(path: str | PathLike[str], poses: NDArray[np.floating]) -> None:
    """Write poses as `read_skeletons` reads them; what is not known of a body or a joint is 0.

    Args:
        path: of the file.
        poses: metres, ``(time, body, joint, 3)``; a body that is all zeros is left out of a frame.

    Raises:
        InputError: another shape.
    """
    if poses.ndim != 4 or poses.shape[2:] != (JOINTS, 3):
        raise InputError(f"Skeletons have shape (time, body, {JOINTS}, 3), got {poses.shape}")
    lines = [str(len(poses))]
    rest = " 0" * (JOINT_VALUES - 3 - 1) + " 2"
    for frame in poses:
        seen = [body for body in range(len(frame)) if frame[body].any()]
        lines.append(str(len(seen)))
        for body in seen:
            lines += [f"{body + 1}" + " 0" * (BODY_VALUES - 2) + " 2", str(JOINTS)]
            lines += [" ".join(f"{value:.6f}" for value in joint) + rest for joint in frame[body]]
    Path(path).write_text("\n".join(lines) + "\n", encoding="ascii")
