import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import sentio
from sentio.core import loading
from sentio.core.errors import ArtifactError, ConfigError, MissingExtraError
from sentio.core.loading import load
from sentio.core.policy import Confidence, ExitCosts, Fixed
from sentio.tasks.classification import Classification


def without_torch(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "torch" else find_spec(name))


def test_the_runtime_is_torch_where_it_can_be(artifact, monkeypatch):
    assert load(artifact).runtime == "torch"
    assert load(artifact, runtime="edge").runtime == "edge"
    without_torch(monkeypatch)
    assert load(artifact).runtime == "edge"
    with pytest.raises(MissingExtraError, match="PyTorch is not installed here; run: pip install 'sentio"):
        load(artifact, runtime="torch")


def test_without_torch_and_without_graphs(artifact, tamper, monkeypatch):
    tamper(artifact, lambda values: values.update(graphs={}))
    without_torch(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"holds no exported stages .* and PyTorch is not installed"):
        load(artifact)


def test_without_what_the_runtime_needs(artifact, tamper):
    tamper(artifact, lambda values: values["files"].pop("weights.safetensors"))
    assert load(artifact).runtime == "edge"
    with pytest.raises(
        ArtifactError,
        match=r"holds no weights for PyTorch; load it with runtime='edge' \(--runtime edge\), and",
    ):
        load(artifact, runtime="torch")
    tamper(artifact, lambda values: values.update(graphs={}))
    with pytest.raises(ArtifactError, match="holds no exported stages; write them with: sentio export"):
        load(artifact, runtime="edge")


def test_options_out_of_range(artifact):
    with pytest.raises(ConfigError, match="There is no runtime 'tpu'; choose one of: torch, edge"):
        load(artifact, runtime="tpu")
    with pytest.raises(ConfigError, match="needs at least one thread, got 0"):
        load(artifact, runtime="edge", threads=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["policy"].update(name="luck"), "Unknown policy 'luck'"),
        (lambda v: v["policy"].update(threshold=7), "thresholds are numbers between 0 and 1, got 7"),
        (lambda v: v["policy"].update(threshold={"e9": 0.5}), "Unknown exit 'e9'; "),
        (lambda v: v["policy"].update(depth=1), "Policy 'confidence' takes threshold; got threshold, depth"),
        (lambda v: v["task"].update(name="divination"), "Unknown task 'divination'"),
        (lambda v: v["task"]["settings"].update(colour=1), "has no option 'colour'"),
        (lambda v: v["task"]["settings"].update(labels=5), "different names, got 5"),
        (lambda v: v["task"]["settings"].update(labels="abc"), "a list of two or more different names"),
        (lambda v: v["task"]["settings"].update(labels=[["a"], ["b"]]), "a list of two or more different"),
        (lambda v: v["task"]["settings"].update(none_below="x"), "0 and 1, got 'x'"),
        (lambda v: v["frontend"].update(name="telescope"), "Unknown frontend 'telescope'"),
        (lambda v: v["frontend"]["settings"].update(kind="x"), "multiple values"),
    ],
)
@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_names_and_options_this_version_does_not_know(artifact, tamper, runtime, change, message):
    tamper(artifact, change)
    with pytest.raises(ArtifactError, match=r"^Artifact .* does not fit this version of Sentio: ") as caught:
        load(artifact, runtime=runtime)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["network"].update(name="perceptron"), "Unknown network 'perceptron'"),
        (lambda v: v["network"].update(options={"depth": 3}), "network 'small-net' has no option 'depth'"),
        (lambda v: v["network"].update(options={"width": "wide"}), "does not fit this version of Sentio"),
        (lambda v: v["network"].update(options={"width": -4}), "does not fit this version of Sentio"),
        (lambda v: v["network"].update(options={"name": "x"}), "multiple values"),
        (lambda v: v["exits"][0].update(kind="trapdoor"), "Unknown exit 'trapdoor'"),
        (lambda v: v["exits"][0].update(options={"depth": 3}), "exit 'small-branch' has no option 'depth'"),
        (lambda v: v["exits"][0].update(shapes=[]), "its weights do not fit its network"),
        (lambda v: v["exits"][0].update(shapes=[[9, 6, 6]]), "size mismatch for branches.e1.linear.weight"),
        (lambda v: v["network"].update(options={"width": 5}), "its weights do not fit its network"),
    ],
)
def test_networks_that_cannot_be_built_again(artifact, tamper, change, message):
    tamper(artifact, change)
    with pytest.raises(ArtifactError) as caught:
        load(artifact, runtime="torch")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert load(artifact, runtime="edge").runtime == "edge"


