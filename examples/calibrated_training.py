"""How sure is it? Focal loss, averaged weights, test-time augmentation; and the weights in half the bytes."""

import tempfile
from pathlib import Path

import numpy as np
import soundfile

import sentio
from sentio.audio.draws import draws_of_training, with_draws

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
        "loss": {"name": "focal", "gamma": 1.0},
        "schedule": {"name": "cosine", "floor": 0.01},
        "averaging": {"name": "ema", "decay": 0.95},
        "augment": {"time_mask": 0.2, "roll": 0.2},
        "epochs": 10,
        "batch": 8,
        "keep": "last",
        "optimiser": {"name": "adamw", "lr": 0.01},
    }
    model = sentio.train(None, recipe, data)
    averaged = with_draws(model, draws_of_training(model, 10))
    for name, one in (("one look", model), ("ten draws", averaged)):
        found = sentio.evaluate(one, data)
        print(f"{name}: accuracy {found.accuracy:.1%}, log loss {found.log_loss:.3f}, ECE {found.ece:.3f}")

    for dtype in ("float32", "float16"):
        path = sentio.save(model, Path(scratch) / dtype, dtype=dtype)
        weights = (path / "weights.safetensors").stat().st_size
        answer = sentio.load(path).predict(data / "low" / "0.wav").label
        print(f"{dtype}: {weights:,} bytes of weights, 0.wav is {answer}")
