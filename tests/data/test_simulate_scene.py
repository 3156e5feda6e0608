"""Scenes: what is planned, what is audible, and that labels say when."""

from dataclasses import replace

import numpy as np
import pytest

from sentio.data.simulate import loudness, scene
from sentio.data.simulate.backgrounds import BACKGROUNDS, LEVELS, background
from sentio.data.simulate.events import EventKind
from sentio.data.simulate.scene import BACKGROUND, PAUSE, Sounds, plan_clip, plan_street, render

RATE = 16000


def beep(draw, rate):
    """A tone of 0.6 s between silences of 0.2 and 0.3 s."""
    tone = np.sin(2 * np.pi * draw.uniform(800, 1200) * np.arange(round(0.6 * rate)) / rate)
    return np.concatenate([np.zeros(round(0.2 * rate)), tone, np.zeros(round(0.3 * rate))])


def hiss(draw, rate):
    return draw.standard_normal(round(draw.uniform(4, 9) * rate))


def click(draw, rate):
    return draw.standard_normal(round(0.05 * rate)) * np.linspace(1, 0, round(0.05 * rate))


SOUNDS = Sounds(
    {
        "beep": EventKind("beep", beep, (85, 100), (3, 30)),
        "click": EventKind("click", click, (90, 110), (2, 20)),
        "hiss": EventKind("hiss", hiss, (80, 95), (3, 50), (2, 20)),
    }
)


def overlaps(events):
    """The most events at once, and whether two of a kind ever meet."""
    most, twins = 0, False
    for event in events:
        at_once = [e for e in events if e.onset <= event.onset < e.offset]
        most = max(most, len(at_once))
        twins |= len({e.label for e in at_once}) < len(at_once)
    return most, twins


def test_a_plan_and_its_samples_depend_on_the_key_only():
    np.random.seed(1)  # noqa: NPY002  the global state must not matter
    first = plan_street(SOUNDS, (7, 0, 3), seconds=5, rate=RATE)
    np.random.seed(2)  # noqa: NPY002
    assert plan_street(SOUNDS, (7, 0, 3), seconds=5, rate=RATE) == first
    assert plan_street(SOUNDS, (7, 0, 4), seconds=5, rate=RATE) != first
    assert plan_street(SOUNDS, (8, 0, 3), seconds=5, rate=RATE) != first
    np.testing.assert_array_equal(render(first, SOUNDS).samples, render(first, SOUNDS).samples)


@pytest.mark.parametrize("polyphony", [1, 2, 3])
def test_a_street_is_busy_but_not_too_busy(polyphony):
    counts, most = [], 0
    for index in range(12):
        plan = plan_street(SOUNDS, (0, 0, index), seconds=60, rate=RATE, polyphony=polyphony)
        counts.append(len(plan.events))
        ends = [(e.onset, e.onset + e.longest + PAUSE, e.label) for e in plan.events]
        for start, _, label in ends:
            meeting = [other for a, b, other in ends if a <= start < b]
            most = max(most, len(meeting))
            assert meeting.count(label) == 1
    assert most <= polyphony
    assert max(counts) <= 18
    if polyphony > 1:
        assert most == 2 if polyphony == 2 else most >= 2
        assert np.mean(counts) > 9


def test_labels_of_a_street_keep_the_polyphony_and_leave_gaps():
    quiet = []
    for index in range(3):
        plan = plan_street(SOUNDS, (1, 0, index), seconds=60, rate=8000)
        found = render(plan, SOUNDS)
        assert found.samples.shape == (60 * 8000,)
        assert np.abs(found.samples).max() <= scene.PEAK + 1e-9
        assert list(found.events) == sorted(found.events, key=lambda e: e.onset)
        assert all(0 <= e.onset < e.offset <= 60 for e in found.events)
        most, twins = overlaps(found.events)
        assert most <= 2 and not twins
        grid = np.arange(0, 60, 0.1)
        quiet.append(np.mean([not any(e.onset <= t < e.offset for e in found.events) for t in grid]))
    assert 0.1 < np.mean(quiet) < 0.9


def test_a_label_is_where_the_sound_is():
    """The tone stands between silences; the label leaves them out, and what it names is loud there."""
    for index in range(6):
        plan = plan_clip(SOUNDS, "beep", (2, 1, index), seconds=3.0, rate=RATE)
        found = render(plan, SOUNDS)
        bare = render(replace(plan, events=()), SOUNDS)
        (event,) = found.events
        alone = found.samples / 10 ** (found.scale / 20) - bare.samples / 10 ** (bare.scale / 20)
        inside = alone[round(event.onset * RATE) : round(event.offset * RATE)]
        assert np.sum(inside**2) > 0.95 * np.sum(alone**2)
        if event.offset < 3.0 and event.onset > 0:
            assert event.offset - event.onset > 0.5
        if plan.surroundings.reverberation_time == 0:
            assert event.offset - event.onset < 0.75


