"""A classifier with eyes and ears, from a table of pictures and sounds beside them to its answers."""

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from sentio.core.loading import load
from sentio.core.staged import Staged
from sentio.data.readers import open_data
from sentio.training.evaluation import evaluate
from sentio.training.training import train
from sentio.vision.density_picture import write_png

pytest.importorskip("PIL")
SIDES = {"height": 8, "width": 12}
LOG_MEL = {"window": 0.25, "rate": 8000, "n_fft": 256, "hop_length": 128, "n_mels": 16}
RECIPE = {
    "name": "street",
    "frontend": {"name": "image-and-sound", "options": {"picture": SIDES, "sound": LOG_MEL}},
    "optimiser": {"lr": 0.01},
    "epochs": 1,
    "batch": 8,
}


class SeeAndHear(nn.Module):
    """The colours' means and the bands' means, ``(batch, 3 + 16)``."""

    def forward(self, boundary):
        seen, heard = boundary["main"].mean((2, 3)), boundary["audio"].mean((1, 2))
        return torch.cat([seen, heard], dim=1)


def network():
    shapes = {"main": (3, 8, 12), "audio": (1, 16, 16)}
    return Staged({"senses": SeeAndHear(), "head": nn.Linear(19, 2)}, input_shapes=shapes)


@pytest.fixture
def street(tmp_path):
    """Twenty-four red and blue pictures, each with its sound in the folder beside."""
    folder = tmp_path / "street"
    (folder / "pictures").mkdir(parents=True), (folder / "sounds").mkdir()
    generator = np.random.default_rng(0)
    lines = ["filename,label"]
    for number in range(24):
        label = ("tram", "bird")[number % 2]
        pixels = generator.integers(0, 90, (8, 12, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 120
        write_png(folder / "pictures" / f"{number}.png", pixels)
        soundfile.write(folder / "sounds" / f"{number}.wav", generator.normal(0, 0.1, 2000), 8000)
        lines.append(f"pictures/{number}.png,{label}")
    (folder / "meta.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_classifier_with_two_inputs_is_trained_saved_measured_and_answers(street, tmp_path):
    model = train(network(), RECIPE, street, out=tmp_path / "model")
    assert model.card["test"]["recordings"] > 0 and model.card["test"]["labels"] == ("bird", "tram")
    again = load(tmp_path / "model", network=network())
    told = []
    found = evaluate(again, street, progress=told.append)
    assert (found.recordings, found.windows, found.silent) == (24, 24, 0)
    assert [step.total for step in told if step.job == "evaluate"] == [24] * 24
    items = open_data(street).items
    right = [again.predict(item.source).label == item.label for item in items]
    assert found.accuracy == pytest.approx(np.mean(right))
    assert sum(map(sum, found.confusion)) == 24
