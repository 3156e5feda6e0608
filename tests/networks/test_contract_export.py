"""The contract's question "does it export and agree", put to every registered network at its small size.

By default it is put to one network of each file, in two graphs and the exit's; ``make slow`` exports all of
them stage by stage.

One network of each family is asked too whether it can be quantised: that takes a while, and all of a family
are made of the same layers.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import decomp_utils, exported_program

from sentio.core import registry
from sentio.core.artifact import ArtifactFiles, write_artifact
from sentio.core.confidence import softmax
from sentio.core.loading import load
from sentio.core.model import Model
from sentio.core.multi_exit import add_exits
from sentio.core.policy import Confidence
from sentio.core.staged import Staged, create_network
from sentio.core.torch_row import TorchRow
from sentio.exporting.onnx import export
from sentio.exporting.quantisation import Int8, quantise_row
from sentio.networks import MEMBERS
from sentio.tasks.classification import Classification

torch.set_num_threads(1)
#: of sound, of tokens, of waveforms, of pictures, of skeletons, of video
FAMILIES = ("bc-resnet", "ast", "phinet-1d", "resnet8", "st-gcn", "x3d-xs")


def as_arrays(x):
    """Features as a model takes them: an array, or several by name."""
    return {key: as_arrays(part) for key, part in x.items()} if isinstance(x, dict) else x.numpy()


def beginning(count, features):
    if isinstance(features, dict):
        return {key: part[:count] for key, part in features.items()}
    return features[:count]


#: deep ones, whose layers alone take long
DEEP = {"audio-csrnet", "csrnet", "densenet201", "efficientnet", "efficientnet-v2", "inception-v3"}
DEEP |= {"ir-50", "mobilenet-v1", "resnet152"}
#: one of each file in ``networks``, of a family the one that is quantised too
QUICK = {module: name for name, module in sorted(MEMBERS.items(), reverse=True)}
QUICK |= {MEMBERS[name]: name for name in FAMILIES if name in MEMBERS}


def merged(net):
    """The network as its first stage and the rest: an export takes long for each graph, whatever is in it."""
    first, *rest = net.stage_names
    stages = {first: net.stage(first), "rest": nn.Sequential(*map(net.stage, rest))}
    return Staged(stages, input_shapes=net.input_shapes)


@pytest.fixture(scope="module", autouse=True)
def operators_are_listed_once():
    """PyTorch lists all its operators anew twice for each graph, which takes a fifth of the time."""
    name = "_collect_all_valid_cia_ops"
    with pytest.MonkeyPatch.context() as patch:
        for place in (decomp_utils, exported_program):
            if hasattr(place, name):
                patch.setattr(place, name, cache(getattr(place, name)))
        yield


@pytest.fixture(
    scope="module",
    params=[
        *sorted(set(QUICK.values()) - DEEP),
        *(
            pytest.param((name,), id=f"{name}-stage-by-stage", marks=pytest.mark.slow)
            for name in registry.names("network")
        ),
    ],
)
def made(request, tmp_path_factory):
    """A small member with an exit, and its box; of some the stages together, of all each for itself."""
    name, whole = (request.param, False) if isinstance(request.param, str) else (*request.param, True)
    entry = registry.find("network", name)
    torch.manual_seed(0)
    backbone = create_network(name, **entry.small)
    backbone.input_shapes = dict(entry.small_shapes or entry.input_shapes)
    if not whole:
        backbone = merged(backbone)
    classes = entry.small["classes"]
    net = add_exits(backbone, "pooled-linear", at=[backbone.stage_names[0]], classes=classes)
    model = Model(TorchRow(net), Classification([f"label {i}" for i in range(classes)]), name=name)
    folder = tmp_path_factory.mktemp("box") / "box"
    export(model, folder, weights=whole)
    features = as_arrays(backbone.example(7, seed=1))
    return SimpleNamespace(
        name=name, model=model, first=backbone.stage_names[0], box=folder, features=features, whole=whole
    )


def test_exports_and_agrees(made):
    model, first, features = made.model, made.first, made.features
    surely = np.sort(softmax(model.outputs(features)[first]).max(axis=1))
    # Between two samples, so that some leave and rounding cannot move one across.
    policy = Confidence({first: float((surely[3] + surely[4]) / 2)})
    # Of stages that were put together nothing could be built again in PyTorch.
    for runtime in ("torch", "edge") if made.whole else ("edge",):
        opened = load(made.box, runtime=runtime)
        assert opened.runtime == runtime
        for rows in (beginning(1, features), beginning(2, features), features):
            ours, theirs = model.answer(rows, policy=policy), opened.answer(rows, policy=policy)
            assert ours.exit_names() == theirs.exit_names()
            assert np.abs(softmax(ours.outputs) - softmax(theirs.outputs)).max() < 1e-4
    assert set(model.answer(features, policy=policy).exit_names()) == {first, "final"}


def test_a_network_of_each_family_runs_in_int8(made, tmp_path):
    if made.name not in FAMILIES:
        pytest.skip("another of its family is asked")
    files = ArtifactFiles(made.box)
    graphs = files.manifest.graphs
    whole = {facts.file: files.read(facts.file) for facts in graphs.values()}
    row = quantise_row(graphs, whole, {"main": made.features}, Int8(calibration=None))
    assert row.quantised
    assert not [note for note in row.notes if "does not quantise" in note]
    box = load(write_artifact(tmp_path / "int8.zip", files.manifest, row.files), runtime="edge", threads=1)
    floats, together = made.model.outputs(made.features), box.outputs(made.features)
    alone = box.outputs(made.features[2:3])
    for name, values in together.items():
        assert np.abs(softmax(values) - softmax(floats[name])).mean() < 0.02
        np.testing.assert_allclose(alone[name], values[2:3], atol=1e-4)
    assert any(not np.array_equal(values, floats[name]) for name, values in together.items())


def test_the_families_are_registered():
    assert set(FAMILIES) <= set(registry.names("network"))
