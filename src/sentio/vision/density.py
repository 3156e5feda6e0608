"""Heads in a picture as a density: a map whose sum is how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

Points = NDArray[np.floating[Any]]


def gaussian_kernel(side: int, sigma: float) -> NDArray[np.float64]:
    """A square Gaussian of odd ``side`` with standard deviation ``sigma`` pixels, its sum 1."""
    axis = np.arange(side) - side // 2
    weights = np.exp(-(axis**2) / (2 * sigma**2))
    kernel = np.outer(weights, weights)
    return kernel / kernel.sum()


def adaptive_sigmas(
    points: Points, *, neighbours: int = 3, beta: float = 0.3, alone: float = 4.0
) -> NDArray[np.float64]:
    """For each point ``beta`` times the mean distance to its nearest others: small where heads are small.

    Y. Zhang et al., *Single-Image Crowd Counting via Multi-Column Convolutional Neural Network*, CVPR 2016.

    Args:
        points: ``(n, 2)``.
        neighbours: how many of the nearest are averaged, or as many as there are.
        beta: the paper's 0.3.
        alone: for a point without neighbours, and the smallest of the others' is half a pixel.
    """
    if len(points) < 2:
        return np.full(len(points), alone)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = np.sort(apart, axis=1)[:, 1 : neighbours + 1]
    return np.maximum(beta * nearest.mean(axis=1), 0.5)


def density_map(
    points: Sequence[Sequence[float]] | Points,
    size: tuple[int, int],
    *,
    sigma: float = 4.0,
    side: int = 15,
    adaptive: bool = False,
    neighbours: int = 3,
    beta: float = 0.3,
) -> NDArray[np.float32]:
    """One normalised Gaussian for each head; of those near a border the part outside is lost.

    Args:
        points: ``(n, 2)`` of (x, y) in pixels.
        size: (height, width) of the picture.
        sigma: standard deviation in pixels, as DISCO's authors have it.
        side: odd side of the kernel.
        adaptive: let each head's Gaussian follow its distance to the others (`adaptive_sigmas`); its kernel
            then reaches three standard deviations.
        neighbours, beta: of that.

    Returns:
        ``(height, width)``, float32, persons per pixel.

    Raises:
        InputError: points of another shape, not finite, or outside the picture; or a size that is none.
    """
    height, width = size
    heads = (
        np.asarray(points, dtype=np.float64).reshape(-1, 2) if len(points) == 0 else np.asarray(points, float)
    )
    if heads.ndim != 2 or heads.shape[1] != 2:
        raise InputError(f"Heads are points (x, y), an array of shape (n, 2), got shape {heads.shape}")
    if height < 1 or width < 1 or side < 1 or side % 2 == 0 or not sigma > 0:
        raise InputError(
            f"A density map needs a size from 1x1, an odd kernel and a sigma above 0, got {height}x{width}, "
            f"{side} and {sigma}"
        )
    if not np.isfinite(heads).all():
        raise InputError("Heads must be finite numbers, and some are not; look at the annotation")
    outside = ((heads < 0) | (heads >= (width, height))).any(axis=1)
    if outside.any():
        x, y = heads[outside][0]
        raise InputError(
            f"{int(outside.sum())} of {len(heads)} heads lie outside the {height}x{width} picture, the first "
            f"at x={x:g}, y={y:g}; leave them out or scale the points with the picture"
        )
    sigmas = np.full(len(heads), float(sigma))
    if adaptive:
        sigmas = adaptive_sigmas(heads, neighbours=neighbours, beta=beta, alone=sigma)
    density = np.zeros((height, width))
    fixed = None if adaptive else gaussian_kernel(side, sigma)
    for (x, y), spread in zip(heads, sigmas, strict=True):
        kernel = gaussian_kernel(2 * int(np.ceil(3 * spread)) + 1, spread) if fixed is None else fixed
        reach = len(kernel) // 2
        row, column = int(y), int(x)
        top, left = max(row - reach, 0), max(column - reach, 0)
        bottom, right = min(row + reach + 1, height), min(column + reach + 1, width)
        density[top:bottom, left:right] += kernel[
            top - row + reach : bottom - row + reach, left - column + reach : right - column + reach
        ]
    return density.astype(np.float32)


def shrink_density(density: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """A map ``factor`` times smaller in both sides, each pixel the sum of what it replaces: the sum stays.

    Args:
        density: ``(..., height, width)``, both sides multiples of ``factor``.
        factor: from 1 up.

    Raises:
        InputError: ``factor`` does not divide the sides.
    """
    height, width = density.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise InputError(
            f"A density map of {height}x{width} cannot be made {factor} times smaller; take a divisor of both"
        )
    blocks = density.reshape(*density.shape[:-2], height // factor, factor, width // factor, factor)
    return blocks.sum(axis=(-3, -1)).astype(np.float32)


@dataclass(frozen=True)
class Placement:
    """How a picture comes into another size: heads and densities follow it, and their sum stays.

    Args:
        box: the part of it that is used: left, top, right, bottom in pixels.
        size: (height, width) that this part is scaled to.
        at: (top, left) of where that lies in what comes out.
        goal: (height, width) of what comes out.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    at: tuple[int, int]
    goal: tuple[int, int]

    def points(self, points: Points) -> NDArray[np.float64]:
        """Where heads (x, y) come to lie, ``(n, 2)``; those outside the part that is used are left out."""
        left, top, right, bottom = self.box
        heads = np.asarray(points, np.float64).reshape(-1, 2)
        share = (heads - (left, top)) / (right - left, bottom - top)
        inside = ((share >= 0) & (share < 1)).all(axis=1)
        return np.asarray(share[inside] * self.size[::-1] + self.at[::-1], np.float64)

    def density(self, density: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
        """A density over a picture of ``size`` (height, width) as one over what comes out.

        Each value is spread evenly over the pixels that its own now covers, so the sum within the part that
        is used stays.

        Args:
            density: ``(rows, columns)``, as many as the picture has or fewer.
            size: of the picture.

        Returns:
            ``goal``, float32.
        """
        left, top, right, bottom = self.box
        down, across = density.shape[0] / size[0], density.shape[1] / size[1]
        rows = _shares(density.shape[0], top * down, bottom * down, self.size[0])
        columns = _shares(density.shape[1], left * across, right * across, self.size[1])
        found = np.zeros(self.goal, np.float32)
        found[self.at[0] : self.at[0] + self.size[0], self.at[1] : self.at[1] + self.size[1]] = (
            rows @ np.asarray(density, np.float64) @ columns.T
        )
        return found


def _shares(cells: int, begin: float, end: float, count: int) -> NDArray[np.float64]:
    """``(count, cells)``: which share of each cell of an axis lies in each of ``count`` equal parts of it."""
    edges = np.linspace(begin, end, count + 1)
    starts = np.arange(cells)
    shared = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.clip(shared, 0.0, None)