def test_an_exit_with_other_outputs_than_it_says(artifact, tamper):
    tamper(artifact, lambda values: values["exits"][0].update(outputs=9))
    with pytest.raises(ArtifactError, match="its weights do not fit its network: size mismatch"):
        load(artifact, runtime="torch")
    with pytest.raises(ArtifactError, match=r"gives shape \(batch, 3\), and exit 'e1' has 9 outputs"):
        load(artifact, runtime="edge")


def test_stages_that_are_not_those_of_the_network_here(artifact, tamper):
    def rename(values):
        values["network"]["stages"] = ["a", "b", "neck", "head"]
        values["graphs"] = {}

    tamper(artifact, rename)
    with pytest.raises(
        ArtifactError, match="it has stages a, b, neck, head, and network 'small-net' here has a, b, head"
    ):
        load(artifact, runtime="torch")


@pytest.mark.parametrize("name", ["keys", "training"])
def test_an_exit_with_a_name_that_pytorch_keeps_for_itself(artifact, tamper, name):
    def rename(values):
        values["exits"][0]["name"] = name
        values.update(graphs={}, costs=None, temperatures={}, policy={"name": "fixed", "exit": "final"})

    tamper(artifact, rename)
    with pytest.raises(ArtifactError, match="does not fit"):
        load(artifact, runtime="torch")


def test_exits_that_were_off_stay_off(small, tmp_path):
    model = small.model(policy=Fixed("final"))
    model.network.switch("e1", on=False)
    again = load(sentio.save(model, tmp_path / "a"))
    assert again.exit_names == ("e2", "final")
    assert again.network.exit_names == ("e1", "e2", "final")


def test_a_network_that_is_not_in_the_registry(small, tmp_path):
    net = small.multi_exit()
    net.backbone.spec = None
    path = sentio.save(small.model(net=net), tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"not in the registry; pass network= of the same structure$"):
        load(path)
    other = small.multi_exit(seed=9)
    other.backbone.input_shapes = {}
    found = load(path, network=other)
    x = small.features(3)
    np.testing.assert_array_equal(found.answer(x).outputs, small.model().answer(x).outputs)
    assert found.input_shapes == {"main": (1, 8, 8)}
    with pytest.raises(ArtifactError, match="its weights do not fit its network"):
        load(path, network=other.backbone)


def test_weights_that_are_shared_are_stored_for_each_name(small, tmp_path):
    model = small.model()
    one, other = model.network.branch("e1").linear, model.network.branch("e2").linear
    one.bias = other.bias = model.network.backbone.stage("head").linear.bias
    state = load(sentio.save(model, tmp_path / "a")).network.state_dict()
    for name in ("branches.e1", "branches.e2", "backbone.stages.head"):
        np.testing.assert_array_equal(state[f"{name}.linear.bias"], one.bias.detach())


def test_a_pruned_network_is_saved_once_its_weights_are_its_own(tmp_path):
    """Loaded, its masks would fit no network that the registry builds."""
    import torch
    from torch.nn.utils import parametrizations, prune

    from sentio.core.torch_artifact import rounded

    x = np.zeros((2, 1, 101, 64), np.float32)
    for change, undo in (
        (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), lambda c: prune.remove(c, "weight")),
        (
            parametrizations.weight_norm,
            lambda c: torch.nn.utils.parametrize.remove_parametrizations(c, "weight"),
        ),
    ):
        model = load("esc10-micro", runtime="torch")
        conv = next(module for module in model.network.modules() if isinstance(module, torch.nn.Conv2d))
        change(conv)
        with pytest.raises(
            ConfigError, match=r"Layer 'backbone\.stages\.stem.*' of model 'esc10-micro' makes"
        ):
            sentio.save(model, tmp_path / "model.zip")
        assert rounded(model).answer(x).outputs.shape == (2, 10)
        undo(conv)
        found = load(sentio.save(model, tmp_path / "model.zip"), runtime="torch")
        np.testing.assert_array_equal(found.answer(x).outputs, model.answer(x).outputs)


