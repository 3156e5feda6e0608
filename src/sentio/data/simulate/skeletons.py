"""Simulated bodies: a figure of 25 joints that acts, as NTU RGB+D would have recorded it.

No substitute for recordings: limbs are sticks, and each action is a few angles over time. It is there to try
training, streams and files without a data set, and for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, UnknownNameError
from sentio.vision.skeleton_files import RATE, write_skeletons
from sentio.vision.skeleton_layout import JOINTS

#: angles in radians that describe a pose, and the height of the hips over standing
Pose = dict[str, float]

# Angles: "raise" lifts an arm to the side, "swing" and "thigh" a limb to the front; "bend" and "knee" close
# elbow and knee; "lean" bends the spine forward and "tilt" turns the whole body over its feet.


def _stand(phase: float, size: float) -> Pose:
    return {"lean": 0.02 * np.sin(2 * np.pi * phase)}


def _wave(phase: float, size: float) -> Pose:
    return {"right raise": 2.2 * size, "right bend": 0.6 + 0.5 * np.sin(4 * np.pi * phase)}


def _walk(phase: float, size: float) -> Pose:
    stride = 0.5 * size * np.sin(2 * np.pi * phase)
    knee = 0.5 * size
    return {
        "left swing": -0.8 * stride,
        "right swing": 0.8 * stride,
        "left thigh": stride,
        "right thigh": -stride,
        "left knee": knee * max(0.0, float(np.cos(2 * np.pi * phase))),
        "right knee": knee * max(0.0, float(-np.cos(2 * np.pi * phase))),
        "forward": 0.9 * phase * size,
    }


def _squat(phase: float, size: float) -> Pose:
    depth = size * (0.5 - 0.5 * np.cos(2 * np.pi * phase))
    return {
        "left thigh": 1.3 * depth,
        "right thigh": 1.3 * depth,
        "left knee": 2.3 * depth,
        "right knee": 2.3 * depth,
        "lean": 0.5 * depth,
        "left swing": 1.2 * depth,
        "right swing": 1.2 * depth,
        "on feet": 1.0,
    }


def _clap(phase: float, size: float) -> Pose:
    apart = 0.5 + 0.5 * np.cos(4 * np.pi * phase)
    inward = 0.15 + 0.5 * size * apart
    return {
        "left swing": 1.2,
        "right swing": 1.2,
        "left raise": inward - 0.25,
        "right raise": inward - 0.25,
        "left bend": 0.3,
        "right bend": 0.3,
    }


def _kick(phase: float, size: float) -> Pose:
    up = max(0.0, float(np.sin(2 * np.pi * phase)))
    return {
        "right thigh": 1.4 * size * up,
        "right knee": 0.8 * max(0.0, float(np.sin(2 * np.pi * phase + 0.8))) * (1 - up),
        "left swing": 0.5 * up,
        "lean": -0.2 * up,
    }


def _fall(phase: float, size: float) -> Pose:
    down = min(1.0, 1.6 * phase) ** 2  # once, and then it lies
    return {
        "tilt": 1.5 * down,
        "left swing": 1.5 * down * size,
        "right swing": 1.5 * down * size,
        "left knee": 0.4 * down,
        "right knee": 0.4 * down,
    }


def _jump(phase: float, size: float) -> Pose:
    crouch = max(0.0, float(-np.sin(2 * np.pi * phase)))
    up = max(0.0, float(np.sin(2 * np.pi * phase)))
    return {
        "left thigh": 0.7 * crouch,
        "right thigh": 0.7 * crouch,
        "left knee": 1.4 * crouch,
        "right knee": 1.4 * crouch,
        "left raise": 2.4 * up,
        "right raise": 2.4 * up,
        "on feet": 1.0,
        "up": 0.35 * size * up,
    }


#: action -> pose at a phase, of which one is a repetition, and at a size around 1
ACTIONS: dict[str, Callable[[float, float], Pose]] = {
    "clap": _clap,
    "fall": _fall,
    "jump": _jump,
    "kick": _kick,
    "squat": _squat,
    "stand": _stand,
    "walk": _walk,
    "wave": _wave,
}
#: seconds of one repetition
PERIODS = {"fall": 1.6, "kick": 1.4, "squat": 1.8}
PERIOD = 1.2


def skeleton_clip(
    action: str, *, frames: int = 60, rng: np.random.Generator, noise: float = 0.008
) -> NDArray[np.float32]:
    """One figure doing one thing: its size, tempo, place, direction and vigour are drawn.

    Args:
        action: a key of `ACTIONS`.
        frames: at 30 a second.
        rng: draws everything.
        noise: standard deviation of each coordinate, in metres.

    Returns:
        Metres from a camera that looks along z with y upwards, ``(time, 1, joint, 3)``.

    Raises:
        UnknownNameError: no such action.
        ConfigError: less than one frame.
    """
    return skeleton_sequence([action], frames=frames, rng=rng, noise=noise)


def skeleton_sequence(
    actions: Sequence[str], *, frames: int = 60, rng: np.random.Generator, noise: float = 0.008
) -> NDArray[np.float32]:
    """One figure doing one thing after the other, ``frames`` each; as `skeleton_clip` otherwise."""
    for action in actions:
        if action not in ACTIONS:
            raise UnknownNameError("action", action, tuple(ACTIONS))
    if frames < 1 or not actions:
        raise ConfigError(f"A simulated skeleton needs an action and a frame or more, got {frames}")
    height, facing = rng.uniform(0.85, 1.15), rng.uniform(-0.7, 0.7)
    place = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.1, 0.1), rng.uniform(2.5, 4.0)])
    turned = np.array([[np.cos(facing), 0, np.sin(facing)], [0, 1, 0], [-np.sin(facing), 0, np.cos(facing)]])
    poses = []
    for action in actions:
        period = PERIODS.get(action, PERIOD) * rng.uniform(0.85, 1.2)
        begin = 0.0 if action == "fall" else rng.uniform(0, 1)
        size = rng.uniform(0.85, 1.1)
        for frame in range(frames):
            poses.append(_joints(ACTIONS[action](begin + frame / RATE / period, size)))
    joints = height * np.stack(poses) @ turned.T + place
    joints += noise * rng.standard_normal(joints.shape)
    return joints[:, None].astype(np.float32)


def simulate_skeletons(
    folder: str | Path,
    *,
    actions: Sequence[str] | None = None,
    clips: int = 20,
    frames: int = 60,
    seed: int = 0,
) -> Path:
    """Write a folder of ``.skeleton`` files for each action, ready for training.

    Args:
        folder: made if it is not there.
        actions: keys of `ACTIONS`; all if None.
        clips: of each action.
        frames: of each clip.
        seed: of everything that is drawn.

    Raises:
        UnknownNameError, ConfigError: no such action, or less than one clip or frame.
    """
    if clips < 1:
        raise ConfigError(f"Simulated skeletons need a clip or more of each action, got {clips}")
    target = Path(folder)
    for action in actions or ACTIONS:
        if action not in ACTIONS:
            raise UnknownNameError("action", action, tuple(ACTIONS))
        rng = np.random.default_rng([seed, list(ACTIONS).index(action)])
        (target / action).mkdir(parents=True, exist_ok=True)
        for clip in range(clips):
            poses = skeleton_clip(action, frames=frames, rng=rng)
            write_skeletons(target / action / f"{action}-{clip:03d}.skeleton", poses)
    return target


def _joints(pose: Pose) -> NDArray[np.float64]:
    """Joints ``(joint, 3)`` of a figure that faces the camera (towards -z), y upwards, feet near y = -1."""

    def angle(name: str) -> float:
        return float(pose.get(name, 0.0))

    at = np.zeros((JOINTS, 3))
    # Legs, from the hips down.
    for side, sign, hip in (("left", 1, 12), ("right", -1, 16)):
        thigh, knee = angle(f"{side} thigh"), angle(f"{side} knee")
        at[hip] = (sign * 0.09, -0.04, 0)
        at[hip + 1] = at[hip] + 0.43 * _forward_down(thigh)
        at[hip + 2] = at[hip + 1] + 0.42 * _forward_down(thigh - knee)
        at[hip + 3] = at[hip + 2] + np.array([0, -0.05, -0.12])
    # Spine.
    up = np.array([0, np.cos(angle("lean")), -np.sin(angle("lean"))])
    at[1], at[20], at[2], at[3] = 0.28 * up, 0.52 * up, 0.58 * up, 0.72 * up
    # Arms.
    for sign, shoulder, tip, thumb in ((1, 4, 21, 22), (-1, 8, 23, 24)):
        side = "left" if sign > 0 else "right"
        swing, lift, bend = (angle(f"{side} {name}") for name in ("swing", "raise", "bend"))
        at[shoulder] = at[20] + np.array([sign * 0.17, -0.03, 0])
        upper = _arm(sign, swing, lift)
        lower = _arm(sign, swing + 0.3 * bend, lift + bend if lift > 0.8 else lift - 0.4 * bend)
        at[shoulder + 1] = at[shoulder] + 0.28 * upper
        at[shoulder + 2] = at[shoulder + 1] + 0.25 * lower
        at[shoulder + 3] = at[shoulder + 2] + 0.07 * lower
        at[tip] = at[shoulder + 3] + 0.08 * lower
        at[thumb] = at[shoulder + 2] + 0.05 * lower + np.array([-sign * 0.03, 0, -0.02])
    if angle("on feet"):  # the feet stay where they stand, the body sinks
        standing = -0.04 - 0.43 - 0.42
        at[:, 1] += standing - at[[14, 18], 1].mean() + angle("up")
        at[:, 2] -= at[[14, 18], 2].mean()
    tilt = angle("tilt")
    if tilt:
        feet = at[[14, 18]].mean(axis=0)
        turn = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
        at = (at - feet) @ turn.T + feet
    at[:, 2] -= angle("forward")
    return at


def _forward_down(angle: float) -> NDArray[np.float64]:
    """A hanging leg, lifted to the front by an angle."""
    return np.array([0.0, -np.cos(angle), -np.sin(angle)])


def _arm(sign: int, swing: float, lift: float) -> NDArray[np.float64]:
    """A hanging arm, swung to the front and raised to the side."""
    return np.array([sign * np.sin(lift), -np.cos(lift) * np.cos(swing), -np.cos(lift) * np.sin(swing)])
