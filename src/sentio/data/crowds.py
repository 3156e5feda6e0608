"""Readers of crowds: pictures with the places of all heads, some with a second of sound.

ShanghaiTech: Y. Zhang et al., *Single-Image Crowd Counting via Multi-Column Convolutional Neural Network*,
CVPR 2016. DISCO: D. Hu et al., *Ambient Sound Helps: Audiovisual Crowd Counting in Extreme Conditions*, 2020.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.data.dataset import listed
from sentio.data.mat_file import read_mat
from sentio.data.media import AUDIO, IMAGES, listing
from sentio.vision.pictures import read_picture as read_upright


@dataclass(frozen=True)
class CrowdScene:
    """One picture of a crowd.

    Args:
        name: of the scene.
        picture: the file.
        part: ``train``, ``val`` or ``test``, as published.
        annotation: the file with its heads or its density.
        sound: the file, None where there is none.
        points: reads the heads, ``(n, 2)`` of (x, y) in pixels; None where only the density is published.
        density: reads the density, ``(height, width)``; None where the heads are published.
        details: what else is known, by name.
    """

    name: str
    picture: Path
    part: str
    annotation: Path
    sound: Path | None = None
    points: Callable[[], NDArray[np.float64]] | None = field(default=None, repr=False, compare=False)
    density: Callable[[], NDArray[np.float64]] | None = field(default=None, repr=False, compare=False)
    details: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def count(self) -> float:
        """How many people, read from the annotation."""
        if self.points is not None:
            return float(len(self.points()))
        assert self.density is not None
        return float(self.density().sum())

    def pixels(self) -> NDArray[np.uint8]:
        """The picture, ``(height, width, 3)`` uint8 in red, green, blue, upright as front ends see it.

        Raises:
            MissingExtraError: Pillow is not installed.
            InputError: the file is not a picture.
        """
        return read_picture(self.picture)


@dataclass(frozen=True)
class Crowds:
    """Scenes of one data set, in an order that depends on names only."""

    name: str
    scenes: tuple[CrowdScene, ...]
    root: Path

    def __len__(self) -> int:
        return len(self.scenes)

    def __iter__(self) -> Iterator[CrowdScene]:
        return iter(self.scenes)

    def part(self, name: str) -> tuple[CrowdScene, ...]:
        """The scenes of ``train``, ``val`` or ``test``."""
        return tuple(scene for scene in self.scenes if scene.part == name)


def read_shanghaitech(folder: str | Path) -> Crowds:
    """One part of ShanghaiTech, ``part_A`` or ``part_B``: pictures with heads as points.

    Args:
        folder: with ``train_data`` and ``test_data``, each with ``images`` (``IMG_1.jpg``) and
            ``ground-truth`` or ``ground_truth`` (``GT_IMG_1.mat``).

    Raises:
        InputError: another layout, or a picture without annotation.
    """
    root = Path(folder)
    scenes: list[CrowdScene] = []
    for part in ("train", "test"):
        base = root / f"{part}_data"
        truth = next(
            (base / name for name in ("ground-truth", "ground_truth") if (base / name).is_dir()), None
        )
        if truth is None or not (base / "images").is_dir():
            raise InputError(
                f"{root} is not a part of ShanghaiTech: it has no {part}_data with images and ground-truth; "
                "give the folder part_A or part_B"
            )
        pictures = [file for file in listing(base / "images")[1] if file.suffix.lower() in IMAGES]
        missing = [file.name for file in pictures if not (truth / f"GT_{file.stem}.mat").is_file()]
        if missing:
            raise InputError(
                f"{truth} has no annotation GT_….mat for {len(missing)} pictures: {listed(missing)}"
            )
        for file in sorted(pictures, key=lambda path: _number(path.stem)):
            mat = truth / f"GT_{file.stem}.mat"
            scenes.append(CrowdScene(f"{part}/{file.stem}", file, part, mat, points=_reading(_heads, mat)))
    return _crowds("shanghaitech", scenes, root)


def read_disco(folder: str | Path) -> Crowds:
    """DISCO: pictures with a second of sound each, and densities by part.

    Args:
        folder: with ``imgs`` or ``images``, ``audio`` or ``audios`` (``.wav``), and ``density`` or
            ``density_maps`` with ``train``, ``val`` and ``test``, each with ``.mat`` files that hold a matrix
            ``map``. All have the picture's name.

    Raises:
        InputError: another layout, or a scene without picture or sound.
    """
    root = Path(folder)
    pictures = _by_stem(root, ("imgs", "images"), IMAGES, "pictures")
    sounds = _by_stem(root, ("audio", "audios", "auds"), AUDIO, "sounds")
    truth = next((root / name for name in ("density", "density_maps", "den") if (root / name).is_dir()), None)
    if truth is None:
        raise InputError(f"{root} is not DISCO: it has no folder density_maps with train, val and test")
    scenes: list[CrowdScene] = []
    for part in ("train", "val", "test"):
        if not (truth / part).is_dir():
            raise InputError(f"{truth} has no folder {part!r}; DISCO comes with train, val and test")
        for mat in listing(truth / part)[1]:
            if mat.suffix.lower() != ".mat":
                continue
            for found, what in ((pictures, "picture"), (sounds, "sound")):
                if mat.stem not in found:
                    raise InputError(
                        f"{mat} has no {what} of the same name in {root}; get the data set again"
                    )
            scenes.append(
                CrowdScene(
                    f"{part}/{mat.stem}",
                    pictures[mat.stem],
                    part,
                    mat,
                    sound=sounds[mat.stem],
                    density=_reading(_map, mat),
                )
            )
    return _crowds("disco", scenes, root)


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """A picture file as ``(height, width, 3)`` uint8, turned as its camera says.

    Raises:
        MissingExtraError: Pillow is not installed.
        InputError: the file is not a picture.
    """
    return read_upright(path)[0]


def _reading(read: Callable[[Path], NDArray[np.float64]], path: Path) -> Callable[[], NDArray[np.float64]]:
    return lambda: read(path)


def _heads(path: Path) -> NDArray[np.float64]:
    """``image_info{1,1}.location``: (x, y) of each head.

    Raises:
        InputError: there are none in the file, or some are not finite numbers.
    """
    info = read_mat(path).get("image_info")
    while isinstance(info, list) and len(info) == 1:
        info = info[0]
    points = info.get("location") if isinstance(info, dict) else None
    while isinstance(points, list) and len(points) == 1:
        points = points[0]
    if not isinstance(points, np.ndarray) or points.ndim != 2 or (points.size and points.shape[1] != 2):
        raise InputError(
            f"{path} holds no heads (image_info with location); it is not ShanghaiTech's annotation"
        )
    points = points.reshape(-1, 2)
    odd = ~np.isfinite(points).all(axis=1)
    if odd.any():
        raise InputError(
            f"{path} holds {int(odd.sum())} heads that are NaN or infinite, the first in row "
            f"{int(odd.argmax()) + 1} of location; correct it or get it again"
        )
    return points


def _map(path: Path) -> NDArray[np.float64]:
    """``map``: persons per pixel.

    Raises:
        InputError: there is none in the file, or some of its values are no numbers of persons.
    """
    density = read_mat(path).get("map")
    if not isinstance(density, np.ndarray) or density.ndim != 2:
        raise InputError(f"{path} holds no density (a matrix 'map'); it is not DISCO's annotation")
    odd = ~(np.isfinite(density) & (density >= 0))
    if odd.any():
        row, column = np.argwhere(odd)[0] + 1
        raise InputError(
            f"{path} holds {int(odd.sum())} densities that are NaN, infinite or below 0, the first in row "
            f"{row}, column {column} of map; correct it or get it again"
        )
    return density


def _by_stem(root: Path, names: Iterable[str], kinds: frozenset[str], what: str) -> dict[str, Path]:
    names = tuple(names)
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{root} is not DISCO: it has no folder of {what}, called {' or '.join(names)}")
    return {file.stem: file for file in listing(folder)[1] if file.suffix.lower() in kinds}


def _number(name: str) -> tuple[Any, ...]:
    """IMG_2 before IMG_10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def _crowds(name: str, scenes: list[CrowdScene], root: Path) -> Crowds:
    if not scenes:
        raise InputError(f"{root} holds no pictures with annotations")
    return Crowds(name, tuple(scenes), root)
