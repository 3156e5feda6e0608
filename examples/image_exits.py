"""Images in folders to a model with exits that answers about a file: easy images leave early.

The images are drawn here: bright and dark squares are easy to tell, rings and discs are not. The exits first
learn from the last one beside the labels, then go on with easy samples first.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import sentio

SIDE = 16
generator = np.random.default_rng(0)
down, across = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2


def picture(label: str) -> np.ndarray:
    """One image of a class, in random colours on noise."""
    distance = np.hypot(down - generator.uniform(-2, 2), across - generator.uniform(-2, 2))
    shape = {
        "disc": distance < 5,
        "ring": (distance < 5) & (distance > 2),
        "square": np.maximum(np.abs(down), np.abs(across)) < 7,
    }[label]
    colour = generator.uniform(120, 255, 3)
    return (
        (generator.uniform(0, 90, (SIDE, SIDE, 3)) + shape[:, :, None] * colour).clip(0, 255).astype("uint8")
    )


with tempfile.TemporaryDirectory() as scratch:
    data = Path(scratch) / "shapes"
    for label in ("disc", "ring", "square"):
        (data / label).mkdir(parents=True)
        for number in range(30):
            Image.fromarray(picture(label)).save(data / label / f"{number}.png")

    recipe = {
        "name": "shapes",
        "frontend": {"name": "image", "options": {"height": SIDE, "width": SIDE}},
        "network": {"name": "glance-resnet", "options": {"width": 8}},
        "exits": [{"kind": "pooled-linear", "at": ["glance1", "glance2"], "options": {"hidden": 32}}],
        "technique": {"name": "distillation", "options": {"teacher": "self"}},
        "augment": {"flip": 0.5, "crop": 2, "cutout": 0.2},
        "optimiser": {"name": "adamw", "lr": 0.01},
        "epochs": 8,
        "batch": 16,
    }
    model = sentio.train(None, recipe, data, out=Path(scratch) / "model")

    curriculum = {
        "name": "shapes-easy-first",
        "technique": {
            "name": "curriculum",
            "options": {
                "order": "easy-first",
                "pacing": {"name": "fixed-exponential", "start": 0.3, "growth": 1.5, "every": 4},
                "phases": {"name": "classifier-wise", "options": {"train_backbone": False}},
            },
        },
        "optimiser": {"lr": 0.001},
        "epochs": 4,
        "batch": 16,
    }
    model = sentio.train(model, curriculum, data)

    print(f"{model.card['test']['accuracy']:.0%} of test images right")
    for label in ("disc", "square"):
        found = model.predict(data / label / "0.png")
        print(f"{label}: {found.label} with {found.score:.2f}, from exit {found.exit}")
