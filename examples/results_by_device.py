"""A public data set's own split, and what a model is worth on each device that recorded it.

The data is a small copy of the layout of TAU Urban Acoustic Scenes 2022 Mobile, with tones for scenes. With
the real one, from ``sentio download tau-2022-mobile data``, the last lines are the same.
"""

import tempfile
from pathlib import Path

import numpy as np
import soundfile

import sentio
from sentio.data.splits import splits

generator = np.random.default_rng(0)
SCENES = {"bus": 200.0, "park": 500.0, "tram": 1250.0}


def write_scenes(folder: Path) -> Path:
    """Two places of each scene for the test, four for training; device s4 is heard in the test only."""
    meta, lists = ["filename\tscene_label\tidentifier\tsource_label"], {"train": [], "evaluate": []}
    (folder / "audio").mkdir(parents=True)
    (folder / "evaluation_setup").mkdir()
    seconds = np.arange(4000) / 8000
    for scene, hertz in SCENES.items():
        for place in range(6):
            part = "evaluate" if place < 2 else "train"
            for device, noise in {"a": 0.02, "s1": 0.1, **({"s4": 0.6} if place < 2 else {})}.items():
                for chunk in range(2):
                    name = f"audio/{scene}-lisbon-{place}-7-{chunk}-{device}.wav"
                    tone = 0.3 * np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.25) * seconds)
                    clip = (tone + generator.normal(0, noise, 4000)).clip(-1, 1)
                    soundfile.write(folder / name, clip, 8000)
                    meta.append(f"{name}\t{scene}\tlisbon-{place}\t{device}")
                    lists[part].append(f"{name}\t{scene}")
    (folder / "meta.csv").write_text("\n".join(meta) + "\n")
    for part, rows in lists.items():
        text = "\n".join(["filename\tscene_label", *rows]) + "\n"
        (folder / "evaluation_setup" / f"fold1_{part}.csv").write_text(text)
    return folder


recipe = {
    "name": "scenes",
    "network": {"name": "tiny-cnn", "options": {"width": 8}},
    "exits": [{"kind": "pooled-linear", "at": ["block2"]}],
    "epochs": 10,
    "batch": 8,
    "optimiser": {"lr": 0.01},
}
with tempfile.TemporaryDirectory() as scratch:
    data = sentio.open_data(write_scenes(Path(scratch) / "scenes"))
    model = sentio.train(None, recipe, data)
    (split,) = splits(data)
    found = sentio.evaluate(model, data.subset(split.test), by="device")

for group in found.groups:
    print(f"device {group.name:3} {group.recordings:3} recordings  {group.accuracy:.0%} right")
