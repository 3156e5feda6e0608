"""A trained network gets exits, and stays as it was, bit for bit: classifier-wise training."""

from pathlib import Path

import numpy as np
import soundfile
import torch

import sentio

generator = np.random.default_rng(0)
for label, hertz in {"low": 220.0, "middle": 660.0, "high": 1980.0}.items():
    Path("tones", label).mkdir(parents=True)
    for number in range(20):
        clip = 0.3 * np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.25) * np.arange(8000) / 8000)
        soundfile.write(Path("tones", label, f"{number}.wav"), clip + generator.normal(0, 0.1, 8000), 8000)

recipe = {"name": "tones", "epochs": 6, "optimiser": {"lr": 0.003}}
model = sentio.train(None, {**recipe, "network": "tiny-cnn"}, "tones")
print("before:", model.exit_names)

exits = [{"kind": "pooled-linear", "at": ["block1", "block2"], "options": {"over": "time"}}]
technique = {"name": "classifier-wise", "options": {"train_backbone": False}}
more = sentio.train(model, {**recipe, "exits": exits, "technique": technique}, "tones")
old, new = (net.backbone.state_dict() for net in (model.network, more.network))
print("backbone unchanged:", all(torch.equal(old[name], new[name]) for name in old))
print(sentio.evaluate(more, "tones").table())
