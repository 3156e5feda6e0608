"""``sentio evaluate --report``: the page says what the command printed, and how it was made."""

from __future__ import annotations

import json
import shlex

import pytest

pytest.importorskip("matplotlib")


def test_the_report_is_written_and_named(sentio, artifact, tones, tmp_path):
    out = tmp_path / "a report.html"
    found = sentio("evaluate", artifact, tones, "--split", 0, "--report", out)
    assert found.code == 0
    assert found.out.endswith(f"report written to {out}\n")
    page = out.read_text(encoding="utf-8")
    assert "<h1>small on tones</h1>" in page
    command = ["sentio", "evaluate", str(artifact), str(tones), "--split", "0", "--report", str(out)]
    assert shlex.join(command).replace("'", "&#x27;") in page
    assert "tones, 6 files, split 0, test" in page
    assert "<dt>seed of the training</dt><dd><bdi>0</bdi></dd>" in page


def test_with_json_nothing_else_is_printed(sentio, artifact, tones, tmp_path):
    out = tmp_path / "out.html"
    found = sentio("evaluate", artifact, tones, "--policy", "fixed:block1", "--report", out, "--json")
    values = json.loads(found.out)
    page = out.read_text(encoding="utf-8")
    assert f"<strong>{100 * values['accuracy']:.1f}&nbsp;%</strong> of 36 recordings" in page
    # Notes of the command are on the page as well.
    assert len(values["notes"]) == 1 and "trained on files of tones" in page
    assert values["tradeoff"][0]["mean_macs"] == values["exits"][0]["macs"]
    assert {"name", "truth", "answer", "score", "exit"} == set(values["mistakes"][0])


def test_the_box_makes_a_report_too(sentio, box, tones, tmp_path):
    out = tmp_path / "out.html"
    assert sentio("evaluate", box, tones, "--runtime", "edge", "--report", out).code == 0
    assert "onnxruntime" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["none/out.html", "folder"])
def test_a_wrong_place_is_refused_before_anything_is_read(sentio, tmp_path, place):
    (tmp_path / "folder").mkdir()
    found = sentio("evaluate", tmp_path / "no model", tmp_path / "no data", "--report", tmp_path / place)
    assert (found.code, found.out) == (4, "")
    assert found.err.startswith(f"sentio: Report {tmp_path / place} could not be written: ")
    assert found.err.count("\n") == 1
