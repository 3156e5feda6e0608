"""Reads pairs of faces as Labelled Faces in the Wild gives them: same person or not, in folds.

G. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", 2007. ``pairs.txt`` begins with
the number of folds and of pairs of each kind in one (a file of one fold with the pairs alone, as
``pairsDevTest.txt``); then come lines ``name n1 n2`` of the same person and ``name1 n1 name2 n2`` of two. An
image is ``name/name_0001.jpg``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError
from sentio.data.dataset import listed
from sentio.data.media import IMAGES, relative_path


@dataclass(frozen=True)
class FacePairs:
    """Pairs of images, and whether each shows one person.

    Args:
        images: the files, each once, in order of their first mention.
        first, second: of each pair the places in ``images``, int64 ``(pair,)``.
        same: whether it is the same person, ``(pair,)``.
        folds: the fold of each pair, from 0, int64 ``(pair,)``.
    """

    images: tuple[Path, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.same)


def read_face_pairs(pairs: Path | str, folder: Path | str) -> FacePairs:
    """The pairs of a list, with their files.

    Args:
        pairs: ``pairs.txt``.
        folder: with a folder of images for each person.

    Raises:
        InputError: the list is not as above, says another number of pairs than it has, or names an image that
            is not there.
    """
    shown, root = Path(pairs), Path(folder)
    try:
        lines = [line.split() for line in shown.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the pairs {shown}: {error}; check the path") from error
    numbered = [(number, words) for number, words in enumerate(lines, 1) if words]
    folds, each = _header(numbered, shown)
    if len(numbered) - 1 != folds * 2 * each:
        raise InputError(
            f"{shown} announces {folds} folds of {each} pairs of each kind and holds "
            f"{len(numbered) - 1} pairs; "
            "take the list whole"
        )
    places: dict[Path, int] = {}
    rows = []
    for place, (number, words) in enumerate(numbered[1:]):
        one, other = _names(words, number, shown)
        ends = [_image(root, name, index, number, shown) for name, index in (one, other)]
        rows.append((*(places.setdefault(path, len(places)) for path in ends), one[0] == other[0]))
        if rows[-1][2] != (place % (2 * each) < each):
            kind = "the same person" if rows[-1][2] else "two persons"
            raise InputError(
                f"{shown} line {number} is a pair of {kind} where the other kind is "
                f"due: a fold has {each} of "
                "the same person first, then as many of two"
            )
    _check_there(places, shown, root)
    first, second, same = (np.array(column) for column in zip(*rows, strict=True))
    return FacePairs(
        tuple(places), first, second, same.astype(bool), np.arange(len(rows), dtype=np.int64) // (2 * each)
    )


def _header(numbered: list[tuple[int, list[str]]], shown: Path) -> tuple[int, int]:
    first = numbered[0][1] if numbered else []
    if not 1 <= len(first) <= 2 or not all(_is_number(word) and int(word) for word in first):
        raise InputError(
            f"{shown} does not begin with its numbers of folds and of pairs; take the list whole"
        )
    return (1, int(first[0])) if len(first) == 1 else (int(first[0]), int(first[1]))


def _names(words: list[str], number: int, shown: Path) -> tuple[tuple[str, int], tuple[str, int]]:
    three, four = len(words) == 3, len(words) == 4
    indices = words[1:] if three else words[1::2]
    if not (three or four) or not all(map(_is_number, indices)):
        raise InputError(f"{shown} line {number} is neither 'name n1 n2' nor 'name1 n1 name2 n2'; correct it")
    return (words[0], int(indices[0])), (words[0] if three else words[2], int(indices[1]))


def _is_number(word: str) -> bool:
    """Whether it is a whole number, of no more digits than any image or fold has; Python reads 4,300."""
    return word.isdecimal() and len(word) < 10


def _image(root: Path, name: str, index: int, number: int, shown: Path) -> Path:
    inside = relative_path(f"{name}/{name}_{index:04d}.jpg")
    if inside is None or len(inside.parts) != 2:
        raise InputError(f"{shown} line {number} names {name!r}, which leads outside the folder; correct it")
    path = root / inside
    if path.is_file():
        return path
    others = (path.with_suffix(suffix) for suffix in sorted(IMAGES))
    return next((other for other in others if other.is_file()), path)


def _check_there(places: Iterable[Path], shown: Path, root: Path) -> None:
    missing = [path.name for path in places if not path.is_file()]
    if missing:
        raise InputError(
            f"{root} lacks images that {shown} names ({len(missing)}): {listed(missing)}; add them"
        )
