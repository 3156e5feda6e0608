"""What a model is worth as a page to look at: three policies of a model compared in ``report.html``."""

import tempfile
from pathlib import Path

import numpy as np
import soundfile

import sentio
from sentio.reporting import circumstances, write_report

generator = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as scratch:
    data = Path(scratch) / "tones"
    seconds = np.arange(4000) / 8000
    for label, hertz in {"low": 220.0, "middle": 440.0, "high": 880.0}.items():
        (data / label).mkdir(parents=True)
        for number in range(20):
            pitch = hertz * generator.uniform(0.75, 1.34)  # as far as the neighbours
            clip = 0.3 * np.sin(2 * np.pi * pitch * seconds) + generator.normal(0, 0.1, 4000)
            soundfile.write(data / label / f"{number}.wav", clip, 8000)

    recipe = {
        "name": "tones",
        "network": {"name": "tiny-cnn", "options": {"width": 8}},
        "exits": [{"kind": "pooled-linear", "at": ["block1", "block2"]}],
        "epochs": 12,
        "batch": 8,
        "optimiser": {"lr": 0.01},
    }
    model = sentio.train(None, recipe, data)
    policies = (None, sentio.Confidence(0.6), sentio.Fixed("final"))
    measured = [sentio.evaluate(model, data, policy=policy) for policy in policies]

page = write_report(
    "report.html",
    measured,
    title="Tones",
    made_by=circumstances(model.runtime, command="python examples/report.py", seed=0),
)
print(f"{measured[0].accuracy:.1%} right under the model's own policy; open {page}")
