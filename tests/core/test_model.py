from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.core.loading import load
from sentio.core.model import Model
from sentio.core.policy import Confidence, Fixed
from sentio.tasks.classification import Classification

RATE = 64


def recording(*levels, rest=0):
    """A second of noise around each level, zeros for None, and ``rest`` more samples; with its rate."""
    generator = np.random.default_rng(0)
    seconds = [
        np.zeros(RATE) if level is None else level + generator.standard_normal(RATE) for level in levels
    ]
    return np.concatenate([*seconds, np.ones(rest)]).astype(np.float32), RATE


@pytest.fixture
def model(small):
    return small.model(frontend=small.frontend())


@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_a_short_recording(artifact, runtime):
    found = load(artifact, runtime=runtime).predict(recording(0.3))
    assert found.label in ("cat", "dog", "owl")
    assert found.score == max(found.scores.values())
    assert sum(found.scores.values()) == pytest.approx(1.0)
    assert (found.start, found.end, found.windows, found.notes) == (0.0, 1.0, (), ())
    assert found.milliseconds > 0


@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_a_long_recording_is_answered_window_by_window_and_merged(artifact, runtime):
    model = load(artifact, runtime=runtime)
    source = recording(0.0, 2.0, -2.0)
    found = model.predict(source)
    assert [(part.start, part.end) for part in found.windows] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    for index, part in enumerate(found.windows):
        alone = model.predict((source[0][index * RATE : (index + 1) * RATE], RATE))
        assert (part.label, part.scores, part.exit) == (alone.label, alone.scores, alone.exit)
    for label, score in found.scores.items():
        assert score == pytest.approx(np.mean([part.scores[label] for part in found.windows]))
    assert (found.start, found.end) == (0.0, 3.0)
    assert found.milliseconds == pytest.approx(sum(part.milliseconds for part in found.windows))
    order = ["e1", "e2", "final"]
    assert order.index(found.exit) == max(order.index(part.exit) for part in found.windows)


def test_windows_overlap_by_a_hop(model):
    found = model.predict(recording(0.0, 1.0), hop=0.5)
    assert [part.start for part in found.windows] == [0.0, 0.5, 1.0]


def test_silent_windows_do_not_count(model):
    loud, mixed = model.predict(recording(0.0)), model.predict(recording(0.0, None))
    assert mixed.windows[1].label is None
    assert mixed.windows[1].exit == "none"
    assert (mixed.label, mixed.score) == (loud.label, pytest.approx(loud.score))


def test_a_silent_recording_is_none_of_these(model):
    found = model.predict(recording(None, None))
    assert (found.label, found.score, found.exit, found.scores) == (None, 0.0, "none", {})
    assert (found.start, found.end) == (0.0, 2.0)


def test_silence_runs_no_network(model, monkeypatch):
    monkeypatch.setattr(model.row, "run_stage", lambda *a: pytest.fail("a stage ran"))
    model.predict(recording(None))


def test_only_some_labels(model):
    best = model.predict(recording(0.0))
    assert model.predict(recording(0.0), only=[best.label]).label == best.label
    others = [label for label in ("cat", "dog", "owl") if label != best.label]
    found = model.predict(recording(0.0, 0.0), only=others)
    assert (found.label, found.windows[0].label) == (None, None)
    assert found.score > 0
    for source in (recording(0.0), recording(None)):
        with pytest.raises(UnknownNameError, match="Unknown label 'dogg'; did you mean 'dog'"):
            model.predict(source, only=["dogg"])


def test_none_of_these_below_a_probability(small):
    score = small.model(frontend=small.frontend()).predict(recording(0.0)).score
    for none_below, label_is_none in ((score - 0.01, False), (score + 0.001, True)):
        task = Classification(["cat", "dog", "owl"], none_below=none_below)
        found = small.model(task=task, frontend=small.frontend()).predict(recording(0.0))
        assert (found.label is None) == label_is_none
        assert found.score == pytest.approx(score)


def test_notes_of_the_front_end_are_passed(model):
    assert model.predict(recording(0.0, rest=7)).notes == ("The recording was odd",)
    assert model.predict(recording(None, rest=7)).notes == ("The recording was odd",)


def test_a_policy_for_one_call(model):
    assert model.predict(recording(0.0)).exit == "final"
    assert model.predict(recording(0.0), policy=Fixed("e1")).exit == "e1"
    assert model.predict(recording(0.0), policy=Confidence(0.0)).exit == "e1"


def test_without_a_front_end_only_features_are_taken(small):
    with pytest.raises(
        ConfigError, match=r"Model 'small' takes features, not files; call answer\(features\)"
    ):
        small.model().predict(recording(0.0))


def test_any_kind_of_numbers_will_do(model, small):
    x = small.features(4)
    expected = model.answer(x).outputs
    for given in (x.astype(np.float64), x[::-1].copy()[::-1], {"main": x}):
        np.testing.assert_allclose(model.answer(given).outputs, expected, atol=1e-6)
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(model.answer(frozen).outputs, expected)
    assert model.answer(np.ones((1, 1, 8, 8), dtype=np.int16)).outputs.dtype == np.float32


