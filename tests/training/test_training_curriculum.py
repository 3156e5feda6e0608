"""Curriculum and copycat in whole trainings."""

import shutil

import pytest
import torch

import sentio
from sentio.core.errors import CancelledError, ConfigError, InputError
from sentio.training.training import train


def ordered(order="easy-first", **options):
    pacing = {"name": "fixed-exponential", "start": 0.3, "growth": 1.5, "every": 2}
    return {"name": "curriculum", "options": {"order": order, "pacing": pacing, **options}}


def exits_only(name, **options):
    phases = {"name": "classifier-wise", "options": {"train_backbone": False}}
    return {"name": name, "options": {**options, "phases": phases}}


def state(model):
    return model.network.state_dict()


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(state(first).values(), state(second).values(), strict=True))


def starting_from(recipe, **changes):
    return recipe(network=None, frontend=None, exits=None, **changes)


def test_orders_differ_and_leave_the_backbone_alone(trained, tones, recipe):
    """All start from the same exits, the backbone stays bit for bit."""
    found = []
    for order in ("easy-first", "hard-first", "random"):
        technique = ordered(order, **exits_only("curriculum")["options"])
        found.append(train(trained.path, starting_from(recipe, technique=technique), tones))
    for model in found:
        for key, value in state(trained.model).items():
            assert torch.equal(state(model)[key], value) == key.startswith("backbone."), key
    assert not same(found[0], found[1])
    assert not same(found[0], found[2])


def test_a_curriculum_that_is_interrupted_goes_on_as_it_would_have(trained, tones, recipe, tmp_path):
    values = recipe(technique=ordered(teacher=str(trained.path), phases="end-to-end"), epochs=4)
    whole = train(None, values, tones, out=tmp_path / "whole")
    told = []
    with pytest.raises(CancelledError):
        train(
            None,
            values,
            tones,
            out=tmp_path / "parts",
            progress=told.append,
            cancel=lambda: sum(step.job.startswith("train") for step in told) >= 7,
        )
    assert same(whole, train(None, values, tones, out=tmp_path / "parts"))


def test_early_stopping_waits_until_everything_is_available(tones, recipe, tmp_path):
    """A learning rate that moves nothing would stop a training at once."""
    pacing = {"name": "single-step", "start": 0.5, "every": 9}
    technique = {
        "name": "curriculum",
        "options": {"order": "random", "pacing": pacing, "phases": "end-to-end"},
    }
    values = {"optimiser": {"lr": 1e-30}, "epochs": 12, "early_stopping": 1}
    lengths = {}
    for name, choice in (("plain", "end-to-end"), ("paced", technique)):
        train(None, recipe(technique=choice, **values), tones, out=tmp_path / name)
        rows = (tmp_path / f"{name}.run" / "phase-0" / "metrics.csv").read_text().splitlines()
        lengths[name] = len(rows) - 1
    assert lengths["plain"] < lengths["paced"] < 12


@pytest.fixture
def pool(tones, tmp_path):
    """Sounds without labels, some in a folder of their own."""
    folder = tmp_path / "pool"
    (folder / "inner").mkdir(parents=True)
    for number, file in enumerate(sorted(tones.rglob("*.wav"))):
        shutil.copy(file, folder / ("inner" if number % 2 else ".") / f"{number}.wav")
    (folder / ".hidden").write_text("x")
    return folder


def test_copycat_learns_from_what_its_teacher_says(trained, tones, recipe, pool):
    technique = exits_only("copycat", teacher=str(trained.path), pool=str(pool), ratio=2)
    values = starting_from(recipe, technique=technique, augment={"mixup": 0.3}, epochs=2)
    model = train(trained.path, values, tones)
    plain = train(
        trained.path,
        starting_from(
            recipe,
            technique={"name": "classifier-wise", "options": {"train_backbone": False}},
            augment={"mixup": 0.3},
            epochs=2,
        ),
        tones,
    )
    for key, value in state(trained.model).items():
        assert torch.equal(state(model)[key], value) == key.startswith("backbone."), key
    assert not same(model, plain)
    assert str(pool.parent) not in str(model.card)
    assert model.card["recipe"]["technique"]["options"]["pool"] == "pool"


def test_what_copycat_needs_is_said(trained, tones, recipe, pool, tmp_path):
    def run(**options):
        technique = exits_only("copycat", **options)
        train(trained.path, starting_from(recipe, technique=technique, epochs=1), tones)

    teacher = str(trained.path)
    with pytest.raises(ConfigError, match="as option pool"):
        run(teacher=teacher)
    with pytest.raises(ConfigError, match="needs a teacher"):
        run(pool=str(pool))
    with pytest.raises(ConfigError, match="ratio of samples"):
        run(teacher=teacher, pool=str(pool), ratio=0)
    with pytest.raises(ConfigError, match="There is no folder"):
        run(teacher=teacher, pool=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file with anything in it"):
        run(teacher=teacher, pool=str(tmp_path / "empty"))
    (pool / "broken.wav").write_bytes(b"x")
    with pytest.raises(InputError, match=r"1 files of the pool .* cannot be used: .*broken.wav"):
        run(teacher=teacher, pool=str(pool))


def test_images_are_trained_on_as_pixels(tmp_path):
    """From files by way of a fitted front end to a model that answers about a file."""
    pillow = pytest.importorskip("PIL.Image")
    import numpy as np

    generator = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(level - 50, level + 50, (20, 24, 3)).astype(np.uint8)
            pillow.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    values = {
        "name": "light",
        "frontend": {"name": "image", "options": {"height": 16, "width": 16}},
        "network": {"name": "glance-resnet", "options": {"width": 8}},
        "exits": [{"kind": "pooled-linear", "at": ["glance1"]}],
        "technique": {"name": "distillation", "options": {"teacher": "self"}},
        "augment": {"flip": 0.5, "crop": 2, "crop_edge": "reflect", "cutout": 0.2, "colour": 0.1},
        "optimiser": {"lr": 0.01},
        "epochs": 8,
        "batch": 8,
    }
    model = train(None, values, tmp_path / "data", out=tmp_path / "model", cache=tmp_path / "cache")
    assert model.card["test"]["accuracy"] == 1.0
    mean = model.frontend.settings()["mean"]
    assert mean == pytest.approx([125 / 255] * 3, abs=0.03)
    again = sentio.load(tmp_path / "model")
    file = tmp_path / "data" / "dark" / "0.png"
    assert again.predict(file).label == model.predict(file).label == "dark"
    pixels = model.frontend.prepare(file).inputs
    floats = model.frontend.finish(pixels)
    outputs = [model.outputs(inputs)["final"] for inputs in (pixels, floats)]
    assert np.array_equal(*outputs)
