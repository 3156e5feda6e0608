"""The front end of eyes and ears: its parts, sources, settings, standardisation, refusals."""

import numpy as np
import pytest
import soundfile

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import finished
from sentio.vision.density_picture import write_png

pytest.importorskip("PIL")
PICTURE = {"height": 16, "width": 24}
SOUND = {"window": 0.5, "rate": 8000, "n_fft": 256, "hop_length": 128, "n_mels": 24}


def build(**options):
    return registry.build("frontend", "image-and-sound", **{"picture": PICTURE, "sound": SOUND, **options})


@pytest.fixture
def scene(tmp_path):
    """A picture and its sound in folders beside each other."""
    generator = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir(), (tmp_path / "sounds").mkdir()
    write_png(tmp_path / "pictures" / "a.png", generator.integers(0, 255, (16, 24, 3), dtype=np.uint8))
    soundfile.write(tmp_path / "sounds" / "a.wav", generator.normal(0, 0.1, 4000), 8000)
    return tmp_path / "pictures" / "a.png", tmp_path / "sounds" / "a.wav"


def test_both_parts_are_those_of_their_own_front_ends(scene):
    picture, sound = scene
    frontend = build()
    found = frontend.prepare({"main": picture, "audio": sound})
    eye, ear = registry.build("frontend", "image", **PICTURE), registry.build("frontend", "log-mel", **SOUND)
    assert np.array_equal(found.inputs["main"], eye.prepare(picture).inputs)
    assert np.array_equal(found.inputs["audio"], ear.prepare(sound).inputs)
    assert found.inputs["main"].dtype == np.uint8 and len(found) == 1
    shapes = {name: array.shape[1:] for name, array in found.inputs.items()}
    assert shapes == frontend.input_shapes == {"main": (3, 16, 24), "audio": ear.input_shapes["main"]}


def test_a_sound_of_the_same_name_is_found(scene, tmp_path):
    picture, sound = scene
    frontend = build()
    whole = frontend.prepare((picture, sound))
    samples, rate = soundfile.read(sound)
    pixels = registry.build("frontend", "image", **PICTURE).prepare(picture).inputs[0].transpose(1, 2, 0)
    for source in (picture, str(picture), (pixels, (samples, rate))):
        found = frontend.prepare(source)
        assert np.array_equal(found.inputs["main"], whole.inputs["main"])
        assert np.allclose(found.inputs["audio"], whole.inputs["audio"], atol=1e-4)
    assert frontend.companions(picture) == {"audio": sound}
    sound.rename(picture.with_suffix(".wav"))  # beside the picture itself
    assert np.array_equal(frontend.prepare(picture).inputs["audio"], whole.inputs["audio"])
    picture.with_suffix(".wav").unlink()
    assert frontend.companions(picture) == {}
    with pytest.raises(InputError, match=r"a.png has no sound of the same name; put a.wav beside it"):
        frontend.prepare(picture)
    with pytest.raises(InputError, match="There is no image file"):
        frontend.prepare(picture.with_name("b.png"))
    with pytest.raises(InputError, match=r"a\.png comes without a sound; name one, or use a front end"):
        frontend.prepare({"main": picture, "audio": None})
    with pytest.raises(InputError, match=r"^The picture comes without a sound"):
        frontend.prepare((pixels, None))


@pytest.mark.parametrize("hop", [None, 0.25, 0.4])
@pytest.mark.parametrize("samples", [4000, 4001, 5200, 6000, 7600, 8000, 12345])
def test_a_longer_sound_is_heard_around_its_middle(scene, samples, hop):
    picture, _ = scene
    sound = np.random.default_rng(samples).normal(0, 0.1, samples)
    frontend = build(sound={**SOUND, "hop": hop})
    first = (samples - 4000) // 2
    longer = frontend.prepare((picture, (sound, 8000)))
    middle = frontend.prepare((picture, (sound[first : first + 4000], 8000)))
    assert len(longer) == 1
    assert np.array_equal(longer.inputs["audio"], middle.inputs["audio"])


def test_the_middle_of_a_sound_is_silent_beside_a_loud_beginning(scene):
    ear = registry.build("frontend", "log-mel", **SOUND, quiet=40.0)
    sound = np.random.default_rng(0).normal(0, 0.001, 12000)
    assert ear.middle((sound, 8000)).silent.tolist() == [False]
    sound[:2000] *= 300
    found = ear.middle((sound, 8000))
    assert (found.silent.tolist(), found.starts.tolist(), found.ends.tolist()) == ([True], [0.5], [1.0])
    short = ear.middle((sound[:800], 8000))
    assert np.array_equal(short.inputs, ear.prepare((sound[:800], 8000)).inputs)
    assert short.notes == ("The recording of 0.100 s is padded with silence to 0.5 s",)


def test_settings_build_it_again_and_a_fit_standardises_both(scene):
    generator = np.random.default_rng(1)
    frontend = build()
    shapes = frontend.input_shapes
    inputs = {
        "main": generator.integers(0, 200, (5, *shapes["main"]), dtype=np.uint8),
        "audio": generator.normal(-30, 7, (5, *shapes["audio"])).astype(np.float32),
    }
    fitted = frontend.fitted(inputs)
    again = registry.build("frontend", "image-and-sound", **fitted.settings())
    assert again.settings() == fitted.settings() and again.mean["audio"] == pytest.approx(-30, abs=0.3)
    scaled = again.finish(inputs)
    for name, axes in (("main", (0, 2, 3)), ("audio", None)):
        assert scaled[name].dtype == np.float32
        assert np.allclose(scaled[name].mean(axes), 0, atol=1e-3)
        assert np.allclose(scaled[name].std(axes), 1, atol=1e-2)
    assert np.array_equal(finished(again, inputs)["audio"], scaled["audio"])
    assert finished(again, scaled) is scaled  # without pixels it is finished already
    plain = frontend.finish(inputs)
    assert plain["main"].max() <= 1 and np.array_equal(plain["audio"], inputs["audio"])


def test_silent_is_where_there_is_nothing_to_see_and_to_hear(scene, tmp_path):
    picture, _ = scene
    nothing, black = (np.zeros(4000), 8000), np.zeros((16, 24, 3), np.uint8)
    frontend = build()
    assert frontend.prepare((black, nothing)).silent.tolist() == [True]
    assert frontend.prepare((picture, nothing)).silent.tolist() == [False]
    with pytest.raises(InputError, match="the sounds of the training part do not vary"):
        found = frontend.prepare((black, nothing)).inputs
        frontend.fitted({**found, "audio": np.zeros_like(found["audio"])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"picture": 3}, "'picture' of front end 'image-and-sound' is names and values, got 3"),
        ({"picture": {"mean": 0.5, "std": 1}}, "has 'mean'; give it beside, by input"),
        ({"picture": {"colours": "rgb"}}, "frontend 'image' has no option 'colours'"),
        ({"sound": {"name": "image"}}, "Front end 'image' does not hear; name one of sound, such as log-mel"),
        ({"mean": {"main": 0.5}, "std": {"main": 1}}, "'mean' .* is a value for main and one for audio"),
        ({"mean": {"main": 0.5, "audio": 0}}, "takes mean and std, or neither"),
    ],
)
def test_options_that_are_not_possible_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "is a pair, or the path of the picture, got int"),
        ({"main": "a.png"}, "has 'main' and 'audio', got main"),
    ],
)
def test_sources_of_another_kind_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        build().prepare(source)
