"""Batch norm folded away: the same numbers at every boundary and exit, in any network; refused where not."""

import math

import pytest
import torch
from torch import nn

from sentio.core import registry
from sentio.core.cutting import stage
from sentio.core.errors import StageError
from sentio.core.multi_exit import MultiExit, add_exits
from sentio.core.staged import Staged, create_network
from sentio.nn.normalisation import ChannelAffine
from sentio.techniques.batch_norm_folding import fold_batch_norm

torch.set_num_threads(1)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def kinds(net, *types):
    return [name for name, module in net.named_modules() if isinstance(module, types)]


def shake(net, seed=0):
    """Weights and statistics of batch norm that are not the starting ones, in double precision, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, NORMS) and module.running_var is not None:
            module.running_var.uniform_(0.05, 2, generator=generator)
            module.running_mean.normal_(generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.normal_(module.bias, generator=generator)
    return net.double().eval()


def difference(ours, theirs):
    """Largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))


def folded_and_checked(net, x):
    """A plain module, folded; its output is compared."""
    net = shake(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold_batch_norm(net, x)
    with torch.no_grad():
        assert difference(folded(x), net(x)) < 1e-12
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    return folded


@pytest.mark.parametrize("name", registry.names("network"))
def test_every_registered_network_keeps_its_boundaries(name):
    entry = registry.find("network", name)
    torch.manual_seed(0)
    net = create_network(name, **entry.small)
    net.input_shapes = dict(entry.small_shapes or entry.input_shapes)
    shake(net)
    folded = fold_batch_norm(net)
    assert kinds(folded, *NORMS) == []
    if not kinds(net, *NORMS):
        assert folded.state_dict().keys() == net.state_dict().keys()
    x = {key: value.double() for key, value in net.start(net.example(3, seed=1)).items()}
    x = x["main"] if x.keys() == {"main"} else x
    with torch.no_grad():
        for (stage_name, ours), (_, theirs) in zip(folded.boundaries(x), net.boundaries(x), strict=True):
            for key, value in ours.items():
                assert difference(value, theirs[key]) < 1e-12, (stage_name, key)
    assert folded.spec is None
    assert not folded.training
    assert net.spec is not None


def test_single_precision_agrees():
    net = create_network("tiny-cnn")
    shake(net).float()
    x = net.example(4)
    with torch.no_grad():
        assert difference(fold_batch_norm(net)(x), net(x)) < 1e-5


def test_the_worked_example():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.5)).double().eval()
    for tensor, value in (
        (net[0].weight, 1.0),
        (net[1].weight, 1.0),
        (net[1].bias, 0.5),
        (net[1].running_mean, 3.0),
        (net[1].running_var, 3.5),
    ):
        nn.init.constant_(tensor, value)
    folded = fold_batch_norm(net, torch.zeros(1, 1, 2, 2).double())
    assert isinstance(folded[1], nn.Identity)
    assert folded[0].weight.item() == 0.5
    assert folded[0].bias.item() == -1.0
    seven = torch.full((1, 1, 1, 1), 7.0).double()
    assert folded(seven).item() == net(seven).item() == 2.5


def test_eps_counts_where_the_variance_is_far_below_it():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)).double().eval()
    nn.init.ones_(net[0].weight)
    nn.init.constant_(net[1].running_var, 9.3e-11)
    folded = fold_batch_norm(net, torch.zeros(1, 1, 2, 2).double())
    assert folded[0].weight.item() == pytest.approx(1 / math.sqrt(9.3e-11 + 1e-5), rel=1e-12)
    assert folded[0].weight.item() < 317  # without eps 103,695


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [
        (nn.Conv1d(3, 6, 3, padding=1, groups=3), nn.BatchNorm1d(6), (2, 3, 9)),
        (nn.Conv2d(3, 6, 3, stride=2, padding="valid", bias=False), nn.BatchNorm2d(6), (2, 3, 9, 8)),
        (nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6, affine=False), (2, 3, 9, 8)),
        (nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(6), (2, 3, 9, 8)),
        (nn.Conv3d(2, 4, 3, dilation=2), nn.BatchNorm3d(4), (2, 2, 6, 6, 6)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4), (2, 5)),
    ],
    ids=["grouped-1d", "strided-2d", "same-2d", "circular-2d", "dilated-3d", "linear"],
)
def test_layers_that_take_batch_norm_in(conv, norm, shape):
    net = nn.Sequential(conv, norm, nn.ReLU())
    folded = folded_and_checked(net, torch.randn(shape).double())
    assert isinstance(folded[1], nn.Identity)
    assert folded[0].bias is not None
    assert net[1] is norm


