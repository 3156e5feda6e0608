"""Cross-validation of a recipe: trains and tests every split of its protocol, and prints mean and worst.

The peer, on the same features and splits in the same run, is scikit-learn's logistic regression on the mean
and the standard deviation over time of each log-mel band, the usual first baseline of the field.

    python benchmarks/cross_validate.py recipes/esc10.yaml --data ESC10_FOLDER
    python benchmarks/cross_validate.py recipes/fsdd.yaml --data FSDD_FOLDER
    python benchmarks/cross_validate.py recipes/fsdd.yaml --data FSDD_FOLDER --protocol index
    python benchmarks/cross_validate.py RECIPE --data FOLDER --from ARTIFACT
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sentio
from sentio.cli.options import settings
from sentio.core.model import Model
from sentio.data.dataset import Dataset
from sentio.data.features import FeatureSet, features
from sentio.training.cross_validation import cross_validate
from sentio.training.division import divide
from sentio.training.recipe import read_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--from", dest="start", help="what each training starts from, an artifact")
    parser.add_argument("--protocol")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--set", action="append", default=[], help="change a key of the recipe: KEY=VALUE")
    parser.add_argument("--split", type=int, help="only this one, from 0")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    changes = {"data__protocol": options.protocol, "epochs": options.epochs, "seed": options.seed}
    recipe = read_recipe(options.recipe, **{**settings(options.set), **changes})
    data = sentio.open_data(options.data, protocol=recipe.data.protocol)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        begun = time.perf_counter()
        for fold in cross_validate(options.start, recipe, data, only=options.split, cache=cache):
            model, result = fold.model, fold.found
            row = {
                "split": fold.name,
                "part": fold.part,
                "files": fold.files,
                "policy": result.accuracy,
                "mean_macs": result.mean_macs,
                **{exit.name: exit.accuracy for exit in result.exits},
                "peer": peer(model, data, cache),
                "minutes": (time.perf_counter() - begun) / 60,
            }
            rows.append(row)
            print("  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
            begun = time.perf_counter()
    exits = [exit.name for exit in result.exits]
    print(f"\n{options.recipe.name} on {data.name}, protocol {data.protocol}, seed {recipe.seed}")
    print(f"parameters: {sum(p.numel() for p in model.network.parameters()):,}; {machine()}")
    for name in ("policy", *exits, "peer"):
        values = [row[name] for row in rows]
        cost = dict(zip(model.costs.names, model.costs.macs, strict=True)).get(name)
        macs = f"{np.mean([row['mean_macs'] for row in rows]):,.0f}" if name == "policy" else shown(cost)
        print(f"{name:8} mean {np.mean(values):.4f}  worst {np.min(values):.4f}  MACs {macs}")
    if options.json:
        facts = {"recipe": recipe.model_dump(mode="json"), "machine": machine(), "splits": rows}
        options.json.write_text(json.dumps(facts, indent=1))


def peer(model: Model, data: Dataset, cache: str) -> float:
    """Accuracy of logistic regression on summary statistics of features, trained on what the model was."""
    recipe = read_recipe(model.card["recipe"])
    assert model.frontend is not None
    prepared = features(data, model.frontend, cache=cache)
    split = divide(data, recipe.data, recipe.seed)
    tested = split.test if len(split.test) else split.validation
    learned = np.concatenate([split.train, split.validation]) if recipe.refit else split.train
    train, test = prepared.select(learned), prepared.select(tested)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(statistics(train), train.targets)
    probabilities = classifier.predict_proba(statistics(test))
    items, first, place = np.unique(test.rows, return_index=True, return_inverse=True)
    sums = np.zeros((len(items), probabilities.shape[1]))
    np.add.at(sums, place, probabilities)
    return float((sums.argmax(axis=1) == test.targets[first]).mean())


def statistics(part: FeatureSet) -> np.ndarray:
    """Mean and deviation over time of each band, ``(window, 2 * mel)``."""
    bands = part.inputs[:, 0]
    return np.concatenate([bands.mean(axis=1), bands.std(axis=1)], axis=1)


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "not counted" if value is None else str(value)


def machine() -> str:
    return f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
