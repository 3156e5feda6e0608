"""Skeleton files and the front end: what is read, noted, refused and turned."""

import numpy as np
import pytest

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.data.simulate.skeletons import ACTIONS, simulate_skeletons, skeleton_clip, skeleton_sequence
from sentio.vision.skeleton_files import read_skeletons, write_skeletons
from sentio.vision.skeleton_layout import JOINTS, NTU_LINKS, ROOT
from sentio.vision.skeletons import SkeletonFrontEnd, bones, most_moving, normalised, upright


def clip(action="walk", frames=20, seed=0):
    return skeleton_clip(action, frames=frames, rng=np.random.default_rng(seed))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "walk.skeleton"
    write_skeletons(path, clip())
    return path


def test_written_poses_are_read_again(file):
    found = read_skeletons(file)
    assert np.abs(found.poses - clip()).max() < 1e-6
    assert found.notes == ()
    assert found.seen.all()


def test_a_line_of_the_published_form(tmp_path):
    """Bodies of ten values, joints of twelve, tracker numbers of 17 digits, Windows line ends."""
    joint = "0.2181153 0.1725972 3.785547 277.419 191.8218 1036.233 519.1677 -0.2059 0.0454 0.9692 -0.1268 2"
    body = ["72057594037931101 0 1 1 1 1 0 0.02764709 0.05745083 2", "25", *[joint] * 25]
    lines = ["2", "1", *body, "0"]
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_bytes("\r\n".join(lines).encode())
    found = read_skeletons(path)
    assert found.bodies == ("72057594037931101",)
    assert found.poses.shape == (2, 1, 25, 3)
    assert found.poses[0, 0, 7].tolist() == pytest.approx([0.2181153, 0.1725972, 3.785547])
    assert not found.poses[1].any()
    assert found.notes == (f"{path} shows nobody in 1 of 2 frames",)


def test_a_file_that_is_cut_off_is_used_up_to_there(file):
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[: 1 + 28 * 7 + 10]))
    found = read_skeletons(file)
    assert len(found.poses) == 7
    assert found.notes == (f"{file} is cut off: 7 of 20 frames were read",)


