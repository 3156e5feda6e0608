"""The task of counting: counts and densities, losses by hand, MAE and RMSE, predictions, policies."""

import json

import numpy as np
import pytest
import torch

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.core.model import Model
from sentio.core.multi_exit import add_exits
from sentio.core.policy import Confidence, Fixed
from sentio.core.prediction import Count
from sentio.core.staged import create_network
from sentio.core.task import Batch
from sentio.core.torch_row import TorchRow
from sentio.tasks.counting import Counting, counts_of
from sentio.tasks.metrics.counting import mean_absolute_error, root_mean_square_error

torch.set_num_threads(1)


def test_errors_by_hand():
    assert mean_absolute_error([1, 4], [2, 1]) == 2
    assert root_mean_square_error([1, 4], [2, 1]) == pytest.approx(5**0.5)


def test_counts_are_the_output_or_the_sum_of_the_density():
    density = np.random.default_rng(0).uniform(size=(3, 1, 4, 6))
    assert np.allclose(counts_of(density), density.sum((1, 2, 3)))
    assert counts_of(np.array([[2.0], [3.0]])).tolist() == [2, 3]
    assert torch.equal(counts_of(torch.ones(2, 1, 2, 2)), torch.tensor([4.0, 4.0]))


def test_score_is_selected_by_the_negative_error():
    task = Counting()
    found = task.score(np.array([[1.0], [4.0]]), np.array([2.0, 1.0]))
    assert next(iter(found.items())) == ("negative_mae", -2.0)
    assert found["mae"] == 2 and found["rmse"] == pytest.approx(5**0.5)
    same = task.score(np.full((2, 1, 2, 2), 0.25), {"count": np.array([1.0, 3.0])})
    assert same["mae"] == 1


def test_losses_by_hand():
    counts, truth = torch.tensor([[1.0], [4.0]]), torch.tensor([2, 1])
    assert Counting().loss(counts, Batch(None, truth)).item() == 2
    assert Counting(count_loss="smooth").loss(counts, Batch(None, truth)).item() == 1.5
    density = torch.zeros(2, 1, 2, 2)
    true = torch.full((2, 2, 2), 0.5)
    targets = {"count": torch.tensor([2.0, 2.0]), "density": true}
    # two maps of four pixels, each half a person off, times 10, squared, over twice the batch
    assert Counting(density_scale=10).loss(density, Batch(None, targets)).item() == 8 * 25 / 4
    both = Counting(density_scale=10, count_weight=3.0)
    assert both.loss(density, Batch(None, targets)).item() == 8 * 25 / 4 + 3 * 2
    assert Counting().loss(density, Batch(None, {"count": targets["count"]})).item() == 2


def test_decodes_counts_and_densities():
    task = Counting(unit="bird")
    alone = task.decode(np.array([-0.4]), exit="V1", milliseconds=2.0)
    assert alone == Count(0.0, "V1", 2.0, unit="bird") and alone.density is None
    density = np.full((1, 2, 3), 0.5)
    drawn = task.decode(density, exit="final", milliseconds=1.0)
    assert drawn.count == 3 and np.array_equal(drawn.density, density[0])
    assert json.loads(json.dumps(drawn.to_dict()))["unit"] == "bird"
    assert "density" not in drawn.to_dict()


def test_windows_of_a_recording_are_averaged():
    parts = [Count(2.0, "V1", 1.0).at(0, 1), Count(6.0, "final", 3.0).at(1, 2)]
    merged = Counting().merge(parts, exit="final")
    assert (merged.count, merged.exit, merged.milliseconds) == (4, "final", 4)
    assert (merged.start, merged.end) == (0, 2)
    assert merged.windows == tuple(parts)
    assert merged.to_dict()["windows"][1]["count"] == 6
    assert Counting().merge(parts[:1], exit="V1").windows == ()


def test_settings_build_it_again():
    task = Counting(unit="bird", density_scale=5, count_loss="smooth", count_weight=0.5)
    again = registry.build("task", "counting", **task.settings())
    assert again.settings() == task.settings() and again.outputs == 1


@pytest.mark.parametrize("options", [{"density_scale": 0}, {"count_loss": "l2"}, {"count_weight": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Counting(**options)


@pytest.mark.parametrize("answer", ["count", "density"])
def test_a_model_counts_at_the_exit_that_the_policy_names(answer):
    torch.manual_seed(0)
    net = create_network("audio-csrnet", width=4, size=(32, 32), audio_size=(32, 16), answer=answer)
    reads = [[("visual4", "main"), ("audio4", "audio")]]
    net = add_exits(net, "density-ee", at=["audio4"], reads=reads, names=["AV1"], classes=1, answer=answer)
    model = Model(TorchRow(net.eval()), Counting())
    x = {name: tensor.numpy() for name, tensor in net.backbone.example(3).items()}
    early = model.answer(x, policy=Fixed("AV1"))
    assert early.exit_names() == ["AV1"] * 3
    assert early.outputs.shape == ((3, 1, 32, 32) if answer == "density" else (3, 1))
    assert counts_of(early.outputs).shape == (3,)
    with pytest.raises(ConfigError):
        model.answer(x, policy=Confidence(0.9))


@pytest.mark.parametrize("measure", [mean_absolute_error, root_mean_square_error])
def test_counts_and_their_truth_are_equally_many(measure):
    # Broadcast, these would be compared each with every other.
    for counts, truth in (([1.0, 2.0], [[1.0], [2.0]]), ([], [])):
        with pytest.raises(InputError, match="as many true ones, at least one"):
            measure(np.array(counts), np.array(truth))
