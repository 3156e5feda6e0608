"""Recipes: read, checked whole, all errors at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sentio.core.errors import ConfigError
from sentio.training.recipe import Recipe, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def problems(values):
    """The message about a recipe that is not valid."""
    with pytest.raises(ConfigError) as caught:
        read_recipe(values)
    return str(caught.value)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_recipes_of_the_repository_are_valid(file):
    assert read_recipe(file).name == file.stem


def test_a_recipe_needs_only_a_name():
    found = read_recipe({"name": "small"})
    assert (found.technique.name, found.task.name, found.keep) == ("end-to-end", "classification", "best")
    assert found.devices.devices == 1


def test_a_recipe_read_again_from_its_dump_is_the_same(tmp_path, recipe):
    found = read_recipe(recipe(augment={"mixup": 0.3}, data={"split": "all"}))
    (tmp_path / "again.yaml").write_text(found.dump())
    assert read_recipe(tmp_path / "again.yaml") == found
    assert read_recipe(found) == found


def test_changes_replace_values_and_none_does_not(recipe):
    found = read_recipe(recipe(), epochs=9, data__split=2, optimiser__name=None, network__options__width=6)
    assert (found.epochs, found.data.split, found.optimiser.name) == (9, 2, "adam")
    assert found.network.options == {"width": 6}
    both = read_recipe(
        {"name": "x"}, technique="classifier-wise", technique__options__train_backbone=False
    ).technique
    assert (both.name, both.options) == ("classifier-wise", {"train_backbone": False})


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("name: small\noptimiser: {lr: 1e-3}\n")
    assert read_recipe(file).optimiser.lr == 1e-3


def test_bare_names_stand_for_sections_without_options():
    found = read_recipe({"name": "small", "network": "tiny-cnn", "technique": "layer-wise"})
    assert (found.network.name, found.network.options) == ("tiny-cnn", {})
    assert found.technique.name == "layer-wise"


def test_all_errors_are_reported_at_once():
    message = problems(
        {
            "name": "",
            "epoch": 3,
            "optimiser": {"lr": -1, "nam": "adam"},
            "data": {"split": "some"},
            "batch": "many",
            "network": {"name": "tiny-cmm"},
            "exits": [{"kind": "pooled-linaer", "at": ["block1"]}, {"kind": "sl-vit"}],
        }
    )
    assert message.startswith("Recipe '' has 8 problems: (1) ")
    for part in (
        "name: ",
        "epoch: unknown key; did you mean 'epochs'?",
        "optimiser.lr: should be greater than 0, got -1",
        "optimiser.nam: unknown key; did you mean 'name'?",
        "data.split: should be a valid integer",
        "batch: should be a valid integer",
        "exits.1.at: missing",
        "network: Unknown network 'tiny-cmm'; did you mean 'tiny-cnn'?",
    ):
        assert part in message
    assert len(re.findall(r"\(\d\) ", message)) == 8


def test_names_options_and_stages_are_reported_at_once(recipe):
    message = problems(
        recipe(
            frontend={"name": "log-mell"},
            network={"name": "tiny-cnn", "options": {"widht": 3}},
            task={"name": "classification", "options": {"smoothing": 0.1}},
            technique={"name": "end-to-end", "options": {"wieghts": 1}},
            exits=[{"kind": "sl-vti", "at": ["block1"]}],
            calibration={"accuracy_drop": 0.1, "mean_macs": 5},
        )
    )
    for part in (
        "frontend: Unknown frontend 'log-mell'; did you mean 'log-mel'?",
        "network: network 'tiny-cnn' has no option 'widht'; it takes: classes, in_channels, width",
        "task: task 'classification' has no option 'smoothing'",
        "technique: technique 'end-to-end' has no option 'wieghts'",
        "exits.0: Unknown exit 'sl-vti'; did you mean 'sl-vit'?",
        "calibration: give one goal, not accuracy_drop and mean_macs",
    ):
        assert part in message
    certain = problems(recipe(calibration={"mean_macs": 5, "certainty": 0.9}))
    assert "calibration.certainty: is about an accuracy; give accuracy_drop" in certain


def test_stages_values_and_weights_that_do_not_fit_are_seen_before_anything_runs(recipe):
    exits = [
        {"kind": "pooled-linear", "at": ["block9", "block1"]},
        {"kind": "pooled-linear", "at": ["block1"], "options": {"dropout": 3}},
        {"kind": "pooled-linear", "at": ["block2"], "names": ["final"]},
    ]
    message = problems(recipe(exits=exits, task={"name": "classification", "options": {"none_below": 7}}))
    assert "exits.0: network 'tiny-cnn' has no stage 'block9'; its stages are block1, block2" in message
    assert "exits.1: Option 'dropout' of exit 'pooled-linear' must be at least 0" in message
    assert "exits.2: An exit called 'final' exists already" in message
    assert "task: none_below is a probability" in message

    weights = {"name": "end-to-end", "options": {"weights": {"block1": 1, "block22": 1}}}
    assert "technique: Unknown exit 'block22'; did you mean 'block2'?" in problems(recipe(technique=weights))
    assert "frontend: Log-mel settings: n_fft" in problems(
        recipe(frontend={"name": "log-mel", "options": {"n_fft": -5}})
    )


def test_what_follows_from_the_data_is_refused(recipe):
    message = problems(
        recipe(
            network={"name": "tiny-cnn", "options": {"classes": 7}},
            task={"name": "classification", "options": {"labels": ["a", "b"]}},
        )
    )
    assert "network: option 'classes' follows from the data; take it out" in message
    assert "task: option 'labels' follows from the data; take it out" in message


def test_a_front_end_that_the_network_does_not_take_is_refused(recipe):
    message = problems(recipe(network={"name": "tiny-cnn", "options": {"in_channels": 3}}))
    assert "network: it does not take the front end's features (batch, 1, 19, 24): " in message


@pytest.mark.parametrize(
    ("section", "wrong", "message"),
    [
        ("seed", -1, "seed: should be greater than or equal to 0"),
        ("keep", "first", "keep: should be 'best' or 'last', got 'first'"),
        (
            "data",
            {"validation": 1.5},
            "data.validation: should be 'protocol', 'group' or 'each-group' or should be less than 1",
        ),
        ("data", {"split": -1}, "data.split: should be greater than or equal to 0"),
        ("schedule", {"name": "cosin"}, "schedule.name: should be 'plateau', 'cosine', 'cosine-cycle'"),
        ("optimiser", {"lr": float("nan")}, "optimiser.lr: should be a finite number"),
        ("optimiser", 3, "optimiser: should hold names and values, got 3"),
        ("exits", {"kind": "sl-vit"}, "exits: should be a valid list"),
        ("devices", {"precision": "8-true"}, "devices.precision: "),
        ("devices", {"gpus": 2}, "devices.gpus: unknown key; known: accelerator, devices, strategy"),
    ],
)
def test_wrong_values_are_named_with_their_place(section, wrong, message):
    found = problems({"name": "small", section: wrong})
    assert found.startswith("Recipe 'small' is not valid: ")
    assert message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not valid YAML, line "),
        ("- name", "is not a recipe: it must hold names and values"),
        ("name: a\nname: b\n", "is not valid YAML, line 2: 'name' is there twice"),
        ("name: a\noptimiser: {lr: 1, lr: 2}\n", "'lr' is there twice"),
        ("name: !!python/object/apply:os.system [ls]\n", "is not valid YAML, line 1"),
        ("", "is not a recipe"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    assert message in problems(tmp_path / "r.yaml")


def test_files_that_cannot_be_read(tmp_path):
    assert "cannot be read: No such file" in problems(tmp_path / "none.yaml")
    assert "cannot be read: Is a directory" in problems(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert "is not valid YAML" in problems(tmp_path / "latin.yaml")


def test_anchors_may_be_merged(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "x"}) + "augment: &a {mixup: 0.1}\n")
    assert read_recipe(tmp_path / "r.yaml").augment.mixup == 0.1


def test_a_recipe_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Recipe(name="a").epochs = 3
