"""What is chosen where a recipe is silent."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import create_network
from sentio.data.readers import open_data
from sentio.training.defaults import complete, default_recipe
from sentio.training.recipe import read_recipe


@pytest.fixture
def clips(tmp_path):
    """``clips(rate, seconds)``: a data set of noise."""

    def make(rate, seconds, count=3):
        generator = np.random.default_rng(0)
        for label in ("a", "b"):
            (tmp_path / label).mkdir()
            for number in range(count):
                samples = generator.normal(0, 0.1, round(rate * seconds))
                soundfile.write(tmp_path / label / f"{number}.wav", samples, rate)
        return open_data(tmp_path)

    return make


@pytest.mark.parametrize(
    ("rate", "seconds", "window", "bands"),
    [
        (8000, 0.3, 0.5, 40),
        (8000, 1.0, 1.0, 40),
        (8000, 1.02, 1.0, 40),
        (16000, 1.2, 1.5, 64),
        (44100, 2.0, 2.0, 64),
        (8000, 14.0, 10.0, 40),
    ],
)
def test_the_front_end_follows_rate_and_length(clips, rate, seconds, window, bands):
    found = complete(default_recipe("x"), clips(rate, seconds), None).frontend
    assert found.options["rate"] == min(rate, 32000)
    assert found.options["window"] == window
    assert found.options["n_mels"] == bands
    _, frames, mels = registry.build("frontend", found.name, **found.options).input_shapes["main"]
    assert mels == bands
    assert 40 <= frames <= 260


def test_the_network_and_its_exits_fit_together(clips):
    recipe = complete(default_recipe("x"), clips(8000, 0.5), None)
    assert read_recipe(recipe) == recipe
    assert [stage for section in recipe.exits for stage in section.at] == ["block2", "block4"]


def test_what_the_recipe_says_stays(clips):
    given = read_recipe(
        {
            "name": "x",
            "network": "tiny-cnn",
            "frontend": {"name": "log-mel", "options": {"window": 0.3, "rate": 8000}},
        }
    )
    assert complete(given, clips(8000, 1), None) == given


def test_exits_of_the_recipe_stay_with_the_default_network(clips):
    exits = [{"kind": "pooled-linear", "at": ["block1"]}]
    recipe = complete(read_recipe({"name": "x", "exits": exits}), clips(8000, 1), None)
    assert recipe.network.name == "dcase2024-baseline"
    assert [section.at for section in recipe.exits] == [["block1"]]


def test_a_network_to_start_from_gets_no_other_network(clips):
    recipe = complete(default_recipe("x"), clips(8000, 1), create_network("tiny-cnn"))
    assert recipe.network is None and recipe.exits == []
    assert recipe.frontend is not None


def test_a_model_to_start_from_keeps_its_front_end(clips, trained):
    recipe = complete(default_recipe("x"), clips(8000, 1), trained.model)
    assert recipe.frontend is None and recipe.network is None


def test_a_bad_file_is_left_to_the_features_to_report(clips, tmp_path):
    data = clips(8000, 1.0)
    (tmp_path / "a" / "0.wav").write_bytes(b"no sound")
    assert complete(default_recipe("x"), data, None).frontend.options["rate"] == 8000


def test_no_file_can_be_read(clips, tmp_path):
    data = clips(8000, 1.0)
    for file in tmp_path.rglob("*.wav"):
        file.write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"No file of .* can be read as sound, e.g. a/0.wav"):
        complete(default_recipe("x"), data, None)


def test_images_need_a_front_end_by_name(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holds images, such as a/0.png; name a front end, image, and"):
        complete(default_recipe("x"), open_data(tmp_path), None)
