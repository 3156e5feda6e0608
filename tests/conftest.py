"""A small network with two exits, a front end and a model of both, for the tests of inference.

The network has what is awkward: two tensors at its boundaries, and an exit that reads one of an earlier
boundary. PyTorch is imported only by tests that ask for these fixtures.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sentio.core import registry
from sentio.core.features import Prepared

RATE = 64
WINDOW = 64


class SmallFrontEnd:
    """A second at 64 Hz as (1, 8, 8); numpy arrays only."""

    name = "small-frontend"
    input_shapes = {"main": (1, 8, 8)}  # noqa: RUF012

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def settings(self) -> dict[str, Any]:
        return {"gain": self.gain}

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        samples, rate = source
        step = WINDOW if hop is None else round(hop * rate)
        starts = np.arange(0, max(len(samples) - WINDOW, 0) + 1, step)
        rows = np.stack([samples[start : start + WINDOW] for start in starts])
        notes = ("The recording was odd",) if len(samples) % WINDOW else ()
        features = (self.gain * rows).reshape(-1, 1, 8, 8).astype(np.float32)
        return Prepared(features, starts / rate, (starts + WINDOW) / rate, ~rows.any(axis=1), notes)


def _small() -> SimpleNamespace:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from torch import nn

    from sentio.core.model import Model
    from sentio.core.multi_exit import add_exits
    from sentio.core.staged import Staged, create_network
    from sentio.core.torch_row import TorchRow
    from sentio.tasks.classification import Classification

    class Fork(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, width, 3)
            self.norm = nn.BatchNorm2d(width)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Any) -> Any:
            return {"main": self.drop(self.norm(self.conv(x)).relu()), "skip": x + 0.5}

    class Body(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(width, 2 * width, 3)

        def forward(self, x: Any) -> Any:
            return {"main": self.conv(x["main"]).relu(), "skip": x["skip"]}

    class Head(nn.Module):
        def __init__(self, width: int, classes: int) -> None:
            super().__init__()
            self.linear = nn.Linear(2 * width + 1, classes)

        def forward(self, x: Any) -> Any:
            return self.linear(torch.cat([x["main"].mean((2, 3)), x["skip"].mean((2, 3))], 1))

    class Branch(nn.Module):
        def __init__(self, channels: int, outputs: int) -> None:
            super().__init__()
            self.linear = nn.Linear(channels, outputs)

        def forward(self, *tensors: Any) -> Any:
            return self.linear(torch.cat([x.mean((2, 3)) for x in tensors], 1))

    def build_network(*, classes: int = 3, width: int = 4) -> Any:
        stages = {"a": Fork(width), "b": Body(width), "head": Head(width, classes)}
        return Staged(stages, input_shapes=(1, 8, 8))

    def build_branch(shapes: Any, outputs: int, /) -> Any:
        return Branch(sum(shape[0] for shape in shapes), outputs)

    def build_frontend(gain: float = 1.0) -> SmallFrontEnd:
        return SmallFrontEnd(gain)

    def register(patch: pytest.MonkeyPatch) -> None:
        for kind, build in (("network", build_network), ("exit", build_branch), ("frontend", build_frontend)):
            name = {"network": "small-net", "exit": "small-branch", "frontend": "small-frontend"}[kind]
            room = registry.ROOMS[kind][0]
            patch.setattr(f"{room}.MEMBERS", {**import_module(room).MEMBERS, name: "made_in_a_test"})
            registry.register(kind, name)(build)

    def multi_exit(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        net = create_network("small-net")
        net = add_exits(net, "small-branch", at=["a"], names=["e1"], classes=3)
        reads = [[("a", "skip"), ("b", "main")]]
        net = add_exits(net, "small-branch", at=["b"], names=["e2"], classes=3, reads=reads)
        for name, parameter in net.named_parameters():  # spread the answers, so that confidences differ
            if name.endswith("linear.weight"):
                parameter.data.mul_(6.0)
        return net.eval()

    def model(**options: Any) -> Any:
        labels = ["cat", "dog", "owl"]
        settings = {"task": Classification(labels), "name": "small", **options}
        return Model(TorchRow(settings.pop("net", None) or multi_exit()), **settings)

    def features(batch: int, seed: int = 0) -> Any:
        generator = np.random.default_rng(seed)
        noise, level = (
            generator.standard_normal((batch, 1, 8, 8)),
            generator.standard_normal((batch, 1, 1, 1)),
        )
        return (noise + 0.8 * level).astype(np.float32)

    return SimpleNamespace(
        register=register,
        multi_exit=multi_exit,
        model=model,
        features=features,
        frontend=SmallFrontEnd,
        branch=Branch,
    )


@pytest.fixture(scope="module")
def small() -> Iterator[SimpleNamespace]:
    """Builders of the small network and what belongs to it, in the registry while a module is tested."""
    found = _small()
    with pytest.MonkeyPatch.context() as patch:
        found.register(patch)
        yield found


@pytest.fixture(scope="session")
def exported_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as an artifact folder, with weights and graphs; not to be written to."""
    pytest.importorskip("onnxscript")
    from sentio.core.policy import Confidence, ExitCosts
    from sentio.exporting.onnx import export

    found = _small()
    with pytest.MonkeyPatch.context() as patch:
        found.register(patch)
        model = found.model(
            frontend=SmallFrontEnd(),
            policy=Confidence({"e1": 0.7, "e2": 0.58}),
            temperatures={"e1": 1.5, "final": 0.8},
            costs=ExitCosts(("e1", "e2", "final"), (100.0, 300.0, 350.0), (1.0, 2.0, 3.0)),
            card={"test": {"accuracy": 0.9}},
        )
        return export(model, tmp_path_factory.mktemp("exported") / "small").path


@pytest.fixture
def artifact(exported_small: Path, tmp_path: Path, small: SimpleNamespace) -> Path:
    """A copy of the exported small model to tamper with; its names are in the registry."""
    return Path(shutil.copytree(exported_small, tmp_path / "artifact"))


@pytest.fixture(scope="session")
def tamper() -> Callable[..., None]:
    """``tamper(folder, change)`` lets ``change(values)`` edit the manifest's plain values."""
    import json

    def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        file = folder / "sentio.json"
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    return edit


@pytest.fixture(scope="session")
def on_stream() -> Callable[..., Any]:
    """Steps a stream through a clip: its valid outputs, one after the other as the clip has them.

    All rows of the batch begin together, so they become valid together.
    """
    torch = pytest.importorskip("torch")

    def run(stream: Any, x: Any, state: Any = None) -> Any:
        outputs = []
        for chunk in x.split(stream.hop, stream.axis):
            if chunk.shape[stream.axis] < stream.hop:
                break
            output, valid, state = stream.step(chunk, state)
            assert len(set(valid.tolist())) == 1
            if valid.all():
                outputs.append(output)
        axis = stream.layout.out.axis
        return torch.stack(outputs, 1) if axis is None else torch.cat(outputs, axis)

    return run
