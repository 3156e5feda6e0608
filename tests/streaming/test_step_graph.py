"""A step as an ONNX graph: the same answers and states from ONNX Runtime, for any number of streams."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import sentio
from sentio.core.errors import ConfigError, MissingExtraError
from sentio.streaming.step_graph import export_step

torch.set_num_threads(1)
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")


def test_onnx_runtime_steps_as_pytorch_does(tmp_path):
    """With padding behind a bias, strides, a maximum that begins at minus infinity, a shortcut and a pool."""
    torch.manual_seed(0)
    net = sentio.create_network("tiny-cnn", classes=3, width=4).eval()
    layers = [net.stage("block1"), nn.MaxPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    stream = sentio.stream(
        nn.Sequential(*layers, nn.Linear(4, 3)), window=24, example=torch.zeros(1, 1, 24, 8)
    )
    path = export_step(stream, tmp_path / "step.onnx")
    assert b"/src/" not in path.read_bytes()
    session = ort.InferenceSession(path)
    said = session.get_modelmeta().custom_metadata_map["sentio.stream"]
    facts = json.loads(said, parse_constant=pytest.fail)  # -Infinity is no JSON
    assert "-inf" in facts["begins_with"].values()
    assert (facts["hop"], facts["axis"], facts["warm_up"]) == (4, 2, stream.warm_up)
    names = [value.name for value in session.get_outputs()]
    shapes = {value.name: value.shape for value in session.get_inputs()}
    for batch in (1, 3):
        # The file alone says how a stream begins.
        theirs = {
            f"state.{name}": np.full(
                [batch, *shapes[f"state.{name}"][1:]], value, np.int64 if name == "steps" else np.float32
            )
            for name, value in facts["begins_with"].items()
        }
        state = None
        for chunk in torch.randn(batch, 1, 4 * 10, 8).split(4, 2):
            output, valid, state = stream.step(chunk, state)
            found = dict(zip(names, session.run(None, {"x": chunk.numpy(), **theirs}), strict=True))
            theirs = {f"state.{name}": found[f"next.{name}"] for name in facts["begins_with"]}
            assert found["valid"].tolist() == valid.tolist()
            if valid.all():
                np.testing.assert_allclose(found["output"], output.numpy(), rtol=0, atol=1e-5)
        assert valid.all()
        for name, tensor in state.items():
            np.testing.assert_allclose(theirs[f"state.{name}"], tensor.numpy(), rtol=0, atol=1e-5)


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch):
    net = sentio.create_network("tiny-cnn", classes=3, width=4)
    exits = sentio.add_exits(net, "pooled-linear", at=["block1"], classes=3)
    with pytest.raises(ConfigError, match="export the stream of its backbone"):
        export_step(sentio.stream(exits), tmp_path / "a")
    with pytest.raises(ConfigError, match="size of the stream's input is not known here; pass like="):
        export_step(sentio.stream(nn.Sequential(nn.Conv1d(2, 2, 3))), tmp_path / "a")
    monkeypatch.setattr("sentio.core.onnx_exporter.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"sentio\[export\]"):
        export_step(sentio.stream(net), tmp_path / "a")
