"""A box made by hand, so that no PyTorch has to export one: two stages, an exit, their steps on streams."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LABELS = ["cat", "dog", "owl"]
FRAMES, BANDS = 19, 8


class Graph:
    """An ONNX graph in the making; ``inputs`` and ``outputs`` are name -> (type, shape)."""

    def __init__(self, inputs: dict[str, Any], outputs: dict[str, Any], nodes: Any, **tensors: Any) -> None:
        self.inputs, self.outputs, self.nodes, self.tensors = inputs, outputs, nodes, tensors

    def bytes(self, **options: Any) -> bytes:
        from onnx import helper, numpy_helper

        graph = helper.make_graph(
            [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in self.nodes],
            "g",
            [helper.make_tensor_value_info(name, *facts) for name, facts in self.inputs.items()],
            [helper.make_tensor_value_info(name, *facts) for name, facts in self.outputs.items()],
            [
                numpy_helper.from_array(np.asarray(value), name)
                if not hasattr(value, "SerializeToString")
                else value
                for name, value in self.tensors.items()
            ],
        )
        options = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 8, **options}
        return bytes(helper.make_model(graph, **options).SerializeToString())


FLOAT, INT64 = 1, 7
SHAPE = ("batch", 1, FRAMES, BANDS)


def weights(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pooled(given: str, *, out: str = "out_0", weight: str = "w") -> list[Any]:
    """Nodes for the mean over channel and time, then a product."""
    return [
        ("ReduceMean", [given, "axes"], ["mean"], {"keepdims": 0}),
        ("MatMul", ["mean", weight], [out]),
    ]


def body() -> Graph:
    nodes = [("Mul", ["in_0", "w"], ["out_0"])]
    return Graph({"in_0": (FLOAT, SHAPE)}, {"out_0": (FLOAT, SHAPE)}, nodes, w=weights(0, BANDS))


def last(seed: int, classes: int = 3) -> Graph:
    return Graph(
        {"in_0": (FLOAT, SHAPE)},
        {"out_0": (FLOAT, ("batch", classes))},
        pooled("in_0"),
        axes=np.array([1, 2]),
        w=0.05 * weights(seed, BANDS, classes),
    )


HOP = 2
CHUNK = ("batch", 1, HOP, BANDS)


def first_step() -> Graph:
    """Answers about its chunk, and passes twice the chunk on; valid from the start."""
    return Graph(
        {"x": (FLOAT, CHUNK), "steps": (INT64, ("batch",))},
        {"output": (FLOAT, ("batch", 3)), "behind": (FLOAT, CHUNK)},
        [*pooled("x", out="output"), ("Add", ["x", "x"], ["behind"])],
        axes=np.array([1, 2]),
        w=weights(1, BANDS, 3),
    )


def last_step() -> Graph:
    """Answers with the mean of its chunk and the one before, which is its state; valid from the second."""
    return Graph(
        {"x": (FLOAT, CHUNK), "steps": (INT64, ("batch",)), "state.kept": (FLOAT, ("batch", 3))},
        {"output": (FLOAT, ("batch", 3)), "next.kept": (FLOAT, ("batch", 3))},
        [
            ("ReduceMean", ["x", "axes"], ["mean"], {"keepdims": 0}),
            ("MatMul", ["mean", "w"], ["next.kept"]),
            ("Add", ["next.kept", "state.kept"], ["output"]),
        ],
        axes=np.array([1, 2]),
        w=weights(2, BANDS, 3),
    )


MANIFEST = {
    "format": "sentio-artifact",
    "version": 3,
    "sentio": "0.1.0",
    "name": "by hand",
    "network": {"stages": ["a", "head"], "input_shapes": {"main": list(SHAPE[1:])}},
    "exits": [{"name": "e", "kind": "k", "after": "a", "reads": [["a", "main"]], "outputs": 3}],
    "graphs": {
        "stage:a": {"file": "stages/a.onnx", "inputs": ["main"], "outputs": ["main"]},
        "stage:head": {"file": "stages/head.onnx", "inputs": ["main"], "outputs": ["main"]},
        "exit:e": {"file": "stages/e.onnx", "inputs": ["a/main"], "outputs": ["main"]},
    },
    "stream": {
        "hop": HOP,
        "catch_up": "exact",
        "parts": [
            {
                "exit": "e",
                "file": "steps/e.onnx",
                "takes": list(CHUNK[1:]),
                "axis": 2,
                "state": [],
                "warm_up": 0,
                "delay": 1,
                "queue": 0,
                "macs": 10,
            },
            {
                "exit": "final",
                "file": "steps/final.onnx",
                "takes": list(CHUNK[1:]),
                "axis": 2,
                "state": ["kept"],
                "warm_up": 1,
                "delay": 3,
                "queue": 2,
                "macs": 100,
            },
        ],
        "state": {
            "steps": {"shape": [], "dtype": "int64"},
            "final.steps": {"shape": [], "dtype": "int64"},
            "final.queue": {"shape": [1, 3 * HOP, BANDS]},
            "kept": {"shape": [3]},
        },
    },
    "frontend": {
        "name": "log-mel",
        "settings": {"window": 0.3, "rate": 8000, "n_fft": 256, "hop_length": 128, "n_mels": BANDS},
    },
    "task": {"name": "classification", "settings": {"labels": LABELS}},
    "policy": {"name": "confidence", "threshold": {"e": 0.9}},
    "temperatures": {"final": 2.0},
}


@pytest.fixture(scope="session")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The box as a folder; not to be written to."""
    pytest.importorskip("onnx")
    from sentio.core.artifact import write_artifact
    from sentio.core.manifest import read_manifest

    files = {
        "stages/a.onnx": body().bytes(),
        "stages/head.onnx": last(2).bytes(),
        "stages/e.onnx": last(1).bytes(),
        "steps/e.onnx": first_step().bytes(),
        "steps/final.onnx": last_step().bytes(),
    }
    listed = {name: {"bytes": len(data), "sha256": "0" * 64} for name, data in files.items()}
    manifest = read_manifest({**MANIFEST, "files": listed}, "by hand")
    return write_artifact(tmp_path_factory.mktemp("by-hand") / "box", manifest, files)


@pytest.fixture
def own_box(by_hand: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(by_hand, tmp_path / "box"))


@pytest.fixture(scope="session")
def put() -> Callable[[Path, str, bytes], None]:
    """``put(folder, name, data)`` replaces a file and makes the manifest agree, as who means harm would."""

    def replace(folder: Path, name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        file = folder / "sentio.json"
        values = json.loads(file.read_text())
        values["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        file.write_text(json.dumps(values))

    return replace


@pytest.fixture(scope="session")
def graphs() -> Any:
    """What this module makes graphs with, by attribute: tests cannot import it."""
    from types import SimpleNamespace

    return SimpleNamespace(**globals())
