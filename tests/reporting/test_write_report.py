"""Writing a report: whole or not at all, and never over something else."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from sentio.core.errors import ArtifactError, ConfigError, MissingExtraError
from sentio.reporting import check_report, circumstances, write_report

BEGINS = "<!doctype html>"


@pytest.fixture
def drawn():
    pytest.importorskip("matplotlib")


def test_a_report_is_one_file(evaluation, listening, tmp_path, drawn):
    out = tmp_path / "out.html"
    assert write_report(out, [evaluation()], title="Owls", listening=listening()) == out
    assert out.read_text(encoding="utf-8").startswith(BEGINS)
    assert list(tmp_path.iterdir()) == [out]


def test_one_evaluation_needs_no_list_and_a_path_may_be_text(evaluation, tmp_path, drawn, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_report("one.html", evaluation(), title="Owls")
    write_report("two.html", [evaluation()], title="Owls")
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()


def test_a_report_replaces_a_report_or_an_empty_file(evaluation, tmp_path, drawn):
    out = tmp_path / "out.html"
    out.touch()
    write_report(out, evaluation(), title="First")
    write_report(out, evaluation(), title="Second")
    assert "<h1>Second</h1>" in out.read_text(encoding="utf-8")


def test_a_report_goes_where_a_link_leads(evaluation, tmp_path, drawn):
    (tmp_path / "link.html").symlink_to(tmp_path / "real.html")
    write_report(tmp_path / "link.html", evaluation(), title="Owls")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text(encoding="utf-8").startswith(BEGINS)


def test_anybody_may_read_a_report_who_may_read_files_here(evaluation, tmp_path, drawn):
    write_report(tmp_path / "out.html", evaluation(), title="Owls")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "out.html").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("check", [True, False], ids=["check_report", "write_report"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("folder", "Report .*folder could not be written: it is a folder; name a file in it"),
        ("none/out.html", "Report .*out.html could not be written: there is no folder .*none; make it, or"),
        ("notes.txt/out.html", "Report .*out.html could not be written: "),
        ("notes.txt", "notes.txt exists and is not a report, so it is not replaced; choose another place"),
        ("x" * 300, "Report .* could not be written: File name too long"),
        ("loop/out.html", "Report .*out.html could not be written: "),
    ],
)
def test_a_place_that_cannot_be_written_to(evaluation, tmp_path, drawn, check, place, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ArtifactError, match=message) as error:
        if check:
            check_report(tmp_path / place)
        else:
            write_report(tmp_path / place, evaluation(), title="Owls")
    assert "\n" not in str(error.value)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {"folder", "notes.txt", "loop"}


def test_a_pipe_or_a_device_is_no_place_for_a_report(tmp_path, drawn):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="pipe exists and is not a report"):
        check_report(tmp_path / "pipe")


def test_a_folder_that_may_not_be_written_to(tmp_path, drawn, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ArtifactError, match=r"out\.html could not be written: Permission denied"):
        check_report(tmp_path / "out.html")


def test_a_full_disk_leaves_what_was_there(evaluation, tmp_path, drawn, monkeypatch):
    out = tmp_path / "out.html"
    write_report(out, evaluation(), title="First")
    before = out.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ArtifactError, match=r"Report .*out\.html could not be written: No space left"):
        write_report(out, evaluation(), title="Second")
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_evaluations_must_fit_each_other(evaluation, tmp_path):
    with pytest.raises(ConfigError, match="at least one evaluation"):
        write_report(tmp_path / "out.html", [], title="Owls")
    for other in (evaluation(("a", "b")), evaluation(recordings=8), evaluation(exits=evaluation().exits[1:])):
        with pytest.raises(ConfigError, match="different labels, exits or recordings"):
            write_report(tmp_path / "out.html", [evaluation(), other], title="Owls")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(evaluation, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sentio\[report\]'"):
        write_report(tmp_path / "out.html", evaluation(), title="Owls")
    assert not list(tmp_path.iterdir())


def test_where_figures_come_from():
    found = circumstances("edge", command="sentio x", seed_of_the_training=3, data=None)
    assert list(found) == ["command", "seed of the training", "versions", "machine"]
    assert found["seed of the training"] == "3"
    assert "onnxruntime" in found["versions"] and "torch" not in found["versions"]
    assert "onnxruntime" not in circumstances()["versions"]
