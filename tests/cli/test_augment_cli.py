"""``sentio augment``: what it writes, prints and refuses, and that its data can be trained on."""

import json


def test_augmented_data_can_be_trained_and_measured_on(sentio, own_tones, recipe, tmp_path):
    out, model = tmp_path / "more", tmp_path / "model"
    found = sentio("augment", own_tones, "--recipe", "data-hunger", "--out", out, "--processes", 1)
    assert found.code == 0
    assert "original 12, shift 12, pitch 12, stretch 12, mask 12, band-mask 12" in found.out
    assert found.out.splitlines()[-1] == f"try: sentio train {out} -o my-model"
    trained = sentio("train", recipe, "--data", out, "-o", model, "--epochs", 1)
    assert trained.code == 0, trained.err
    assert "Augmented copies of clips outside the training part are left out" in trained.out + trained.err
    measured = sentio("evaluate", model, out)
    assert "Augmented copies are for training and were left out (60)." in measured.out


def test_as_json(sentio, own_tones, tmp_path):
    (own_tones / "high" / "bad.wav").write_bytes(b"nonsense")
    command = ("augment", own_tones, "--recipe", "impulse-response", "--out", tmp_path / "more", "--json")
    said = json.loads(sentio(*command, "--probability", 1, "--pitch", 1, "--processes", 1).out)
    assert said["files"]["impulse-response"] == said["files"]["original"] == 12
    assert any(note.startswith("Skipped high/bad.wav (") for note in said["notes"])


def test_what_cannot_be_done_is_one_sentence(sentio, own_tones, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for arguments, code, text in (
        (("--recipe", "hunger", "--out", tmp_path / "out"), 2, "Unknown recipe 'hunger'"),
        (("--recipe", "data-hunger", "--out", tmp_path / "full"), 4, "holds something already"),
        (("--recipe", "device-balance", "--out", tmp_path / "out"), 2, "does not say of what device"),
        (("--recipe", "data-hunger", "--out", tmp_path / "out", "--pitch", 99), 2, "pitch must lie in 0..24"),
    ):
        found = sentio("augment", own_tones, *arguments)
        assert (found.code, found.out) == (code, "") and text in found.err
        assert found.err.startswith("sentio: ") and len(found.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
