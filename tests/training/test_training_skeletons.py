"""From a folder of skeletons or landmarks to a model that answers about files, in Python and as a command."""

import json
import subprocess
import sys

import numpy as np
import pytest

import sentio
from sentio.core.errors import ConfigError
from sentio.data.readers import open_data
from sentio.data.simulate.landmarks import simulate_landmarks
from sentio.data.simulate.skeletons import simulate_skeletons
from sentio.training.training import train


def recipe(frontend, network, **changes):
    return {
        "name": "poses",
        "frontend": frontend,
        "network": network,
        "epochs": 6,
        "batch": 8,
        "optimiser": {"name": "adamw", "lr": 0.01},
        "devices": {"accelerator": "cpu"},
        "calibration": {},
        **changes,
    }


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "actions"
    return simulate_skeletons(folder, actions=["squat", "wave"], clips=10, frames=24)


def test_skeletons_from_a_folder_to_answers(skeletons, tmp_path):
    values = recipe(
        {"name": "skeleton", "options": {"frames": 24, "persons": 1}},
        {"name": "st-gcn", "options": {"channels": [8, 8], "strides": [1, 1]}},
        exits=[{"kind": "pooled-linear", "at": ["layer1"]}],
    )
    model = train(None, values, skeletons, out=tmp_path / "model")
    assert model.network.backbone.spec["options"]["persons"] == 1
    assert model.card["test"]["accuracy"] >= 0.75
    again = sentio.load(tmp_path / "model")
    assert again.frontend == model.frontend
    clip = skeletons / "wave" / "wave-000.skeleton"
    assert again.predict(clip).scores == model.predict(clip).scores
    call = "from sentio.cli import main; main()"
    arguments = ["evaluate", str(tmp_path / "model"), str(skeletons), "--json"]
    done = subprocess.run([sys.executable, "-c", call, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] >= 0.75


def test_poses_without_a_recipe_for_them_are_refused(skeletons):
    with pytest.raises(
        ConfigError, match=r"holds sequences of poses, .*; name a front end, skeleton or landm"
    ):
        train(None, {"name": "poses"}, skeletons)


def test_landmarks_from_a_folder_to_answers(tmp_path):
    folder = simulate_landmarks(tmp_path / "faces", expressions=["happy", "surprise"], clips=8, frames=8)
    values = recipe(
        {"name": "landmarks", "options": {"frames": 4, "sampling": "ends"}},
        {"name": "st-bln", "options": {"widths": [4, 4]}},
        epochs=3,
    )
    model = train(None, values, folder, out=tmp_path / "model")
    edges = len(model.frontend.edges)
    assert model.network.backbone.spec["options"]["edges"] == edges
    clip = folder / "happy" / "happy-000.npz"
    assert sentio.load(tmp_path / "model").predict(clip).scores == model.predict(clip).scores


def test_tables_of_landmarks_are_classes_too(tmp_path):
    names = [f"{axis}{number}" for number in range(68) for axis in "xy"]
    for label in ("happy", "sad"):
        (tmp_path / label).mkdir()
        for number in range(2):
            points = np.random.default_rng(number).random((3, 136))
            rows = [",".join(names), *(",".join(map(str, row)) for row in points)]
            (tmp_path / label / f"{number}.csv").write_text("\n".join(rows))
    data = open_data(tmp_path)
    assert data.counts() == {"happy": 2, "sad": 2}
    frontend = sentio.core.registry.build("frontend", "landmarks", frames=3)
    assert frontend.prepare(data.items[0].source).inputs.shape == (1, 2, 3, len(frontend.edges))
