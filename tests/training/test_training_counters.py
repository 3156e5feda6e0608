"""Counters trained from a recipe: targets, flips, figures in place of accuracy, what is refused."""

import csv
import json
import os

import numpy as np
import pytest
import torch

from sentio.core import registry
from sentio.core.errors import CancelledError, ConfigError, InputError
from sentio.core.loading import load
from sentio.core.multi_exit import MultiExit
from sentio.core.policy import Confidence, Fixed
from sentio.core.prediction import Count
from sentio.core.staged import create_network
from sentio.data.features import features, with_targets
from sentio.data.readers import open_data
from sentio.data.simulate.crowd_files import render_crowds
from sentio.exporting.onnx import export
from sentio.tasks.counting import Counting, counts_of
from sentio.training.batches import Arrays
from sentio.training.defaults import complete, counter_recipe
from sentio.training.evaluation import evaluate
from sentio.training.phase_module import PhaseModule
from sentio.training.recipe import Recipe, read_recipe
from sentio.training.task_of_recipe import build_task
from sentio.training.training import train
from sentio.vision.density_picture import write_png

pytest.importorskip("PIL")
SIZE = (32, 48)
FRONTEND = {"name": "image", "options": {"height": 32, "width": 48}}


@pytest.fixture(scope="session")
def crowds(tmp_path_factory):
    """Seventy-six small scenes; not to be written to."""
    folder = tmp_path_factory.mktemp("crowds") / "square"
    parts = {"train": 56, "validation": 8, "test": 12}
    return render_crowds(folder, **parts, size=SIZE, people=(0, 12), rate=8000, workers=1)


