"""Fine-tune: a model that knows four pitches learns two new labels from a few clips."""

from pathlib import Path

import numpy as np
import soundfile

import sentio

generator = np.random.default_rng(0)
time = np.arange(4000) / 8000


def write(folder: str, clips: int, **hertz: tuple[float, float]) -> None:
    """Tones that glide from the one frequency to the other, a folder per class."""
    for label, (start, end) in hertz.items():
        Path(folder, label).mkdir(parents=True)
        for number in range(clips):
            glide = generator.uniform(0.85, 1.18) * (start * time + (end - start) * time**2)
            clip = 0.3 * np.sin(2 * np.pi * glide) + generator.normal(0, 0.1, len(time))
            soundfile.write(Path(folder, label, f"{number}.wav"), clip, 8000)


write("known", 20, deep=(150, 150), low=(400, 400), middle=(900, 900), high=(2500, 2500))
write("mine", 8, falling=(1500, 300), rising=(300, 1500))
recipe = {"name": "pitches", "epochs": 8, "optimiser": {"lr": 0.003}}
model = sentio.train(None, recipe, "known", out="pitches")
mine = sentio.train("pitches", {**recipe, "name": "glides"}, "mine", out="glides")
print(model.task.labels, "->", mine.task.labels)
print(sentio.evaluate(mine, "mine").table())
