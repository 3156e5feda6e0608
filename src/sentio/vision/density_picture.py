"""Densities over the photo that they are of, side by side, as a picture."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

#: colours from no density to the most: dark blue, blue, turquoise, yellow, red
_COLOURS = np.array(
    [[20, 20, 90], [30, 90, 220], [40, 200, 190], [250, 220, 60], [230, 40, 30]], dtype=np.float64
)
_GAP = 4


def over_photo(
    photo: NDArray[np.uint8], density: NDArray[Any], *, most: float | None = None
) -> NDArray[np.uint8]:
    """A density as colours over its photo, the stronger the denser; where it is empty the photo is grey.

    Args:
        photo: ``(height, width, 3)`` uint8.
        density: ``(height, width)``, or smaller by a whole factor, persons per pixel; below 0 counts as 0.
        most: the density with the last colour; the map's own largest if None.

    Raises:
        InputError: shapes that do not fit.
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or density.ndim != 2:
        raise InputError(
            f"A density picture needs a photo (height, width, 3) and a map (height, width), got "
            f"{photo.shape} and {density.shape}"
        )
    height, width = photo.shape[:2]
    rows, columns = density.shape
    if height % rows or width % columns or height // rows != width // columns:
        raise InputError(
            f"A density of {rows}x{columns} does not lie on a photo of {height}x{width}; give one of "
            "the same size, or smaller by a whole factor"
        )
    factor = height // rows
    values = np.maximum(np.asarray(density, np.float64), 0).repeat(factor, 0).repeat(factor, 1) / factor**2
    top = values.max() if most is None else most
    share = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    place = share * (len(_COLOURS) - 1)
    low = np.minimum(place.astype(int), len(_COLOURS) - 2)
    colours = _COLOURS[low] + (place - low)[..., None] * (_COLOURS[low + 1] - _COLOURS[low])
    grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2)
    weight = (0.85 * np.sqrt(share))[..., None]
    return ((1 - weight) * grey + weight * colours).round().astype(np.uint8)


def density_picture(
    photo: NDArray[np.uint8], densities: Mapping[str, NDArray[Any]], *, scale: int = 1
) -> NDArray[np.uint8]:
    """The photo and each density over it, side by side, all on the colours of the first density.

    Args:
        photo: ``(height, width, 3)`` uint8.
        densities: name -> map, in order: the true one first, then one for each exit.
        scale: enlarge every panel by this whole factor.

    Returns:
        ``(height', width', 3)`` uint8; panel ``n`` starts at column ``n * (width * scale + 4)``.

    Raises:
        InputError: shapes that do not fit.
    """
    most = None
    panels = [photo]
    for density in densities.values():
        if most is None:
            factor = photo.shape[0] // max(1, density.shape[0])
            most = float(np.max(density, initial=0.0)) / max(1, factor) ** 2 or None
        panels.append(over_photo(photo, density, most=most))
    panels = [panel.repeat(scale, 0).repeat(scale, 1) for panel in panels]
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    row: list[NDArray[np.uint8]] = []
    for panel in panels:
        row += [panel, gap]
    return np.concatenate(row[:-1], axis=1)


def write_png(path: str | Path, pixels: NDArray[np.uint8]) -> None:
    """Write ``(height, width, 3)`` uint8 as PNG; needs no imaging library.

    Raises:
        InputError: another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise InputError(f"A picture is (height, width, 3) uint8, got {pixels.shape} {pixels.dtype}")
    height, width = pixels.shape[:2]
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with its filter, none
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
