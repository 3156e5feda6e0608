"""The front end `landmarks`: a face's landmarks over time to edges between them.

An edge is the difference of two landmarks, so its length and direction; where the face is in the picture
cancels. Which edges there are is fixed by one template face: its triangulation, and every landmark with the
nose.
N. Heidari and A. Iosifidis, *Progressive Spatio-Temporal Bilinear Network with Monte Carlo Dropout for
Landmark-based Facial Expression Recognition with Uncertainty Estimation*, MMSP 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, InputError
from sentio.core.features import Prepared
from sentio.core.registry import register
from sentio.vision.delaunay import delaunay
from sentio.vision.face_template import neutral_face
from sentio.vision.landmark_files import LANDMARKS, Landmarks, checked, read_landmarks

#: the jaw line, which comes first and is not used
JAW = 17
INNER = LANDMARKS - JAW
#: the base of the nose among the inner landmarks
NOSE = 16
#: landmarks of either eye, in the numbering of 68
EYES = (slice(36, 42), slice(42, 48))

Edge = tuple[int, int]
Template = tuple[tuple[float, float], ...]


def landmark_edges(template: NDArray[np.floating] | None = None, *, unique: bool = False) -> list[Edge]:
    """Edges between the 51 inner landmarks: those of a triangulation, then each landmark with the nose.

    Args:
        template: the inner landmarks ``(51, 2)`` of the face that is triangulated; the library's own if None.
        unique: whether an edge of two triangles, and one with the nose, is listed once, and the nose with
            itself not at all. If not, as published: three edges for each triangle, and 51 with the nose.

    Raises:
        InputError: another shape, or landmarks that cannot be triangulated.
    """
    points = neutral_face()[JAW:] if template is None else np.asarray(template, dtype=np.float64)
    if points.shape != (INNER, 2):
        raise InputError(f"A template has the {INNER} inner landmarks ({INNER}, 2), got shape {points.shape}")
    edges: list[Edge] = []
    for a, b, c in delaunay(points):
        edges += [(a, b), (a, c), (b, c)]
    nose = [(index, NOSE) for index in range(INNER)]
    if not unique:
        return edges + nose
    kept = {(min(edge), max(edge)): edge for edge in reversed(edges + nose) if edge[0] != edge[1]}
    return sorted(kept.values())


def edge_features(
    points: NDArray[np.floating], edges: Sequence[Edge], *, scaled: bool = False
) -> NDArray[np.float32]:
    """Source minus target of each edge.

    Args:
        points: landmarks ``(time, 68, 2)``.
        edges: of the inner landmarks.
        scaled: divide by the distance of the eyes' middles, the mean over all frames up to each one.

    Returns:
        ``(2, time, edge)``.
    """
    inner = points[:, JAW:].astype(np.float64)
    source, target = (list(side) for side in zip(*edges, strict=True))
    found = inner[:, source] - inner[:, target]
    if scaled:
        left, right = (points[:, eye].mean(axis=1, dtype=np.float64) for eye in EYES)
        # Up to now and not over the clip, so that a stream can do the same.
        apart = np.linalg.norm(left - right, axis=1).cumsum() / np.arange(1, len(points) + 1)
        found /= np.maximum(apart, 1e-6)[:, None, None]
    features: NDArray[np.float32] = found.transpose(2, 0, 1).astype(np.float32)
    return features


@dataclass(frozen=True, kw_only=True)
class LandmarkFrontEnd:
    """Edges of a whole sequence; implements `sentio.core.features.FrontEnd`.

    Args:
        frames: that are taken of a sequence.
        sampling: ``even`` takes them at equal distances and repeats a shorter sequence; ``ends`` takes the
            first frame and the last others, from a neutral face to the height of an expression.
        unique: whether the list of edges has no duplicates.
        scaled: whether edges are divided by the distance of the eyes.
        template: the 51 inner landmarks whose triangulation gives the edges; the library's own if None.
        rate: frames a second, for times in answers.

    Raises:
        ConfigError: a setting is not possible.
    """

    name: ClassVar[str] = "landmarks"

    frames: int = 16
    sampling: Literal["even", "ends"] = "even"
    unique: bool = True
    scaled: bool = True
    template: Template | None = None
    rate: float = 25.0

    def __post_init__(self) -> None:
        if isinstance(self.frames, bool) or not isinstance(self.frames, int) or self.frames < 1:
            raise ConfigError(f"Front end 'landmarks' needs frames of at least 1, got {self.frames!r}")
        if self.sampling not in ("even", "ends"):
            raise ConfigError(f"Front end 'landmarks' samples 'even' or 'ends', got {self.sampling!r}")
        if not (isinstance(self.rate, int | float) and 0 < self.rate < float("inf")):
            raise ConfigError(f"Front end 'landmarks' needs a rate above 0, got {self.rate!r}")
        if self.template is not None:
            points = tuple((float(x), float(y)) for x, y in self.template)
            object.__setattr__(self, "template", points)
        try:
            _edges(self.template, self.unique)
        except InputError as error:
            raise ConfigError(f"Front end 'landmarks' cannot use its template: {error}") from error

    @property
    def edges(self) -> list[Edge]:
        """Between the inner landmarks."""
        return list(_edges(self.template, self.unique))

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """``(coordinate, time, edge)``."""
        return {"main": (2, self.frames, len(self.edges))}

    def settings(self) -> dict[str, Any]:
        """Plain values that the builder of this name takes as options."""
        values = asdict(self)
        if self.template is not None:
            values["template"] = [list(point) for point in self.template]
        return values

    def noise(self) -> NDArray[np.float32]:
        """Random points of one window, ``(time, 68, 2)``."""
        return np.random.default_rng(0).normal(0.0, 1.0, (self.frames, 68, 2)).astype(np.float32)

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        """Edges of one sequence: always one window.

        Args:
            source: the path of a file for `read_landmarks`, `Landmarks`, or an array ``(time, 68, 2)``.
            hop: of no effect, since a sequence is answered as a whole.

        Raises:
            InputError: the source cannot be read, is none, or shows no face.
        """
        found = _landmarks(source)
        count, notes = len(found.points), list(found.notes)
        if count < self.frames:
            notes.append(f"The sequence of {count} frames is repeated to {self.frames}")
        if self.sampling == "ends" and count >= self.frames:
            places = np.array([0, *range(count - self.frames + 1, count)])
        elif count >= self.frames:
            places = np.linspace(0, count - 1, self.frames).round().astype(np.int64)
        else:
            places = np.arange(self.frames) % count
        features = edge_features(found.points[places], self.edges, scaled=self.scaled)
        ends = np.array([count / self.rate])
        return Prepared(features[None], np.zeros(1), ends, np.zeros(1, bool), tuple(notes))


@lru_cache(maxsize=32)
def _edges(template: Template | None, unique: bool) -> tuple[Edge, ...]:
    return tuple(landmark_edges(None if template is None else np.array(template), unique=unique))


def _landmarks(source: Any) -> Landmarks:
    if isinstance(source, str | PathLike):
        return read_landmarks(source)
    if isinstance(source, Landmarks):
        return source
    if isinstance(source, np.ndarray):
        return checked(source, "The array")
    raise InputError(f"Landmarks are a path or an array (time, {LANDMARKS}, 2), got {type(source).__name__}")


@register("frontend", "landmarks")
def landmark_windows(
    *,
    frames: int = LandmarkFrontEnd.frames,
    sampling: str = LandmarkFrontEnd.sampling,
    unique: bool = LandmarkFrontEnd.unique,
    scaled: bool = LandmarkFrontEnd.scaled,
    template: Sequence[Sequence[float]] | None = None,
    rate: float = LandmarkFrontEnd.rate,
) -> LandmarkFrontEnd:
    """Edges between 51 landmarks of a face over time, for `st-bln`.

    Args:
        frames: that are taken of a sequence.
        sampling: ``even`` or ``ends``.
        unique: whether the list of edges has no duplicates.
        scaled: whether edges are divided by the distance of the eyes.
        template: landmarks ``(51, 2)`` whose triangulation gives the edges.
        rate: frames a second.

    Raises:
        ConfigError: a setting is not possible.
    """
    given: Any = template
    chosen: Any = sampling
    return LandmarkFrontEnd(
        frames=frames, sampling=chosen, unique=unique, scaled=scaled, template=given, rate=rate
    )
