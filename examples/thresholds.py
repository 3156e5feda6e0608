"""Fit thresholds to what exits said on validation data, for an accuracy or for a mean cost. No PyTorch."""

import numpy as np

from sentio.core.calibration import fit_thresholds

generator = np.random.default_rng(0)
macs = [1e6, 3e6, 9e6]
# Three exits, each better than the one before, and surer where it is right.
right = generator.random((3, 1000)) < np.array([[0.70], [0.85], [0.92]])
confidence = np.clip(generator.normal(np.where(right, 0.85, 0.55), 0.12), 0.0, 1.0)

for goal in ({"target_accuracy": 0.90}, {"mean_macs": 3e6}):
    found = fit_thresholds(confidence, right, macs, **goal)
    print(goal, f"-> accuracy {found.accuracy:.3f} at a mean of {found.mean_macs / 1e6:.2f} M MACs,")
    print(f"   thresholds {found.thresholds}, leaving {found.share}")
