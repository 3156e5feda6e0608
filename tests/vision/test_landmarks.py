"""Landmark files, edges between landmarks, and the front end that gives them."""

import numpy as np
import pytest

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.data.simulate.landmarks import EXPRESSIONS, landmark_clip, simulate_landmarks
from sentio.vision.face_template import neutral_face
from sentio.vision.landmark_files import read_landmarks
from sentio.vision.landmarks import INNER, NOSE, edge_features, landmark_edges


def clip(expression="happy", frames=12, seed=0):
    return landmark_clip(expression, frames=frames, rng=np.random.default_rng(seed))


def table(path, points, header=None):
    names = header or [f"{axis}{number}" for number in range(68) for axis in "xy"]
    rows = ["frame," + ",".join(names)]
    for number, frame in enumerate(points):
        cells = ["" if np.isnan(value) else f"{value:.4f}" for value in frame.flatten()]
        rows.append(f"{number}," + ",".join(cells))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_arrays_and_tables_are_read(tmp_path):
    points = clip()
    np.savez(tmp_path / "a.npz", landmarks=points, other=np.zeros(3))
    np.savez(tmp_path / "b.npz", anything=points)
    for name in ("a.npz", "b.npz"):
        assert np.array_equal(read_landmarks(tmp_path / name).points, points)
    found = read_landmarks(table(tmp_path / "c.csv", points))
    assert np.abs(found.points - points).max() < 1e-3
    underscored = [f"{axis}_{number}" for number in range(68) for axis in "XY"]
    assert len(read_landmarks(table(tmp_path / "d.csv", points, underscored)).points) == 12


def test_frames_without_a_face_are_left_out(tmp_path):
    points = clip()
    points[[2, 5]] = np.nan
    found = read_landmarks(table(tmp_path / "c.csv", points))
    assert len(found.points) == 10
    assert found.notes[0].endswith("shows no face in 2 of 12 frames, which were left out")
    points[:] = np.nan
    with pytest.raises(InputError, match="shows no face in any of its 12 frames"):
        read_landmarks(table(tmp_path / "c.csv", points))


def test_files_of_landmarks_that_are_refused(tmp_path):
    points = clip()
    np.savez(tmp_path / "a.npz", one=points, two=points)
    with pytest.raises(InputError, match="holds arrays one, two; call the points 'landmarks'"):
        read_landmarks(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", landmarks=points[:, :51])
    with pytest.raises(InputError, match=r"of shape \(12, 51, 2\), not \(time, 68, 2\)"):
        read_landmarks(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no file of landmarks"):
        read_landmarks(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", landmarks=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="is no file of landmarks"):
        read_landmarks(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", landmarks=np.full((3, 68, 2), 1e300))
    with pytest.raises(InputError, match="shows no face in any of its 3 frames"):
        read_landmarks(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "a.npz", landmarks=points)
    whole = (tmp_path / "a.npz").read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "a.npz").write_bytes(damaged)
        try:  # some bytes do not matter
            read_landmarks(tmp_path / "a.npz")
        except InputError as error:
            assert "a.npz" in str(error)
    text = table(tmp_path / "c.csv", points).read_text()
    (tmp_path / "c.csv").write_text(text.replace("x67", "z67"))
    with pytest.raises(InputError, match=r"has no column 'x67' \(1 are missing\)"):
        read_landmarks(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text(text + "1,2\n")
    with pytest.raises(InputError, match="row 13 has 2 cells where the header has 137"):
        read_landmarks(tmp_path / "c.csv")
    with pytest.raises(InputError, match="No such file"):
        read_landmarks(tmp_path / "none.npz")


def test_edges_move_turn_and_grow_with_the_face():
    points, edges = clip().astype(float), landmark_edges()
    found = edge_features(points, edges)
    assert found.shape == (2, 12, len(edges))
    assert np.abs(edge_features(points + np.array([30.0, -12.0]), edges) - found).max() < 1e-4
    assert np.abs(edge_features(3 * points, edges) - 3 * found).max() < 1e-3
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    turned = edge_features(points @ turn.T, edges)
    assert np.abs(turned - np.einsum("ij,jte->ite", turn, found)).max() < 1e-4
    scaled = edge_features(points, edges, scaled=True)
    assert np.abs(edge_features(3 * points, edges, scaled=True) - scaled).max() < 1e-5


def test_duplicates_are_alike_and_the_nose_with_itself_is_nothing():
    edges = landmark_edges()
    found = edge_features(clip(), edges)
    assert not found[:, :, edges.index((NOSE, NOSE))].any()
    first = {}
    repeated = 0
    for place, edge in enumerate(edges):
        if edge in first:
            repeated += 1
            assert np.array_equal(found[:, :, place], found[:, :, first[edge]])
        first.setdefault(edge, place)
    assert repeated > 0
    unique = landmark_edges(unique=True)
    assert len({frozenset(edge) for edge in unique}) == len(unique)


def test_even_frames_and_ends():
    points = clip(frames=12)
    even = registry.build("frontend", "landmarks", frames=4, scaled=False)
    ends = registry.build("frontend", "landmarks", frames=4, sampling="ends", scaled=False)
    edges = even.edges
    assert np.array_equal(even.prepare(points).inputs[0], edge_features(points[[0, 4, 7, 11]], edges))
    assert np.array_equal(ends.prepare(points).inputs[0], edge_features(points[[0, 9, 10, 11]], edges))
    short = ends.prepare(points[:3])
    assert np.array_equal(short.inputs[0], edge_features(points[[0, 1, 2, 0]], edges))
    assert "The sequence of 3 frames is repeated to 4" in short.notes
    assert even.prepare(points).ends.tolist() == [12 / 25]


def test_settings_build_it_again_with_its_template():
    template = neutral_face()[17:] * [1.0, 1.3]
    built = registry.build("frontend", "landmarks", template=template.tolist(), unique=False)
    again = registry.build("frontend", built.name, **built.settings())
    assert again == built
    assert again.edges == landmark_edges(template)
    assert built.input_shapes == {"main": (2, 16, len(built.edges))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "needs frames of at least 1"),
        ({"sampling": "all"}, "samples 'even' or 'ends', got 'all'"),
        ({"rate": 0}, "needs a rate above 0"),
        ({"template": [[0, 0], [1, 1]]}, rf"has the {INNER} inner landmarks"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        registry.build("frontend", "landmarks", **options)


def test_sources_that_cannot_be_used():
    frontend = registry.build("frontend", "landmarks")
    with pytest.raises(InputError, match="a path or an array"):
        frontend.prepare([1])
    with pytest.raises(InputError, match=r"not \(time, 68, 2\)"):
        frontend.prepare(np.zeros((3, 5, 2)))


def test_simulated_faces_start_neutral_and_differ_at_the_end(tmp_path):
    ends = {}
    for expression in EXPRESSIONS:
        rng = np.random.default_rng(4)
        points = landmark_clip(expression, rng=rng, noise=0.0)
        found = edge_features(points, landmark_edges(unique=True), scaled=True)
        ends[expression] = found[:, -1]
        if expression == "neutral":
            start = found[:, 0]
        assert found.shape[1] == 24
    assert all(np.abs(end - start).max() > 0.02 for name, end in ends.items() if name != "neutral")
    with pytest.raises(UnknownNameError, match="expression 'bored'"):
        landmark_clip("bored", rng=np.random.default_rng(0))
    with pytest.raises(ConfigError, match="a clip or more"):
        simulate_landmarks(tmp_path, clips=0)
