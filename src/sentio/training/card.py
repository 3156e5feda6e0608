"""What a model's card says about its training: recipe, data, notes, machine."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from sentio import __version__
from sentio.core.task import TargetMaker, Task
from sentio.data.dataset import Dataset, listed
from sentio.data.features import FeatureSet
from sentio.data.splits import Split
from sentio.training.sections import Recipe

#: a class of fewer training clips is named in a note
FEW = 5


def circumstances(
    recipe: Recipe,
    task: Task,
    dataset: Dataset,
    split: Split,
    prepared: FeatureSet,
    validated: int,
) -> dict[str, Any]:
    """What a figure needs to be made again, and what was odd; ``validated`` counts windows."""
    import torch

    notes = [*dataset.notes, *split.notes, *prepared.notes]
    # Notes about a file begin with it; the others tell of padding, which is usual.
    odd = [
        dataset.items[item].name
        for item, found in prepared.item_notes.items()
        if any(note.startswith(str(dataset.items[item].source)) for note in found)
    ]
    if odd:
        notes.append(
            f"Odd files, used all the same ({len(odd)}): {listed(odd)}; sentio predict says what is odd."
        )
    makes_targets = isinstance(task, TargetMaker)
    counts = np.bincount(dataset.targets[split.train], minlength=len(dataset.labels))
    few = [f"{label} ({count})" for label, count in zip(dataset.labels, counts, strict=True) if count < FEW]
    if few and not makes_targets:
        notes.append(f"Few training clips, too few to rely on the answer: {listed(few)}.")
    if not validated:
        last = ", early stopping is off" if recipe.early_stopping else ""
        fitted = (
            "the exits were not measured" if makes_targets else "no temperatures and thresholds were fitted"
        )
        notes.append(
            f"There is no validation part: {fitted}, everything is answered by the last exit, and the last "
            f"epoch was kept{last}."
        )
    parts = {part: getattr(split, part) for part in ("train", "validation", "test")}
    readable = np.unique(prepared.rows)
    return {
        "recipe": recipe.for_card(),
        "data": {
            "name": dataset.name,
            "protocol": dataset.protocol,
            "split": split.name,
            "files": {part: int(np.isin(items, readable).sum()) for part, items in parts.items()},
            "notes": notes,
        },
        "made_with": {
            "sentio": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        },
    }
