"""A box in int8: a quarter of the bytes, and what that does to every exit's answers."""

import tempfile
from pathlib import Path

import numpy as np
import torch

import sentio
from sentio.core.torch_row import TorchRow
from sentio.data.features import FeatureSet
from sentio.tasks.classification import Classification

torch.manual_seed(0)
net = sentio.create_network("tiny-cnn", classes=4, width=32)
net = sentio.add_exits(net, "pooled-linear", at=["block2"], classes=4).eval()
model = sentio.Model(TorchRow(net), Classification(["bark", "horn", "rain", "wind"]), name="sounds")

generator = np.random.default_rng(0)
levels = generator.uniform(0.2, 3.0, (200, 1, 1, 1))
features = (levels * generator.standard_normal((200, *model.input_shapes["main"]))).astype(np.float32)
# An untrained network's own answers at its last exit stand for labels.
classes = model.outputs(features)["final"].argmax(axis=1)
data = FeatureSet(features, classes, np.arange(200), np.zeros(200, dtype=bool), {})

with tempfile.TemporaryDirectory() as scratch:
    settings = sentio.Int8(calibration=data, keep=("exit:block2",), sensitivity=True)
    written = sentio.export(model, Path(scratch) / "box.zip", int8=settings)
    found = written.int8
    for key, (before, after) in found["weight_bytes"].items():
        print(f"{key:14} {before:>7,} bytes of weights, now {after:>6,}")
    print(f"in all {found['ratio']:.3f}; {found['measured']['recordings']} recordings were not calibrated on")
    for name, row in found["after"]["exits"].items():
        print(f"{name}: {found['before']['exits'][name]['accuracy']:.1%}, in int8 {row['accuracy']:.1%}")
    worst = found["sensitivity"][0]
    print(f"{worst['graph']} alone moves a probability by {worst['difference']:.1e} in the mean")
    box = sentio.load(written.path)
    print(f"the box runs on {box.runtime} and takes {written.path.stat().st_size:,} bytes")
