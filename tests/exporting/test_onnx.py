import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
from torch import nn  # noqa: E402

from sentio.core.anytime import anytime  # noqa: E402
from sentio.core.artifact import ArtifactFiles  # noqa: E402
from sentio.core.confidence import softmax  # noqa: E402
from sentio.core.errors import ArtifactError, ConfigError, MissingExtraError  # noqa: E402
from sentio.core.loading import load  # noqa: E402
from sentio.core.model import Model  # noqa: E402
from sentio.core.multi_exit import MultiExit  # noqa: E402
from sentio.core.policy import Confidence, Fixed  # noqa: E402
from sentio.core.staged import Staged  # noqa: E402
from sentio.core.torch_row import TorchRow  # noqa: E402
from sentio.exporting import onnx as module  # noqa: E402
from sentio.exporting.onnx import export, export_graphs  # noqa: E402
from sentio.tasks.classification import Classification  # noqa: E402


@pytest.fixture(scope="module")
def runtimes(exported_small, small):
    return load(exported_small, runtime="torch"), load(exported_small, runtime="edge", threads=1)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_exit_agrees_with_pytorch(runtimes, small, batch):
    ours, theirs = (model.outputs(small.features(batch, seed=batch)) for model in runtimes)
    assert list(ours) == list(theirs) == ["e1", "e2", "final"]
    for name in ours:
        assert ours[name].shape == theirs[name].shape == (batch, 3)
        assert np.abs(softmax(ours[name]) - softmax(theirs[name])).max() < 1e-4


def test_every_sample_leaves_where_it_does_in_pytorch(runtimes, small):
    x = small.features(200, seed=3)
    threshold = 0.6
    ours, theirs = (model.answer(x, policy=Confidence(threshold)) for model in runtimes)
    confidences = np.stack([softmax(values).max(axis=1) for values in runtimes[0].outputs(x).values()])
    close = (np.abs(confidences - threshold) < 1e-4).any(axis=0)
    assert close.mean() < 0.05
    np.testing.assert_array_equal(ours.exit[~close], theirs.exit[~close])
    assert len(set(ours.exit.tolist())) == 3
    same = ours.exit == theirs.exit
    np.testing.assert_allclose(softmax(ours.outputs)[same], softmax(theirs.outputs)[same], atol=1e-4)


def test_samples_that_leave_between_exported_stages_change_nothing(runtimes, small):
    row, x = runtimes[1].row, small.features(7, seed=5)
    whole = {step.exit: step.output for step in anytime(row, x)}
    for step in anytime(row, x):
        np.testing.assert_allclose(step.output, whole[step.exit][step.samples], atol=1e-6)
        step.drop(np.arange(len(step.samples)) % 3 == 1)


def test_boundaries_of_several_tensors_keep_their_names(runtimes, small):
    row = runtimes[1].row
    boundary = row.run_stage("a", row.start(small.features(2)))
    assert {name: array.shape for name, array in boundary.items()} == {
        "main": (2, 4, 6, 6),
        "skip": (2, 1, 8, 8),
    }
    np.testing.assert_allclose(boundary["skip"], small.features(2) + 0.5, atol=1e-6)


def test_the_files_of_an_export(exported_small):
    names = sorted(path.name for path in (exported_small / "stages").iterdir())
    assert names == ["00-a.onnx", "01-exit-e1.onnx", "02-b.onnx", "03-exit-e2.onnx", "04-head.onnx"]
    for path in (exported_small / "stages").iterdir():
        onnx.checker.check_model(onnx.load(path), full_check=True)


def test_graphs_tell_nothing_about_the_machine_they_were_made_on(exported_small):
    for path in (exported_small / "stages").iterdir():
        assert not re.search(rb"\.py\b|site-packages|stack_trace|\bFile \"", path.read_bytes())


# networks of other kinds


class Twins(nn.Module):
    """One tensor under two names, and the input as it came."""

    def forward(self, x):
        y = x.relu()
        return {"main": y, "again": y, "input": x}


class Sum(nn.Module):
    def forward(self, x):
        return (x["main"] + 2 * x["again"] - x["input"]).flatten(1)


def model_of(stages, shapes, classes=4, **options):
    net = MultiExit(Staged(stages, input_shapes=shapes))
    return Model(TorchRow(net), Classification([str(i) for i in range(classes)]), name="mine", **options)


def test_stages_that_pass_tensors_on_as_they_are(tmp_path):
    model = model_of({"same.0": nn.Identity(), "twins": Twins(), "sum": Sum()}, (2, 2))
    found = export(model, tmp_path / "a.zip")
    assert list(found.bytes) == ["stage:same.0", "stage:twins", "stage:sum"]
    assert found.path == tmp_path / "a.zip"
    assert found.difference < 1e-6
    x = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
    graphs = ArtifactFiles(found.path).manifest.graphs
    assert graphs["stage:twins"].outputs == ["main", "again", "input"]
    assert graphs["stage:twins"].shapes == [[2, 2]] * 3
    assert graphs["stage:sum"].shapes == [[4]]
    again = load(found.path)  # not in the registry, so it runs on its graphs
    assert again.runtime == "edge"
    np.testing.assert_allclose(again.answer(x).outputs, model.answer(x).outputs, atol=1e-6)


