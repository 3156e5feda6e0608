"""Progressive growth: when it stops, and what a larger network takes over from a smaller one."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import create_network
from sentio.techniques.progressive_growth import grow, inherit

torch.set_num_threads(1)


def build(widths, seed=None):
    if seed is not None:
        torch.manual_seed(seed)
    return create_network("st-bln", edges=6, classes=3, widths=widths, dropout=0.0)


def lived(net):
    """As after some training: statistics and maps that are not the starting ones."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.2)
    for name, parameter in net.named_parameters():
        if name.endswith("left"):
            parameter.data.uniform_(0, 0.3)
    return net.double().eval()


def test_the_published_rule_by_example():
    losses = iter([1.0, 0.6, 0.59995, 0.4, 0.39999, 0.39998, 0.39997])
    told = []
    found = grow(build, lambda net: next(losses), report=told.append)
    assert found.widths == (10, 5)
    assert [trial.widths for trial in found.trials] == [
        (5,),
        (10,),
        (15,),
        (10, 5),
        (10, 10),
        (10, 5, 5),
        (10, 5, 10),
    ]
    assert [trial.accepted for trial in found.trials] == [True, True, False, True, False, True, False]
    assert told == list(found.trials)
    assert next(losses, None) is None
    assert found.net.spec["options"]["widths"] == (10, 5)


def test_a_rejected_block_does_not_lower_the_loss_that_is_compared():
    # The third block of layer 1 comes to 0.59995, and layer 2 to less than 1e-4 below 0.6: removed.
    losses = iter([1.0, 0.6, 0.59995, 0.59996, 0.59996])
    assert grow(build, lambda net: next(losses)).widths == (10,)
    losses = iter([1.0, 0.6, 0.59995, 0.5999, 0.5999, 0.5999, 0.5999])
    assert grow(build, lambda net: next(losses)).widths == (10, 5)


def test_a_rejected_training_leaves_no_trace():
    """What growth gives has the weights of its accepted training, not of those that were taken back."""
    losses = iter([1.0, 0.5, 0.5, 0.5, 0.5])

    def train(net):
        loss = next(losses)
        with torch.no_grad():
            net.stage("head").fc.bias.fill_(len(net.stage_names) * 10 + loss)
        return loss

    found = grow(build, train)
    assert found.widths == (10,)
    assert found.net.stage("head").fc.bias.tolist() == [20.5] * 3


def test_limits_and_fine_tuning():
    count = 0

    def train(net):
        nonlocal count
        count += 1
        return 1.0 / count

    found = grow(build, train, block=2, max_layers=2, max_blocks=2, fine_tune=True)
    assert found.widths == (4, 4)
    assert count == 5
    assert len(found.trials) == 5
    with pytest.raises(ConfigError, match="needs block of at least 1, got 0"):
        grow(build, train, block=0)
    with pytest.raises(InputError, match=r"widths \[5\] came to a loss of nan"):
        grow(build, lambda net: float("nan"))


@pytest.mark.parametrize(("old", "new"), [((4,), (6,)), ((4, 7), (4, 9)), ((3, 5, 8), (3, 5, 10))])
def test_a_wider_network_answers_alike_until_it_is_trained(old, new):
    small, large = lived(build(old, 0)), lived(build(new, 1))
    assert inherit(small, large, zero_rest=True) == []
    x = torch.randn(2, 2, 12, 6, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(small(x), large(x), rtol=0, atol=1e-12)
        assert small(x).abs().max() > 0.01


def test_leading_parts_are_copied_and_the_rest_is_as_it_was_drawn():
    small, large, untouched = lived(build((4,), 0)), lived(build((6,), 1)), build((6,), 1).double()
    untouched.load_state_dict(large.state_dict())
    inherit(small, large)
    key = "stages.layer1.block.conv.weight"
    old, new, drawn = (net.state_dict()[key] for net in (small, large, untouched))
    assert torch.equal(new[:4, :4], old)
    assert torch.equal(new[4:], drawn[4:])
    assert torch.equal(new[:, 4:], drawn[:, 4:])
    key = "stages.layer1.block.bn.running_var"
    assert torch.equal(large.state_dict()[key][:4], small.state_dict()[key])
    maps = "stages.layer1.block.spatial.graph.left"
    assert torch.equal(large.state_dict()[maps], small.state_dict()[maps])


def test_a_new_layer_gets_a_new_classifier():
    small, large = lived(build((4,), 0)), lived(build((4, 4), 1))
    before = large.stage("head").fc.weight.clone()
    unfilled = inherit(small, large, skip=("head",))
    assert torch.equal(large.stage("head").fc.weight, before)
    assert {name.split(".")[1] for name in unfilled} == {"layer2", "head"}
    assert torch.equal(large.stage("layer1").block.conv.weight, small.stage("layer1").block.conv.weight)


def test_a_narrower_network_is_refused():
    with pytest.raises(ConfigError, match="growth only widens"):
        inherit(build((6,)), build((4,)))


def test_grows_on_data_that_need_it():
    torch.manual_seed(0)
    x = torch.randn(48, 2, 8, 6)
    targets = (x[:, 0, :, 0].mean(1) > 0).long() + (x[:, 1, :, 3].mean(1) > 0).long()

    def train(net):
        net.train()
        optimiser = torch.optim.AdamW(net.parameters(), 0.02)
        for _ in range(12):
            optimiser.zero_grad()
            loss = cross_entropy(net(x), targets)
            loss.backward()
            optimiser.step()
        return loss.item()

    found = grow(
        build, train, block=3, max_layers=2, max_blocks=2, width_tolerance=0.05, depth_tolerance=0.05
    )
    assert found.trials[0].loss > min(trial.loss for trial in found.trials)
    assert cross_entropy(found.net(x), targets) < 1.0
