"""Rendered folders: the same for a seed whatever made them, whole or not at all, and what readers take."""

import csv
import errno
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sentio.core.errors import ArtifactError, CancelledError, ConfigError, InputError
from sentio.data.readers import open_data
from sentio.data.simulate import jobs
from sentio.data.simulate.events import EVENTS, EVERYDAY
from sentio.data.simulate.labels import read_labels
from sentio.data.simulate.own_samples import own_samples, sounds, trimmed
from sentio.data.simulate.rendering import LABELS, render_clips, render_street

SMALL = {"per_class": 2, "seconds": 0.4, "rate": 8000, "workers": 1}


def state(folder):
    """Every file of a folder and its content's checksum."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return render_clips(tmp_path_factory.mktemp("simulate") / "clips", **SMALL)


@pytest.fixture
def own(tmp_path):
    """Two classes of short tones between silences, and a class of backgrounds."""
    folder, draw = tmp_path / "own", np.random.default_rng(0)
    for label, hertz in (("Low tone", 300), ("high", 1500)):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4000) / 8000)
            padded = np.concatenate([np.zeros(2000), tone, np.zeros(2000)])
            soundfile.write(folder / label / f"{number}.wav", padded, 8000)
    (folder / "background").mkdir()
    soundfile.write(folder / "background" / "0.wav", draw.normal(0, 0.1, 6000), 8000)
    return folder


def test_clips_are_what_open_data_takes(clips):
    data = open_data(clips)
    assert data.labels == tuple(sorted([*EVENTS, "background"]))
    assert set(data.counts().values()) == {2}
    assert data.notes == ()
    for item in data.items:
        facts = soundfile.info(item.source)
        assert (facts.frames, facts.samplerate, facts.channels, facts.subtype) == (3200, 8000, 1, "PCM_16")
        times = item.details["onset"], item.details["offset"]
        if item.label == "background":
            assert times == ("", "")
        else:
            assert 0 <= float(times[0]) < float(times[1]) <= 0.4
            assert float(item.details["distance_m"]) > 0
        assert float(item.details["scale_db"]) <= 0


def test_a_street_has_labels_that_can_be_read(tmp_path):
    out = render_street(tmp_path / "street", minutes=1.1, rate=8000, seed=3, workers=1)
    assert [path.name for path in sorted((out / "audio").iterdir())] == ["street_000.wav", "street_001.wav"]
    lengths = [soundfile.info(out / "audio" / f"street_00{n}.wav").duration for n in range(2)]
    assert lengths == [60.0, 6.0]
    events = read_labels(out)
    assert len(events) > 8
    assert {event.label for event in events} <= set(EVENTS)
    rows = table(out / "labels.csv")
    assert tuple(rows[0]) == LABELS
    assert all(len(row["onset"].partition(".")[2]) == 3 for row in rows)
    assert all(event.offset <= lengths[int(event.filename[7:10])] for event in events)
    assert [row["filename"] for row in table(out / "scenes.csv")] == ["street_000.wav", "street_001.wav"]


def test_the_number_of_processes_does_not_matter(clips, tmp_path):
    """Also that fresh processes can do it: nothing is inherited."""
    again = render_clips(tmp_path / "again", **{**SMALL, "workers": 2})
    assert state(again) == state(clips)


def test_another_seed_gives_other_sounds(clips, tmp_path):
    other = state(render_clips(tmp_path / "other", **SMALL, seed=1))
    mine = state(clips)
    assert other.keys() == mine.keys()
    assert all(other[name] != mine[name] for name in mine if name.endswith(".wav"))


def test_more_clips_begin_with_the_same(clips, tmp_path):
    more = render_clips(tmp_path / "more", **{**SMALL, "per_class": 3})
    mine = state(clips / "audio")
    assert {name: state(more / "audio")[name] for name in mine} == mine


def test_a_finished_rendering_is_left_as_it_is(clips):
    before = {path: path.stat().st_mtime_ns for path in clips.rglob("*")}
    seen = []
    assert render_clips(clips, **SMALL, progress=lambda *step: seen.append(step)) == clips
    assert seen == [(22, 22)]
    assert {path: path.stat().st_mtime_ns for path in clips.rglob("*")} == before


def test_an_interrupted_rendering_does_not_look_finished_and_can_be_gone_on_with(clips, tmp_path):
    out, seen = tmp_path / "out", []
    with pytest.raises(CancelledError, match="after 5 of 22 scenes"):
        render_clips(out, **SMALL, progress=lambda *step: seen.append(step), cancel=lambda: len(seen) == 5)
    assert seen == [(number, 22) for number in range(1, 6)]
    assert not (out / "meta.csv").exists()
    with pytest.raises(InputError):
        open_data(out)
    assert state(render_clips(out, **SMALL)) == state(clips)


def test_cancelling_stops_several_processes(tmp_path):
    seen = []
    with pytest.raises(CancelledError):
        render_clips(
            tmp_path / "out",
            **{**SMALL, "per_class": 4, "workers": 2},
            progress=lambda *step: seen.append(step),
            cancel=lambda: bool(seen),
        )
    assert 0 < len(seen) < 44


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": 0}, "There must be at least 1 clip per class, got 0"),
        ({"seconds": 0.0}, "A clip lasts from 0.1 to 60 seconds, got 0.0"),
        ({"seconds": float("nan")}, "A clip lasts from 0.1 to 60 seconds, got nan"),
        ({"rate": 7999}, "The rate must be from 8000 to 48000 samples per second, got 7999"),
        ({"rate": 96000}, "The rate must be from 8000 to 48000 samples per second, got 96000"),
        ({"seed": -1}, "A seed is a whole number from 0, got -1"),
        ({"workers": 0}, "There must be at least 1 worker, got 0"),
    ],
)
def test_settings_that_cannot_be(tmp_path, change, message):
    with pytest.raises(ConfigError) as raised:
        render_clips(tmp_path / "out", **{**SMALL, **change})
    assert str(raised.value) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("minutes", [0, -1, float("inf")])
def test_minutes_that_cannot_be(tmp_path, minutes):
    with pytest.raises(ConfigError, match="A street takes more than 0 minutes"):
        render_street(tmp_path / "out", minutes=minutes)


def test_a_polyphony_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="The polyphony must be at least 1, got 0"):
        render_street(tmp_path / "out", minutes=1, polyphony=0)


def test_a_folder_of_something_else_is_left_alone(clips, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="holds something else, so nothing is rendered there"):
        render_clips(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ArtifactError, match="holds another rendering"):
        render_clips(clips, **SMALL, seed=1)
    with pytest.raises(ArtifactError, match="holds another rendering"):
        render_street(clips, minutes=1)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="could not be written: Not a directory"):
        render_clips(tmp_path / "file" / "out", **SMALL)
    with pytest.raises(ArtifactError, match="holds something else"):
        render_clips(tmp_path / "file", **SMALL)


def test_a_full_disk(tmp_path, monkeypatch):
    written = []
    original = Path.write_bytes

    def fill(path, content):
        written.append(path)
        if len(written) > 4:
            original(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(ArtifactError, match="could not be written: No space left on device"):
        render_clips(tmp_path / "out", **SMALL)
    assert not (tmp_path / "out" / "meta.csv").exists()
    assert all(soundfile.info(path).frames == 3200 for path in (tmp_path / "out" / "audio").iterdir())


def test_ones_own_samples_become_the_classes(own, tmp_path):
    out = render_clips(tmp_path / "out", **SMALL, samples=own)
    data = open_data(out)
    assert data.labels == ("Low tone", "background", "high")
    assert {row["background"] for row in table(out / "meta.csv")} == {"own"}
    parallel = render_clips(tmp_path / "parallel", **{**SMALL, "workers": 2}, samples=open_data(own))
    assert state(parallel) == state(out)
    soundfile.write(own / "high" / "0.wav", np.sin(np.arange(4000) / 2), 8000)
    with pytest.raises(ArtifactError, match="holds another rendering"):
        render_clips(out, **SMALL, samples=own)


def test_ones_own_samples_are_heard_in_a_street(own, tmp_path):
    out = render_street(tmp_path / "out", minutes=0.3, rate=8000, samples=own)
    assert {event.label for event in read_labels(out)} == {"Low tone", "high"}
    # The recordings hold a tone of half a second in two seconds; a label may last a little beyond.
    assert all(event.offset - event.onset < 1.6 for event in read_labels(out))


def test_silence_around_a_sample_is_cut_off_and_long_ones_are_shortened(own):
    sound = trimmed(own / "high" / "0.wav", 16000)
    assert len(sound) / 16000 == pytest.approx(0.5, abs=0.03)
    long = own / "high" / "long.wav"
    soundfile.write(long, 0.1 * np.sin(np.arange(30 * 8000) / 3), 8000)
    kinds = sounds(own_samples(own, 8000)).kinds
    lengths = {len(kinds["high"].make(np.random.default_rng(seed), 8000)) / 8000 for seed in range(20)}
    assert max(lengths) == 8.0


def test_files_that_cannot_be_read_are_left_out_with_a_note(own, tmp_path):
    (own / "high" / "bad.wav").write_bytes(b"nonsense")
    soundfile.write(own / "high" / "silent.wav", np.zeros(4000), 8000)
    (own / "Low tone" / "empty.wav").write_bytes(b"")
    found = own_samples(own, 8000)
    assert [len(files) for files in found.files.values()] == [3, 3]
    (note,) = found.notes
    assert note.startswith("Left out files that cannot be used (3): Low tone/empty.wav (")
    out = render_clips(tmp_path / "out", **SMALL, samples=own)
    assert json.loads((out / "simulation.json").read_text())["notes"] == [note]


def test_a_class_without_a_usable_file_is_left_out(own):
    for file in (own / "high").iterdir():
        file.write_bytes(b"nonsense")
    found = own_samples(own, 8000)
    assert list(found.files) == ["Low tone"]
    assert found.notes[-1] == "Left out classes without a usable file (1): high."


def test_no_usable_file_at_all(own, tmp_path):
    for file in own.rglob("*.wav"):
        file.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"No file of .* can be used as an event: Low tone/0.wav \("):
        render_clips(tmp_path / "out", **SMALL, samples=own)
    assert not (tmp_path / "out").exists()


def test_what_goes_to_another_process_is_small(own):
    found = own_samples(own, 8000)
    assert found.keep is not None
    assert pickle.loads(pickle.dumps(found)).keep is None


def test_labels_that_are_no_file_names(tmp_path):
    draw, folder = np.random.default_rng(0), tmp_path / "own"
    for label in ("a b", "a_b", "ä/b".replace("/", "?")):
        (folder / label).mkdir(parents=True)
        soundfile.write(folder / label / "0.wav", draw.normal(0, 0.1, 2000), 8000)
    out = render_clips(tmp_path / "out", **SMALL, samples=folder)
    names = [path.name for path in (out / "audio").iterdir()]
    assert len(names) == 8 and all(name.isascii() and " " not in name for name in names)
    assert open_data(out).labels == ("a b", "a_b", "background", "ä?b")


@pytest.mark.parametrize(("script", "count"), [("render()", 1), ('if __name__ == "__main__": render()', 2)])
def test_a_script_without_a_guard_is_not_run_again(tmp_path, script, count):
    """By default it is rendered here, since each new process would do the script's work once more."""
    (tmp_path / "script.py").write_text(
        "from sentio.data.simulate import jobs\n"
        "def render():\n"
        "    work = [jobs.Job('a.wav', (0,), 60.0, 8000)] * 2\n"
        "    jobs.cores = lambda: 2\n"
        "    print(jobs.processes(work, None))\n" + script
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(count)


def test_little_work_needs_no_other_process():
    assert jobs.processes([jobs.Job("a.wav", (0,), 2.0, 8000)] * 9, None) == 1
    assert jobs.processes([jobs.Job("a.wav", (0,), 2.0, 8000)] * 3, 8) == 3


def test_a_logistic_regression_cannot_name_the_sounds(tmp_path):
    """Averages over time and hertz must not give the classes away; chance is one in eleven."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sentio.audio.frontend import LogMel

    log_mel = LogMel(rate=8000, n_fft=256, hop_length=128, n_mels=40)

    def averages(seed, per_class):
        out = render_clips(
            tmp_path / str(seed), **{**SMALL, "seconds": 1.0, "per_class": per_class}, seed=seed
        )
        data = open_data(out)
        found = [log_mel(soundfile.read(item.source, dtype="float32")[0]) for item in data.items]
        return np.array([one.mean(axis=0) for one in found]), data.targets

    x, y = averages(0, 12)
    z, wanted = averages(1, 6)
    mean, std = x.mean(axis=0), x.std(axis=0)
    model = linear_model.LogisticRegression(max_iter=2000).fit((x - mean) / std, y)
    right = np.mean(model.predict((z - mean) / std) == wanted)
    assert 0.12 < right < 0.8


def test_clips_of_other_kinds(tmp_path):
    everyday = open_data(render_clips(tmp_path / "e", per_class=1, seconds=0.3, rate=8000, kinds="everyday"))
    assert everyday.labels == tuple(sorted([*EVERYDAY, "background"]))
    every = open_data(render_clips(tmp_path / "a", per_class=1, seconds=0.2, rate=8000, kinds="all"))
    assert set(every.labels) == {*EVENTS, *EVERYDAY, "background"}
    with pytest.raises(ConfigError, match="Clips are made of the kinds street, everyday, all, got 'farm'"):
        render_clips(tmp_path / "x", per_class=1, kinds="farm")
    with pytest.raises(ConfigError, match="take the place of the kinds 'all'"):
        render_clips(tmp_path / "x", per_class=1, kinds="all", samples=tmp_path / "e")
