"""What a recipe leaves open, filled in from the data: front end, network and exits."""

from __future__ import annotations

import numpy as np

from sentio.audio.io import blocks, duration
from sentio.core.errors import ConfigError, InputError
from sentio.core.model import Model
from sentio.data.dataset import Dataset, Item
from sentio.data.media import IMAGES, POSES
from sentio.training.sections import ExitSection, NamedSection, Recipe

#: files looked at to learn rate and length
SAMPLE = 24
#: the compact default: the DCASE 2024 baseline, with exits behind its first two thirds
NETWORK = "dcase2024-baseline"
EXITS = ("block2", "block4")
EXIT_OPTIONS = {"over": "time", "hidden": 64, "dropout": 0.2}
LONGEST_WINDOW = 10.0
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


def complete(recipe: Recipe, dataset: Dataset, start: object) -> Recipe:
    """The recipe with a front end, and with a network and exits unless there is a network to start from."""
    changes: dict[str, object] = {}
    if recipe.frontend is None and not isinstance(start, Model):
        changes["frontend"] = _frontend(dataset)
    if recipe.network is None and start is None:
        changes["network"] = NamedSection(name=NETWORK)
        if not recipe.exits:
            changes["exits"] = [ExitSection(kind="pooled-linear", at=list(EXITS), options=EXIT_OPTIONS)]
    return recipe.model_copy(update=changes)


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
