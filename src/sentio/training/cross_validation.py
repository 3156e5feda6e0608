"""Cross-validation: each split of a protocol trained, and measured on the part it left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sentio.core.errors import ConfigError
from sentio.core.model import Model
from sentio.data.dataset import Dataset
from sentio.data.readers import open_data
from sentio.data.splits import splits
from sentio.training.division import divide
from sentio.training.evaluation import Evaluation, evaluate
from sentio.training.progress import Cancel, Report
from sentio.training.recipe import Recipe, read_recipe
from sentio.training.training import train


@dataclass(frozen=True, eq=False)
class Fold:
    """One split.

    Args:
        name: of the split, e.g. the fold or the speaker that was left out.
        part: ``test``, or ``validation`` where the data set's own test part is not on disk.
        files: how many are in that part.
        model: trained without them.
        found: its figures on them.
    """

    name: str
    part: str
    files: int
    model: Model
    found: Evaluation


def cross_validate(
    network: Model | str | Path | None,
    recipe: Recipe | str | Path | dict[str, Any],
    data: Dataset | str | Path,
    *,
    only: int | None = None,
    cache: str | Path | None = None,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Iterator[Fold]:
    """Train and measure every split of the recipe's protocol, one after the other.

    Args:
        network: what each training starts from: a model or an artifact, or None for what the recipe names.
        recipe: how; its own ``data.split`` does not count.
        data: labelled files.
        only: a single split, from 0.
        cache: a folder that keeps features, so that they are computed once for all splits.
        progress, cancel: as for `train`.

    Yields:
        A `Fold` as soon as it is measured.

    Raises:
        ConfigError, InputError: as `train`.
    """
    recipe = read_recipe(recipe)
    if not isinstance(data, Dataset):
        data = open_data(data, protocol=recipe.data.protocol, labels=recipe.data.labels)
    for number, split in enumerate(splits(data, recipe.data.protocol, recipe.seed)):
        if only not in (None, number):
            continue
        one = read_recipe(recipe, data__split=number)
        model = train(network, one, data, cache=cache, progress=progress, cancel=cancel)
        tested = bool(len(split.test))
        part = split.test if tested else divide(data, one.data, one.seed).validation
        found = evaluate(model, data.subset(part), cache=cache, progress=progress, cancel=cancel)
        yield Fold(split.name, "test" if tested else "validation", len(part), model, found)


def pooled(folds: Sequence[Fold]) -> dict[str, Any]:
    """The figures of all folds as one, plain values as a card holds them under ``test``.

    Accuracies, costs and shares are means over recordings; confusions are summed; ``splits`` lists the
    accuracy of each fold. Every recording was answered by a model that was not trained on it.

    Raises:
        ConfigError: there are no folds, or their models do not classify.
    """
    if not folds:
        raise ConfigError("There is nothing to pool: no split was trained")
    found = [fold.found for fold in folds]
    if not all(isinstance(one, Evaluation) for one in found):
        raise ConfigError("Only figures of classifiers are pooled; look at those of each split")
    counts = np.array([one.recordings for one in found], dtype=float)

    def mean(values: Sequence[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return float(np.average(numbers, weights=counts)) if len(numbers) == len(found) else None

    exits = [
        {
            "name": rows[0].name,
            "macs": rows[0].macs,
            **{key: mean([getattr(row, key) for row in rows]) for key in ("accuracy", "ms", "share", "ece")},
        }
        for rows in zip(*(one.exits for one in found), strict=True)
    ]
    figures = ("accuracy", "macro_accuracy", "mean_macs", "mean_ms", "log_loss", "ece")
    return {
        **{key: mean([getattr(one, key) for one in found]) for key in figures},
        "recordings": int(counts.sum()),
        "windows": sum(one.windows for one in found),
        "silent": sum(one.silent for one in found),
        "exits": exits,
        "confusion": np.sum([one.confusion for one in found], axis=0).tolist(),
        "labels": list(found[0].labels),
        "runtime": found[0].runtime,
        "splits": [
            {
                "name": fold.name,
                "accuracy": fold.found.accuracy,
                **{exit.name: exit.accuracy for exit in fold.found.exits},
            }
            for fold in folds
        ],
    }
