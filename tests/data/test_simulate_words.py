"""Words of synthetic voices: with a stand-in for the program that says them, and with that program."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sentio.core.errors import (
    ArtifactError,
    CancelledError,
    ConfigError,
    MissingProgramError,
    UnknownNameError,
)
from sentio.data.readers import open_data
from sentio.data.simulate.accents import check_accents, read_accents
from sentio.data.simulate.words import render_words

STAND_IN = """#!{python}
import sys, io
import numpy as np, soundfile
arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("stand-in 1.0  Data at: nowhere")
elif arguments == ["--voices"]:
    print("Pty Language Age\\n 5  en-us  M  a  b\\n 5  en-gb  M  a  b\\n 5  de  M  a  b")
elif arguments == ["--voices=variant"]:
    print("Pty Language Age\\n 5  variant M female1 !v/f1\\n 5 variant M fast_test !v/fast")
else:
    at, word = arguments.index("--"), arguments[-1]
    voice, pace = arguments[arguments.index("-v") + 1], int(arguments[arguments.index("-s") + 1])
    if word != "unsayable":
        time = np.arange(int(22050 * 40 / pace)) / 22050
        tone = 0.5 * np.sin(2 * np.pi * (300 + 100 * len(word)) * time)
        quiet = np.zeros(4410)
        out = io.BytesIO()
        soundfile.write(out, np.concatenate([quiet, tone, quiet]), 22050, format="WAV")
        sys.stdout.buffer.write(out.getvalue())
"""

FLITE = """#!{python}
import sys, io
import numpy as np, soundfile
arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("  Somebody\\n  version: flite-9.9 Sep 2018 (somewhere)")
elif arguments == ["-lv"]:
    print("Voices available: kal kal16 slt ")
else:
    settings = dict(text.split("=") for text in arguments if "=" in text)
    hertz, stretch = float(settings["int_f0_target_mean"]), float(settings["duration_stretch"])
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(8000 * stretch)) / 16000)
    out = io.BytesIO()
    soundfile.write(out, tone, 16000, format="WAV")
    sys.stdout.buffer.write(out.getvalue())
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Stand-ins for espeak-ng and flite, alone on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("espeak-ng", STAND_IN), ("flite", FLITE)):
        file = folder / name
        file.write_text(text.format(python=sys.executable))
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def rows(folder):
    with (folder / "meta.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_words_become_clips_cut_to_the_word(program, tmp_path):
    told = []
    folder = render_words(
        tmp_path / "w",
        {"0": "zero", "stop": "stop"},
        per_word=3,
        rate=8000,
        progress=lambda *p: told.append(p),
    )
    data = open_data(folder)
    assert data.labels == ("0", "stop") and data.counts() == {"0": 3, "stop": 3}
    assert told == [(done, 6) for done in range(1, 7)]
    for row in rows(folder):
        samples, rate = soundfile.read(folder / "audio" / row["filename"])
        assert rate == 8000 and np.abs(samples).max() == pytest.approx(0.5, abs=1e-3)
        spoken = 40 / int(row["words_a_minute"])
        assert len(samples) / rate == pytest.approx(spoken + 0.06, abs=0.01), "silence is cut off"
        assert row["voice"] in ("en-us+f1", "en-gb+f1"), "every accent, only voices that somebody has"
        assert row["word"] == {"0": "zero", "stop": "stop"}[row["label"]]
    assert len({row["words_a_minute"] for row in rows(folder)}) > 1
    assert json.loads((folder / "simulation.json").read_text())["programs"] == ["espeak-ng: stand-in 1.0"]
    assert {(row["program"], row["size"]) for row in rows(folder)} == {("espeak-ng", "1.000")}


def test_several_programs_speak_and_speakers_differ_in_size(program, tmp_path):
    both = ("espeak-ng", "flite")
    folder = render_words(tmp_path / "w", ["yes", "no"], per_word=20, rate=8000, programs=both, sizes=0.25)
    found = rows(folder)
    assert {row["program"] for row in found} == set(both)
    assert {row["voice"] for row in found if row["program"] == "flite"} == {"kal16", "slt"}, (
        "one of a speaker"
    )
    sizes = np.array([float(row["size"]) for row in found])
    assert 0.8 <= sizes.min() < 0.9 and 1.1 < sizes.max() <= 1.25
    for row in found:
        samples, rate = soundfile.read(folder / "audio" / row["filename"])
        pace = int(row["words_a_minute"])
        spoken = 40 / pace if row["program"] == "espeak-ng" else 0.5 * 170 / pace
        # Each stand-in says a tone of one length, and a larger speaker is slowed down again.
        assert len(samples) / rate == pytest.approx(spoken, rel=0.02, abs=0.07)
        if row["program"] == "flite":
            spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 32768))
            voice = {"kal16": 105.0, "slt": 175.0}[row["voice"]] * 2 ** ((int(row["pitch"]) - 50) / 100)
            assert spectrum.argmax() * rate / 32768 == pytest.approx(voice / float(row["size"]), rel=0.02)
    assert json.loads((folder / "simulation.json").read_text())["programs"][1] == "flite: flite-9.9"


def test_a_seed_decides_and_a_finished_folder_is_left(program, tmp_path):
    def content(name, **options):
        folder = render_words(tmp_path / name, ["yes", "no"], per_word=2, **options)
        return [file.read_bytes() for file in sorted(folder.rglob("*.*"))]

    first = content("a", seed=4)
    assert content("b", seed=4, workers=1) == first and content("c", seed=5) != first
    before = (tmp_path / "a" / "meta.csv").stat().st_mtime_ns
    content("a", seed=4)
    assert (tmp_path / "a" / "meta.csv").stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match="holds another rendering"):
        content("a", seed=6)