@pytest.mark.parametrize("wrong", ["nan 0 0" + " 0" * 9, "x 0 0" + " 0" * 9, "1 2 3"])
def test_a_broken_body_is_left_out_of_its_frame(file, wrong):
    lines = file.read_text().splitlines()
    lines[1 + 28 * 4 + 10] = wrong
    file.write_text("\n".join(lines))
    found = read_skeletons(file)
    assert not found.poses[4].any()
    assert found.poses[[3, 5]].any(axis=(1, 2, 3)).all()
    assert found.notes[0] == f"{file} has broken bodies (1), which were left out of their frames"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line is not a number of frames"),
        ("hello", "first line is not a number of frames"),
        ("3\n0\n0\n0\n", "shows nobody in any frame that can be read"),
        ("9" * 5000 + "\n0\n", "first line is not a number of frames"),
        ("1\n1\n" + "0 " * 10 + "\n20\n", "line 4 has a body of 20 joints; 25 are read"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.skeleton"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_skeletons(path)
    with pytest.raises(InputError, match="No such file"):
        read_skeletons(tmp_path / "none.skeleton")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is not text"):
        read_skeletons(path)


def test_those_who_move_most_are_kept():
    still, moving = np.repeat(clip("stand")[:1], 20, axis=0), clip("walk")
    poses = np.concatenate([still, moving, np.zeros_like(moving)], axis=1)
    poses[10:, 0] = 0
    found = SkeletonFrontEnd(frames=20, persons=1).prepare(poses)
    alone = SkeletonFrontEnd(frames=20, persons=1).prepare(moving)
    assert np.array_equal(found.inputs, alone.inputs)
    assert "Of 3 bodies the 2 that move least were left out" in found.notes
    from sentio.vision.skeleton_files import Skeletons

    assert np.array_equal(most_moving(Skeletons(poses), 2)[:, 1], poses[:, 0])


def test_where_the_camera_stands_does_not_matter():
    poses = clip("wave")
    angle = 0.8
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    tip = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    elsewhere = poses @ (tip @ turn).T + [1.0, -0.5, 2.0]
    want = normalised(poses)
    assert np.abs(normalised(elsewhere) - want).max() < 1e-5
    assert np.abs(normalised(elsewhere, turn=False) - normalised(poses, turn=False)).max() > 0.1


def test_the_first_pose_stands_upright_and_looks_to_the_front():
    pose = clip("stand", seed=3)[0, 0].astype(float)
    turn = upright(pose - pose[1])
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    spine, shoulders = turn @ (pose[1] - pose[0]), turn @ (pose[4] - pose[8])
    assert shoulders / np.linalg.norm(shoulders) == pytest.approx([1, 0, 0], abs=1e-12)
    assert spine[2] / np.linalg.norm(spine) > 0.98
    assert upright(np.zeros((JOINTS, 3))).tolist() == np.eye(3).tolist()
    no_spine = pose.copy()
    no_spine[1] = no_spine[0]
    assert upright(no_spine).tolist() == np.eye(3).tolist()


def test_a_pose_is_not_turned_by_what_comes_later():
    poses = clip("kick")
    assert np.array_equal(normalised(poses)[:12], normalised(poses[:12]))


def test_someone_lost_stays_zero_and_others_keep_their_place():
    pair = np.concatenate([clip("walk"), clip("wave", seed=1)], axis=1)
    pair[8:10, 0] = 0
    found = normalised(pair)
    assert not found[8:10, 0].any()
    # Told from where the first person was last.
    steps = np.abs(np.diff(found[7:10, 1], axis=0)).max()
    assert steps < 0.3


def test_windows_of_a_recording():
    frontend = SkeletonFrontEnd(frames=30)
    found = frontend.prepare(clip(frames=70))
    assert found.inputs.shape == (3, 3, 30, 25, 2)
    assert found.inputs.dtype == np.float32
    assert found.starts.tolist() == pytest.approx([0, 1, 40 / 30])
    assert found.ends.tolist() == pytest.approx([1, 2, 70 / 30])
    assert not found.inputs[..., 1].any()
    assert len(frontend.prepare(clip(frames=70), hop=0.5).inputs) == 4
    with pytest.raises(ConfigError, match="hop must be a number of seconds above 0"):
        frontend.prepare(clip(), hop=0)


def test_a_short_recording_is_repeated_and_empty_frames_in_front_are_cut():
    poses = np.concatenate([np.zeros((5, 1, 25, 3), np.float32), clip(frames=8)])
    found = SkeletonFrontEnd(frames=20).prepare(poses)
    assert np.array_equal(found.inputs[0, :, 8:16], found.inputs[0, :, :8])
    assert (found.starts[0], found.ends[0]) == pytest.approx((5 / 30, 13 / 30))
    assert "The recording of 8 frames is repeated to 20" in found.notes


def test_bones_are_differences_along_links():
    poses = clip()
    found = bones(poses)
    assert not found[:, :, ROOT].any()
    for child, parent in NTU_LINKS:
        assert np.array_equal(found[:, :, child], poses[:, :, child] - poses[:, :, parent])
    lengths = np.linalg.norm(bones(skeleton_clip("walk", rng=np.random.default_rng(0), noise=0)), axis=-1)
    assert lengths[:, :, :21].std(axis=0).max() < 1e-5  # limbs of the simulated figure keep their length


def test_settings_build_it_again():
    built = registry.build("frontend", "skeleton", frames=40, features="bones", persons=1)
    assert registry.build("frontend", built.name, **built.settings()) == built
    assert built.input_shapes == {"main": (3, 40, 25, 1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "needs frames of at least 1, got 0"),
        ({"persons": 1.5}, "needs persons of at least 1, got 1.5"),
        ({"features": "muscles"}, "gives 'joints' or 'bones', got 'muscles'"),
        ({"turn": "no"}, "is true or false, got 'no'"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        registry.build("frontend", "skeleton", **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 25, 3)), r"shape \(time, body, 25, 3\), got \(4, 25, 3\)"),
        (np.zeros((4, 1, 25, 3)), "show nobody"),
        (np.full((4, 1, 25, 3), np.nan), "NaN or infinite"),
        ([1, 2], "a path or an array"),
    ],
)
def test_sources_that_cannot_be_used(source, message):
    with pytest.raises(InputError, match=message):
        SkeletonFrontEnd().prepare(source)


@pytest.mark.parametrize("action", ACTIONS)
def test_simulated_figures_are_bodies(action):
    poses = skeleton_clip(action, frames=80, rng=np.random.default_rng(2))
    assert poses.shape == (80, 1, 25, 3)
    height = poses[..., 1].max((1, 2)) - poses[..., 1].min((1, 2))
    assert height.max() < 2.6
    assert np.abs(np.diff(poses, axis=0)).max() < 0.5
    again = skeleton_clip(action, frames=80, rng=np.random.default_rng(2))
    assert np.array_equal(poses, again)


def test_actions_that_are_not_there(tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(UnknownNameError, match="action 'waves'; did you mean 'wave'"):
        skeleton_sequence(["waves"], rng=rng)
    with pytest.raises(UnknownNameError, match="action 'waves'"):
        simulate_skeletons(tmp_path, actions=["waves"])
    with pytest.raises(ConfigError, match="a clip or more"):
        simulate_skeletons(tmp_path, clips=0)
