"""The commands on a model that counts: what they print, and what they refuse."""

import json
import re
import shlex

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import sentio as api  # noqa: E402
from sentio.core import registry  # noqa: E402
from sentio.core.model import Model  # noqa: E402
from sentio.core.torch_row import TorchRow  # noqa: E402
from sentio.tasks.counting import Counting  # noqa: E402


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A counter of pictures with an exit, and a picture."""
    folder = tmp_path_factory.mktemp("counter")
    torch.manual_seed(0)
    net = api.create_network("csrnet", width=8, answer="density", size=(32, 48))
    with torch.no_grad():  # so that it counts somebody
        net.stage("head").conv.bias.fill_(0.5)
    at = [net.stage_names[3]]
    net = api.add_exits(net, "density-ee", at=at, names=["V1"], classes=1, answer="density").eval()
    frontend = registry.build("frontend", "image", height=32, width=48)
    api.save(Model(TorchRow(net), Counting(), frontend=frontend, name="crowd"), folder / "crowd")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "square.png")
    return folder / "crowd", folder / "square.png"


@pytest.mark.parametrize("exit", ["V1", "final"])
def test_predict_prints_the_count_its_unit_and_the_exit(sentio, counter, exit):
    artifact, picture = counter
    told = json.loads(sentio("predict", artifact, picture, "--policy", f"fixed:{exit}", "--json").out)[0]
    assert told["exit"] == exit
    assert told["unit"] == "person"
    found = sentio("predict", artifact, picture, "--policy", f"fixed:{exit}")
    assert found.code == 0
    assert found.out.startswith(f"{picture}: {told['count']:.1f} (person)  exit {exit}  ")
    if exit == "final":
        assert told["count"] > 1


def test_a_box_counts_alike(sentio, counter, tmp_path):
    pytest.importorskip("onnxscript")
    artifact, picture = counter
    found = sentio("export", artifact, tmp_path / "box")
    assert (
        found.code == 0 and "answers, as shares of the largest, differ from PyTorch by at most" in found.out
    )
    counts = [
        json.loads(sentio("predict", place, picture, "--json").out)[0]["count"]
        for place in (artifact, tmp_path / "box")
    ]
    assert counts[0] == pytest.approx(counts[1], rel=1e-4)


def test_thresholds_on_a_count_are_refused(sentio, counter):
    found = sentio("predict", *counter, "--policy", "confidence:0.5")
    assert found.code == 2
    assert "needs a confidence, which this task does not have; use Fixed" in found.err


# Trained from data


def test_crowds_are_drawn_trained_on_and_measured(sentio, tmp_path):
    data = tmp_path / "my crowds"
    size = ("--size", "32x48", "--people", "1:9", "--rate", 8000, "--workers", 1)
    parts = ("--train", 16, "--validation", 4, "--test", 4)
    drawn = sentio("simulate", "crowds", *parts, *size, "--condition", "mixed", "--out", data)
    assert drawn.code == 0
    assert "train 16 pictures, 1 to" in drawn.out
    assert f"heads in {data / 'heads.csv'}" in drawn.out
    told = json.loads(
        sentio("simulate", "crowds", *parts, *size, "--condition", "mixed", "-o", data, "--json").out
    )
    assert told["scenes"] == {"train": 16, "val": 4, "test": 4}
    assert told["people_in"]["train"] == sum(item.truth.count for item in api.open_data(data).items[:16])
    assert told["seed"] == 0

    # Without a recipe: a small counter that fits the pictures.
    found = sentio("train", data, "-o", tmp_path / "counter", "--epochs", 1)
    assert found.code == 0, found.err
    assert "measured on 4 validation samples, in persons:" in found.out
    assert "answers come from final; --policy fixed:V1 or deadline:MS chooses another exit" in found.out
    assert re.search(
        r"test \(official, 4 files\): MAE \d+\.\d\d, RMSE \d+\.\d\d persons at exit final", found.out
    )
    assert "note: Figures on so few files say little: validation 4, test 4." in found.out
    proposed = shlex.split(found.out.splitlines()[-1].partition("try: ")[2])
    assert proposed[:2] == ["sentio", "evaluate"]
    measured = sentio(*proposed[1:])
    assert measured.code == 0 and "MAE and RMSE in persons; 4 recordings, 4 windows" in measured.out


def test_errors_are_told_by_exit_by_column_and_as_a_report(sentio, trained_counter, crowds, tmp_path):
    report = tmp_path / "report.html"
    plain = sentio("evaluate", trained_counter, crowds, "--split", 0, "--by", "condition", "--json")
    told = json.loads(plain.out)
    assert (
        told["mae"] == told["figures"]["mae"] == pytest.approx(told["exits"][-1]["figures"]["mae"], rel=1e-5)
    )
    assert [group["name"] for group in told["groups"]] == ["blurred", "clear", "dark", "noisy"]
    assert sum(group["recordings"] for group in told["groups"]) == 6
    weighted = sum(group["recordings"] * group["figures"]["mae"] for group in told["groups"]) / 6
    assert weighted == pytest.approx(told["mae"], rel=1e-5)
    pytest.importorskip("matplotlib")
    found = sentio(
        *("evaluate", trained_counter, crowds, "--split", 0, "--by", "condition", "--report", report)
    )
    assert found.code == 0
    page = report.read_text(encoding="utf-8")
    assert f"{told['mae']:.2f}" in page and "MAE over cost" in page and "By condition" in page
    assert "accuracy" not in page.lower().replace("figures in place of accuracy", "")


def test_the_log_of_a_training_and_its_answers(sentio, trained_counter, crowds):
    found = sentio("predict", trained_counter, crowds / "pictures" / "test_0000.png", "--policy", "fixed:V1")
    assert found.code == 0 and "(person)  exit V1" in found.out
    log = (trained_counter.with_name("square.run") / "phase-0" / "metrics.csv").read_text().splitlines()
    assert {"val_mae/V1", "val_mae/final"} <= set(log[0].split(",")) and len(log) == 3