def test_the_exporter_reads_its_translations_once(monkeypatch):
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = []
    found = vars(ONNXRegistry)["from_torchlib"]

    class Counted(ONNXRegistry):
        @classmethod
        def from_torchlib(cls, **options):
            read.append(options)
            return found.__func__(cls, **options)

    counted = vars(Counted)["from_torchlib"]
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", counted)
    for width in (2, 3):
        net = MultiExit(Staged({"a": nn.Linear(width, 1)}, input_shapes=(width,)))
        export_graphs(net, {"main": (width,)})
    assert len(read) == 1
    assert vars(ONNXRegistry)["from_torchlib"] is counted, "it is put back"


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.sound, self.image = nn.Linear(5, 4), nn.Linear(3, 4)

    def forward(self, x):
        return self.sound(x["sound"]) * self.image(x["image"])


@pytest.mark.parametrize(("kind", "named"), [("half", "float16"), ("double", "float64")])
def test_a_network_in_another_precision_is_refused_in_a_sentence(tmp_path, small, kind, named):
    model = small.model()
    getattr(model.network, kind)()
    with pytest.raises(ConfigError, match=rf"compute in float32, and .* is {named}; call model\.network"):
        export(model, tmp_path / "box")


def test_a_network_with_two_inputs(tmp_path):
    model = model_of({"fuse": TwoInputs()}, {"sound": (5,), "image": (3,)})
    again = load(export(model, tmp_path / "a").path)
    generator = np.random.default_rng(0)
    x = {
        "image": generator.standard_normal((2, 3)).astype(np.float32),
        "sound": generator.standard_normal((2, 5)).astype(np.float32),
    }
    np.testing.assert_allclose(again.answer(x).outputs, model.answer(x).outputs, atol=1e-6)
    assert again.answer(x, policy=Fixed("final")).exit_names() == ["final"] * 2


class Counting(nn.Module):
    """Python that depends on values, which no graph can hold."""

    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("the very reason\nand more")


@pytest.mark.parametrize(("module", "reason"), [(Counting(), "."), (Broken(), "the very reason$")])
def test_a_stage_that_cannot_be_exported_is_named(tmp_path, capfd, module, reason):
    model = model_of({"first": nn.Identity(), "odd one": module}, (4,))
    with pytest.raises(
        ConfigError, match=f"^Stage 'odd one' cannot be exported to ONNX: .*{reason}"
    ) as caught:
        export(model, tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_an_exit_that_cannot_be_exported_is_named(small):
    net = small.multi_exit()
    net.branches["e1"] = Broken()
    net.backbone = Staged({"a": nn.Identity(), "b": nn.Identity(), "head": nn.Identity()})
    net.specs = net.specs[:1]
    with pytest.raises(ConfigError, match=r"^Exit 'e1' cannot be exported to ONNX: the very reason"):
        export_graphs(net, {"main": (4,)})


class Drifting(nn.Module):
    """Gives something else each time it is traced."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return x * float(self.calls)


def test_graphs_that_disagree_with_pytorch_are_not_written(tmp_path):
    export(model_of({"only": nn.Identity()}, (4,)), tmp_path / "a")
    before = (tmp_path / "a" / "sentio.json").read_bytes()
    with pytest.raises(ConfigError, match=r"differ from PyTorch by .* so nothing was written"):
        export(model_of({"drift": Drifting()}, (4,)), tmp_path / "a")
    assert (tmp_path / "a" / "sentio.json").read_bytes() == before


def test_the_network_stays_as_it_was(small, monkeypatch):
    net = small.multi_exit().train()
    monkeypatch.setattr(module, "_to_onnx", fake_export)
    export_graphs(net, {"main": (1, 8, 8)})
    assert net.training
    assert net.backbone.stage("a").drop.training


def fake_export(key, stage, inputs, packed):
    from sentio.core.staged import as_boundary, as_value

    return b"", as_boundary(stage(as_value(inputs)) if packed else stage(*inputs.values()))


def test_without_an_input_shape_or_the_exporter(small, tmp_path, monkeypatch):
    model = small.model()
    monkeypatch.setattr("sentio.core.onnx_exporter.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"The ONNX exporter is not installed here; .*sentio\[export\]"
    ):
        export(model, tmp_path / "a")
    model.network.backbone.input_shapes = {}
    with pytest.raises(ConfigError, match="'small' does not know its input shape"):
        export(model, tmp_path / "a")


def test_a_place_that_is_taken_is_refused_before_any_work(small, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("precious")
    monkeypatch.setattr(module, "export_graphs", lambda *a: pytest.fail("something was exported"))
    with pytest.raises(ArtifactError, match="not a readable Sentio artifact, so it is not replaced"):
        export(small.model(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
