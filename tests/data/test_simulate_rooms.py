"""Surroundings: mirror images, late sound, and where sources can be."""

import math

import numpy as np
import pytest

from sentio.data.simulate import rooms, space
from sentio.data.simulate.rooms import Source, Surroundings, draw_surroundings, heard, images, placed, tail
from sentio.data.simulate.space import Air

RATE = 16000
BOX = Surroundings(
    "hall", (7.0, 5.0, 3.0), ((0.9, 0.8), (0.7, 0.85), (0.6, 0.95)), (2.5, 1.5, 1.4), Air(20.0, 50.0)
)
FIELD = Surroundings("open", (100.0, 100.0, 20.0), ((0, 0), (0, 0), (0.8, 0)), (50.0, 50.0, 2.0))
CANYON = Surroundings(
    "street", (300.0, 12.0, 10.0), ((0, 0), (0.8, 0.9), (0.95, 0)), (150.0, 3.0, 1.5), Air(20.0, 50.0)
)


def mirrored(surroundings, position, order):
    """Images and gains by mirroring at one side after the other, as a ray of light would have it."""
    size = surroundings.size
    found = {tuple(np.round(position, 9)): 1.0}
    layer = dict(found)
    for _ in range(order):
        following = {}
        for place, gain in layer.items():
            for axis in range(3):
                for side, factor in enumerate(surroundings.reflection[axis]):
                    image = list(place)
                    image[axis] = round(2 * side * size[axis] - place[axis], 9)
                    if factor > 0 and tuple(image) not in found:
                        following[tuple(image)] = gain * factor
        found |= following
        layer = following
    return found


@pytest.mark.parametrize("surroundings", [BOX, FIELD, CANYON], ids=lambda s: s.name)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_images_are_the_mirrored_sources(surroundings, order):
    position = np.array([3.1, 1.9, 1.1])
    signs, shifts, gains = images(surroundings, order)
    found = {tuple(np.round(p, 9)): g for p, g in zip(signs * position + shifts, gains, strict=True)}
    wanted = mirrored(surroundings, position, order)
    assert found.keys() == wanted.keys()
    assert all(found[place] == pytest.approx(gain) for place, gain in wanted.items())
    assert tuple(signs[0]) == (1, 1, 1) and not shifts[0].any() and gains[0] == 1


def test_a_field_has_an_echo_from_the_ground():
    source = Source((70.0, 50.0, 1.0))
    click = np.zeros(64)
    click[32] = 1.0
    found = heard(click, source, FIELD, np.random.default_rng(0), RATE)
    direct, echo = math.hypot(20, 1), math.hypot(20, 3)
    late = (echo - direct) / FIELD.air.speed_of_sound * RATE
    low = np.fft.rfft(found, 8192)[:100]
    turn = -2j * np.pi * np.arange(100) / 8192
    np.testing.assert_allclose(
        low, np.exp(32 * turn) * (1 / direct + 0.8 / echo * np.exp(late * turn)), rtol=0.01
    )


def test_no_late_sound_in_the_open():
    assert FIELD.reverberation_time == 0
    assert len(tail(FIELD, np.random.default_rng(0), RATE)) == 0


def test_reverberation_time_is_eyrings():
    sides = np.array([15, 15, 21, 21, 35, 35.0])
    absorbed = 1 - np.array([0.9, 0.8, 0.7, 0.85, 0.6, 0.95]) ** 2
    mean = np.sum(sides * absorbed) / np.sum(sides)
    assert BOX.reverberation_time == pytest.approx(0.161 * 105 / (-sides.sum() * math.log(1 - mean)))


def test_late_sound_decays_in_its_time():
    late = tail(BOX, np.random.default_rng(1), RATE)
    spectrum = np.fft.rfft(late)
    spectrum[np.fft.rfftfreq(len(late), 1 / RATE) > 1000] = 0
    energy = np.cumsum(np.fft.irfft(spectrum)[::-1] ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0])
    first, last = np.argmax(level < -8), np.argmax(level < -28)
    assert (last - first) / RATE * 3 == pytest.approx(BOX.reverberation_time, rel=0.15)


def test_a_microphone_hears_each_reflection_shifted_by_doppler():
    """Between facades the mirror images drive along, so a receding source is lower in all of them."""
    c, speed = CANYON.air.speed_of_sound, 20.0
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    signs, shifts, gains = images(CANYON)
    offsets = signs * np.array([200.0, 6.0, 1.0]) + shifts - np.array(CANYON.microphone)
    found = space.moving(tone, offsets, signs * np.array([speed, 0, 0]), gains, CANYON.air, RATE)
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert np.argmax(spectrum) * RATE / len(found) == pytest.approx(1000 * c / (c + speed), abs=2)


@pytest.mark.parametrize("name", sorted(rooms.SURROUNDINGS))
def test_sources_are_where_they_can_be(name):
    draw = np.random.default_rng(3)
    for _ in range(20):
        found = rooms.SURROUNDINGS[name][1](draw)
        assert all(0 < m < s for m, s in zip(found.microphone, found.size, strict=True))
        assert found.reverberation_time < 6
        wanted = draw.uniform(1.0, 60.0)
        place = placed(found, wanted, draw)
        assert all(0 < p < s for p, s in zip(place, found.size, strict=True))
        distance = math.dist(place, found.microphone)
        assert distance <= max(wanted, 4.0) + 1e-9
        if found.passable and name != "passage":
            assert distance == pytest.approx(max(wanted, abs(place[2] - found.microphone[2])), rel=0.1)


def test_the_same_generator_gives_the_same_surroundings():
    first, second = (draw_surroundings(np.random.default_rng(5)) for _ in range(2))
    assert first == second
    assert len({draw_surroundings(np.random.default_rng(seed)).name for seed in range(60)}) == 5


def test_pyroomacoustics_hears_the_same():
    """Image sources of the same box, up to the same order."""
    pra = pytest.importorskip("pyroomacoustics")
    names = ["west", "east", "south", "north", "floor", "ceiling"]
    flat = [r for pair in BOX.reflection for r in pair]
    materials = {n: pra.Material(energy_absorption=1 - r**2) for n, r in zip(names, flat, strict=True)}
    room = pra.ShoeBox(BOX.size, fs=RATE, materials=materials, max_order=2, air_absorption=False)
    position = (5.2, 3.3, 1.7)
    room.add_source(position)
    room.add_microphone(BOX.microphone)
    room.image_source_model()
    theirs = room.sources[0]
    # Their image sources are damped in energy, per octave band; here all bands are alike.
    wanted = sorted(
        (round(math.dist(place, BOX.microphone), 6), round(float(np.ravel(damping)[0]), 6))
        for place, damping in zip(theirs.images.T, theirs.damping.T, strict=True)
    )
    signs, shifts, gains = images(BOX)
    offsets = signs * np.array(position) + shifts - np.array(BOX.microphone)
    distances = np.linalg.norm(offsets, axis=1)
    found = sorted((round(d, 6), round(g, 6)) for d, g in zip(distances, gains, strict=True))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