def test_bad_input_is_refused_in_one_sentence(program, tmp_path):
    def ask(words=("yes", "no"), **options):
        return render_words(tmp_path / "x", list(words), **{"per_word": 1, **options})

    for options, message in (
        ({"words": ("yes",)}, "at least two words to tell apart"),
        ({"words": ("yes", " ")}, "at least two words"),
        ({"per_word": 0}, "at least 1 clip per word"),
        ({"language": "xx"}, "does not speak 'xx'"),
        ({"rate": 100}, "rate must be from 8000"),
        ({"sizes": 0.6}, "differ in size by 0 to 0.5, got 0.6"),
        ({"programs": ()}, "at least one program"),
        ({"programs": ("flite", "flite")}, "each named once"),
        ({"programs": ("flite",), "language": "de"}, "flite speaks English, not 'de'"),
        ({"words": ("yes", "unsayable")}, "does not say 'unsayable' with voice"),
    ):
        with pytest.raises(ConfigError, match=message):
            ask(**options)
    with pytest.raises(UnknownNameError, match="did you mean 'flite'"):
        ask(programs=("fflite",))
    with pytest.raises(CancelledError, match="after 0 of 2 words"):
        render_words(tmp_path / "y", ["yes", "no"], per_word=1, cancel=lambda: True)


def test_without_the_program_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingProgramError, match="espeak-ng, which is not installed; install eSpeak NG"
    ) as told:
        render_words(tmp_path / "w", ["yes", "no"], per_word=1)
    assert told.value.exit_code == 5
    assert not (tmp_path / "w").exists()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
def test_the_program_itself_says_words(tmp_path):
    folder = render_words(tmp_path / "w", ["yes", "no"], per_word=4, rate=16000)
    for row in rows(folder):
        samples, _ = soundfile.read(folder / "audio" / row["filename"])
        assert 0.1 < len(samples) / 16000 < 1.5 and samples.std() > 0.02


@pytest.mark.skipif(shutil.which("flite") is None, reason="the program flite is not installed")
def test_flite_itself_says_words(tmp_path):
    folder = render_words(tmp_path / "w", ["yes", "no"], per_word=6, programs=["flite"], sizes=0.2)
    assert {row["voice"] for row in rows(folder)} <= {"awb", "kal16", "rms", "slt"}
    for row in rows(folder):
        samples, _ = soundfile.read(folder / "audio" / row["filename"])
        assert 0.1 < len(samples) / 16000 < 2 and samples.std() > 0.02


ACCENTS = {"de": {"1": "wann", "2": "tu"}, "en-gb": {"1": "wun", "2": "tou"}}


def test_some_speak_with_an_accent_in_the_spelling_of_their_language(program, tmp_path):
    both, said = ("espeak-ng", "flite"), {"1": "one", "2": "two"}
    folder = render_words(
        tmp_path / "w", said, per_word=60, programs=both, rate=8000, accents=ACCENTS, accented=0.4
    )
    found = rows(folder)
    foreign = [row for row in found if row["word"] != said[row["label"]]]
    assert 0.25 < len(foreign) / len(found) < 0.55
    for row in foreign:
        language = row["voice"].partition("+")[0]
        assert row["word"] == ACCENTS[language][row["label"]] and row["program"] == "espeak-ng"
    assert {row["voice"].partition("+")[0] for row in foreign} == {"de", "en-gb"}
    assert {row["program"] for row in found if row not in foreign} == set(both)
    settings = json.loads((folder / "simulation.json").read_text())
    assert settings["accents"] == ACCENTS and settings["accented"] == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accents": {"de": {"1": "wann"}}}, r"Accent 'de' does not spell '2'"),
        ({"accents": {"de": {**ACCENTS["de"], "3": "sri"}}}, r"Accent 'de' spells '3', which is not said"),
        ({"accents": {"xx": ACCENTS["de"]}}, r"espeak-ng does not speak 'xx'"),
        ({"accents": ACCENTS, "accented": 0.0}, r"share of clips with an accent is above 0"),
        ({"accents": ACCENTS, "programs": ("flite",)}, r"Accents are said by espeak-ng; name it"),
    ],
)
def test_accents_that_cannot_be_said_are_refused(program, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        render_words(tmp_path / "w", {"1": "one", "2": "two"}, per_word=1, **changes)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"accents\.yaml cannot be read: No such file"),
        ("de: {1: wann", r"accents\.yaml are no YAML: "),
        ("de: {1: [wann]}", r"accents\.yaml are no table"),
        ("de: wann", r"accents\.yaml are no table; write LANGUAGE"),
    ],
)
def test_a_file_of_accents_is_read_or_refused(tmp_path, text, message):
    file = tmp_path / "accents.yaml"
    file.write_text("de: {1: wann, no: no}\n")
    assert read_accents(file) == {"de": {"1": "wann", "no": "no"}}, "words are no booleans"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_accents(file)


def test_accents_of_digits_spell_every_digit():
    accents = read_accents(Path(__file__).parents[2] / "zoo" / "digit-accents.yaml")
    check_accents(accents, [str(digit) for digit in range(10)])
    assert len(accents) == 10
