"""``sentio demo`` from end to end, at a size for tests, on rendered sounds and on a user's own."""

import html
import json
import re
import shlex
import sys

import numpy as np
import pytest
import soundfile

SMALL = ["--epochs", "1", "--minutes", "0.15"]


def test_on_rendered_sounds(tmp_path, sentio):
    out = tmp_path / "demo"
    done = sentio("demo", "--out", out, "--per-class", 8, *SMALL)
    assert done.code == 0, done.err
    said = done.out
    for step in range(1, 7):
        assert f"\n{step}. " in said
    assert "88 clips" in said and "11 classes: babble, background, bark" in said
    assert re.search(r"confidence .* patience .* budget ", said, re.DOTALL)
    assert re.search(r"9\.0 s of sound in [\d.]+ s: real-time factor 0\.\d+; 15 windows", said)
    same = re.search(r"same answer from the same exit for (\d+) of (\d+) windows", said)
    assert same and same[1] == same[2] == "15"
    page = (out / "report.html").read_text("utf-8")
    assert f"sentio demo --out {out} --minutes 0.15 --per-class 8 --epochs 1" in page
    assert "never met the noise" not in said + page
    assert (out / "box" / "sentio.json").exists()


@pytest.fixture
def own_sounds(tmp_path):
    """Three classes at odd rates, one with three clips, and a file that is none."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "sounds"
    for label, rate, count, hertz in (
        ("hum", 11025, 12, 110),
        ("beep", 22050, 10, 1500),
        ("rare", 44100, 3, 600),
    ):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            times = np.arange(round(0.8 * rate)) / rate
            tone = np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.2) * times)
            sound = np.stack([tone, tone], axis=1) * 0.3 + generator.normal(0, 0.02, (len(times), 2))
            soundfile.write(folder / label / f"{number}.wav", sound, rate)
    (folder / "hum" / "broken.wav").write_bytes(b"RIFF not a sound")
    return folder


def test_on_sounds_of_ones_own(tmp_path, own_sounds, sentio):
    out = tmp_path / "demo"
    done = sentio("demo", "--data", own_sounds, "--out", out, *SMALL)
    assert done.code == 0, done.err
    said = done.out
    assert "26 clips" in said and "3 classes: beep, hum, rare" in said
    assert "broken.wav" in said
    card = json.loads((out / "model" / "sentio.json").read_text("utf-8"))["card"]
    assert f"on {card['data']['files']['test']} clips that were kept" in said
    advice = re.search(r"note: (The data has no class 'background' .*)", said)[1]
    rendering = shlex.split(re.search(r"sentio (simulate clips .*?);", advice)[1])
    assert sentio(*rendering, "--help").code == 0
    page = (out / "report.html").read_text("utf-8")
    assert html.escape(advice) in page or advice in html.unescape(page)
    labels = {line.split(",")[3] for line in (out / "street" / "labels.csv").read_text().splitlines()[1:]}
    assert labels <= {"hum", "beep", "rare"} and labels


def test_a_missing_package_is_named_before_anything_is_made(tmp_path, monkeypatch, sentio):
    import sentio.cli.demo as module

    found = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    done = sentio("demo", "--out", tmp_path / "demo")
    assert done.code == 5
    assert "sentio[train,export]" in done.err
    assert not (tmp_path / "demo").exists()


def test_data_that_is_not_there(tmp_path, sentio):
    done = sentio("demo", "--data", tmp_path / "nothing", "--out", tmp_path / "demo")
    assert done.code == 3
    assert "nothing" in done.err


def test_what_to_type_next_can_be_typed(tmp_path, monkeypatch):
    import sentio.cli.demo as module

    program = tmp_path / "sentio"
    program.touch()
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setattr(module, "which", lambda name: None)
    assert module._program() == str(program)
    monkeypatch.setattr(module, "which", lambda name: "/usr/bin/sentio")
    assert module._program() == "sentio"


def test_threads_are_as_before_after_listening():
    import torch

    from sentio.cli.demo import _one_thread

    before = torch.get_num_threads()
    with pytest.raises(ValueError), _one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError
    assert torch.get_num_threads() == before
