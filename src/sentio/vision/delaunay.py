"""Delaunay triangulation of a few points in the plane, with exact arithmetic.

Points are swept from left to right and joined to what they see of the hull so far, then edges are flipped
until every circle is empty (Lawson, 1977). Four points on one circle, as a symmetric face has them, may be
cut either way; exact signs make the answer the same on every machine.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError

Point = tuple[Fraction, Fraction]
Triangle = tuple[int, int, int]


def delaunay(points: NDArray[np.floating]) -> list[Triangle]:
    """Triangles of a Delaunay triangulation, each counter-clockwise from its smallest index, sorted.

    Args:
        points: ``(point, 2)``; meant for some dozens.

    Raises:
        InputError: fewer than three points, two at the same place, not finite, or all on a line.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise InputError(f"A triangulation needs three points (point, 2) or more, got shape {points.shape}")
    if not np.isfinite(points).all():
        raise InputError("A triangulation needs points that are finite numbers")
    exact = [(Fraction(float(x)), Fraction(float(y))) for x, y in points]
    if len(set(exact)) < len(exact):
        raise InputError("A triangulation needs points at different places, and two of them are the same")
    triangles = _flipped(exact, _swept(exact))
    return sorted(min((a, b, c), (b, c, a), (c, a, b)) for a, b, c in triangles)


def _swept(points: list[Point]) -> set[Triangle]:
    """Some triangulation of the convex hull."""
    order = sorted(range(len(points)), key=lambda index: points[index])
    apex = next((k for k in range(2, len(order)) if _area(points, order[0], order[1], order[k]) != 0), None)
    if apex is None:
        raise InputError("A triangulation needs points that do not all lie on one line")
    line, top = order[:apex], order[apex]
    triangles: set[Triangle] = set()
    for left, right in pairwise(line):
        triangles.add(_turned(points, left, right, top))
    left_turn = _area(points, line[0], line[1], top) > 0
    hull = [*line, top] if left_turn else [top, *reversed(line)]  # counter-clockwise
    for new in order[apex + 1 :]:
        seen = [
            place for place in range(len(hull)) if _area(points, hull[place - 1], hull[place], new) < 0
        ]  # edges from hull[place - 1] to hull[place]
        for place in seen:
            triangles.add((hull[place], hull[place - 1], new))
        # What is seen is one chain: its inner points leave the hull.
        first = next(place for place in seen if (place - 1) % len(hull) not in seen)
        length = len(seen)
        rest = [hull[(first + length - 1 + step) % len(hull)] for step in range(len(hull) - length + 1)]
        hull = [*rest, new]
    return triangles


def _flipped(points: list[Point], triangles: set[Triangle]) -> set[Triangle]:
    """Flip edges whose circle holds the point opposite, until there are none."""
    opposite: dict[tuple[int, int], int] = {}
    for a, b, c in triangles:
        opposite |= {(a, b): c, (b, c): a, (c, a): b}
    waiting = [edge for edge in opposite if edge[0] < edge[1]]
    while waiting:
        a, b = waiting.pop()
        c, d = opposite.get((a, b)), opposite.get((b, a))
        if c is None or d is None or not _in_circle(points, a, b, c, d):
            continue
        del opposite[a, b], opposite[b, a]
        # (a, b, c) and (b, a, d) become (c, a, d) and (d, b, c)
        for x, y, z in ((c, a, d), (d, b, c)):
            opposite |= {(x, y): z, (y, z): x, (z, x): y}
        waiting += [(c, a), (a, d), (d, b), (b, c)]
    return {min((a, b, c), (b, c, a), (c, a, b)) for (a, b), c in opposite.items()}


def _turned(points: list[Point], a: int, b: int, c: int) -> Triangle:
    return (a, b, c) if _area(points, a, b, c) > 0 else (b, a, c)


def _area(points: list[Point], a: int, b: int, c: int) -> Fraction:
    """Twice the area of a triangle, positive where it is counter-clockwise."""
    (ax, ay), (bx, by), (cx, cy) = points[a], points[b], points[c]
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)


def _in_circle(points: list[Point], a: int, b: int, c: int, d: int) -> bool:
    """Whether ``d`` lies inside the circle through ``a``, ``b``, ``c``, which are counter-clockwise."""
    px, py = points[d]
    rows = []
    for index in (a, b, c):
        x, y = points[index][0] - px, points[index][1] - py
        rows.append((x, y, x * x + y * y))
    (ax, ay, a2), (bx, by, b2), (cx, cy, c2) = rows
    return ax * (by * c2 - b2 * cy) - ay * (bx * c2 - b2 * cx) + a2 * (bx * cy - by * cx) > 0