@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_any_kind_of_tensor_is_met_as_an_array_is(artifact, small, runtime):
    torch = pytest.importorskip("torch")
    model = load(artifact, runtime=runtime)
    x = np.round(small.features(4) * 4)
    expected = model.answer(x).outputs
    for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8):
        given = torch.from_numpy(x).to(kind)
        np.testing.assert_allclose(model.answer(given).outputs, expected, atol=1e-6)
    np.testing.assert_allclose(model.answer(torch.from_numpy(x).requires_grad_()).outputs, expected)
    with pytest.raises(InputError, match="holds complex64, not numbers"):
        model.answer(torch.from_numpy(x).to(torch.complex64))


@pytest.mark.parametrize(("kind", "near"), [("half", 2e-2), ("double", 1e-5), ("bfloat16", 1e-1)])
def test_a_network_in_another_precision_answers_too(model, small, kind, near):
    x = small.features(4)
    expected = model.answer(x, policy=Fixed("final")).outputs
    getattr(model.network, kind)()
    found = model.answer(x, policy=Fixed("final")).outputs
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=near)
    assert model.time_exits(repeats=1).ms is not None


def test_pixels_in_a_tensor_are_standardised_as_those_in_an_array():
    torch = pytest.importorskip("torch")
    model = load("cifar10-anytime", runtime="torch")
    pixels = np.random.default_rng(0).integers(0, 256, (2, *model.input_shapes["main"]), dtype=np.uint8)
    expected = model.answer(pixels).outputs
    np.testing.assert_array_equal(model.answer(torch.from_numpy(pixels)).outputs, expected)


@pytest.mark.parametrize("runtime", ["torch", "edge"])
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            np.zeros((2, 1, 8, 9)),
            r"takes input 'main' of shape \(batch, 1, 8, 8\), got \(2, 1, 8, 9\)",
        ),
        (np.zeros((1, 8, 8)), r"got \(1, 8, 8\)"),
        (np.zeros((0, 1, 8, 8)), "got an empty batch for input 'main'"),
        (np.full((1, 1, 8, 8), np.nan), "holds NaN or infinite values"),
        (np.full((1, 1, 8, 8), 1e300), "holds NaN or infinite values"),
        (np.full((1, 1, 8, 8), "x"), "holds <U1, not numbers"),
        ([[1.0]], "takes arrays of features; got list"),
        ({"audio": np.zeros((1, 1, 8, 8))}, "takes inputs main; got audio"),
        ({}, "takes inputs main; got none"),
    ],
)
def test_features_that_cannot_be_used(artifact, runtime, features, message):
    model = load(artifact, runtime=runtime)
    with pytest.raises(InputError, match=message):
        model.answer(features)
    with pytest.raises(InputError, match=message):
        model.outputs(features)


def test_the_network_says_the_shape_where_there_is_no_front_end(small):
    model = small.model()
    assert model.input_shapes == {"main": (1, 8, 8)}
    with pytest.raises(InputError, match=r"of shape \(batch, 1, 8, 8\)"):
        model.answer(np.zeros((1, 1, 6, 6)))


def test_outputs_of_all_exits_in_batches(small):
    model = small.model(temperatures={"e1": 2.0}, policy=Confidence(0.0))
    x = small.features(7)
    found = model.outputs(x, batch=3)
    assert list(found) == ["e1", "e2", "final"]
    for name, values in found.items():
        np.testing.assert_allclose(values, model.answer(x, policy=Fixed(name)).outputs, atol=1e-6)


def test_temperatures_change_the_confidence_but_not_the_order(small):
    x = small.features(20)
    plain, soft = (
        small.model(temperatures=temperatures).answer(x, policy=Fixed("e1"))
        for temperatures in ({}, {"e1": 3.0})
    )
    np.testing.assert_array_equal(plain.outputs.argsort(axis=1), soft.outputs.argsort(axis=1))
    assert (soft.confidence < plain.confidence).all()
    np.testing.assert_allclose(softmax(plain.outputs / 3.0).max(axis=1), soft.confidence, atol=1e-6)


def test_a_temperature_that_is_not_positive(small):
    with pytest.raises(ConfigError, match="temperature of exit 'e1' must be a positive number"):
        small.model(temperatures={"e1": 0.0})


@pytest.mark.parametrize("runtime", ["torch", "edge"])
def test_several_threads_get_the_same_answers(artifact, small, runtime):
    model = load(artifact, runtime=runtime, threads=1 if runtime == "edge" else None)
    batches = [small.features(1 + index % 5, seed=index) for index in range(40)]
    alone = [model.answer(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.answer, batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.outputs, other.outputs, atol=1e-6)
        np.testing.assert_array_equal(one.exit, other.exit)
    assert len({name for found in alone for name in found.exit_names()}) > 1


def test_a_network_that_was_trained_on_since_answers_in_eval_mode(small):
    model = small.model()
    expected = model.answer(small.features(3)).outputs
    model.network.train()
    np.testing.assert_array_equal(model.answer(small.features(3)).outputs, expected)


def test_the_network_of_a_model(artifact, small):
    model = small.model()
    assert model.network is model.row.net
    assert (model.runtime, model.exit_names) == ("torch", ("e1", "e2", "final"))
    edge = load(artifact, runtime="edge")
    assert edge.runtime == "edge"
    with pytest.raises(ConfigError, match="runs without PyTorch; load it with runtime='torch'"):
        _ = edge.network


def test_defaults(small):
    model = Model(small.model().row, Classification(["cat", "dog", "owl"]))
    assert (model.policy, model.temperatures, model.costs, model.card) == (Fixed("final"), {}, None, {})
