"""The front end `skeleton`: recordings of moving bodies to poses that do not depend on the camera.

Each pose is told from the middle of the first person's spine, and turned so that in the first frame where
that person is seen the shoulders lie along x and the spine is upright. So a stream needs one frame before it
can begin: nothing is turned by what comes later.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, InputError
from sentio.core.features import Prepared
from sentio.core.registry import register
from sentio.vision.skeleton_files import RATE, Skeletons, read_skeletons
from sentio.vision.skeleton_layout import JOINTS, NTU_LINKS

#: joints by number: the ends of the lower spine, and the shoulders
SPINE = (0, 1)
SHOULDERS = (8, 4)
#: metres below which a limb has no direction
SHORT = 1e-6


@dataclass(frozen=True, kw_only=True)
class SkeletonFrontEnd:
    """Poses of windows; implements `sentio.core.features.FrontEnd`.

    Args:
        frames: of a window. A shorter recording is repeated.
        persons: how many are kept, those that move most.
        features: ``joints``, or ``bones``: each joint from its parent.
        turn: whether poses are turned upright and to the front.

    Raises:
        ConfigError: a setting is not possible.
    """

    name: ClassVar[str] = "skeleton"

    frames: int = 300
    persons: int = 2
    features: Literal["joints", "bones"] = "joints"
    turn: bool = True

    def __post_init__(self) -> None:
        for setting in ("frames", "persons"):
            value = getattr(self, setting)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"Front end 'skeleton' needs {setting} of at least 1, got {value!r}")
        if self.features not in ("joints", "bones"):
            raise ConfigError(f"Front end 'skeleton' gives 'joints' or 'bones', got {self.features!r}")
        if self.turn not in (True, False):
            raise ConfigError(f"turn of front end 'skeleton' is true or false, got {self.turn!r}")

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """``(coordinate, time, joint, person)``."""
        return {"main": (3, self.frames, JOINTS, self.persons)}

    def settings(self) -> dict[str, Any]:
        """Plain values that the builder of this name takes as options."""
        return asdict(self)

    def noise(self) -> NDArray[np.float32]:
        """Random positions in metres for one window, ``(time, body, joint, 3)``."""
        shape = (self.frames, self.persons, JOINTS, 3)
        return np.random.default_rng(0).normal(0.0, 1.0, shape).astype(np.float32)

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        """Poses of a recording's windows.

        Args:
            source: the path of a ``.skeleton`` file, `Skeletons`, or metres ``(time, body, joint, 3)`` with
                zeros for a body that is not seen, 30 frames a second.
            hop: distance of windows in seconds; the window's length if None.

        Returns:
            Inputs float32, ``(window, 3, time, joint, person)``; the last window ends with the recording.

        Raises:
            InputError: the source cannot be read, is none, or shows nobody.
            ConfigError: the hop is not above 0.
        """
        if hop is not None and not (math.isfinite(hop) and hop > 0):
            raise ConfigError(f"hop must be a number of seconds above 0, got {hop!r}")
        found = _skeletons(source)
        people = most_moving(found, self.persons)
        notes = list(found.notes)
        if people.shape[1] < found.poses.shape[1]:
            left = found.poses.shape[1] - people.shape[1]
            notes.append(f"Of {found.poses.shape[1]} bodies the {left} that move least were left out")
        first = int(people.any(axis=(1, 2, 3)).argmax())
        values = normalised(people[first:], turn=self.turn)
        if self.features == "bones":
            values = bones(values)
        heard = len(values)
        if heard < self.frames:
            notes.append(f"The recording of {heard} frames is repeated to {self.frames}")
            values = np.resize(values, (self.frames, *values.shape[1:]))
        step = self.frames if hop is None else max(1, round(hop * RATE))
        last = len(values) - self.frames
        starts = np.arange(0, last + 1, step)
        starts = starts if starts[-1] == last else np.append(starts, last)
        windows = np.zeros((len(starts), *self.input_shapes["main"]), np.float32)
        for window, start in zip(windows, starts, strict=True):
            window[..., : values.shape[1]] = values[start : start + self.frames].transpose(3, 0, 2, 1)
        ends = np.minimum(starts + self.frames, heard)
        silent = ~windows.any(axis=(1, 2, 3, 4))
        return Prepared(windows, (first + starts) / RATE, (first + ends) / RATE, silent, tuple(notes))


def most_moving(skeletons: Skeletons, persons: int) -> NDArray[np.float32]:
    """The bodies whose coordinates vary most, ``(time, at most persons, joint, 3)``, the most moving first.

    Variation is the sum of the standard deviations of x, y and z over all joints of the frames where the body
    is seen.
    """
    seen = skeletons.seen
    bodies = [body for body in range(seen.shape[1]) if seen[:, body].any()]
    spread = {body: skeletons.poses[seen[:, body], body].std(axis=(0, 1)).sum() for body in bodies}
    bodies.sort(key=lambda body: -spread[body])
    chosen: NDArray[np.float32] = skeletons.poses[:, bodies[:persons]]
    return chosen


def normalised(poses: NDArray[np.floating], *, turn: bool = True) -> NDArray[np.float32]:
    """Poses told from the first person's spine, turned by that person's first pose.

    Args:
        poses: metres, ``(time, person, joint, 3)``; zeros where a person is not seen, which stay zeros.
        turn: whether they are turned.
    """
    seen = poses.any(axis=(2, 3))
    centred = poses.astype(np.float64)
    # Where the first person is lost, the others are told from where it was last.
    origin = np.zeros(3)
    for time in range(len(centred)):
        if seen[time, 0]:
            origin = centred[time, 0, SPINE[1]].copy()
        centred[time] -= origin
    if turn and seen[:, 0].any():
        centred = centred @ upright(centred[seen[:, 0].argmax(), 0]).T
    result: NDArray[np.float32] = np.where(seen[..., None, None], centred, 0.0).astype(np.float32)
    return result


def upright(pose: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rotation that lays a pose's shoulders along x and its lower spine, as far as it can, along z.

    So the same pose seen from elsewhere is turned alike. Two shortest turns one after the other, as usual
    code for NTU RGB+D has them, leave a small roll about x that depends on the camera.

    Args:
        pose: ``(joint, 3)``.

    Returns:
        ``(3, 3)``, to be multiplied from the left; no turn where shoulders or spine have no length.
    """
    across = (pose[SHOULDERS[1]] - pose[SHOULDERS[0]]).astype(np.float64)
    spine = (pose[SPINE[1]] - pose[SPINE[0]]).astype(np.float64)
    across /= max(float(np.linalg.norm(across)), SHORT)
    spine -= (spine @ across) * across
    if not across.any() or np.linalg.norm(spine) < SHORT:
        return np.eye(3)
    spine /= np.linalg.norm(spine)
    return np.stack([across, np.cross(spine, across), spine])