def counting(**changes):
    """Plain values of a small recipe, with changes to its first level."""
    values = {
        "name": "square",
        "task": {
            "name": "counting",
            "options": {"sigma": 2.0, "side": 7, "density_scale": 20.0, "count_weight": 0.05},
        },
        "frontend": FRONTEND,
        "network": {"name": "csrnet", "options": {"width": 4, "answer": "density", "norm": True}},
        "exits": [
            {"kind": "density-ee", "at": ["visual4"], "names": ["V1"], "options": {"answer": "density"}}
        ],
        "augment": {"flip": 0.5},
        "optimiser": {"lr": 0.003, "clip": 5.0},
        "epochs": 2,
        "batch": 7,
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


@pytest.fixture(scope="session")
def counter(crowds, tmp_path_factory):
    """A counter after twelve epochs, where it lies, and its steps."""
    steps = []
    path = tmp_path_factory.mktemp("counter") / "model"
    model = train(None, counting(epochs=12, keep="last"), crowds, out=path, progress=steps.append)
    return model, path, steps


def test_training_lowers_the_error_on_scenes_that_it_never_saw(counter, crowds):
    model, _, _ = counter
    data = open_data(crowds)
    truth = np.array([item.truth.count for item in data.items])
    trained, tested = truth[:56], truth[64:]
    naive = np.abs(tested - trained.mean()).mean()
    untrained = train(None, counting(epochs=1, optimiser={"lr": 1e-9}), crowds).card["test"]
    for before, after in zip(untrained["exits"], model.card["test"]["exits"], strict=True):
        assert after["figures"]["mae"] < 0.7 * before["figures"]["mae"]
        assert after["figures"]["mae"] < naive


def test_the_card_has_errors_of_each_exit_and_the_last_one_answers(counter):
    model, path, _ = counter
    assert model.policy == Fixed("final") and model.temperatures == {}
    report = model.card["validation"]
    assert [row["name"] for row in report["exits"]] == ["V1", "final"]
    assert all(row["rmse"] >= row["mae"] > 0 for row in report["exits"])
    assert (report["samples"], report["unit"]) == (8, "person")
    test = model.card["test"]
    assert (
        test["mae"] == test["figures"]["mae"] == pytest.approx(test["exits"][-1]["figures"]["mae"], rel=1e-5)
    )
    assert "accuracy" not in json.dumps({"validation": report, "test": test})
    assert model.card["data"]["files"] == {"train": 56, "validation": 8, "test": 12}
    assert json.loads(json.dumps(load(path).card)) == json.loads(json.dumps(model.card))


def test_the_log_has_the_error_of_each_exit(counter):
    _, path, steps = counter
    with (path.with_name("model.run") / "phase-0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert all(float(row["val_mae/V1"]) > 0 and float(row["val_mae/final"]) > 0 for row in rows)
    assert steps[-1].job == "evaluate" and steps[-1].done == 12


def test_it_counts_a_picture(counter, crowds):
    model, _, _ = counter
    items = open_data(crowds).items
    found = [model.predict(item.source) for item in items]
    assert all(isinstance(one, Count) and one.exit == "final" for one in found)
    assert found[0].density.shape == SIZE
    truth = [item.truth.count for item in items]
    assert np.corrcoef(truth, [one.count for one in found])[0, 1] > 0.6
    assert model.predict(items[0].source, policy=Fixed("V1")).exit == "V1"
    with pytest.raises(ConfigError, match="needs a confidence, which this task does not have"):
        model.predict(items[0].source, policy=Confidence(0.5))


def test_evaluation_is_by_hand(counter, crowds):
    model, _, _ = counter
    data = open_data(crowds)
    prepared = features(data, model.frontend)
    truth = np.array([item.truth.count for item in data.items])
    found = evaluate(model, data, by="part")
    for name, output in model.outputs(prepared.inputs).items():
        error = counts_of(output) - truth
        row = next(row for row in found.exits if row.name == name)
        assert row.figures["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
        assert row.figures["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    parts = np.array([item.details["part"] for item in data.items])
    assert [(group.name, group.recordings) for group in found.groups] == [
        ("test", 12),
        ("train", 56),
        ("validation", 8),
    ]
    error = np.abs(counts_of(model.outputs(prepared.inputs)["final"]) - truth)
    assert found.groups[0].figures["mae"] == pytest.approx(error[parts == "test"].mean(), rel=1e-5)
    assert "MAE at V1" in found.table() and "MAE and RMSE in persons" in found.table()
    early = evaluate(model, with_targets(prepared, data, model.task, model.frontend), policy=Fixed("V1"))
    assert early.exits[0].share == 1 and early.figures == pytest.approx(early.exits[0].figures)
    assert early.mean_macs == early.exits[0].macs < found.mean_macs


def test_the_same_seed_gives_the_same_weights_and_an_interruption_too(crowds, tmp_path):
    recipe = counting(deterministic=True, epochs=3)
    whole = train(None, recipe, crowds)
    seen = []

    def stop():
        seen.append(1)
        return len(seen) > 76 + 56 // 7 * 2  # the files, then two epochs of batches

    with pytest.raises(CancelledError):
        train(None, recipe, crowds, out=tmp_path / "m", cancel=stop)
    again = train(None, recipe, crowds, out=tmp_path / "m")
    for (name, one), other in zip(
        whole.network.state_dict().items(), again.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("technique", ["layer-wise", "classifier-wise"])
def test_other_techniques_train_it(crowds, technique):
    recipe = counting(technique=technique, epochs=1, refit=True, keep="last", averaging={"name": "swa"})
    assert set(train(None, recipe, crowds).card["test"]["figures"]) == {"mae", "rmse"}


def test_exits_that_count_learn_from_counts(crowds):
    network = {"name": "csrnet", "options": {"width": 4, "answer": "regression"}}
    exits = [{"kind": "cnn-ee", "at": ["visual4"]}]
    model = train(None, counting(network=network, exits=exits, epochs=1), crowds)
    items = open_data(crowds).items
    pixels = np.stack([model.frontend.prepare(item.source).inputs[0] for item in items[:3]])
    assert {output.shape for output in model.outputs(pixels).values()} == {(3, 1)}
    assert len(model.card["validation"]["exits"]) == 2


def test_dark_pictures_are_counted_too(tmp_path):
    parts = {"train": 8, "validation": 2, "test": 2}
    data = render_crowds(tmp_path / "c", **parts, size=SIZE, people=(1, 5), rate=8000, workers=1)
    for file in (data / "pictures").glob("t*.png"):
        write_png(file, np.full((*SIZE, 3), 3, np.uint8))
    model = train(None, counting(epochs=1), data)
    assert model.card["test"]["windows"] == 2
    assert model.predict(data / "pictures" / "test_0000.png").exit == "final"


# The loop


def _module(targets, recipe, task=None):
    net = create_network("csrnet", width=4, size=SIZE, answer="density")
    net = MultiExit(net)
    arrays = Arrays(np.zeros((4, 3, *SIZE), np.float32), targets)
    return PhaseModule(
        net, registry.build("technique", "end-to-end", net)[0], recipe, task or Counting(), arrays, None
    )


def test_flips_move_picture_and_density_together():
    generator = np.random.default_rng(0)
    density = torch.from_numpy(generator.uniform(size=(6, *SIZE)).astype(np.float32))
    picture = density[:, None].repeat(1, 3, 1, 1)
    module = _module({"count": np.zeros(4, np.float32)}, read_recipe(counting(augment={"flip": 0.5})))
    targets = {"count": density.sum((1, 2)), "density": density}
    x, moved, _ = module._augmented(picture, targets, torch.Generator().manual_seed(1))
    flipped = [not torch.equal(a, b) for a, b in zip(x, picture, strict=True)]
    assert 0 < sum(flipped) < 6
    assert torch.equal(x[:, 0], moved["density"])
    assert torch.equal(x[flipped], picture[flipped].flip(3))
    assert torch.equal(moved["count"], targets["count"])


def test_batches_keep_pictures_and_targets_together():
    numbers = np.arange(9, dtype=np.float32)
    arrays = Arrays(
        {"main": numbers[:, None] + np.zeros((9, 2), np.float32), "audio": -numbers[:, None]},
        {"count": 10 * numbers, "density": numbers[:, None, None] * np.ones((9, 2, 3), np.float32)},
        finish=lambda inputs: {name: array + 100 for name, array in inputs.items()},
    )
    assert len(arrays) == 9
    seen = []
    for x, targets, places in arrays.shuffled(4, seed=3):
        assert torch.equal(x["main"][:, 0] - 100, places.float())
        assert torch.equal(x["audio"][:, 0], 100 - places.float())
        assert torch.equal(targets["count"], 10 * places.float())
        assert torch.equal(targets["density"][:, 1, 2], places.float())
        seen += places.tolist()
    # A last batch of one is left out.
    assert len(seen) == 8 and len(set(seen)) == 8


def test_the_gradient_is_clipped(crowds, monkeypatch):
    seen = []
    step = torch.optim.SGD.step

    def watched(self, closure=None):
        if closure is not None:
            closure()
        parameters = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append(float(torch.stack([grad.norm() for grad in parameters]).norm()))
        return step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    train(None, counting(epochs=1, optimiser={"name": "sgd", "lr": 1e-6, "clip": 0.01}), crowds)
    assert max(seen) == pytest.approx(0.01, rel=1e-3)
    seen.clear()
    train(None, counting(epochs=1, optimiser={"name": "sgd", "lr": 1e-6}), crowds)
    assert max(seen) > 0.05


# Recipes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"mixup": 0.3}}, "augment.mixup: the targets of task 'counting' do not follow it"),
        ({"augment": {"crop": 4}}, "augment.crop: the targets .* take it out, and use colour or flip"),
        ({"augment": {"copies": 2, "noise": (5, 20)}}, "augment.copies: .*augment.noise: "),
        (
            {"calibration": {"accuracy_drop": 0.01}},
            "calibration.accuracy_drop: outputs of task 'counting' have no",
        ),
        ({"calibration": {"mean_macs": 1e6}}, "calibration.mean_macs: .* to calibrate or set thresholds on"),
        ({"calibration": {"temperature": True}}, "calibration.temperature: "),
        ({"loss": {"label_smoothing": 0.1}}, "loss: task 'counting' has a loss of its own; take loss out"),
        (
            {"loss": {"class_weights": "inverse"}},
            "loss: task 'counting' has a loss of its own; take loss out",
        ),
        ({"data": {"labels": ["a", "b"]}}, "data.labels: task 'counting' has no classes to keep"),
        (
            {"technique": {"name": "curriculum", "options": {"teacher": "self"}}},
            "technique: 'curriculum' goes by classes, and task 'counting' has none; use end-to-end,",
        ),
        (
            {"task": {"name": "embedding", "options": {"dimension": 3}}},
            "task: 'embedding' is not learnt by a",
        ),
        ({"frontend": "log-mel"}, "frontend: 'log-mel' makes no pictures with heads in them; name image or"),
        ({"optimiser": {"clip": 0}}, "optimiser.clip: should be greater than 0"),
    ],
)
def test_what_makes_no_sense_for_counts_is_refused_by_its_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(counting(**changes))


def test_a_recipe_without_a_goal_stays_valid_however_it_is_passed_on():
    recipe = read_recipe(counting())
    assert recipe.calibration.goals() == {} and not recipe.calibration.temperature
    for again in (recipe, recipe.model_dump(), recipe.model_copy(update={"epochs": 5})):
        assert read_recipe(again).calibration == recipe.calibration
    assert read_recipe({"name": "labels"}).calibration.goals() == {"accuracy_drop": 0.01}
    assert read_recipe(read_recipe({"name": "labels"})).calibration.goals() == {"accuracy_drop": 0.01}
    assert read_recipe(Recipe.model_validate(counting())).calibration == recipe.calibration
    default = counter_recipe("c")
    with pytest.raises(
        ConfigError, match=r"is not valid: calibration\.mean_macs: outputs of task 'counting'"
    ):
        read_recipe(default, calibration__mean_macs=1e6)
    assert read_recipe(default, task__options__sigma=2.0).task.name == "counting"


def test_a_technique_by_classes_is_refused_for_a_network_of_ones_own_too(crowds):
    net = create_network("csrnet", width=4, size=SIZE, answer="density")
    recipe = counting(
        network=None,
        technique={"name": "curriculum", "options": {"teacher": "self", "phases": "classifier-wise"}},
    )
    with pytest.raises(ConfigError, match="technique: 'curriculum' goes by classes"):
        train(net, recipe, crowds)


def test_an_exit_that_does_not_fit_is_told_before_any_picture_is_read(crowds):
    options = {"answer": "density", "factor": 4}
    exits = [{"kind": "density-ee", "at": ["visual4"], "names": ["V1"], "options": options}]
    with pytest.raises(ConfigError, match=r"Exit 'V1' of the network gives \(1, 16, 24\) .* as large as the"):
        train(None, counting(exits=exits), crowds, progress=lambda step: pytest.fail("a file was read"))


def test_data_and_task_have_to_know_the_same(crowds, tones, recipe):
    with pytest.raises(ConfigError, match="holds labels, and task 'counting' learns from heads"):
        train(None, counting(), tones)
    with pytest.raises(ConfigError, match="holds heads, and task 'classification' learns from labels"):
        train(None, recipe(), crowds)
    data = open_data(tones)
    prepared = features(data, registry.build("frontend", "log-mel", window=0.3, rate=8000))
    with pytest.raises(InputError, match="holds labels, and task 'counting' learns from heads"):
        with_targets(prepared, data, Counting(), None)


def test_a_bad_annotation_is_named_or_left_out_with_a_note(tmp_path):
    parts = {"train": 8, "validation": 2, "test": 2}
    data = render_crowds(tmp_path / "c", **parts, size=SIZE, people=(2, 5), rate=8000, workers=1)
    text = (data / "heads.csv").read_text().splitlines()
    text[1] = f"{text[1].split(',')[0]},4800,3"
    (data / "heads.csv").write_text("\n".join(text))
    with pytest.raises(InputError, match=r"1 of 12 annotations of .*train_0000.png \(1 of its . heads lie"):
        train(None, counting(), data)
    card = train(None, counting(epochs=1), data, skip_bad=True).card
    assert card["data"]["files"]["train"] == 7
    assert any(note.startswith("Skipped pictures/train_0000.png (1 of its") for note in card["data"]["notes"])


def test_crowds_alone_are_enough(crowds):
    recipe = complete(counter_recipe("c"), open_data(crowds), None)
    assert recipe.frontend.options == {"height": 32, "width": 48, "resize": "pad"}
    assert recipe.network.name == "csrnet" and recipe.exits[0].names == ["V1", "V2"]
    assert build_task(recipe.task).name == "counting"
    read_recipe(recipe)


def test_fine_tuning_keeps_all_weights_and_the_front_end(counter, crowds):
    _, path, _ = counter
    recipe = counting(network=None, exits=None, frontend=None, epochs=1, optimiser={"lr": 1e-9})
    model = train(path, recipe, crowds)
    before, after = load(path).network.state_dict(), model.network.state_dict()
    for name, tensor in before.items():
        if tensor.is_floating_point() and "running" not in name:
            assert torch.allclose(tensor, after[name], atol=1e-6), name


def test_a_model_that_hears_alone_is_no_start_for_a_counter(crowds):
    with pytest.raises(
        ConfigError, match="does not fit 'esc10-sounds': frontend: 'log-mel' makes no pictures"
    ):
        train("esc10-sounds", counting(network=None, exits=None, frontend=None), crowds)


# Eyes and ears


LOG_MEL = {"window": 0.5, "rate": 8000, "n_fft": 256, "hop_length": 160, "n_mels": 16}
BOTH = {
    "name": "image-and-sound",
    "options": {"picture": FRONTEND["options"], "sound": LOG_MEL},
}
DENSITY = {"answer": "density"}
HEARS = [
    {"kind": "density-ee", "at": ["visual4"], "names": ["V1"], "options": DENSITY},
    {
        "kind": "density-ee",
        "at": ["audio4"],
        "names": ["AV1"],
        "reads": ["visual4.main", "audio4.audio"],
        "options": DENSITY,
    },
]


def hearing(**changes):
    return counting(
        **{
            "frontend": BOTH,
            "network": {"name": "audio-csrnet", "options": {"width": 4, "answer": "density"}},
            "exits": HEARS,
            **changes,
        }
    )


@pytest.fixture(scope="session")
def listener(crowds, tmp_path_factory):
    """A counter with ears after three epochs, and where it lies; its features are cached beside."""
    folder = tmp_path_factory.mktemp("listener")
    return train(None, hearing(epochs=3), crowds, out=folder / "model", cache=folder / "cache"), folder


def test_a_counter_with_ears_is_trained_measured_and_answers(listener, crowds):
    model, folder = listener
    assert [row["name"] for row in model.card["test"]["exits"]] == ["V1", "AV1", "final"]
    specs = {spec.name: spec for spec in model.network.specs}
    assert specs["AV1"].reads == (("visual4", "main"), ("audio4", "audio"))
    item = open_data(crowds).items[0]
    found = load(folder / "model").predict(item.source)
    assert found.count == pytest.approx(model.predict((item.source, item.beside["audio"])).count, rel=1e-5)
    # The exit that only sees does not mind another sound, the one behind the ears does.
    loud = (np.random.default_rng(0).normal(0, 0.3, 8000), 8000)
    for exit, same in (("V1", True), ("AV1", False)):
        plain = model.predict(item.source, policy=Fixed(exit)).count
        other = model.predict((item.source, loud), policy=Fixed(exit)).count
        assert (other == plain) == same


def test_features_of_both_are_cached_and_notice_another_sound(listener, crowds, tmp_path):
    model, folder = listener
    data = open_data(crowds)
    (file,) = (folder / "cache").glob("*.npz")
    before = file.stat().st_mtime_ns
    found = features(data, model.frontend, cache=folder / "cache")
    assert file.stat().st_mtime_ns == before and not found.notes
    fresh = features(data, model.frontend)
    assert set(found.inputs) == {"main", "audio"}
    for name, array in fresh.inputs.items():
        assert np.array_equal(found.inputs[name], array) and found.inputs[name].dtype == array.dtype
    other = train(None, hearing(epochs=3), crowds, cache=folder / "cache")
    for (name, one), two in zip(
        model.network.state_dict().items(), other.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name
    sound = data.items[0].beside["audio"]
    times = sound.stat()
    os.utime(sound, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000_000))
    features(data, model.frontend, cache=folder / "cache")
    os.utime(sound, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(list((folder / "cache").glob("*.npz"))) == 2


def test_a_box_counts_by_eye_and_ear_alike(listener, crowds, tmp_path):
    pytest.importorskip("onnxscript")
    model, _ = listener
    export(model, tmp_path / "box")
    box = load(tmp_path / "box", runtime="edge")
    item = open_data(crowds).items[3]
    assert box.predict(item.source).count == pytest.approx(model.predict(item.source).count, rel=1e-3)
    assert evaluate(box, crowds).figures["mae"] == pytest.approx(
        evaluate(model, crowds).figures["mae"], rel=1e-3
    )


def test_pictures_without_sound_are_named(tmp_path):
    parts = {"train": 6, "validation": 2, "test": 2}
    data = render_crowds(tmp_path / "c", **parts, size=SIZE, people=(1, 3), rate=8000, workers=1)
    lines = (data / "crowds.csv").read_text().replace("sounds/train_0000.wav", "")
    (data / "crowds.csv").write_text(lines)
    with pytest.raises(InputError, match=r"1 of 10 files .*train_0000.png \(comes without a sound; name one"):
        train(None, hearing(), data)


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        (["visual4"], r"exits.0: .*should be STAGE.TENSOR, such as visual4.main, in reads: 'visual4'"),
        (["visual4.main", "audio9.audio"], "exits.0: .*audio9"),
        (["visual4.main", "audio4.sound"], "exits.0: .*sound"),
    ],
)
def test_what_an_exit_cannot_read_is_refused_before_training(reads, message):
    exits = [{"kind": "density-ee", "at": ["audio4"], "names": ["AV1"], "reads": reads, "options": DENSITY}]
    with pytest.raises(ConfigError, match=message):
        read_recipe(hearing(exits=exits))


def test_what_classifiers_do_with_one_input_is_refused_with_several():
    values = {"name": "both", "frontend": BOTH, "network": {"name": "audio-csrnet", "options": {"width": 4}}}
    read_recipe(values)
    with pytest.raises(ConfigError, match=r"augment\.roll: front end 'image-and-sound' gives several inputs"):
        read_recipe({**values, "augment": {"roll": 1.0}})
    technique = {"name": "curriculum", "options": {"teacher": "esc10-sounds"}}
    with pytest.raises(ConfigError, match="technique: 'curriculum' takes networks of one input"):
        read_recipe({**values, "technique": technique})
