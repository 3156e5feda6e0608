"""A neutral face of 68 landmarks, drawn by formula: its triangulation is the default graph of a face.

Numbered as by dlib and in iBUG 300-W; x to the right and y downwards, the eyes' middles 1 apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def neutral_face() -> NDArray[np.float64]:
    """Landmarks ``(68, 2)`` around the bridge of the nose, symmetric from left to right."""
    turns = np.linspace(0.0, np.pi, 17)
    jaw = np.stack([-1.15 * np.cos(turns), 0.1 + 1.55 * np.sin(turns)], axis=1)
    brow = np.stack([np.linspace(-0.9, -0.2, 5), -0.33 - np.array([0.0, 0.13, 0.17, 0.14, 0.07])], axis=1)
    bridge = np.stack([np.zeros(4), np.linspace(0.0, 0.6, 4)], axis=1)
    nostrils = np.stack([np.linspace(-0.24, 0.24, 5), 0.72 + np.array([0.0, 0.05, 0.08, 0.05, 0.0])], axis=1)
    eye = np.array([[-0.7, 0.0], [-0.58, -0.08], [-0.43, -0.08], [-0.3, 0.01], [-0.42, 0.06], [-0.58, 0.06]])
    mouth_turns = np.linspace(np.pi, -np.pi, 13)[:12]
    mouth = np.stack([0.42 * np.cos(mouth_turns), 1.14 - 0.15 * np.sin(mouth_turns)], axis=1)
    inner_turns = np.linspace(np.pi, -np.pi, 9)[:8]
    inner = np.stack([0.32 * np.cos(inner_turns), 1.14 - 0.05 * np.sin(inner_turns)], axis=1)
    # The right side mirrors the left one: brows from the middle outwards, eyes from their inner corner.
    mirror = np.array([-1.0, 1.0])
    other_eye = (eye * mirror)[[3, 2, 1, 0, 5, 4]]
    return np.concatenate([jaw, brow, (brow * mirror)[::-1], bridge, nostrils, eye, other_eye, mouth, inner])
