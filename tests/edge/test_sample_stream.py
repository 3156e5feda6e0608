"""Streams of samples on a box: what its steps answer about the frames that the front end makes of a clip."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from sentio import edge
from sentio.core.errors import ConfigError, InputError
from sentio.core.policy import Fixed
from sentio.core.stepping import STEPS

pytest.importorskip("onnx")
STEPS_TAKEN = 9


@pytest.fixture(scope="module")
def box(by_hand, tamper, tmp_path_factory):
    """With frames of four hops, of which the first is whole after a step."""
    copy = shutil.copytree(by_hand, tmp_path_factory.mktemp("samples") / "box")
    tamper(copy, lambda values: values["frontend"]["settings"].update(n_fft=512))
    return copy


@pytest.fixture(scope="module")
def model(box):
    return edge.load(box, threads=1)


@pytest.fixture(scope="module")
def ours(model):
    """Takes two frames, 256 samples, at a step."""
    return model.stream(samples=True)


def sound(seed, steps=STEPS_TAKEN, hop=256):
    return np.random.default_rng(seed).normal(0, 0.3, steps * hop).astype(np.float32)


def stepped(stream, samples, policy=None):
    state, found = None, []
    for chunk in np.split(samples, len(samples) // stream.hop):
        found.append(stream.step(chunk[None], state, policy))
        state = found[-1].state
    return found


def test_answers_are_those_about_the_clips_frames(model, ours):
    features = model.stream()
    assert (ours.hop, ours.rate, ours.front_end.warm_up) == (256, 8000, 1)
    assert ours.warm_up == {name: steps + 1 for name, steps in features.warm_up.items()}
    samples = sound(0)
    # The clip's last two frames see its end.
    frames = model.frontend.features(samples)[: 2 * (STEPS_TAKEN - 1)]
    for policy in (None, Fixed("final"), Fixed("e")):
        state, found = None, stepped(ours, samples, policy)
        assert not found[0].valid.any()
        for here, chunk in zip(found[1:], np.split(frames, STEPS_TAKEN - 1), strict=True):
            there = features.step(chunk[None, None], state, policy)
            state = there.state
            assert here.valid.tolist() == there.valid.tolist()
            assert here.exit.tolist() == there.exit.tolist()
            np.testing.assert_allclose(here.output, there.output, rtol=1e-6, atol=1e-5)
        assert (here.state[STEPS], state[STEPS]) == (STEPS_TAKEN, STEPS_TAKEN - 1)
        for name in state.keys() - {STEPS}:
            np.testing.assert_allclose(here.state[name], state[name], rtol=1e-6, atol=1e-5)


def test_streams_of_any_age_are_pushed_samples_as_they_come(ours):
    batch = edge.StreamBatch(ours)
    samples = {name: sound(seed) for seed, name in enumerate("abc")}
    place, answers = dict.fromkeys(samples, 0), {name: [] for name in samples}
    away = None
    random = np.random.default_rng(0)
    for turn in range(40):
        if turn in (0, 2, 5):
            batch.join("abc"[(0, 2, 5).index(turn)])
        if turn == 12:
            # Before it leaves it has no whole hop waiting, and what waits is pushed again.
            place["b"] = int(batch.state("b")[STEPS][0]) * ours.hop
            away = batch.leave("b")
        if turn == 16:
            batch.join("b", away)
        for name in batch.names:
            count = int(random.integers(1, 200))
            batch.push(name, samples[name][place[name] : place[name] + count])
            place[name] += count
        for name, answer in batch.run().items():
            answers[name].append(answer)
    assert min(map(len, answers.values())) > 5
    for name, got in answers.items():
        alone = stepped(ours, samples[name])
        for one, other in zip(got, alone, strict=False):
            if not other.valid[0]:
                assert isinstance(one.output, edge.Warming)
                continue
            assert one.exit == ours.exit_names[other.exit[0]]
            np.testing.assert_allclose(one.output, other.output[0], rtol=1e-5, atol=1e-5)


def test_a_state_goes_on_after_a_restart_and_is_not_changed(ours, tmp_path):
    found = stepped(ours, sound(3))
    before = {name: value.copy() for name, value in found[3].state.items()}
    edge.save_state(tmp_path / "state.npz", found[3].state)
    chunk = np.split(sound(3), STEPS_TAKEN)[4][None]
    again = ours.step(chunk, edge.load_state(tmp_path / "state.npz"))
    np.testing.assert_array_equal(again.output, found[4].output)
    for name, value in before.items():
        np.testing.assert_array_equal(found[3].state[name], value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("samples"), "of a stream of features: it lacks 'samples'"),
        (lambda state: state.update(samples=np.zeros((1, 3), np.float32)), r"'samples' has shape \(1, 3\)"),
        (lambda state: state.pop("kept"), "of another network: it lacks 'kept'"),
    ],
)
def test_a_state_that_does_not_fit(ours, change, words):
    state = ours.start()
    change(state)
    with pytest.raises(InputError, match=words):
        ours.step(np.zeros((1, 256), np.float32), state)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((1, 255), np.float32), r"takes 256 samples of each stream, shape \(batch, 256\); got"),
        (np.zeros(256, np.float32), "takes 256 samples"),
        (np.zeros((0, 256), np.float32), "takes 256 samples"),
        (np.zeros((1, 256), np.int16), "takes float samples, got int16; sentio.audio.io.from_array"),
        (np.full((1, 256), np.inf), "NaN or infinite"),
    ],
)
def test_samples_that_do_not_fit(ours, x, words):
    with pytest.raises(InputError, match=words):
        ours.step(x)


def test_a_front_end_that_needs_the_clip_is_refused_and_features_still_go(own_box, tamper):
    tamper(own_box, lambda values: values["frontend"]["settings"].update(top_db=80.0))
    model = edge.load(own_box, threads=1)
    with pytest.raises(ConfigError, match="cannot run on a stream: ref='max' and top_db measure"):
        model.stream(samples=True)
    assert model.step(np.zeros((1, 1, 2, 8), np.float32)).valid.all()
    tamper(own_box, lambda values: values.update(frontend=None))
    with pytest.raises(ConfigError, match="no front end that makes frames of samples as they come; its"):
        edge.load(own_box, threads=1).stream(samples=True)


# listening


@pytest.fixture
def clip(tmp_path):
    import soundfile

    samples = sound(5, steps=40)
    samples[10 * 256 : 24 * 256] = 0
    # At another rate and in stereo, as files are.
    soundfile.write(tmp_path / "clip.wav", np.repeat(samples, 2)[:, None].repeat(2, 1), 16_000)
    return tmp_path / "clip.wav"


def test_listening_in_steps_answers_each_step(model, ours, clip):
    from sentio.audio.io import read
    from sentio.audio.windows import SILENT_PEAK
    from sentio.serve.listening import hear

    found = hear(model, clip, in_steps=True)
    assert found.source == str(clip)
    samples = read(clip, rate=8000, mono=True).samples[0]
    want = stepped(ours, samples[: len(samples) // 256 * 256])
    heard = [(step, answer) for step, answer in enumerate(want) if answer.valid[0]]
    assert len(found.windows) == len(heard) == 39
    silent = 0
    for window, (step, answer) in zip(found.windows, heard, strict=True):
        assert window.end <= (step + 1) * 256 / 8000
        # A window of 0.3 s lies within ten steps.
        if np.abs(samples[max(0, step - 9) * 256 : (step + 1) * 256]).max() < SILENT_PEAK:
            silent += 1
            assert (window.exit, window.label) == ("none", None)
            continue
        exit = ours.exit_names[answer.exit[0]]
        assert window.exit == exit
        assert window.start == (step - ours.warm_up[exit]) * 256 / 8000
        best = model.task.labels[int(answer.output[0].argmax())]
        assert window.label == best
    assert 0 < silent < 5


def test_a_deadline_of_steps_is_kept_by_leaving_early(model, clip, monkeypatch):
    from sentio.core.policy import ExitCosts
    from sentio.serve import stream_listening

    measured = stream_listening.timed_steps

    def slow_tail(stream):
        costs, frames_ms = measured(stream)
        assert costs.names == ("e", "final")
        assert costs.macs == (10.0, 110.0)
        assert 0 <= costs.ms[0] <= costs.ms[1]
        return ExitCosts(costs.names, costs.macs, (costs.ms[0], 60_000.0)), frames_ms

    free = stream_listening.listen_in_steps(model, clip, policy=Fixed("final"))
    assert {window.exit for window in free} == {"e", "final", "none"}, "the last exit warms up for a step"
    monkeypatch.setattr(stream_listening, "timed_steps", slow_tail)
    bound = list(stream_listening.listen_in_steps(model, clip, policy=Fixed("final"), deadline_ms=5000))
    assert {window.exit for window in bound} == {"e", "none"}
    assert all(window.in_time for window in bound)


def test_an_exit_that_does_not_exist_is_refused_behind_a_deadline_too(model, clip):
    from sentio.serve import stream_listening

    with pytest.raises(ConfigError, match="Unknown exit 'block7'"):
        stream_listening.listen_in_steps(model, clip, policy=Fixed("block7"), deadline_ms=5000)


def test_the_command_listens_in_steps(box, clip):
    from typer.testing import CliRunner

    from sentio.cli.app import app

    run = CliRunner().invoke(app, ["listen", str(box), str(clip), "--stream", "--json"])
    assert run.exit_code == 0, run.output
    assert len(json.loads(run.output)["windows"]) == 39
    for more, words in (
        (["--hop", "1"], "hop of steps is the box's own"),
        (["--deadline", "0"], "deadline_ms must be a number above 0"),
    ):
        run = CliRunner().invoke(app, ["listen", str(box), str(clip), "--stream", *more])
        assert isinstance(run.exception, ConfigError)
        assert words in str(run.exception)


def test_a_recording_shorter_than_the_first_answer_is_refused(model, tmp_path):
    import soundfile

    from sentio.serve.listening import hear

    soundfile.write(tmp_path / "short.wav", np.zeros(300), 8000)
    with pytest.raises(InputError, match="too short: its stream ends before the first answer"):
        hear(model, tmp_path / "short.wav", in_steps=True)
