"""Simulated faces: 68 landmarks that go from neutral to an expression.

Not a face model: each expression moves brows, eyes and mouth by fixed amounts. It is there to try training
and files without a data set, and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, UnknownNameError
from sentio.vision.face_template import neutral_face

#: landmarks that move together, in the numbering of 68
INNER_BROWS, OUTER_BROWS = [20, 21, 22, 23], [17, 18, 25, 26]
UPPER_LIDS, LOWER_LIDS = [37, 38, 43, 44], [40, 41, 46, 47]
MOUTH_CORNERS, UPPER_LIP, LOWER_LIP = (
    [48, 54, 60, 64],
    [49, 50, 51, 52, 53, 61, 62, 63],
    [55, 56, 57, 58, 59, 65, 66, 67],
)
NOSTRILS, CHIN = [31, 32, 33, 34, 35], [6, 7, 8, 9, 10]

#: expression -> what moves how far: (landmarks, towards the sides, downwards), in distances between the eyes
EXPRESSIONS: dict[str, list[tuple[list[int], float, float]]] = {
    "angry": [(INNER_BROWS, -0.05, 0.13), (UPPER_LIDS, 0, 0.02), (UPPER_LIP, 0, 0.04), (LOWER_LIP, 0, -0.04)],
    "disgust": [
        (NOSTRILS, 0.02, -0.07),
        (UPPER_LIP, 0, -0.1),
        (INNER_BROWS, -0.02, 0.06),
        (LOWER_LIDS, 0, -0.03),
    ],
    "fear": [
        (INNER_BROWS, -0.04, -0.12),
        (UPPER_LIDS, 0, -0.05),
        (MOUTH_CORNERS, 0.1, 0.02),
        (LOWER_LIP, 0, 0.08),
    ],
    "happy": [(MOUTH_CORNERS, 0.14, -0.13), (LOWER_LIP, 0, 0.05), (LOWER_LIDS, 0, -0.03)],
    "neutral": [],
    "sad": [(MOUTH_CORNERS, -0.02, 0.12), (INNER_BROWS, -0.01, -0.08), (OUTER_BROWS, 0, 0.05)],
    "surprise": [(INNER_BROWS, 0, -0.18), (OUTER_BROWS, 0, -0.16), (LOWER_LIP, 0, 0.3), (CHIN, 0, 0.22)],
}


def landmark_clip(
    expression: str, *, frames: int = 24, rng: np.random.Generator, noise: float = 0.01
) -> NDArray[np.float32]:
    """One face that goes from neutral to an expression: its shape, place, size, tilt and vigour are drawn.

    Args:
        expression: a key of `EXPRESSIONS`.
        frames: how many.
        rng: draws everything.
        noise: standard deviation of each coordinate, in distances between the eyes.

    Returns:
        Pixels, ``(time, 68, 2)``.

    Raises:
        UnknownNameError: no such expression.
        ConfigError: less than one frame.
    """
    if expression not in EXPRESSIONS:
        raise UnknownNameError("expression", expression, tuple(EXPRESSIONS))
    if frames < 1:
        raise ConfigError(f"Simulated landmarks need a frame or more, got {frames}")
    face = neutral_face() * rng.uniform(0.9, 1.1, 2) + 0.02 * rng.standard_normal((68, 2))
    moved = np.zeros_like(face)
    side = np.sign(neutral_face()[:, 0])
    for landmarks, outwards, down in EXPRESSIONS[expression]:
        moved[landmarks, 0] += outwards * side[landmarks]
        moved[landmarks, 1] += down
    begin, speed = rng.uniform(0.0, 0.3), rng.uniform(1.5, 3.0)
    height = np.clip((np.linspace(0, 1, frames) - begin) * speed, 0, 1) * rng.uniform(0.7, 1.2)
    points = face + height[:, None, None] * moved + noise * rng.standard_normal((frames, 68, 2))
    tilt = rng.uniform(-0.15, 0.15)
    turned = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    place = rng.uniform(200, 400, 2) + np.cumsum(rng.standard_normal((frames, 2)), axis=0)
    clip: NDArray[np.float32] = (rng.uniform(40, 90) * points @ turned.T + place[:, None]).astype(np.float32)
    return clip


def simulate_landmarks(
    folder: str | Path,
    *,
    expressions: Sequence[str] | None = None,
    clips: int = 20,
    frames: int = 24,
    seed: int = 0,
) -> Path:
    """Write a folder of ``.npz`` files for each expression, ready for training.

    Args:
        folder: made if it is not there.
        expressions: keys of `EXPRESSIONS`; all if None.
        clips: of each expression.
        frames: of each clip.
        seed: of everything that is drawn.

    Raises:
        UnknownNameError, ConfigError: no such expression, or less than one clip or frame.
    """
    if clips < 1:
        raise ConfigError(f"Simulated landmarks need a clip or more of each expression, got {clips}")
    target = Path(folder)
    for expression in expressions or EXPRESSIONS:
        if expression not in EXPRESSIONS:
            raise UnknownNameError("expression", expression, tuple(EXPRESSIONS))
        rng = np.random.default_rng([seed, list(EXPRESSIONS).index(expression)])
        (target / expression).mkdir(parents=True, exist_ok=True)
        for clip in range(clips):
            points = landmark_clip(expression, frames=frames, rng=rng)
            np.savez(target / expression / f"{expression}-{clip:03d}.npz", landmarks=points)
    return target
