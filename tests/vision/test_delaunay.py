"""Triangulation against what defines it, against SciPy, and on a face."""

import numpy as np
import pytest

from sentio.core.errors import InputError
from sentio.vision.delaunay import delaunay
from sentio.vision.face_template import neutral_face
from sentio.vision.landmarks import INNER, JAW, NOSE, landmark_edges

#: the inner landmarks of dlib's mean face, rounded: figures of the paper's edges come from it
MEAN_FACE = np.array(
    [
        *[(0.0, 0.106), (0.075, 0.039), (0.181, 0.019), (0.291, 0.034), (0.393, 0.077), (0.587, 0.077)],
        *[(0.689, 0.034), (0.799, 0.019), (0.905, 0.039), (0.98, 0.106), (0.49, 0.203), (0.49, 0.307)],
        *[(0.49, 0.41), (0.49, 0.516), (0.367, 0.587), (0.426, 0.609), (0.49, 0.628), (0.554, 0.609)],
        *[(0.613, 0.587), (0.122, 0.216), (0.187, 0.179), (0.266, 0.18), (0.335, 0.232), (0.261, 0.245)],
        *[(0.183, 0.244), (0.646, 0.232), (0.714, 0.18), (0.793, 0.179), (0.859, 0.216), (0.798, 0.244)],
        *[(0.719, 0.245), (0.254, 0.78), (0.341, 0.745), (0.429, 0.727), (0.49, 0.743), (0.551, 0.727)],
        *[(0.639, 0.745), (0.726, 0.78), (0.642, 0.865), (0.557, 0.902), (0.49, 0.909), (0.424, 0.902)],
        *[(0.338, 0.865), (0.29, 0.785), (0.428, 0.779), (0.49, 0.785), (0.552, 0.779), (0.69, 0.785)],
        *[(0.553, 0.824), (0.49, 0.832), (0.427, 0.824)],
    ]
)


def circle(a, b, c):
    """Centre and radius."""
    sides = 2 * np.array([b - a, c - a])
    centre = np.linalg.solve(sides, np.array([b @ b - a @ a, c @ c - a @ a]))
    return centre, np.linalg.norm(a - centre)


@pytest.mark.parametrize("seed", range(6))
def test_every_circle_is_empty_and_the_hull_is_covered(seed):
    points = np.random.default_rng(seed).random((30, 2))
    triangles = delaunay(points)
    for triangle in triangles:
        centre, radius = circle(*points[list(triangle)])
        others = np.delete(points, triangle, axis=0)
        assert (np.linalg.norm(others - centre, axis=1) > radius - 1e-9).all()
    edges = [tuple(sorted(pair)) for a, b, c in triangles for pair in ((a, b), (b, c), (c, a))]
    hull = sum(edges.count(edge) == 1 for edge in set(edges))
    assert len(triangles) == 2 * len(points) - 2 - hull


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scipy(seed):
    spatial = pytest.importorskip("scipy.spatial")
    points = np.random.default_rng(seed).standard_normal((40, 2))
    want = {frozenset(triangle) for triangle in spatial.Delaunay(points).simplices.tolist()}
    assert {frozenset(triangle) for triangle in delaunay(points)} == want


@pytest.mark.parametrize(("columns", "rows"), [(5, 4), (2, 2), (7, 2)])
def test_a_grid_of_points_on_lines_and_circles(columns, rows):
    points = np.stack(np.meshgrid(range(columns), range(rows)), -1).reshape(-1, 2).astype(float)
    triangles = delaunay(points)
    assert len(triangles) == 2 * (columns - 1) * (rows - 1)
    areas = [np.linalg.det([points[b] - points[a], points[c] - points[a]]) / 2 for a, b, c in triangles]
    assert areas == pytest.approx([0.5] * len(triangles))


def test_edges_of_the_mean_face_are_as_many_as_published():
    assert len(delaunay(MEAN_FACE)) == 87
    listed, unique = landmark_edges(MEAN_FACE), landmark_edges(MEAN_FACE, unique=True)
    assert len(listed) == 312 == 3 * 87 + 51
    assert len({frozenset(edge) for edge in listed[:261]}) == 137
    assert len(unique) == 181
    assert {frozenset(edge) for edge in unique} == {frozenset(e) for e in listed if e[0] != e[1]}
    assert listed[261:] == [(landmark, NOSE) for landmark in range(INNER)]


def test_the_librarys_own_face():
    face = neutral_face()
    assert face.shape == (68, 2)
    mirrored = face * [-1, 1]
    assert np.abs(np.sort(mirrored[:, 0]) - np.sort(face[:, 0])).max() < 1e-12
    eyes = face[36:42].mean(0), face[42:48].mean(0)
    assert np.linalg.norm(eyes[0] - eyes[1]) == pytest.approx(1.0, abs=0.02)
    assert len(landmark_edges()) == 3 * len(delaunay(face[JAW:])) + INNER


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((2, 2)), r"three points \(point, 2\) or more, got shape \(2, 2\)"),
        (np.array([[0.0, 0], [1, 1], [2, 2]]), "do not all lie on one line"),
        (np.array([[0.0, 0], [1, 1], [0, 0]]), "two of them are the same"),
        (np.array([[0.0, 0], [1, 1], [0, np.nan]]), "finite numbers"),
    ],
)
def test_points_that_cannot_be_triangulated(points, message):
    with pytest.raises(InputError, match=message):
        delaunay(points)
