"""Augmented copies of the training part: which epochs see them, and that only training does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sentio.core import registry  # noqa: E402
from sentio.core.errors import CancelledError, ConfigError, InputError  # noqa: E402
from sentio.data import copies as copies_module  # noqa: E402
from sentio.data.features import features  # noqa: E402
from sentio.data.readers import open_data  # noqa: E402
from sentio.training.batches import Arrays, Shuffled  # noqa: E402
from sentio.training.copying import training_copies  # noqa: E402
from sentio.training.recipe import read_recipe  # noqa: E402
from sentio.training.training import train  # noqa: E402

CHANGES = {"copies": 2, "pitch": 2.0, "stretch": [0.9, 1.1], "time_shift": 0.05, "noise": [10, 30]}


def weights(model):
    return list(model.network.state_dict().values())


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def made(recipe, tones, **changes):
    """Originals and copies of the first six tones."""
    checked = read_recipe(recipe(augment={**CHANGES, **changes}))
    dataset = open_data(tones).subset(range(6))
    frontend = registry.build("frontend", "log-mel", **checked.frontend.options)
    originals = features(dataset, frontend)
    return originals, training_copies(checked, dataset, frontend, frontend, originals)


def test_copies_are_aligned_with_their_originals(recipe, tones):
    originals, copies = made(recipe, tones)
    assert copies.shape == (2, *originals.inputs.shape) and copies.dtype == np.float32
    assert not np.allclose(copies[0], copies[1])


def test_a_gain_of_the_sound_is_a_constant_of_its_own_clip(recipe, tones):
    louder = {"copies": 2, "wave_gain": 6.0}
    checked = read_recipe(recipe(augment=louder))
    dataset = open_data(tones).subset(range(0, 36, 7))
    frontend = registry.build("frontend", "log-mel", **checked.frontend.options)
    originals = features(dataset, frontend)
    copies = training_copies(checked, dataset, frontend, frontend, originals)
    change = (copies - originals.inputs).reshape(2, len(dataset), -1)
    assert np.allclose(change, change[..., :1], atol=1e-3)
    assert np.abs(change).max() <= 6.001 and len(np.unique(change[..., 0].round(3))) == 2 * len(dataset)


def test_features_of_copies_get_the_originals_standardisation(recipe, tones):
    checked = read_recipe(recipe(augment={"copies": 1, "wave_gain": 1e-6}))
    dataset = open_data(tones).subset(range(4))
    options = checked.frontend.options
    plain = registry.build("frontend", "log-mel", **options)
    fitted = registry.build("frontend", "log-mel", **options, mean=-30.0, std=12.0)
    originals = features(dataset, fitted)
    copies = training_copies(checked, dataset, plain, fitted, originals)
    assert np.allclose(copies[0], originals.inputs, atol=1e-3)


def test_a_copy_that_fell_silent_is_the_original(recipe, tones, monkeypatch):
    monkeypatch.setattr(
        copies_module, "changed", lambda item, sound, copy, plan: type(sound)(sound.samples * 0, sound.rate)
    )
    originals, copies = made(recipe, tones)
    assert np.array_equal(copies, np.stack([originals.inputs] * 2))


def test_a_front_end_that_cuts_copies_otherwise_is_refused(recipe, tones, monkeypatch):
    def longer(item, sound, copy, plan):
        return type(sound)(np.tile(sound.samples, 3), sound.rate)

    monkeypatch.setattr(copies_module, "changed", longer)
    with pytest.raises(InputError, match="into other windows than the originals"):
        made(recipe, tones)


def test_each_epoch_draws_the_original_or_a_copy():
    order = Shuffled(400, seed=3, versions=4)
    seen = np.zeros((6, 400), int)
    for epoch in range(6):
        order.set_epoch(epoch)
        version, sample = np.divmod(np.array(list(order)), 400)
        assert np.array_equal(np.sort(sample), np.arange(400))
        seen[epoch, sample] = version
        assert list(order) == list(order)
    shares = np.bincount(seen.ravel(), minlength=4) / seen.size
    assert np.allclose(shares, 0.25, atol=0.04)
    assert np.mean(seen[0] == seen[1]) == pytest.approx(0.25, abs=0.08)
    # Without copies the order is what it always was.
    plain, same = Shuffled(400, seed=3), Shuffled(400, seed=3, versions=1)
    assert list(plain) == list(same) == [int(i) for i in np.random.default_rng([3, 0]).permutation(400)]


def test_devices_share_the_versions_too():
    whole = Shuffled(10, seed=0, versions=3)
    parts = [Shuffled(10, seed=0, rank=rank, devices=2, versions=3) for rank in range(2)]
    assert sorted(list(parts[0]) + list(parts[1])) == sorted(whole)


def test_batches_hold_the_version_that_was_drawn():
    inputs = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
    arrays = Arrays(inputs, np.arange(5), np.stack([inputs + 10, inputs + 20]))
    found, targets, places = (torch.cat(part) for part in zip(*arrays.shuffled(3, seed=0), strict=True))
    found = found.flatten()
    assert torch.equal(found % 10, targets.float()) and set(targets.tolist()) == set(range(5))
    assert torch.equal(places, targets)
    assert torch.equal(torch.cat([x for x, *_ in arrays.in_order(2)]).flatten(), torch.arange(5.0))
    epochs = set()
    loader = arrays.shuffled(5, seed=0)
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)
        epochs |= set(torch.cat([x for x, *_ in loader]).flatten().tolist())
    assert epochs == {float(10 * version + sample) for version in range(3) for sample in range(5)}


def test_training_draws_copies_of_training_items_only(recipe, tones, tmp_path, monkeypatch):
    asked = []
    kept = copies_module.changed

    def spy(item, sound, copy, plan):
        asked.append((item.name, copy))
        return kept(item, sound, copy, plan)

    monkeypatch.setattr(copies_module, "changed", spy)
    steps = []
    model = train(None, recipe(augment=CHANGES, deterministic=True), tones, progress=steps.append)
    files = model.card["data"]["files"]
    assert len(asked) == len(set(asked)) == 2 * files["train"]
    jobs = [step for step in steps if step.job == "augmented copies"]
    assert [step.done for step in jobs] == list(range(1, len(asked) + 1)) and jobs[-1].total == len(asked)
    without = train(None, recipe(deterministic=True), tones)
    assert not equal(model, without)
    # The mean and deviation are those of the originals.
    assert model.frontend.settings() == without.frontend.settings()


def test_an_interrupted_training_with_copies_ends_with_the_same_bits(recipe, tones, tmp_path):
    settings = recipe(
        augment={**CHANGES, "mixup": 0.3, "freq_mixstyle": 0.5}, deterministic=True, keep="last"
    )
    whole = train(None, settings, tones, out=tmp_path / "whole")
    calls = []

    def stop():
        calls.append(1)
        return len(calls) > 36 + 2 * 24 + 8

    with pytest.raises(CancelledError, match="same command goes on"):
        train(None, settings, tones, out=tmp_path / "parts", cancel=stop)
    assert equal(whole, train(None, settings, tones, out=tmp_path / "parts"))


def test_copies_come_from_the_cache(recipe, tones, tmp_path, monkeypatch):
    settings = recipe(augment=CHANGES, deterministic=True)
    first = train(None, settings, tones, cache=tmp_path)
    assert len(list(tmp_path.glob("features-*.npz"))) == 3
    monkeypatch.setattr(copies_module, "changed", None)
    assert equal(first, train(None, settings, tones, cache=tmp_path))


def test_a_recipe_says_what_does_not_fit(recipe):
    with pytest.raises(ConfigError, match=r"augment\.copies: the copies would equal the originals"):
        read_recipe(recipe(augment={"copies": 2}))
    with pytest.raises(ConfigError, match="augment: pitch, noise are of augmented copies; give copies"):
        read_recipe(recipe(augment={"pitch": 2, "noise": [10, 20]}))
    with pytest.raises(ConfigError, match="augment: noise is a range of dB"):
        read_recipe(recipe(augment={"copies": 1, "noise": [30, 20]}))
    with pytest.raises(ConfigError, match=r"augment\.stretch\.0: .*greater than or equal to 0\.25"):
        read_recipe(recipe(augment={"copies": 1, "stretch": [0, 1]}))
    with pytest.raises(ConfigError, match="did you mean 'freq_mixstyle'"):
        read_recipe(recipe(augment={"freqmixstyle": 0.5}))
    assert read_recipe(recipe(augment={"copies": 1, "mel_jitter": 500})).augment.copies == 1


def test_devices_that_are_not_there_are_refused(recipe, tones):
    settings = {"copies": 1, "impulse_response": 0.5, "devices": ["a"]}
    with pytest.raises(ConfigError, match=r"has one of the devices a in 'device' \(no item says one\)"):
        train(None, recipe(augment=settings), tones)


def test_every_key_of_batches_does_what_its_function_does(recipe):
    """A mixed batch follows from the batch, its targets and a generator alone."""
    from sentio.audio import augmentation
    from sentio.tasks.classification import Classification
    from sentio.training.phase_module import PhaseModule

    def augmented(**changes):
        module = SimpleNamespace(
            recipe=read_recipe(recipe(augment=changes)), task=Classification(["a", "b", "c"])
        )
        return PhaseModule._augmented(module, x, targets, seeded())

    def seeded():
        return torch.Generator().manual_seed(5)

    x, targets = torch.randn(6, 1, 30, 16, generator=seeded()), torch.arange(6) % 3
    mask = {"fill": "region", "exclusive": True}
    for changes, wanted in (
        ({}, x),
        ({"roll": 0.5}, augmentation.time_roll(x, 0.5, seeded())),
        ({"shift": 0.5}, augmentation.frequency_shift(x, 0.5, seeded())),
        ({"gain": 0.5}, augmentation.gain(x, 0.5, seeded())),
        ({"time_mask": 0.3, "mask_fill": 2.0}, augmentation.time_mask(x, 0.3, seeded(), fill=2.0)),
        (
            {"time_mask": 0.3, "time_masks": 3, "mask_fill": "region", "mask_width": "exclusive"},
            augmentation.time_mask(x, 0.3, seeded(), count=3, **mask),
        ),
        (
            {"frequency_mask": 0.3, "frequency_masks": 2, "mask_fill": "region", "mask_width": "exclusive"},
            augmentation.frequency_mask(x, 0.3, seeded(), count=2, **mask),
        ),
        ({"warp_time": 0.2, "warp_frequency": 0.1}, augmentation.warp(x, 0.2, 0.1, seeded())),
        ({"erase": 0.9, "erase_side": 0.4}, augmentation.random_erasing(x, 0.9, seeded(), max_fraction=0.4)),
        (
            {"freq_mixstyle": 0.95, "freq_mixstyle_alpha": 0.2},
            augmentation.freq_mixstyle(x, 0.2, seeded(), probability=0.95),
        ),
        ({"mixstyle": 1.0, "mixstyle_alpha": 0.3}, augmentation.mixstyle(x, 0.3, seeded())),
    ):
        found, same, shares = augmented(**changes)
        assert torch.equal(found, wanted) and torch.equal(same, targets) and shares is None
        assert not changes or not torch.equal(found, x)
    soft = torch.nn.functional.one_hot(targets, 3).float()
    options = {"per_sample": True, "larger": True, "probability": 0.9}
    keys = {f"mixup_{name}": value for name, value in options.items()}
    *found, shares = augmented(mixup=0.3, **keys)
    for first, second in zip(found, augmentation.mixup(x, soft, 0.3, seeded(), **options), strict=True):
        assert torch.equal(first, second)
    # What was mixed is told beside: from it the batch follows again.
    torch.testing.assert_close(torch.einsum("ij,jctf->ictf", shares, x), found[0])
    torch.testing.assert_close(shares @ soft, found[1])
