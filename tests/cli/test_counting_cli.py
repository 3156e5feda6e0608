"""The commands on a model that counts: what they print, and what they refuse."""

import json

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
    assert sentio("export", artifact, tmp_path / "box").code == 0
    counts = [
        json.loads(sentio("predict", place, picture, "--json").out)[0]["count"]
        for place in (artifact, tmp_path / "box")
    ]
    assert counts[0] == pytest.approx(counts[1], rel=1e-4)


def test_thresholds_on_a_count_are_refused(sentio, counter):
    found = sentio("predict", *counter, "--policy", "confidence:0.5")
    assert found.code == 2
    assert "needs a confidence, which this task does not have; use Fixed" in found.err
