"""The contract's question "does it export and agree", put to every registered network at its small size."""

import numpy as np
import pytest
import torch

from sentio.core import registry
from sentio.core.confidence import softmax
from sentio.core.loading import load
from sentio.core.model import Model
from sentio.core.multi_exit import add_exits
from sentio.core.policy import Confidence
from sentio.core.staged import create_network
from sentio.core.torch_row import TorchRow
from sentio.exporting.onnx import export
from sentio.tasks.classification import Classification

torch.set_num_threads(1)


def as_arrays(x):
    """Features as a model takes them: an array, or several by name."""
    return {key: as_arrays(part) for key, part in x.items()} if isinstance(x, dict) else x.numpy()


def first(count, features):
    if isinstance(features, dict):
        return {key: part[:count] for key, part in features.items()}
    return features[:count]


#: deep ones with eight stages and more, each a graph of its own: these are left to ``make slow``
MANY_STAGES = {"audio-csrnet", "csrnet", "densenet201", "efficientnet", "efficientnet-v2", "inception-v3"}
MANY_STAGES |= {"mobilenet-v1", "resnet152"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in MANY_STAGES else name
        for name in registry.names("network")
    ],
)
def test_exports_and_agrees(name, tmp_path):
    entry = registry.find("network", name)
    torch.manual_seed(0)
    backbone = create_network(name, **entry.small)
    backbone.input_shapes = dict(entry.small_shapes or entry.input_shapes)
    classes = entry.small["classes"]
    net = add_exits(backbone, "pooled-linear", at=[backbone.stage_names[0]], classes=classes)
    model = Model(TorchRow(net), Classification([f"label {i}" for i in range(classes)]), name=name)
    export(model, tmp_path / "box")
    features = as_arrays(backbone.example(7, seed=1))
    surely = np.sort(softmax(model.outputs(features)[backbone.stage_names[0]]).max(axis=1))
    # Between two samples, so that some leave and rounding cannot move one across.
    policy = Confidence({backbone.stage_names[0]: float((surely[3] + surely[4]) / 2)})
    for runtime in ("torch", "edge"):
        opened = load(tmp_path / "box", runtime=runtime)
        assert opened.runtime == runtime
        for rows in (first(1, features), first(2, features), features):
            ours, theirs = model.answer(rows, policy=policy), opened.answer(rows, policy=policy)
            assert ours.exit_names() == theirs.exit_names()
            assert np.abs(softmax(ours.outputs) - softmax(theirs.outputs)).max() < 1e-4
    assert set(model.answer(features, policy=policy).exit_names()) == {backbone.stage_names[0], "final"}
