"""``sentio evaluate --by`` and ``--label``: the same recordings, seen by a column of the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def devices(tones: Path, tmp_path: Path) -> Path:
    """The tones with a table that says which device recorded what; device b recorded only wrong labels."""
    folder = tmp_path / "devices"
    lines = ["filename,label,device"]
    wrong = {"low": "high", "middle": "low", "high": "middle"}
    for label in ("low", "middle", "high"):
        for number in range(6):
            name = f"{label}_{number}.wav"
            (folder / "audio").mkdir(parents=True, exist_ok=True)
            shutil.copy(tones / label / f"{number}.wav", folder / "audio" / name)
            device = ("s1", "s10", "b")[number % 3]
            lines.append(f"{name},{wrong[label] if device == 'b' else label},{device}")
    (folder / "meta.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_accuracy_of_each_device(sentio, artifact, devices):
    values = json.loads(sentio("evaluate", artifact, devices, "--by", "device", "--json").out)
    groups = {group["name"]: group for group in values["groups"]}
    assert values["by"] == "device" and list(groups) == ["b", "s1", "s10"]
    assert all(group["recordings"] == 6 for group in groups.values())
    assert groups["b"]["accuracy"] < 0.4 < groups["s1"]["accuracy"]
    mean = sum(group["accuracy"] * group["recordings"] for group in groups.values()) / 18
    assert mean == pytest.approx(values["accuracy"])


def test_the_table(sentio, artifact, devices):
    found = sentio("evaluate", artifact, devices, "--by", "device")
    lines = found.out.splitlines()
    assert any("device" in line and "recordings" in line for line in lines)
    assert any(line.split("│")[1:3] and "s10" in line and "6" in line for line in lines)


def test_some_labels_only(sentio, artifact, devices):
    values = json.loads(
        sentio("evaluate", artifact, devices, "--label", "low", "--label", "high", "--json").out
    )
    assert values["recordings"] == 12 and values["by"] is None and values["groups"] == []


def test_wrong_columns(sentio, artifact, devices, tones):
    found = sentio("evaluate", artifact, devices, "--by", "city")
    assert found.code == 2
    assert found.err == f"sentio: {devices} has no column 'city' to go by; it has: device\n"
    found = sentio("evaluate", artifact, tones, "--by", "group")
    assert found.err == f"sentio: {tones} has no column 'group' to go by; it has: none\n"


def test_features_have_no_columns(artifact, tones):
    from sentio import ConfigError, evaluate, load, open_data
    from sentio.data.features import features

    model = load(artifact)
    found = features(open_data(tones), model.frontend)
    with pytest.raises(ConfigError, match="Features carry no details to go by 'device'; pass the data set"):
        evaluate(model, found, by="device", labels=("high", "low", "middle"))
