"""The same questions put to every shipped model, and to a stand-in so that there is always one."""

from __future__ import annotations

import numpy as np
import pytest

import sentio
from sentio.core.artifact import ArtifactFiles
from sentio.core.confidence import softmax
from sentio.core.shelf import TEXTS, facts, shipped
from sentio.training.recipe import read_recipe

STAND_IN = "stand-in"


@pytest.fixture(params=[STAND_IN, *shipped()])
def file(request):
    return request.getfixturevalue("stand_in") if request.param == STAND_IN else shipped()[request.param]


@pytest.fixture
def made_by(file, build, entry):
    """Its entry in the zoo."""
    return next(found for found in (entry, *build.ZOO) if found.name == file.stem)


def test_both_runtimes_load_it_and_say_the_same(file):
    torch, edge = (sentio.load(file, runtime=runtime) for runtime in ("torch", "edge"))
    (shape,) = torch.input_shapes.values()
    x = np.random.default_rng(0).standard_normal((5, *shape)).astype(np.float32)
    ours, theirs = torch.outputs(x), edge.outputs(x)
    assert list(ours) == list(theirs) == list(torch.exit_names)
    assert len(ours) > 1, "a shipped model has early exits"
    for name in ours:
        np.testing.assert_allclose(softmax(theirs[name]), softmax(ours[name]), atol=1e-4)
    assert torch.policy == edge.policy


def test_it_answers_about_a_recording(file):
    model = sentio.load(file)
    generator = np.random.default_rng(0)
    if model.frontend.name == "image":
        pytest.importorskip("PIL")
        found = model.predict(generator.integers(0, 256, (40, 60, 3), np.uint8))
    else:
        found = model.predict((generator.uniform(-0.1, 0.1, 48_000).astype(np.float32), 16_000))
    assert set(found.scores) == set(model.task.labels)
    assert found.exit in model.exit_names


def test_it_is_small(file, build):
    assert file.stat().st_size < build.MAX_BYTES


def test_its_card_says_what_it_is_worth_and_of_what_it_is_made(file, made_by):
    found = facts(file)
    model = sentio.load(file)
    assert model.name == file.stem
    assert 1 / len(model.task.labels) < found["accuracy"] <= 1, "better than guessing"
    assert found["recordings"] >= len(model.task.labels)
    assert 0 < found["mean_macs"] <= found["macs"]
    assert [key for key in TEXTS if not found[key]] == []
    assert {"sentio", "torch", "python", "machine"} <= model.card["made_with"].keys()


def test_its_card_is_that_of_its_entry_in_the_zoo(file, made_by, build):
    """What changed there since means: make it again."""
    found = facts(file)
    assert {key: found[key] for key in TEXTS} == {key: getattr(made_by, key) for key in TEXTS}
    # What a recipe has learned to say since has its default.
    by = build.recipe_on(sentio.load(file).card, made_by.taught_by)
    assert by is not None and by.for_card() == read_recipe(made_by.recipe).for_card()


def test_it_can_be_profiled_with_its_front_end(file):
    found = sentio.profile(sentio.load(file, runtime="torch"), repeats=1, warmup=0)
    assert found.rows[0].kind == "frontend" and found.rows[0].ms > 0
    assert list(found.exit_ms())[-1] == "final"


def test_it_names_no_place_of_the_machine_it_was_made_on(file, build):
    assert list(build.local_paths(file)) == []


def test_it_is_one_uncompressed_file_of_its_name(file):
    import zipfile

    files = ArtifactFiles(file)
    assert {"weights.safetensors"} < set(files.manifest.files)
    assert files.manifest.graphs
    with zipfile.ZipFile(file) as packed:
        assert {part.compress_type for part in packed.infolist()} == {zipfile.ZIP_STORED}