def test_every_ratio_is_within_the_range_and_most_of_it_occurs():
    ratios = []
    for index in range(40):
        plan = plan_clip(SOUNDS, ("beep", "click", "hiss")[index % 3], (3, 1, index), seconds=1, rate=8000)
        ratios += [event.snr for event in render(plan, SOUNDS).events]
    assert len(ratios) == 40
    assert min(ratios) > scene.SNR[0] - 2 and max(ratios) < scene.SNR[1] + 3
    assert np.std(ratios) > 5


def test_the_ratio_is_what_can_be_measured():
    plan = plan_clip(SOUNDS, "hiss", (4, 1, 1), seconds=2.0, rate=RATE)
    found, bare = render(plan, SOUNDS), render(replace(plan, events=()), SOUNDS)
    (event,) = found.events
    assert found.scale == bare.scale == 0
    place = slice(round(event.onset * RATE), round(event.offset * RATE))
    alone = loudness.level((found.samples - bare.samples)[place], RATE)
    assert alone - loudness.level(bare.samples[place], RATE) == pytest.approx(event.snr, abs=1.0)


def test_a_clip_holds_its_event_anywhere_but_enough_of_it():
    onsets, whole = [], 0
    for index in range(30):
        plan = plan_clip(SOUNDS, "hiss", (5, 1, index), seconds=2.0, rate=8000)
        (event,) = render(plan, SOUNDS).events
        assert event.offset - event.onset > 0.4
        onsets.append(event.onset)
        whole += event.onset == 0 and event.offset == 2.0
    assert 0 < whole < 30 and len(set(onsets)) > 5


def test_a_short_event_lies_wholly_in_its_clip():
    for index in range(20):
        draw = np.random.default_rng(index)
        sound = click(draw, RATE)
        onset = scene._place(sound, 1.0, draw, RATE)
        assert onset >= -0.02 and onset + 0.05 <= 1.02


def test_a_clip_of_the_background_has_no_event():
    plan = plan_clip(SOUNDS, BACKGROUND, (6, 1, 0), seconds=0.5, rate=8000)
    assert plan.events == () and render(plan, SOUNDS).events == ()


def test_what_would_clip_is_turned_down_and_says_so():
    plan = replace(plan_clip(SOUNDS, BACKGROUND, (6, 1, 0), seconds=0.5, rate=8000), level=115.0)
    found = render(plan, SOUNDS)
    assert np.abs(found.samples).max() == pytest.approx(scene.PEAK)
    assert found.scale < -3


def test_a_background_of_ones_own():
    def drone(level, draw, length, rate):
        return np.full(length, 1e-3)

    own = Sounds(SOUNDS.kinds, drone)
    plan = plan_clip(own, BACKGROUND, (6, 1, 0), seconds=0.5, rate=8000)
    assert plan.background == scene.OWN
    np.testing.assert_array_equal(render(plan, own).samples, 1e-3)


@pytest.mark.parametrize("name", sorted(BACKGROUNDS))
@pytest.mark.parametrize("rate", [8000, 44100])
def test_backgrounds_have_the_level_asked_for(name, rate):
    for seed in range(3):
        found = background(name, 50.0, np.random.default_rng(seed), 2 * rate, rate)
        assert loudness.level(found, rate) == pytest.approx(50.0, abs=0.01)
        assert found.shape == (2 * rate,) and np.isfinite(found).all()
        # No background is an event: no stretch stands out far.
        power = 10 * np.log10(loudness.frame_power(found, rate))
        assert np.ptp(np.convolve(power, np.ones(8) / 8, "valid")) < 30
    assert LEVELS[0] >= 40 and LEVELS[1] <= 68


def test_a_weighting_is_the_standards():
    """IEC 61672-1, table 3."""
    hertz = np.array([31.5, 63, 125, 250, 500, 1000, 2000, 4000, 8000])
    wanted = [-39.4, -26.2, -16.1, -8.6, -3.2, 0.0, 1.2, 1.0, -1.1]
    np.testing.assert_allclose(20 * np.log10(loudness.a_weighting(hertz)), wanted, atol=0.15)


def test_a_tone_at_full_scale_has_the_level_of_full_scale():
    tone = np.sqrt(2) * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    assert loudness.level(tone, RATE) == pytest.approx(loudness.FULL_SCALE, abs=0.1)
    assert loudness.level(np.zeros(100), RATE) == -np.inf
