from __future__ import annotations

import hashlib
from collections import Counter
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sentio.core.errors import ConfigError, InputError
from sentio.data.readers import open_data
from sentio.data.speech_commands import COMMANDS, official_part
from sentio.data.splits import splits

#: speakers of version 2 as its own lists have them
VALIDATION = "a69b9b3e 439c84f4 409c962a dbaf8fc6 a6d586b7 0e17f595 ff2b842e 7fd25f7c 3cc595de 591d32f3"
TESTING = "4c7c95de 189cbabe 8fe67225 af7a8296 8769c34c a60a09cf c9e251d2 c22d3f18 1b4c9b89 b97c9f77 0c40e715"
OTHERS = ("bed", "bird", "tree")


def speakers(count: int) -> list[str]:
    return [hashlib.sha1(str(number).encode()).hexdigest()[:8] for number in range(count)]


@pytest.fixture
def spoken(tmp_path, clip) -> Path:
    """Thirteen words of fourteen speakers, lists by the official hash, and three background recordings."""
    folder = tmp_path / "speech_commands_v0.02"
    training = [name for name in speakers(20) if official_part(name) == "train"][:8]
    sound = clip(tmp_path / "clip.wav").read_bytes()
    lists: dict[str, list[str]] = {"validation": [], "test": [], "train": []}
    for word in (*COMMANDS, *OTHERS):
        (folder / word).mkdir(parents=True)
        for speaker in (*training, *VALIDATION.split()[:3], *TESTING.split()[:3]):
            name = f"{word}/{speaker}_nohash_0.wav"
            (folder / name).write_bytes(sound)
            lists[official_part(name)].append(name)
    (folder / "validation_list.txt").write_text("\n".join(lists["validation"]) + "\n")
    (folder / "testing_list.txt").write_text("\n".join(lists["test"]) + "\n")
    generator = np.random.default_rng(0)
    (folder / "_background_noise_").mkdir()
    for name, seconds in (("white_noise", 12), ("running_tap", 20), ("short", 3)):
        noise = generator.normal(0, 0.1, seconds * 8000).clip(-1, 1)
        soundfile.write(folder / "_background_noise_" / f"{name}.wav", noise, 8000)
    for name in ("README.md", "LICENSE", "_background_noise_/README.md"):
        (folder / name).write_text("x")
    return folder


@pytest.mark.parametrize("part, listed", [("validation", VALIDATION), ("test", TESTING)])
def test_the_hash_gives_what_the_published_lists_have(part, listed):
    for speaker in listed.split():
        assert official_part(f"four/{speaker}_nohash_3.wav") == part
        assert official_part(f"{speaker}_nohash_0.wav") == part


def test_the_hash_gives_each_part_its_share():
    parts = Counter(official_part(f"{speaker}_nohash_0.wav") for speaker in speakers(4000))
    assert abs(parts["validation"] - 400) < 60 and abs(parts["test"] - 400) < 60
    halves = Counter(official_part(f"{speaker}_nohash_0.wav", 0, 50) for speaker in speakers(4000))
    assert "validation" not in halves and abs(halves["test"] - 2000) < 130


