"""What helps on few recordings: the recipe of esc10-sounds without its teacher and with warping beside, one
thing changed at a time.

Variants are augmentations taken out or put in, other windows and scales, another start, other sizes, and a
teacher. The peer in the same run, on the same windows, is scikit-learn's logistic regression on mean and
deviation of each band.

    python zoo/build.py esc10-sounds --data esc10-sounds=FOLDER     leaves build/zoo/esc10-sounds-start.sentio
    python benchmarks/ablation.py --data FOLDER --from build/zoo/esc10-sounds-start.sentio

A figure is the mean over folds and seeds of the accuracy on the fold left out, with the standard deviation
over seeds of the mean over folds. Epochs are fewer than the recipe's, so that more can be compared. 95 % of
the other folds are trained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cross_validate import machine, peer

import sentio
from sentio.core.model import Model
from sentio.training.cross_validation import Fold, cross_validate
from sentio.training.recipe import read_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
UNTAUGHT = {"name": "end-to-end", "options": {"weights": 0.5}}
#: the augmentation that the recipe does without, since this comparison
WARPING = {"shift": 0.06, "warp_time": 0.2, "warp_frequency": 0.1}
SCRATCH = ("frontend", "network", "exits")
DISTILLED = {
    "technique": {
        "name": "distillation",
        "options": {
            "temperature": 2.0,
            "weight": 0.8,
            "phases": {"name": "end-to-end", "options": {"weights": 0.5}},
        },
    }
}
NARROW, MIDDLE = ({"width": width, "kernel": 5, "hidden": False} for width in (7, 11))
#: windows of a recording of 5 s that do not need a closer hop; an epoch of all of them has as many more steps
WINDOWS = 4
#: what the others are changes of
EVERYTHING = "gain, masks, mixup, warping"
#: variant -> (start, changes): from the rendered sounds, from nothing, or from nothing with a teacher
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    EVERYTHING: ("start", {}),
    "from nothing, not from rendered sounds": ("nothing", {}),
    "all windows in place of random crops": ("start", {"data": {"draw": "all", "train_hop": None}}),
    "one scale for all bands": ("start", {"standardise": "all"}),
    "no warping, as the recipe has it": ("start", {"augment": dict.fromkeys(WARPING, 0.0)}),
    "no masks": ("start", {"augment": {"time_mask": 0.0, "frequency_mask": 0.0}}),
    "no mixup": ("start", {"augment": {"mixup": 0.0}}),
    "no augmentation at all": (
        "start",
        {"augment": dict.fromkeys((*WARPING, "gain", "time_mask", "frequency_mask", "mixup"), 0.0)},
    ),
    "no averaging of weights": ("start", {"averaging": {"name": "none"}}),
    "and Freq-MixStyle": ("start", {"augment": {"freq_mixstyle": 0.4}}),
    "and label smoothing 0.1": ("start", {"loss": {"label_smoothing": 0.1}}),
    "and focal loss": ("start", {"loss": {"name": "focal", "gamma": 1.0}}),
    "and roll": ("start", {"augment": {"roll": 1.0}}),
    "last exit teaches the early ones": ("self", {}),
    "width 7, from nothing": ("nothing", {"network": {"options": NARROW}}),
    "width 7, from nothing, taught by width 16": ("teacher", {"network": {"options": NARROW}}),
    "width 11, from nothing": ("nothing", {"network": {"options": MIDDLE}}),
    "width 11, from nothing, taught by width 16": ("teacher", {"network": {"options": MIDDLE}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--from", dest="start", required=True, help="what rendered sounds have taught")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--splits", type=int, nargs="*", default=[0, 1, 2, 3], help="folds, from 0")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--only", nargs="*", help="variants whose names contain one of these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [name for name in VARIANTS if not options.only or any(text in name for text in options.only)]
    data = sentio.open_data(options.data)
    with tempfile.TemporaryDirectory() as work:
        found: dict[str, list[list[float]]] = {name: [] for name in chosen}
        linear: list[float] = []
        for seed in range(options.seeds):
            teachers: dict[int, Path] = {}
            for name in chosen:
                begun, row = time.perf_counter(), []
                for split in options.splits:
                    fold = run(name, options, data, seed, split, teachers, Path(work))
                    row.append(fold.found.exits[-1].accuracy)
                    if name == EVERYTHING:
                        teachers[split] = sentio.save(fold.model, Path(work) / f"teacher-{seed}-{split}")
                        if not seed:
                            linear.append(peer(fold.model, data, str(Path(work) / "features")))
                found[name].append(row)
                print(f"seed {seed}  {name}: {shown(row)}  {time.perf_counter() - begun:.0f} s", flush=True)
            # After every seed, so that a long run that is stopped has said something.
            table(found, linear, options.epochs, options.splits)
            if options.json:
                facts = {"machine": machine(), "epochs": options.epochs, "splits": options.splits}
                options.json.write_text(json.dumps(facts | {"last exit": found}, indent=1))


def run(
    name: str, options: Any, data: Any, seed: int, split: int, teachers: dict[int, Path], work: Path
) -> Fold:
    """One training of a variant."""
    start, changes = VARIANTS[name]
    values = read_recipe(RECIPES / "esc10-sounds.yaml").model_dump(mode="json")
    values["technique"] = dict(UNTAUGHT)
    values["augment"] |= WARPING
    origin: Model | Path | None = Path(options.start)
    if start in ("nothing", "teacher"):
        begun = read_recipe(RECIPES / "esc10-start.yaml").model_dump(mode="json")
        values |= {key: begun[key] for key in SCRATCH}
        origin = None
    if start in ("self", "teacher"):
        values |= json.loads(json.dumps(DISTILLED))
        values["technique"]["options"]["teacher"] = "self" if start == "self" else str(teachers[split])
    for key, change in changes.items():
        values[key] = {**values[key], **change} if isinstance(change, dict) else change
    values["data"]["validation"] = 0.05
    epochs = options.epochs // (WINDOWS if values["data"]["draw"] == "all" else 1)
    values |= {"epochs": epochs, "seed": seed, "refit": False}
    (fold,) = cross_validate(origin, values, data, only=split, cache=work / "features")
    return fold


def table(found: dict[str, list[list[float]]], linear: list[float], epochs: int, splits: list[int]) -> None:
    """Mean and deviation of each variant, as a table in Markdown."""
    folds = ", ".join(str(split + 1) for split in splits)
    print(f"\nlast exit, % of the recordings left out; {epochs} epochs, folds {folds}; {machine()}")
    print("| variant | accuracy | deviation over seeds |\n|---|---|---|")
    for name, rows in found.items():
        means = 100 * np.array(rows).mean(axis=1)
        deviation = f"{means.std(ddof=1):.1f}" if len(means) > 1 else "one seed"
        print(f"| {name} | {means.mean():.1f} | {deviation} |")
    if linear:
        print(f"| peer: logistic regression on band statistics | {100 * np.mean(linear):.1f} | |")


def shown(row: list[float]) -> str:
    return " ".join(f"{100 * value:.1f}" for value in row)


if __name__ == "__main__":
    main()
