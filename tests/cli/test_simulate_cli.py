"""``sentio simulate``: what it writes, prints and refuses."""

import json
import shlex

import numpy as np
import pytest
import soundfile

from sentio.data.readers import open_data
from sentio.data.simulate.events import EVENTS
from sentio.data.simulate.labels import read_labels


def test_a_street(sentio, tmp_path):
    out = tmp_path / "street"
    found = sentio("simulate", "street", "--minutes", 0.2, "--seed", 1, "--rate", 8000, "--out", out)
    assert found.code == 0
    assert f"labels in {out / 'labels.csv'}" in found.out
    assert soundfile.info(out / "audio" / "street_000.wav").frames == 12 * 8000
    assert read_labels(out)


def test_clips_as_json(sentio, tmp_path):
    out = tmp_path / "clips"
    where = ("--seconds", 0.5, "--rate", 8000, "--workers", 1, "-o", out)
    found = sentio("simulate", "clips", "--per-class", 1, *where, "--json")
    assert found.code == 0
    said = json.loads(found.out)
    assert said["labels"] == dict.fromkeys(sorted([*EVENTS, "background"]), 1)
    assert (said["files"], said["per_class"], said["seed"], said["rate"]) == (11, 1, 0, 8000)
    assert len(open_data(out)) == 11


def test_the_command_that_is_proposed_next_can_be_run(sentio, tmp_path):
    out = tmp_path / "a street"
    found = sentio("simulate", "street", "--minutes", 0.1, "--rate", 8000, "--out", out)
    proposed = found.out.splitlines()[-1]
    assert proposed.startswith("try: sentio listen street-sounds '")
    heard = sentio(*shlex.split(proposed)[2:])
    assert heard.code == 0, heard.err


def test_samples_of_ones_own(sentio, tmp_path, own_tones):
    (own_tones / "high" / "bad.wav").write_bytes(b"nonsense")
    out = tmp_path / "clips"
    where = ("--seconds", 0.4, "--rate", 8000, "-o", out)
    found = sentio("simulate", "clips", "--per-class", 1, "--samples", own_tones, *where)
    assert found.code == 0
    assert "note: Left out files that cannot be used (1): high/bad.wav (" in found.out
    assert "background 1, high 1, low 1, middle 1" in found.out


def test_the_same_command_again_says_the_same(sentio, tmp_path):
    command = ("simulate", "clips", "--per-class", 1, "--seconds", 0.3, "--rate", 8000, "-o", tmp_path / "c")
    first = sentio(*command)
    files = {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()}
    second = sentio(*command)
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("command", ["street", "clips"])
def test_help_shows_examples(sentio, command):
    found = sentio("simulate", command, "--help")
    assert found.code == 0
    assert f"sentio simulate {command} --" in found.out


def test_alone_it_says_what_there_is(sentio):
    found = sentio("simulate")
    assert "street" in found.out + found.err and "clips" in found.out + found.err


def test_a_street_of_one_class_only(sentio, tmp_path):
    (tmp_path / "own" / "beep").mkdir(parents=True)
    soundfile.write(tmp_path / "own" / "beep" / "0.wav", np.sin(np.arange(4000) / 3), 8000)
    where = ("--samples", tmp_path / "own", "--out", tmp_path / "out")
    found = sentio("simulate", "street", "--minutes", 0.1, *where)
    assert found.code == 3
    assert found.err.count("sentio: ") == 1
