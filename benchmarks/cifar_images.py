"""CIFAR-10 as the comparisons of exits take it: a training part and a test part that share no image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sentio
from sentio.core import registry
from sentio.core.features import FrontEnd
from sentio.core.task import Task
from sentio.data.features import features
from sentio.training.division import divide
from sentio.training.recipe import read_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "cifar10-resnet8.yaml"


@dataclass(frozen=True)
class Images:
    """Pixels of some images, uint8, and their class numbers."""

    inputs: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, count: int) -> Images:
        """The first ``count``."""
        return Images(self.inputs[:count], self.targets[:count])


@dataclass(frozen=True)
class Parts:
    """Who may see what.

    Args:
        train: of the 40,000 images that the recipes for CIFAR-10 train on, in an order drawn with seed 0.
        test: of the 10,000 that they keep from training, likewise.
        frontend: makes float32 of the pixels.
        task: classification with the data's labels.
        data: all images, as the recipes take them.
    """

    train: Images
    test: Images
    frontend: FrontEnd
    task: Task
    data: sentio.Dataset

    def finish(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels as networks take them."""
        finished: NDArray[np.float32] = self.frontend.finish(inputs)  # type: ignore[attr-defined]
        return finished


def cifar_parts(data: Path, cache: Path) -> Parts:
    """Both parts, divided as the recipes for CIFAR-10 divide them."""
    recipe = read_recipe(RECIPE)
    dataset = sentio.open_data(data, protocol=recipe.data.protocol)
    assert recipe.frontend is not None
    frontend = registry.build("frontend", recipe.frontend.name, **recipe.frontend.options)
    found = features(dataset, frontend, cache=cache)
    split = divide(dataset, recipe.data, recipe.seed)
    task = registry.build("task", recipe.task.name, labels=dataset.labels)

    def part(items: NDArray[np.intp]) -> Images:
        chosen = found.select(items)
        order = np.random.default_rng(0).permutation(len(chosen))
        return Images(chosen.inputs[order], chosen.targets[order])

    return Parts(part(split.train), part(split.validation), frontend, task, dataset)