def test_it_folds_through_dropout_and_across_modules():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5)), nn.Sequential(nn.BatchNorm2d(4)))
    folded = folded_and_checked(net, torch.randn(2, 1, 5, 5).double())
    assert kinds(folded, ChannelAffine, *NORMS) == []


class Sum(nn.Module):
    """Two or three convolutions, summed before batch norm."""

    def __init__(self, *convs, shortcut=False):
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.bn = nn.BatchNorm2d(3)
        self.shortcut = shortcut

    def forward(self, x):
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = y + conv(x)
        return self.bn(y + x if self.shortcut else y)


def test_a_sum_of_convolutions_takes_it_in_with_one_shift():
    convs = [nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1, bias=False)]
    folded = folded_and_checked(Sum(*convs), torch.randn(2, 3, 5, 5).double())
    assert isinstance(folded.bn, nn.Identity)
    assert [conv.bias is not None for conv in folded.convs] == [False, True, True]


def same_twice():
    conv = nn.Conv2d(3, 3, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(3), nn.ReLU(), conv)


def tied_weights():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    net[2].weight = net[0].weight
    return net


class Subclass(nn.Conv2d):
    """The same weights, another computation."""

    def forward(self, x):
        return 2 * super().forward(x)


class Read(nn.Module):
    """The convolution is read past its batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return y.relu() + self.bn(y)


class Doubled(Read):
    """The convolution is added to itself."""

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y + y)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.Sequential(nn.ConvTranspose2d(3, 3, 2), nn.BatchNorm2d(3)),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
        nn.Sequential(Subclass(3, 3, 1), nn.BatchNorm2d(3)),
        Sum(nn.Conv2d(3, 3, 1), shortcut=True),
        same_twice(),
        tied_weights(),
        Read(),
        Doubled(),
    ],
    ids=[
        "first",
        "behind-relu",
        "transposed",
        "parametrised",
        "subclass",
        "shortcut",
        "shared",
        "tied",
        "read",
        "doubled",
    ],
)
def test_elsewhere_two_numbers_a_channel_remain(net):
    folded = folded_and_checked(net, torch.randn(2, 3, 6, 6).double())
    assert kinds(folded, *NORMS) == []
    affine = kinds(folded, ChannelAffine)
    assert len(affine) == 1
    assert sum(p.numel() for p in folded.get_submodule(affine[0]).parameters()) == 6


def test_a_batch_norm_without_a_bias():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    for norm in (net[1], net[3]):
        norm.bias = None
    folded = folded_and_checked(net, torch.randn(2, 3, 4, 4).double())
    assert kinds(folded, *NORMS) == []


def test_batch_norm_over_the_steps_of_a_sequence_is_not_taken_for_one_over_features():
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    folded = folded_and_checked(net, torch.randn(2, 4, 5).double())
    assert isinstance(folded[1], ChannelAffine)


def test_a_batch_norm_at_two_places_stays_one_layer():
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm)
    folded = folded_and_checked(net, torch.randn(2, 3, 4, 4).double())
    assert isinstance(folded[1], ChannelAffine)
    assert folded[1] is folded[3]


def test_a_boundary_between_convolution_and_batch_norm_keeps_its_value():
    net = Staged({"conv": nn.Conv2d(1, 3, 3), "bn": nn.BatchNorm2d(3)}, input_shapes=(1, 6, 6))
    shake(net)
    folded = fold_batch_norm(net)
    x = net.example(2).double()
    with torch.no_grad():
        assert torch.equal(folded.before("conv")(x), net.before("conv")(x))
        assert difference(folded(x), net(x)) < 1e-12
    assert isinstance(folded.stage("bn"), ChannelAffine)


# One reads two senses, one gives as many values as it reads channels.
@pytest.mark.parametrize("kind", sorted(set(registry.names("exit")) - {"av-sl-vit", "raw"}))
def test_exits_are_folded_with_their_network(kind):
    torch.manual_seed(0)
    net = create_network("resnet8", classes=4)
    net = add_exits(net, kind, at=["layer2"], classes=4)
    net.switch("layer2", on=False)
    shake(net)
    folded = fold_batch_norm(net)
    assert isinstance(folded, MultiExit)
    assert kinds(folded, *NORMS) == []
    assert folded.switched_off == ("layer2",)
    folded.switch("layer2", on=True)
    net.switch("layer2", on=True)
    x = net.backbone.example(3).double()
    with torch.no_grad():
        ours, theirs = folded(x), net(x)
    assert list(ours) == ["layer2", "final"]
    assert all(difference(ours[name], theirs[name]) < 1e-12 for name in ours)
    assert folded.backbone.spec is None


def test_python_that_depends_on_shapes_is_followed():
    class Checks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            if x.shape[3] < 3:
                raise ValueError("too narrow")
            return self.bn(self.conv(x))

    assert kinds(folded_and_checked(Checks(), torch.randn(2, 1, 5, 5).double()), ChannelAffine) == []


def test_counts_without_values():
    with torch.device("meta"):
        net = create_network("resnet20")
    folded = fold_batch_norm(net)
    # Every convolution has a bias for the two numbers a channel that batch norm had: 7 x 16, 6 x 32, 6 x 64.
    assert sum(p.numel() for p in folded.parameters()) == 269_722 - 688
    assert sum(b.numel() for b in folded.buffers()) == 0


def test_other_norms_are_left_alone():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(3), nn.InstanceNorm2d(4))
    folded = folded_and_checked(net, torch.randn(2, 1, 5, 5).double())
    assert folded.state_dict().keys() == net.state_dict().keys()


class Ignorant(nn.BatchNorm2d):
    """Not PyTorch's own layer."""


