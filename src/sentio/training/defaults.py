"""What a recipe leaves open, filled in from the data: front end, network and exits."""

from __future__ import annotations

from typing import Any

import numpy as np

from sentio.audio.io import blocks, duration
from sentio.core.errors import ConfigError, InputError
from sentio.core.model import Model
from sentio.data.dataset import HEADS, Dataset, Item
from sentio.data.media import IMAGES, POSES
from sentio.training.sections import ExitSection, NamedSection, Recipe
from sentio.vision.pictures import picture_size

#: files looked at to learn rate and length
SAMPLE = 24
#: the compact default: the DCASE 2024 baseline, with exits behind its first two thirds
NETWORK = "dcase2024-baseline"
EXITS = ("block2", "block4")
EXIT_OPTIONS = {"over": "time", "hidden": 64, "dropout": 0.2}
LONGEST_WINDOW = 10.0
#: counters of crowds: CSRNet at an eighth of its width, with exits behind the front end and halfway on
COUNTER: dict[str, Any] = {"name": "csrnet", "options": {"width": 8, "answer": "density", "norm": True}}
COUNTER_EXITS: dict[str, Any] = {
    "kind": "density-ee",
    "at": ["visual4", "dilated3"],
    "names": ["V1", "V2"],
    "options": {"answer": "density"},
}
COUNTING = {"sigma": 3.0, "side": 11, "density_scale": 20.0, "count_weight": 0.05}
LONGEST_SIDE = 512
HIGHEST_RATE = 32000


def default_recipe(name: str) -> Recipe:
    """For ``sentio train DATA``: compact network, two exits, trained end to end."""
    return Recipe.model_validate(
        {
            "name": name,
            "optimiser": {"name": "adamw", "lr": 3e-3, "weight_decay": 1e-2},
            "schedule": {"name": "cosine", "warmup_epochs": 5},
            "augment": {"roll": 1.0, "time_mask": 0.2, "frequency_mask": 0.2, "mixup": 0.3},
            "technique": {"name": "end-to-end", "options": {"weights": 0.5}},
            "epochs": 80,
            "keep": "last",
        }
    )


def counter_recipe(name: str) -> Recipe:
    """For ``sentio train`` on crowds: a small CSRNet with exits, densities, trained end to end."""
    return Recipe.model_validate(
        {
            "name": name,
            "task": {"name": "counting", "options": COUNTING},
            "technique": {"name": "end-to-end", "options": {"weights": 0.5}},
            "optimiser": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "clip": 5.0},
            "schedule": {"name": "one-cycle", "every": "step"},
            "augment": {"flip": 0.5},
            "calibration": {"temperature": False},
            "epochs": 30,
            "batch": 16,
        }
    )


def complete(recipe: Recipe, dataset: Dataset, start: object) -> Recipe:
    """The recipe with a front end, and with a network and exits unless there is a network to start from."""
    changes: dict[str, object] = {}
    crowds = dataset.truth == HEADS
    if recipe.frontend is None and not isinstance(start, Model):
        changes["frontend"] = _pictures(dataset) if crowds else _frontend(dataset)
    if recipe.network is None and start is None:
        changes["network"] = NamedSection(**COUNTER) if crowds else NamedSection(name=NETWORK)
        if not recipe.exits:
            section = (
                COUNTER_EXITS if crowds else {"kind": "pooled-linear", "at": EXITS, "options": EXIT_OPTIONS}
            )
            changes["exits"] = [ExitSection(**section)]
    return recipe.model_copy(update=changes)


def _pictures(dataset: Dataset) -> NamedSection:
    """The middle size of the pictures that are looked at, in multiples of 8 and not above `LONGEST_SIDE`.

    Pictures of another shape get a black margin, so that no head is cut off.
    """
    places = np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(int)
    found = [size for place in places if (size := _size(dataset.items[place])) is not None]
    if not found:
        name = dataset.items[places[0]].name
        raise InputError(
            f"No file of {dataset.root} that was looked at can be read as a picture, e.g. {name}"
        )
    height, width = np.median(np.array(found), axis=0)
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    sides = {
        name: max(16, 8 * round(side * scale / 8)) for name, side in (("height", height), ("width", width))
    }
    return NamedSection(name="image", options={**sides, "resize": "pad"})


def _size(item: Item) -> tuple[int, int] | None:
    """None for a file that cannot be read; computing the features reports all of them at once."""
    try:
        return picture_size(item.source)
    except InputError:
        return None


def _frontend(dataset: Dataset) -> NamedSection:
    """Log-mel of one window per typical clip: about 250 frames of 64 bands, at the files' own rate."""
    places = np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(int)
    facts = [found for place in places if (found := _rate_and_length(dataset.items[place])) is not None]
    if not facts:
        name = dataset.items[places[0]].name
        if dataset.items[places[0]].source.suffix.lower() in (*POSES, ".csv"):
            raise ConfigError(
                f"{dataset.root} holds sequences of poses, such as {name}; name a front end, skeleton or "
                "landmarks, and a network, st-gcn or st-bln, in a recipe"
            )
        if dataset.items[places[0]].source.suffix.lower() in IMAGES:
            raise ConfigError(
                f"{dataset.root} holds images, such as {name}; name a front end, image, and a network, such "
                "as glance-resnet, in a recipe"
            )
        raise InputError(f"No file of {dataset.root} that was looked at can be read as sound, e.g. {name}")
    rate = int(min(HIGHEST_RATE, np.median([rate for rate, _ in facts])))
    longest = float(np.percentile([seconds for _, seconds in facts], 90))
    # Half seconds, and a clip that runs over by a few milliseconds does not ask for another half.
    window = float(np.clip(np.ceil(longest * 2 - 0.05) / 2, 0.5, LONGEST_WINDOW))
    win_length = 2 ** round(np.log2(rate * 0.032))
    hop = max(round(rate * 0.01), int(window * rate / 250))
    return NamedSection(
        name="log-mel",
        options={
            "rate": rate,
            "window": window,
            "n_fft": win_length,
            "win_length": win_length,
            "hop_length": hop,
            "n_mels": 64 if rate >= 16000 else 40,
            "ref": "max",
            "top_db": 80.0,
        },
    )


def _rate_and_length(item: Item) -> tuple[int, float] | None:
    """None for a file that cannot be read; computing the features reports all of them at once."""
    try:
        # The first block is enough to learn the rate.
        return next(blocks(item.source, seconds=0.1)).rate, duration(item.source)
    except (InputError, OSError):
        return None
