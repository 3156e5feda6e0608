"""``sentio export`` in int8: what it prints, what the box says, and what it refuses."""

import json

import pytest

from sentio.audio.frontend import LogMel
from sentio.audio.windows import AudioFrontEnd
from sentio.cli import printing
from sentio.core.artifact import ArtifactFiles
from sentio.core.shelf import facts


@pytest.fixture(scope="module")
def found():
    """A report as `sentio.export` gives it, of a box that lost two points."""
    before = {"accuracy": 0.9, "exits": {"early": {"accuracy": 0.8}, "final": {"accuracy": 0.9}}}
    after = {"accuracy": 0.88, "exits": {"early": {"accuracy": 0.8}, "final": {"accuracy": 0.885}}}
    return {
        "method": "minmax",
        "windows": 32,
        "ratio": 0.2612,
        "difference": {"mean": 0.001, "largest": 0.05},
        "measured": {"name": "sounds", "recordings": 200, "windows": 210},
        "apart": True,
        "before": before,
        "after": after,
        "drops": {"policy": 0.02, "early": 0.0, "final": 0.015},
        "goal": {"wanted": {"accuracy_drop": 0.01}, "before": True, "after": False},
        "sensitivity": [
            {"graph": "stage:stem", "drop": 0.02, "difference": 0.004},
            {"graph": "exit:early", "drop": 0.0, "difference": 0.0001},
        ],
        "refit": False,
        "notes": ["exit:early stays in float, since int8 would not make it smaller."],
    }


def test_a_drop_names_the_stage_that_costs_most(found):
    lines = printing.int8(found)
    assert "note: exit:early stays in float, since int8 would not make it smaller." in lines
    assert "  early             80.0%   80.0%" in lines and "  policy            90.0%   88.0%" in lines
    assert (
        "the thresholds no longer meet their goal (accuracy_drop 0.01); fit them anew with --refit" in lines
    )
    assert lines[-1] == "stage:stem costs most; keep it in float with: --keep stage:stem"
    small = {**found, "drops": {"policy": 0.01}}
    assert not any("costs most" in line for line in printing.int8(small))


def test_what_a_step_takes_is_said():
    settings = {"rate": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 8}
    ears = AudioFrontEnd(LogMel(**settings), 0.5)
    takes = {"frames": 4, "samples": 320, "rate": 8000, "reason": None}
    assert printing.step_input(ears, 4) == takes
    whole = printing.step_input(AudioFrontEnd(LogMel(**settings, top_db=80.0), 0.5), 4)
    assert (whole["frames"], whole["samples"]) == (4, None)
    assert "loudest moment of the clip" in whole["reason"]
    assert printing.step_input(None, 4)["reason"] == "there is no front end of sound"


def test_int8_from_the_command_line(sentio, artifact, box, tones, tmp_path, monkeypatch):
    files = ArtifactFiles(box)  # the same model: its graphs need not be made again
    graphs = files.manifest.graphs
    made = graphs, {graph.file: files.read(graph.file) for graph in graphs.values()}
    monkeypatch.setattr("sentio.exporting.onnx.export_graphs", lambda *arguments: made)
    box = tmp_path / "box.sentio"
    done = sentio("export", artifact, box, "--int8", "--calibration", tones, "--front-end", "--windows", "8")
    assert done.code == 0, done.err
    card = ArtifactFiles(box).manifest.card["int8"]
    assert card["windows"] == min(8, card["calibration"]["windows"]) and card["apart"]
    lines = done.out.splitlines()
    head = next(line.split() for line in lines if line.startswith("stage:block2"))
    assert head[1:4] == [
        f"{card['bytes']['stage:block2'][0]:,}",
        "->",
        f"{card['bytes']['stage:block2'][1]:,}",
    ]
    assert any(line.startswith("front end") for line in lines)
    for name, row in card["after"]["exits"].items():
        assert any(line.split()[:1] == [name] and line.endswith(f"{row['accuracy']:.1%}") for line in lines)
    assert lines[-1].startswith(f"written to {box}")

    row = facts(box)
    assert row["int8"] == {
        "before": card["before"]["accuracy"],
        "after": card["after"]["accuracy"],
        "recordings": card["measured"]["recordings"],
    }
    assert f"in int8 {row['int8']['after']:.1%} of" in printing.shipped(row)

    answered = json.loads(sentio("predict", box, next((tones / "low").iterdir()), "--json").out)
    assert answered[0]["label"] in ("low", "middle", "high")
    refused = sentio("train", tones, "--from", box, "--out", tmp_path / "fine")
    assert refused.code == 4 and "holds no weights for PyTorch" in refused.err


def test_int8_needs_data_and_possible_settings(sentio, artifact, tones, tmp_path):
    out = tmp_path / "box"
    for arguments, message in (
        (["--int8"], "--int8 needs data for the ranges of activations: --calibration DATA"),
        (["--calibration", tones], "--int8 needs data"),
        (
            ["--int8", "--calibration", tones, "--method", "guess"],
            "one of: minmax, entropy, percentile; got 'guess'",
        ),
        (["--int8", "--calibration", tones, "--split", "3"], "has splits 0 to 0, got 3"),
    ):
        done = sentio("export", artifact, out, *arguments)
        assert done.code == 2 and message in done.err and not out.exists()
