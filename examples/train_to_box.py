"""From labelled files to a box without PyTorch, on sounds made here: train, evaluate, export, predict."""

import tempfile
from pathlib import Path

import numpy as np
import soundfile

import sentio

generator = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch)
    seconds = np.arange(8000) / 8000
    for label, hertz in {"low": 220.0, "middle": 660.0, "high": 1980.0}.items():
        (folder / "data" / label).mkdir(parents=True)
        for number in range(20):
            pitch = hertz * generator.uniform(0.8, 1.25)
            clip = 0.3 * np.sin(2 * np.pi * pitch * seconds) + generator.normal(0, 0.1, 8000)
            soundfile.write(folder / "data" / label / f"{number}.wav", clip, 8000)

    recipe = {
        "name": "tones",
        "network": {"name": "tiny-cnn"},
        "exits": [{"kind": "pooled-linear", "at": ["block1", "block2"]}],
        "epochs": 8,
        "optimiser": {"lr": 0.003},
    }
    model = sentio.train(None, recipe, folder / "data")
    print(sentio.evaluate(model, folder / "data").table())

    sentio.export(model, folder / "box")
    box = sentio.load(folder / "box", runtime="edge")
    clip = folder / "data" / "high" / "0.wav"
    for one in (model, box):
        found = one.predict(clip)
        print(f"{one.runtime}: {found.label} {found.score:.2f} from exit {found.exit}")
