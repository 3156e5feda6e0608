"""Shipped models by name, on a shelf with a stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sentio
from sentio.core import shelf
from sentio.core.errors import ArtifactError
from sentio.core.shelf import TEXTS, facts, find_artifact, shipped


@pytest.fixture
def tiny(small, tmp_path, monkeypatch) -> Path:
    """A shelf that holds ``tiny``, seen from an empty folder."""
    file = tmp_path / "shelf" / "tiny.sentio"
    sentio.save(small.model(card={"test": {"accuracy": 0.5}, "shelf": {"purpose": "tests"}}), file)
    sentio.save(small.model(), tmp_path / "shelf" / "another.sentio")
    (tmp_path / "shelf" / "notes.txt").write_text("not an artifact")
    monkeypatch.setattr(shelf, "FOLDER", file.parent)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return file


def test_the_shelf_of_the_package_is_a_folder_in_it():
    assert Path(sentio.__file__).parent / "shelf" == shelf.FOLDER
    assert all(file.is_file() for file in shipped().values())


def test_names_in_order_and_nothing_but_artifacts(tiny):
    assert list(shipped()) == ["another", "tiny"]


@pytest.mark.parametrize("name", ["tiny", Path("tiny")])
def test_a_bare_name_is_loaded(tiny, small, name):
    x = small.features(3)
    np.testing.assert_array_equal(sentio.load(name).answer(x).outputs, sentio.load(tiny).answer(x).outputs)


def test_what_exists_at_that_path_wins(tiny, small):
    sentio.save(small.model(name="mine"), "tiny")
    assert find_artifact("tiny") == Path("tiny")
    assert sentio.load("tiny").name == "mine"


def test_a_folder_of_something_else_hides_a_shipped_model_and_that_is_said(tiny):
    Path("tiny").mkdir()
    with pytest.raises(ArtifactError, match=r"tiny here is a folder .* hides the shipped model"):
        sentio.load("tiny")


def test_a_file_of_something_else_is_named(tiny):
    Path("tiny").write_text("notes")
    with pytest.raises(ArtifactError, match="tiny is not a Sentio artifact, or is cut off"):
        sentio.load("tiny")


def test_an_unknown_name_offers_the_nearest_or_all(tiny):
    begin = "^No artifact at {}: there is no such file or folder, and no shipped model of that name; "
    with pytest.raises(ArtifactError, match=begin.format("tinni") + r"did you mean 'tiny'\?$"):
        sentio.load("tinni")
    with pytest.raises(ArtifactError, match=begin.format("my-model") + "shipped are: another, tiny$"):
        sentio.load("my-model")


@pytest.mark.parametrize("path", ["models/tiny", "../tiny", "/tiny"])
def test_what_has_a_folder_in_front_is_a_path(tiny, path):
    with pytest.raises(ArtifactError, match=f"^No artifact at {path}: there is no such file or folder$"):
        sentio.load(path)


def test_an_empty_shelf_offers_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"^No artifact at tiny: there is no such file or folder$"):
        sentio.load("tiny")


def test_a_name_that_no_file_system_takes(tiny):
    with pytest.raises(ArtifactError, match=r"^No artifact at xxx"):
        sentio.load("x" * 5000)


def test_facts_are_the_cards(tiny):
    found = facts(tiny)
    assert found["name"] == "tiny"
    assert found["bytes"] == tiny.stat().st_size
    assert (found["accuracy"], found["purpose"]) == (0.5, "tests")
    missing = {*TEXTS, "recordings", "mean_macs", "macs", "int8"} - {"purpose"}
    assert {key for key, value in found.items() if value is None} == missing