def conv_and(norm):
    return nn.Sequential(nn.Conv2d(1, 2, 3), norm)


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (
            conv_and(nn.BatchNorm2d(2, track_running_stats=False)),
            r"'1' cannot be folded: it keeps no running statistics",
        ),
        (conv_and(Ignorant(2)), r"'1' cannot be folded: it is computed by Ignorant and not by a BatchNorm"),
    ],
)
def test_what_cannot_be_folded_is_refused_in_one_sentence(net, why):
    with pytest.raises(StageError, match=why) as error:
        fold_batch_norm(net, torch.randn(2, 1, 5, 5))
    assert ". " not in str(error.value)


def test_a_network_cut_by_its_graph_is_refused():
    module = nn.ModuleDict({"net": conv_and(nn.BatchNorm2d(2))})
    module.forward = lambda x: module["net"](x)
    net = stage(module, ["net.0"], torch.randn(2, 1, 5, 5))
    with pytest.raises(StageError, match="fold a module before it is cut into stages"):
        fold_batch_norm(net)


def test_a_plain_module_needs_an_example():
    with pytest.raises(StageError, match="pass example="):
        fold_batch_norm(conv_and(nn.BatchNorm2d(2)))


def test_a_module_that_no_graph_can_hold_is_refused_with_the_reason():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(StageError, match="Batch norm in Branches cannot be folded: which operations run"):
        fold_batch_norm(Branches(), torch.randn(2, 3))