def test_every_word_in_its_published_part(spoken):
    dataset = open_data(spoken)
    assert dataset.labels == tuple(sorted((*COMMANDS, *OTHERS))) and len(dataset) == 13 * 14
    assert dataset.protocols == ("words", "commands") and dataset.notes == ()
    (split,) = splits(dataset)
    for part, indices in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        assert len(indices) and {official_part(dataset.items[index].name) for index in indices} == {part}
    groups = [{dataset.items[i].group for i in part} for part in (split.train, split.validation, split.test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    item = dataset.items[0]
    assert item.details["word"] == item.label and item.details["speaker"] == item.group


def test_ten_commands_beside_silence_and_unknown_words(spoken):
    dataset = open_data(spoken, protocol="commands")
    assert dataset.labels == tuple(sorted((*COMMANDS, "_silence_", "_unknown_")))
    (split,) = splits(dataset)
    for indices in (split.train, split.validation, split.test):
        counts = Counter(dataset.items[index].label for index in indices)
        commands = sum(counts[word] for word in COMMANDS)
        assert counts["_silence_"] == counts["_unknown_"] == ceil(commands / 10) > 0
    unknown = {item.details["word"] for item in dataset.items if item.label == "_unknown_"}
    assert unknown <= set(OTHERS) and len(unknown) > 1
    again = open_data(spoken, protocol="commands")
    assert [item.name for item in again.items] == [item.name for item in dataset.items]


@pytest.mark.parametrize(("opened", "other"), [("words", "commands"), ("commands", "words")])
def test_the_classes_of_one_protocol_are_not_divided_by_another(spoken, opened, other):
    dataset = open_data(spoken, protocol=opened)
    with pytest.raises(
        ConfigError, match=f"opened with protocol '{opened}', .* open it with protocol='{other}'"
    ):
        splits(dataset, other)


def test_the_counts_of_version_2(monkeypatch):
    """The published sizes of the 12-class task: 36,923, 4,445 and 4,890 clips."""
    from sentio.data import speech_commands
    from sentio.data.dataset import Item

    commands = {"train": 30_769, "validation": 3_703, "test": 4_074}
    items = [
        Item(f"yes/{part}{number}", Path("x"), "yes", None, {"part": part})
        for part, count in commands.items()
        for number in range(count)
    ]
    sizes = [count + 2 * speech_commands._extra(items, part) for part, count in commands.items()]
    assert sizes == [36_923, 4_445, 4_890]


def test_silence_is_cut_from_stretches_that_no_part_shares(spoken):
    dataset = open_data(spoken, protocol="commands")
    recordings = {
        name: soundfile.read(spoken / "_background_noise_" / f"{name}.wav")[0]
        for name in ("white_noise", "running_tap")
    }
    stretches = {"train": (0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1)}
    silence = [item for item in dataset.items if item.label == "_silence_"]
    assert {item.name.split("/")[1].rpartition("_")[0] for item in silence} == set(recordings)
    for item in silence:
        samples, rate = soundfile.read(item.source)
        assert rate == 8000 and len(samples) == 8000 and 0.005 < samples.std() < 0.11
        whole = recordings[item.name.split("/")[1].rpartition("_")[0]]
        first, last = (round(share * len(whole)) for share in stretches[item.details["part"]])
        padded = np.fft.rfft(samples, 1 << 18)
        spectrum = np.fft.rfft(whole[first:last], 1 << 18) * padded.conj()
        at = np.fft.irfft(spectrum).argmax() + first  # where the cut fits best
        volume = samples.std() / whole[at : at + 8000].std()
        assert np.abs(whole[at : at + 8000] * volume - samples).max() < 1e-3


def test_silence_lives_as_long_as_the_data(spoken):
    dataset = open_data(spoken, protocol="commands")
    part = dataset.subset([len(dataset) - 1])
    source = part.items[0].source
    assert source.stat().st_mtime == pytest.approx(
        (spoken / "_background_noise_/white_noise.wav").stat().st_mtime, abs=5
    )
    del dataset
    assert source.is_file()
    del part
    assert not source.exists()


@pytest.mark.parametrize("prefix", ["", "speech_commands_v0.02/"])
@pytest.mark.parametrize("protocol, size", [("words", 13 * 14), ("commands", None)])
def test_in_a_zip(spoken, tmp_path, zipped, prefix, protocol, size):
    dataset = open_data(zipped(spoken, tmp_path / "s.zip", prefix), protocol=protocol)
    assert dataset.protocol == protocol and len(dataset) == (
        size or len(open_data(spoken, protocol="commands"))
    )
    assert all(item.source.is_file() for item in dataset.items)


def test_a_list_that_differs_from_the_hash_is_followed_with_a_note(spoken):
    path = spoken / "testing_list.txt"
    moved, rest = path.read_text().split("\n", 1)
    path.write_text(rest)
    dataset = open_data(spoken)
    assert dataset.notes == ("Files in another part than their speaker's hash says (1); the lists count.",)
    assert next(item for item in dataset.items if item.name == moved).details["part"] == "train"


@pytest.mark.parametrize("name", ["validation_list.txt", "testing_list.txt"])
def test_a_list_is_missing(spoken, name):
    (spoken / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing, so the published split is not known; unpack"):
        open_data(spoken)


@pytest.mark.parametrize(
    "line, message",
    [
        ("yes/none_nohash_0.wav", r"lacks files that its lists name \(1: yes/none_nohash_0.wav\); unpack"),
        ("../yes/a.wav", "should be WORD/FILE; unpack"),
        ("a.wav", "is 'a.wav' and should be WORD/FILE"),
        ("TWICE", r"validation_list.txt line \d+ names .*, which is listed before; keep it in one list"),
        ("BOTH", r"testing_list.txt line 1 names .*, which is listed before; keep it in one list"),
    ],
)
def test_altered_lists(spoken, line, message):
    path = spoken / "validation_list.txt"
    tested = (spoken / "testing_list.txt").read_text().splitlines()[0]
    line = {"TWICE": path.read_text().splitlines()[0], "BOTH": tested}.get(line, line)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=message) as raised:
        open_data(spoken)
    assert "\n" not in str(raised.value)


def test_what_the_twelve_classes_need(spoken, clip):
    for file in (spoken / "_background_noise_").glob("[wr]*.wav"):
        file.unlink()
    with pytest.raises(
        InputError, match="holds no recording of 10 s or more, which protocol 'commands' cuts"
    ):
        open_data(spoken, protocol="commands")
    for file in (spoken / "stop").iterdir():
        file.rename(spoken / "bed" / f"stop{file.name}")
    with pytest.raises(InputError, match="lacks files that its lists name"):
        open_data(spoken)
    for name in ("validation_list.txt", "testing_list.txt"):
        lines = (spoken / name).read_text().splitlines()
        (spoken / name).write_text("\n".join(line for line in lines if not line.startswith("stop/")))
    with pytest.raises(InputError, match="has no recordings of stop, which protocol 'commands' needs"):
        open_data(spoken, protocol="commands")
    with pytest.raises(ConfigError, match="choose one of: words, commands"):
        open_data(spoken, protocol="speaker")
