"""How hard the simulator's clips are: linear classifiers beside the shipped network, on the same clips.

The peers are scikit-learn's logistic regressions on the mean of each log-mel band over time, and on mean and
standard deviation. They are trained on clips of one seed, as many as the shipped network was made with unless
told otherwise, and all are tested on clips of another seed that none has seen.

    python benchmarks/street_sounds.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sentio
from sentio.data.features import FeatureSet, features
from sentio.data.simulate.rendering import render_clips
from sentio.training.evaluation import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=400, help="training clips of each class, seed 1")
    parser.add_argument("--test", type=int, default=100, help="test clips of each class, seed 3")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    model = sentio.load("street-sounds")
    with tempfile.TemporaryDirectory() as scratch:
        folders = [
            render_clips(Path(scratch) / name, per_class=count, seconds=2.0, seed=seed, rate=16000)
            for name, count, seed in (("train", options.train, 1), ("test", options.test, 3))
        ]
        train, test = (features(sentio.open_data(folder), model.frontend) for folder in folders)
        measured = evaluate(model, folders[1])
    found = {
        "logistic regression, mean of bands": linear(train, test, spread=False),
        "logistic regression, mean and deviation of bands": linear(train, test, spread=True),
        **{f"street-sounds, all at {row.name}": row.accuracy for row in measured.exits},
        "street-sounds, its thresholds": measured.accuracy,
    }
    print(f"{options.train} training and {options.test} test clips of each of {len(measured.labels)} classes")
    for name, accuracy in found.items():
        print(f"{name:50} {accuracy:6.1%}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def linear(train: FeatureSet, test: FeatureSet, *, spread: bool) -> float:
    """Accuracy of a logistic regression on statistics of the bands over time."""

    def statistics(part: FeatureSet) -> NDArray[np.float32]:
        bands = part.inputs[:, 0]
        return np.hstack([bands.mean(axis=1), bands.std(axis=1)]) if spread else bands.mean(axis=1)

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    classifier.fit(statistics(train), train.targets)
    return float(classifier.score(statistics(test), test.targets))


if __name__ == "__main__":
    main()
