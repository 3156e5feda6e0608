"""A whole row in int8: what each graph is calibrated on, what it costs, and what the box says about it."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402

import sentio  # noqa: E402
from sentio.core.artifact import WEIGHTS, ArtifactFiles, write_artifact  # noqa: E402
from sentio.core.confidence import softmax  # noqa: E402
from sentio.core.errors import ConfigError  # noqa: E402
from sentio.core.loading import load  # noqa: E402
from sentio.core.policy import Confidence  # noqa: E402
from sentio.data.features import FeatureSet  # noqa: E402
from sentio.exporting import int8_figures, quantisation  # noqa: E402
from sentio.exporting import onnx as exporting  # noqa: E402
from sentio.exporting.half_precision import store_as_float16  # noqa: E402
from sentio.exporting.int8_figures import difference, divide, figures, refitted, sensitivity  # noqa: E402
from sentio.exporting.onnx import export  # noqa: E402
from sentio.exporting.quantisation import Int8, quantise_row, sums_overflow  # noqa: E402

LABELS = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def row(exported_small):
    files = ArtifactFiles(exported_small)
    graphs = files.manifest.graphs
    return graphs, {facts.file: files.read(facts.file) for facts in graphs.values()}


@pytest.fixture(scope="module")
def large_row(row):
    """The same; int8 makes graphs of a few weights larger, so files are padded to be worth it."""
    graphs, files = row
    padded = {}
    for name, data in files.items():
        model = onnx.load_from_string(data)
        model.doc_string = "x" * 20_000
        padded[name] = model.SerializeToString()
    return graphs, padded


@pytest.fixture(scope="module")
def model(exported_small, small):
    return load(exported_small, runtime="edge", threads=1)


def settings(x, **options):
    return Int8(calibration=x, **options)


def set_of(model, x, windows=2):
    """Features whose classes are what the model itself says at its last exit; so many windows a recording."""
    targets = model.outputs(x)["final"].argmax(axis=1)
    rows = np.arange(len(x)) // windows
    targets = targets[rows * windows]
    return FeatureSet(x, targets, rows, np.zeros(len(x), dtype=bool), {})


def scale_of(graph, name):
    """Step and zero point of the first rounding of an input."""
    found = onnx.load_from_string(graph).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.initializer}
    (node,) = [node for node in found.node if node.op_type == "QuantizeLinear" and node.input[0] == name]
    return float(held[node.input[1]]), int(held[node.input[2]])


def test_each_graph_is_calibrated_on_what_reaches_it(large_row, small):
    graphs, files = large_row
    x = small.features(40)
    found = quantise_row(graphs, files, {"main": x}, settings(x))
    assert found.quantised == tuple(graphs) and found.windows == 40
    assert found.ratio < 1 and found.notes == ()
    before = {}
    for key in ("stage:a", "stage:b"):
        facts = graphs[key]
        given = [x] if key == "stage:a" else [before[name] for name in facts.inputs]
        session = onnxruntime.InferenceSession(found.files[facts.file], providers=["CPUExecutionProvider"])
        inputs = {f"in_{index}": array for index, array in enumerate(given)}
        # What is rounded at the entrance of a graph spans what the quantised graph before it gives.
        step, _ = scale_of(found.files[facts.file], "in_0")
        seen = given[0]
        assert step == pytest.approx((max(seen.max(), 0) - min(seen.min(), 0)) / 255, rel=1e-5)
        before = dict(zip(facts.outputs, session.run(None, inputs), strict=True))


def test_windows_are_drawn_and_memory_is_bounded(large_row, small, monkeypatch):
    graphs, files = large_row
    x = small.features(50)
    first, again = (quantise_row(graphs, files, {"main": x}, settings(x, windows=20)) for _ in range(2))
    assert first.windows == 20 and first.files == again.files
    other = quantise_row(graphs, files, {"main": x}, settings(x, windows=20, seed=1))
    assert other.files != first.files
    monkeypatch.setattr(quantisation, "LARGEST", 1)
    assert quantise_row(graphs, files, {"main": x}, settings(x)).windows == quantisation.BATCH
    with pytest.raises(ConfigError, match="at least one window; the data hold none with a signal"):
        quantise_row(graphs, files, {"main": x[:0]}, settings(x))


def test_what_is_kept_stays_as_it_is(large_row, small):
    graphs, files = large_row
    x = small.features(20)
    found = quantise_row(graphs, files, {"main": x}, settings(x, keep=("b", "exit:e1")))
    assert found.quantised == ("stage:a", "exit:e2", "stage:head")
    for key in ("stage:b", "exit:e1"):
        assert found.files[graphs[key].file] == files[graphs[key].file]
        assert found.bytes[key][0] == found.bytes[key][1]
    with pytest.raises(
        ConfigError, match="no stage or exit 'c' to keep in float; there are: stage:a, exit:e1"
    ):
        quantise_row(graphs, files, {"main": x}, settings(x, keep=("c",)))


def test_float16_is_for_what_stays_float(large_row, small):
    """Quantisation begins with float32: of weights behind casts it would find none."""
    graphs, files = large_row
    x = small.features(20)
    kept = settings(x, keep=("stage:b",))
    plain = quantise_row(graphs, files, {"main": x}, kept)
    both = quantise_row(graphs, files, {"main": x}, kept, store=store_as_float16)
    assert both.quantised == plain.quantised
    for key, facts in graphs.items():
        if key in both.quantised:
            assert both.files[facts.file] == plain.files[facts.file]
    # Its weights are not exact in float16, so nothing but the way it is written has changed.
    assert both.files[graphs["stage:b"].file] == store_as_float16(files[graphs["stage:b"].file])
    assert both.bytes["stage:b"][0] == plain.bytes["stage:b"][0]


def test_graphs_that_int8_makes_no_smaller_stay_float(row, small):
    graphs, files = row
    x = small.features(20)
    found = quantise_row(graphs, files, {"main": x}, settings(x))
    floats = [key for key in graphs if key not in found.quantised]
    assert floats
    for key in floats:
        assert found.files[graphs[key].file] == files[graphs[key].file]
        assert f"{key} stays in float, since int8 would not make it smaller." in found.notes


def test_layers_that_cannot_be_quantised_are_told(large_row, small, monkeypatch):
    graphs, files = large_row
    x = small.features(20)
    monkeypatch.setattr(quantisation, "float_weights", lambda graph: ["GRU"])
    found = quantise_row(graphs, files, {"main": x}, settings(x))
    assert found.notes[0] == "stage:a: what ONNX Runtime does not quantise stays in float: GRU."
    assert found.quantised == ()

    def fail(*arguments, **options):
        raise ConfigError("it is odd")

    monkeypatch.setattr(quantisation, "quantise_graph", fail)
    with pytest.raises(
        ConfigError,
        match=r"^Stage 'a' cannot be quantised: it is odd; keep it in float with keep=\['stage:a'\] \(",
    ):
        quantise_row(graphs, files, {"main": x}, settings(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "found by one of: minmax, entropy, percentile; got 'guess'"),
        ({"windows": 0}, "at least one window, got 0"),
        ({"float_layers": ("Odd",)}, "names 'Odd'; layers that would be quantised are: Conv"),
    ],
)
def test_settings_that_are_not_possible(options, message):
    with pytest.raises(ConfigError, match=message):
        Int8(calibration=None, **options)


def test_recordings_are_in_one_part_only(model, small):
    data = set_of(model, small.features(60))
    parts = divide(model, settings(data))
    used, measured = (set(part.windows.rows) for part in (parts.calibration, parts.measured))
    assert parts.apart and not used & measured and len(used | measured) == 30
    assert len(parts.ranges["main"]) == parts.facts()["calibration"]["windows"]
    single = set_of(model, small.features(2))
    found = divide(model, settings(single))
    assert not found.apart and "no class has two recordings" in found.notes[0]
    given = divide(model, settings(single, measured=data))
    assert given.apart and given.measured.windows is data
    plain = divide(model, settings(small.features(3)))
    assert plain.measured is None and plain.facts() == {"calibration": None, "measured": None, "apart": False}


class Spoilt:
    """A row of which one exit says the opposite."""

    def __init__(self, row, exit):
        self.row, self.exit = row, exit

    def __getattr__(self, name):
        return getattr(self.row, name)

    def run_exit(self, name, tensors):
        output = self.row.run_exit(name, tensors)
        return -output if name == self.exit else output


def test_the_stage_that_costs_most_comes_first(model, small):
    parts = divide(model, settings(set_of(model, small.features(80), windows=1)))
    after = copy.copy(model)
    after.row = Spoilt(model.row, "e2")
    found = figures(model, after, parts)
    assert found["before"]["exits"]["final"]["accuracy"] == 1.0
    assert found["drops"]["final"] == found["drops"]["e1"] == 0.0
    assert found["drops"]["e2"] > 0.1
    keys = ("stage:a", "exit:e1", "stage:b", "exit:e2", "stage:head")
    rows = sensitivity(model, after, keys, parts)
    assert rows[0]["graph"] == "exit:e2" and rows[0]["drop"] == pytest.approx(found["drops"]["e2"])
    assert all(row["drop"] == row["difference"] == 0.0 for row in rows[1:])
    assert {row["graph"] for row in rows} == set(keys)
    plain = divide(model, settings(small.features(5)))
    assert figures(model, after, plain) == {}
    assert difference(model, model, plain) == {"largest": 0.0, "mean": 0.0}
    moved = difference(model, after, parts)
    assert 0 < moved["mean"] < moved["largest"] <= 1
    assert sensitivity(model, after, keys, plain)[0]["drop"] is None


def test_the_goal_of_the_thresholds_is_checked(model, small):
    parts = divide(model, settings(set_of(model, small.features(80), windows=1)))
    goals = {"accuracy_drop": 1.0}, {"accuracy_drop": 0.0}, {"target_accuracy": 0.9999}, {"mean_macs": 1.0}
    for goal, met in zip(goals, (True, False, False, False), strict=True):
        twin = copy.copy(model)
        twin.card = {"validation": {"operating_point": {"goal": goal}}}
        assert figures(twin, twin, parts)["goal"] == {"wanted": goal, "before": met, "after": met}
    assert "goal" not in figures(model, model, parts)


def test_thresholds_are_fitted_anew_on_the_calibration_part(model, small):
    parts = divide(model, settings(set_of(model, small.features(80), windows=1)))
    found = refitted(model, parts, 0)
    assert found.policy != model.policy and found.temperatures != model.temperatures
    assert found.temperatures.keys() == {"e1", "e2", "final"} and found.row is model.row
    x = parts.calibration.windows.inputs
    right = softmax(found.answer(x).outputs).argmax(axis=1) == parts.calibration.windows.targets
    best = max(
        (values.argmax(axis=1) == parts.calibration.windows.targets).mean()
        for values in found.outputs(x).values()
    )
    assert right.mean() >= best - int8_figures.GOAL["accuracy_drop"] - 1e-9
    with pytest.raises(ConfigError, match="fitted on labelled data"):
        refitted(model, divide(model, settings(small.features(5))), 0)
    unknown = copy.copy(model)
    unknown.costs = None
    with pytest.raises(ConfigError, match="'small' does not know the costs of its exits"):
        refitted(unknown, parts, 0)


def test_they_hold_as_surely_as_the_recipe_asked_by_recording(model, small, monkeypatch):
    asked = []
    real = int8_figures.calibrate

    def spy(outputs, targets, costs, goal, **options):
        asked.append((goal, options["recordings"]))
        return real(outputs, targets, costs, goal, **options)

    monkeypatch.setattr(int8_figures, "calibrate", spy)
    parts = divide(model, settings(set_of(model, small.features(80), windows=2)))
    twin = copy.copy(model)
    twin.card = {"recipe": {"calibration": {"certainty": 0.9}}}
    refitted(twin, parts, 0)
    ((goal, recordings),) = asked
    assert goal.certainty == 0.9
    windows = parts.calibration.windows
    assert recordings.tolist() == windows.rows[parts.calibration.heard].tolist()
    assert len(set(recordings.tolist())) < len(recordings)


@pytest.fixture(scope="module")
def box(small, tmp_path_factory):
    """In int8, with float16 where that stays, as one file."""
    from sentio.core.policy import ExitCosts

    costs = ExitCosts(("e1", "e2", "final"), (100.0, 300.0, 350.0))
    whole = small.model(frontend=small.frontend(), policy=Confidence({"e1": 0.7, "e2": 0.58}), costs=costs)
    x = small.features(80)
    data = set_of(whole, x, windows=1)
    path = tmp_path_factory.mktemp("int8") / "box.zip"
    options = settings(data, keep=("stage:b",), sensitivity=True)
    return whole, export(whole, path, int8=options, dtype="float16"), data


def test_an_int8_box_is_its_graphs_and_its_card(box, small):
    whole, found, _ = box
    files = ArtifactFiles(found.path)
    assert not files.has(WEIGHTS) and files.manifest.version == 4
    assert sorted(files.manifest.files) == sorted(facts.file for facts in files.manifest.graphs.values())
    card = files.manifest.card["int8"]
    assert card == json.loads(json.dumps(found.int8))
    assert card["calibration"]["recordings"] + card["measured"]["recordings"] == 80 and card["apart"]
    assert card["before"]["exits"].keys() == card["after"]["exits"].keys() == {"e1", "e2", "final"}
    assert {row["graph"] for row in card["sensitivity"]} == set(card["quantised"])
    assert found.bytes == {key: pair[1] for key, pair in card["bytes"].items()}
    assert "stage:b" not in card["quantised"]
    model = load(found.path)  # where PyTorch is installed too
    assert model.runtime == "edge" and model.policy == whole.policy
    again = model.outputs(small.features(6, seed=9))
    for name, values in whole.outputs(small.features(6, seed=9)).items():
        assert np.abs(softmax(values) - softmax(again[name])).max() < 0.1


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx2 sse4_2", True), ("avx2 avx512_vnni", False), ("avx2 avx_vnni", False)]
)
def test_a_processor_without_vnni_is_known(tmp_path, flags, expected):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nflags\t\t: {flags}\nprocessor : 1\nflags\t\t: {flags}\n")
    assert sums_overflow(file) is expected
    file.write_text("Features : asimd\n")
    assert not sums_overflow(file) and not sums_overflow(tmp_path / "none"), "of others nothing is said"


def test_where_accuracy_drops_on_such_a_processor_the_card_says_what_to_try(box, tmp_path, monkeypatch):
    whole, _, data = box
    monkeypatch.setattr(exporting, "sums_overflow", lambda: True)
    options = {"keep": ("stage:b",), "sensitivity": False}
    assert (
        exporting.OVERFLOW not in export(whole, tmp_path / "a", int8=settings(data, **options)).int8["notes"]
    )
    monkeypatch.setattr(exporting, "POINT", -1.0)
    assert exporting.OVERFLOW in export(whole, tmp_path / "b", int8=settings(data, **options)).int8["notes"]
    options["reduce_range"] = True
    assert (
        exporting.OVERFLOW not in export(whole, tmp_path / "c", int8=settings(data, **options)).int8["notes"]
    )


def test_what_stays_float_is_stored_as_float16(box):
    files = ArtifactFiles(box[1].path)
    graph = onnx.load_from_string(files.read(files.manifest.graphs["stage:b"].file)).graph
    assert {tensor.data_type for tensor in graph.initializer if np.prod(tensor.dims) >= 64} == {
        onnx.TensorProto.FLOAT16
    }


def test_a_box_without_weights_runs_on_its_graphs(exported_small, tmp_path):
    files = ArtifactFiles(exported_small)
    kept = {name: files.read(name) for name in files.manifest.files if name != WEIGHTS}
    path = write_artifact(tmp_path / "bare", files.manifest, kept)
    assert load(path).runtime == "edge"


def test_steps_of_streams_do_not_go_with_int8(exported_small, small, tmp_path):
    model = load(exported_small, runtime="torch")
    stream = SimpleNamespace(graphs=None, net=model.network)
    with pytest.raises(ConfigError, match="Steps of streams stay in float, so an artifact in int8 has none"):
        export(model, tmp_path / "box", int8=settings(small.features(8)), stream=stream)
    assert not (tmp_path / "box").exists()


def test_ranges_of_pixels_are_of_what_the_network_takes(tmp_path):
    """Pixels are kept as uint8 and standardised on the way in: ranges up to 255 would round all away."""
    from sentio.core.staged import create_network
    from sentio.core.torch_row import TorchRow
    from sentio.tasks.classification import Classification
    from sentio.vision.images import ImageFrontEnd

    torch.manual_seed(0)
    net = create_network("resnet8", classes=3).eval()
    frontend = ImageFrontEnd(height=32, width=32, mean=[0.5] * 3, std=[0.25] * 3)
    model = sentio.Model(TorchRow(net), Classification(list(LABELS)), frontend=frontend, name="pixels")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 3, 32, 32), dtype=np.uint8)
    written = export(model, tmp_path / "box", int8=Int8(calibration=pixels))
    assert written.int8["difference"]["mean"] < 0.01
    files = ArtifactFiles(tmp_path / "box")
    graph = files.read(files.manifest.graphs["stage:stem"].file)
    step, _ = scale_of(graph, onnx.load_from_string(graph).graph.input[0].name)
    assert step == pytest.approx(4 / 255, rel=0.02)  # from -2 to 2