def bones(poses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each joint as its distance from its parent, ``(..., joint, 3)``; the root is zero."""
    found = np.zeros_like(poses)
    child, parent = (list(side) for side in zip(*NTU_LINKS, strict=True))
    found[..., child, :] = poses[..., child, :] - poses[..., parent, :]
    return found


def _skeletons(source: Any) -> Skeletons:
    if isinstance(source, str | PathLike):
        return read_skeletons(source)
    if isinstance(source, Skeletons):
        found = source
    elif isinstance(source, np.ndarray) and source.dtype.kind in "fiu":
        found = Skeletons(source.astype(np.float32))
    else:
        raise InputError(
            f"Skeletons are a path or an array (time, body, joint, 3), got {type(source).__name__}"
        )
    if found.poses.ndim != 4 or found.poses.shape[2:] != (JOINTS, 3):
        raise InputError(f"Skeletons have shape (time, body, {JOINTS}, 3), got {found.poses.shape}")
    if not np.isfinite(found.poses).all():
        raise InputError("The skeletons hold NaN or infinite values; put zeros where a body is not seen")
    if not found.poses.any():
        raise InputError("The skeletons show nobody in any frame; leave the recording out")
    return found


@register("frontend", "skeleton")
def skeleton_windows(
    *,
    frames: int = SkeletonFrontEnd.frames,
    persons: int = SkeletonFrontEnd.persons,
    features: str = SkeletonFrontEnd.features,
    turn: bool = SkeletonFrontEnd.turn,
) -> SkeletonFrontEnd:
    """Poses of 25 joints, told from the body and turned to the front, for `st-gcn` and `agcn`.

    Args:
        frames: of a window, 30 a second.
        persons: how many are kept.
        features: ``joints`` or ``bones``.
        turn: whether poses are turned upright and to the front.

    Raises:
        ConfigError: a setting is not possible.
    """
    chosen: Any = features
    return SkeletonFrontEnd(frames=frames, persons=persons, features=chosen, turn=turn)