def test_a_network_without_an_input_shape_cannot_be_saved(small, tmp_path):
    model = small.model()
    model.network.backbone.input_shapes = {}
    with pytest.raises(ConfigError, match="'small' does not know its input shape; give Staged input_shapes="):
        sentio.save(model, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_pytorch_cannot_be_saved(artifact, tmp_path):
    with pytest.raises(ConfigError, match="runs without PyTorch"):
        sentio.save(load(artifact, runtime="edge"), tmp_path / "b")


def test_what_names_an_exit_that_is_not_there_is_not_saved(small, tmp_path):
    """It could not be loaded."""
    for change in (
        {"policy": Confidence({"e7": 0.5})},
        {"policy": Fixed("e7")},
        {"temperatures": {"e7": 2.0}},
        {"costs": ExitCosts(("e1", "e7"), (1.0, 2.0))},
    ):
        with pytest.raises(ConfigError, match="Unknown exit 'e7'"):
            sentio.save(small.model(**change), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_policy_of_ones_own_cannot_be_saved(small, tmp_path):
    class Mine(Fixed):
        pass

    with pytest.raises(ConfigError, match="A policy of type Mine cannot be stored"):
        sentio.save(small.model(policy=Mine("final")), tmp_path / "b")


def test_labels_that_are_fewer_than_the_outputs(artifact, tamper, small):
    tamper(artifact, lambda values: values["task"]["settings"].update(labels=["cat", "dog"]))
    model = load(artifact, runtime="torch")
    assert isinstance(model.task, Classification)
    with pytest.raises(ConfigError, match="task 'classification' takes 2 values for each sample"):
        model.answer(small.features(1))
    with pytest.raises(ArtifactError, match=r"gives shape \(batch, 3\), where 2 values for each sample"):
        load(artifact, runtime="edge")


INFERENCE = [
    "sentio",
    "sentio.core.model",
    "sentio.core.artifact",
    "sentio.core.manifest",
    "sentio.core.loading",
    "sentio.core.policy",
    "sentio.core.answering",
    "sentio.core.calibration",
    "sentio.tasks.classification",
    "sentio.edge.onnx_row",
]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_inference_imports_no_pytorch():
    run(f"import sys, {', '.join(INFERENCE)}; assert 'torch' not in sys.modules")


def test_an_artifact_answers_without_pytorch(artifact, small):
    code = f"""
import sys
sys.modules["torch"] = None  # any import of it fails
import numpy as np
import sentio.core.loading as loading
from importlib.util import find_spec
loading.find_spec = lambda name: None if name == "torch" else find_spec(name)
import sentio, sentio.audio
from sentio.core import registry
sentio.audio.MEMBERS["small-frontend"] = "x"
class FrontEnd:
    name, input_shapes = "small-frontend", {{"main": (1, 8, 8)}}
registry.register("frontend", "small-frontend")(lambda gain: FrontEnd())
model = sentio.load({str(artifact)!r})
x = np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 1, 8, 8)
print(model.runtime, *model.answer(x, policy=sentio.Fixed("e2")).outputs.ravel().tolist())
"""
    runtime, *values = run(code).split()
    assert runtime == "edge"
    x = np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 1, 8, 8)
    expected = load(artifact, runtime="torch").answer(x, policy=Fixed("e2")).outputs
    np.testing.assert_allclose(np.array(values, dtype=float).reshape(3, 3), expected, atol=1e-5)


@pytest.mark.parametrize("what", [3, None, b"model.sentio"])
def test_what_is_no_path_is_refused(what):
    with pytest.raises(ConfigError, match="An artifact is given as a path or a shipped model's name, got"):
        load(what)
