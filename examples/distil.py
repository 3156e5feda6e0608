"""A small network learns from a larger one, and its early exits from its last."""

from pathlib import Path

import numpy as np
import soundfile

import sentio

generator = np.random.default_rng(0)
seconds = np.arange(4000) / 8000
for label, hertz in {"deep": 150.0, "low": 400.0, "middle": 900.0, "high": 2500.0}.items():
    Path("tones", label).mkdir(parents=True)
    for number in range(16):
        clip = 0.3 * np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.25) * seconds)
        soundfile.write(Path("tones", label, f"{number}.wav"), clip + generator.normal(0, 0.2, 4000), 8000)

recipe = {"epochs": 6, "batch": 8, "optimiser": {"lr": 0.01}, "augment": {"roll": 1.0}}
large = {"name": "large", "network": {"name": "tiny-cnn", "options": {"width": 24}}, **recipe}
sentio.train(None, large, "tones", out="large")

small = {
    "network": {"name": "tiny-cnn", "options": {"width": 4}},
    "exits": [{"kind": "pooled-linear", "at": ["block1"]}],
    **recipe,
}
for teacher in ("large", "self"):
    technique = {"name": "distillation", "options": {"teacher": teacher, "temperature": 2.0, "weight": 0.8}}
    student = sentio.train(None, {"name": f"taught by {teacher}", "technique": technique, **small}, "tones")
    print(f"taught by {teacher}:")
    print(sentio.evaluate(student, "tones").table())
