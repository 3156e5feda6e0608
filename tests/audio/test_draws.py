"""Test-time augmentation: what must hold for any network, and both runtimes."""

from __future__ import annotations

import numpy as np
import pytest

from sentio.audio.draws import Draws, draws_of_training, with_draws
from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError
from sentio.core.loading import load
from sentio.core.policy import Confidence, ExitCosts, Fixed

WIDE = Draws(12, time_mask=0.5, frequency_mask=0.4, masks=2, roll=0.5)


def probabilities(model, x):
    return {name: softmax(output) for name, output in model.outputs(x).items()}


def test_masks_of_no_width_change_nothing(small):
    model, x = small.model(temperatures={"e1": 1.5, "final": 0.8}), small.features(5)
    found, plain = probabilities(with_draws(model, Draws(4)), x), probabilities(model, x)
    assert list(found) == list(plain)
    for name, rows in plain.items():
        np.testing.assert_allclose(found[name], rows, atol=1e-6)


def test_rows_sum_to_one_and_differ_from_the_plain_ones(small):
    model, x = small.model(), small.features(5)
    found, plain = probabilities(with_draws(model, WIDE), x), probabilities(model, x)
    for name, rows in found.items():
        np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)
        assert np.abs(rows - plain[name]).max() > 0.01


def test_the_mean_is_that_of_the_single_draws_and_its_loss_no_larger(small):
    """-log(mean p) <= mean(-log p) for every sample and class (Jensen)."""
    model, x = small.model(temperatures={"e1": 2.0}), small.features(5)
    drawn = WIDE.apply(x)
    assert drawn.shape == (5, 12, 1, 8, 8)
    found = probabilities(with_draws(model, WIDE), x)
    for name in found:
        single = np.stack([probabilities(model, drawn[:, k])[name] for k in range(12)])
        np.testing.assert_allclose(found[name], single.mean(axis=0), atol=1e-6)
        assert (-np.log(found[name]) <= -np.log(single).mean(axis=0) + 1e-6).all()


def test_a_seed_gives_the_same_answers_whoever_is_asked_beside(small):
    model, x = with_draws(small.model(), WIDE), small.features(5)
    first, again = probabilities(model, x), probabilities(with_draws(small.model(), WIDE), x)
    alone = probabilities(model, x[3:4])
    other = probabilities(with_draws(small.model(), Draws(12, 0.5, 0.4, 2, 0.5, seed=1)), x)
    for name, rows in first.items():
        np.testing.assert_array_equal(rows, again[name])
        np.testing.assert_allclose(rows[3:4], alone[name], atol=1e-6)
        assert np.abs(rows - other[name]).max() > 1e-4


def test_both_runtimes_give_the_same_answers(exported_small, small):
    x = small.features(6)
    models = [load(exported_small, runtime=name) for name in ("torch", "edge")]
    ours, theirs = (probabilities(with_draws(model, WIDE), x) for model in models)
    for name, rows in ours.items():
        np.testing.assert_allclose(rows, theirs[name], atol=1e-5)


def test_a_policy_sees_the_mean_and_pays_for_every_draw(small):
    costs = ExitCosts(("e1", "e2", "final"), (100.0, 300.0, 350.0), (1.0, 2.0, 3.0))
    model = with_draws(small.model(costs=costs, policy=Confidence(0.6)), WIDE)
    assert model.costs.macs == (1200.0, 3600.0, 4200.0)
    assert model.costs.ms == (12.0, 24.0, 36.0)
    x = small.features(60)
    sure = {name: rows.max(axis=1) for name, rows in probabilities(model, x).items()}
    expected = np.where(sure["e1"] >= 0.6, 0, np.where(sure["e2"] >= 0.6, 1, 2))
    close = (np.abs(np.stack([sure["e1"], sure["e2"]]) - 0.6) < 1e-5).any(axis=0)
    found = model.answer(x)
    np.testing.assert_array_equal(found.exit[~close], expected[~close])
    assert len(set(expected.tolist())) > 1
    np.testing.assert_allclose(
        softmax(model.answer(x, policy=Fixed("e1")).outputs), probabilities(model, x)["e1"], atol=1e-6
    )


def test_a_recording_is_predicted_as_its_features_are(small):
    model = with_draws(small.model(frontend=small.frontend()), WIDE)
    samples = np.random.default_rng(0).standard_normal(64)
    found = model.predict((samples, 64))
    expected = probabilities(model, samples.reshape(1, 1, 8, 8).astype(np.float32))["final"][0]
    assert found.score == pytest.approx(expected.max(), abs=1e-6)


def test_the_input_is_not_changed_and_masks_do_not_add_up():
    x = np.random.default_rng(0).standard_normal((2, 1, 40, 20)).astype(np.float32)
    before = x.copy()
    drawn = Draws(50, time_mask=0.3, frequency_mask=0.25).apply(x)
    np.testing.assert_array_equal(x, before)
    assert drawn.dtype == np.float32
    mean = x.mean(axis=(1, 2, 3))[:, None, None, None, None]
    frames = (drawn == mean).all(axis=(2, 4)).sum(axis=2)
    bands = (drawn == mean).all(axis=(2, 3)).sum(axis=2)
    assert frames.max() == 12
    assert bands.max() == 5
    assert frames.min() == bands.min() == 0


def test_widths_are_uniform():
    """Expected share with inclusive widths, one mask of at most 128 of 431 frames: 64 / 431."""
    hidden = Draws(20_000, time_mask=128.5 / 431)._spans(431, 128.5 / 431, np.random.default_rng(0))
    assert hidden.mean() == pytest.approx(64 / 431, rel=0.02)


def test_a_roll_keeps_every_frame():
    x = np.arange(10, dtype=np.float32).reshape(1, 1, 10, 1)
    drawn = Draws(40, roll=0.5).apply(x)[0, :, 0, :, 0]
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(10.0), (40, 1)))
    shifts = set(drawn[:, 0].astype(int).tolist())
    assert shifts <= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
    assert len(shifts) > 5


def test_draws_as_wide_as_in_the_training(small):
    augment = {"time_mask": 0.2, "frequency_mask": 0.1, "roll": 0.0, "mixup": 0.3}
    model = small.model(card={"recipe": {"augment": augment}})
    assert draws_of_training(model, 7) == Draws(7, time_mask=0.2, frequency_mask=0.1)
    augment |= {"time_masks": 2, "frequency_masks": 1}
    assert draws_of_training(small.model(card={"recipe": {"augment": augment}}), 7).masks == 2
    for card in ({}, {"recipe": {"augment": {"mixup": 0.3, "time_mask": 0.0}}}):
        with pytest.raises(ConfigError, match="was not trained with masks or rolls"):
            draws_of_training(small.model(card=card), 7)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"time_mask": 1.1}, {"roll": -0.1}, {"seed": -1}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(ConfigError, match="Test-time augmentation takes"):
        Draws(**wrong)


def test_inputs_of_another_kind_are_refused(small):
    net = small.multi_exit()
    net.backbone.input_shapes = {"main": (64,)}
    with pytest.raises(ConfigError, match=r"takes one input \(channel, time, frequency\)"):
        with_draws(small.model(net=net), WIDE)


@pytest.mark.parametrize("option", ["count", "masks", "seed", "time_mask", "roll"])
@pytest.mark.parametrize("bad", ["1", None, float("nan")])
def test_draws_take_numbers(option, bad):
    with pytest.raises(ConfigError, match="Test-time augmentation takes"):
        Draws(**{option: bad})
