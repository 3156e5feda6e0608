"""The front end as a graph gives the features of record, and answers as they do."""

import numpy as np
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")
from sentio.audio.frontend import LogMel  # noqa: E402
from sentio.audio.presets import PRESETS  # noqa: E402
from sentio.audio.windows import AudioFrontEnd  # noqa: E402
from sentio.core import registry  # noqa: E402
from sentio.core.artifact import ArtifactFiles, GraphFacts, write_artifact  # noqa: E402
from sentio.core.errors import ArtifactError, ConfigError  # noqa: E402
from sentio.core.loading import load  # noqa: E402
from sentio.core.shelf import shipped  # noqa: E402
from sentio.edge.front_end import with_front_end_graph  # noqa: E402
from sentio.exporting.front_end_graph import front_end_graph  # noqa: E402

SETTINGS = {
    "plain": {},
    "decibels below the maximum": {"ref": "max", "top_db": 60.0, "mean": -30.0, "std": 12.5},
    "magnitudes": {"power": 1.0, "norm": None, "mel_scale": "htk", "f_min": 200.0, "f_max": 3000.0},
    "natural logarithm": {"log": "ln", "center": False, "win_length": 200},
    "as in Kaldi": {
        "log": "ln-floor",
        "center": False,
        "frames_of": "window",
        "win_length": 200,
        "pre_emphasis": 0.97,
        "triangles": "mel",
        "mel_scale": "htk",
        "norm": None,
        "f_min": 20.0,
        "symmetric": True,
    },
    "reflected": {"pad_mode": "reflect", "drop_last": True, "frame_peak": True},
    "by band": {"n_mels": 4, "mean": (0.0, 1.0, 2.0, 3.0), "std": (1.0, 2.0, 3.0, 4.0)},
}


def features_of(graph: bytes, samples):
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"in_0": samples})[0]


def sounds(samples: int, rate: int, count: int = 3):
    """Tones of some loudness in noise that spans the bands."""
    random = np.random.default_rng(0)
    time = np.arange(samples) / rate
    tones = np.sin(2 * np.pi * time * random.uniform(100, rate / 3, (count, 1)))
    return (0.3 * tones + 0.01 * random.standard_normal((count, samples))).astype(np.float32)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_graph_gives_the_features_of_numpy(settings):
    log_mel = LogMel(**{"rate": 8000, "n_fft": 256, "hop_length": 100, "n_mels": 20, **settings})
    front_end = AudioFrontEnd(log_mel, 0.5)
    samples = sounds(4000, 8000)
    found = features_of(front_end_graph(front_end), samples)
    assert found.shape == (3, *front_end.input_shapes["main"])
    np.testing.assert_allclose(found[:, 0], log_mel(samples), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("preset", [name for name, options in PRESETS.items() if "n_mels" in options])
def test_every_preset_has_a_graph(preset):
    front_end = registry.build("frontend", "log-mel", preset=preset, window=1.0)
    samples = sounds(front_end.window_samples, front_end.features.rate, count=1)
    graph = front_end_graph(front_end)
    wanted = front_end.features(samples)[:, None]
    np.testing.assert_allclose(features_of(graph, samples), wanted, atol=2e-3, rtol=1e-4)
    # Tables, not kernels, are stored: those of 1,024 samples alone take four million bytes.
    assert len(graph) < 120_000


def test_other_front_ends_are_refused():
    with pytest.raises(ConfigError, match=r"Only the front end 'log-mel' can be written as a graph; .* 'wav"):
        front_end_graph(registry.build("frontend", "waveform"))
    with pytest.raises(ConfigError, match="the model's is none"):
        front_end_graph(None)


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A shipped model with the graph of its front end beside its stages."""
    files = ArtifactFiles(shipped()["fsdd-digits"])
    manifest = files.manifest
    facts = GraphFacts(file="front_end.onnx", inputs=["samples"], outputs=["main"])
    kept = {graph.file: files.read(graph.file) for graph in manifest.graphs.values()}
    kept[facts.file] = front_end_graph(load("fsdd-digits", runtime="edge").frontend)
    manifest = manifest.model_copy(update={"front_end_graph": facts, "version": 3})
    return write_artifact(tmp_path_factory.mktemp("box") / "box.zip", manifest, kept)


def test_answers_with_the_graph_are_the_same(box):
    model = load(box, threads=1)
    assert model.runtime == "edge"
    other = with_front_end_graph(model, box)
    assert other.frontend.settings() == model.frontend.settings()
    for recording in (sounds(8000, 8000, 1)[0], sounds(20_000, 16_000, 1)[0], sounds(3000, 8000, 1)[0]):
        source = (recording, 8000 if len(recording) != 20_000 else 16_000)
        ours, theirs = model.predict(source), other.predict(source)
        assert (ours.label, ours.exit, ours.notes) == (theirs.label, theirs.exit, theirs.notes)
        assert ours.scores.keys() == theirs.scores.keys()
        assert max(abs(ours.scores[name] - theirs.scores[name]) for name in ours.scores) < 1e-4
    window = sounds(8000, 8000, 1)[0]
    np.testing.assert_array_equal(
        other.frontend.prepare((window, 8000)).inputs[0],
        features_of(ArtifactFiles(box).read("front_end.onnx"), window[None])[0],
    )


def test_a_box_without_the_graph_or_with_another_is_refused(box, tmp_path):
    with pytest.raises(
        ArtifactError, match="holds no graph of its front end; export it again with --front-end"
    ):
        with_front_end_graph(load("fsdd-digits", runtime="edge"), "fsdd-digits")
    files = ArtifactFiles(box)
    kept = {name: files.read(name) for name in files.manifest.files}
    other = registry.build("frontend", "log-mel", rate=8000, n_fft=256, hop_length=128, n_mels=12)
    for content, message in (
        (front_end_graph(other), "does not take a window and give its features"),
        (b"nothing", "'front_end.onnx' is not a usable ONNX graph"),
    ):
        damaged = write_artifact(
            tmp_path / "damaged.zip", files.manifest, {**kept, "front_end.onnx": content}
        )
        with pytest.raises(ArtifactError, match=message):
            with_front_end_graph(load(damaged), damaged)
    old = files.manifest.model_copy(update={"version": 2})
    with pytest.raises(ArtifactError, match=r"not among its files|does not know graphs of front ends"):
        write_artifact(
            tmp_path / "old.zip",
            files.manifest.model_copy(
                update={"front_end_graph": GraphFacts(file="x", inputs=["a"], outputs=["main"])}
            ),
            kept,
        )
    assert "front_end_graph" not in old.values()
