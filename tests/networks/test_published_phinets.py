"""PhiNets against the counts of their papers, and against what their sheet derives from them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sentio.core.counting import count
from sentio.core.errors import ConfigError, InputError
from sentio.core.memory import peak_activations
from sentio.core.staged import create_network
from sentio.networks.phinet import (
    ICASSP_MEMBERS,
    BlockPlan,
    PhiNetBlock,
    expansion_factor,
    release_blocks,
    scaled,
    separable_input,
)
from sentio.networks.phinet_1d import KERNELS, MEMBERS_1D, OFFSETS, FilterBank, PhiNetBlock1d

torch.set_num_threads(1)


def meta_network(name, **options):
    with torch.device("meta"):
        return create_network(name, **options)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def keras_parameters(net):
    """As Keras counts: with the running mean and variance of every batch norm."""
    return parameters(net) + sum(b.numel() for name, b in net.named_buffers() if "running" in name)


def folded_parameters(net):
    """What is stored once batch norms are folded: all weights, and a bias per output of every layer."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(layer.weight.numel() + layer.weight.shape[0] for layer in layers)


def macs(net, *shape):
    return count(net, torch.empty(1, *shape, device="meta")).total


# The EUSIPCO grid: alpha, t0, published parameters, trained, folded, MACs, peak of activations
GRID = [
    (0.20, 2, 4_779, 4_413, 4_229, 795_520, 34_020),
    (0.20, 4, 8_893, 8_295, 7_995, 1_590_660, 56_880),
    (0.20, 6, 13_007, 12_177, 11_761, 2_385_800, 85_320),
    (0.35, 2, 12_479, 11_845, 11_527, 2_248_506, 60_480),
    (0.35, 4, 23_797, 22_763, 22_245, 4_496_342, 101_120),
    (0.35, 6, 35_115, 33_681, 32_963, 6_744_178, 151_680),
    (0.50, 2, 24_507, 23_585, 23_123, 4_705_084, 90_720),
    (0.50, 4, 47_349, 45_843, 45_089, 9_409_208, 151_680),
    (0.50, 6, 70_191, 68_101, 67_055, 14_113_332, 227_520),
]


@pytest.mark.parametrize(("alpha", "t0", "published", "trained", "folded", "work", "peak"), GRID)
def test_phinet_grid(alpha, t0, published, trained, folded, work, peak):
    net = meta_network("phinet", alpha=alpha, t0=t0)
    assert keras_parameters(net) == published
    assert parameters(net) == trained
    assert folded_parameters(net) == folded
    assert macs(net, 1, 126, 40) == work
    assert peak_activations(net, torch.empty(1, 1, 126, 40, device="meta")) == peak


@pytest.mark.parametrize(
    ("alpha", "base", "slope"), [(0.2, 665, 2057), (0.35, 1161, 5659), (0.5, 1665, 11421)]
)
def test_phinet_parameters_are_affine_in_t0(alpha, base, slope):
    for t0 in (1, 3, 5, 8):
        assert keras_parameters(meta_network("phinet", alpha=alpha, t0=t0)) == base + slope * t0


def test_phinet_at_other_sizes():
    for t0, work in ((2, 4.434), (4, 8.868), (6, 13.301)):
        assert round(macs(meta_network("phinet", t0=t0), 1, 120, 40) / 1e6, 3) == work
    pooled = [macs(meta_network("phinet", t0=t0, downsampling="pool"), 1, 126, 40) for t0 in (4, 6)]
    assert [round(work / 1e6, 1) for work in pooled] == [19.6, 29.4]
    shapes = create_network("phinet").boundary_shapes()
    assert [shape["main"] for shape in shapes.values()] == [(24, 63, 20), (48, 32, 10), (96, 16, 5), (10,)]


@pytest.mark.parametrize("name", ["phinet", "phinet-icassp", "phinet-teacher"])
@pytest.mark.parametrize("size", [(31, 20), (16, 64)])
def test_they_take_any_size(name, size):
    net = create_network(name, classes=6, in_channels=2).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 2, *size)).shape == (2, 6)


# The paper's five, which its text does not determine: our exact counts at 120 and 126 frames
ICASSP = [
    ("m40", 28_978, 47.139, 49.535),
    ("m15", 24_331, 13.347, 13.945),
    ("m5", 3_318, 3.355, 3.525),
    ("m3", 2_108, 1.839, 1.933),
    ("m1.5", 2_079, 0.477, 0.495),
]


@pytest.mark.parametrize(("member", "numbers", "at_120", "at_126"), ICASSP)
def test_phinet_icassp_members(member, numbers, at_120, at_126):
    net = meta_network("phinet-icassp", **ICASSP_MEMBERS[member])
    assert parameters(net) == numbers
    assert round(macs(net, 1, 120, 40) / 1e6, 3) == at_120
    assert round(macs(net, 1, 126, 40) / 1e6, 3) == at_126


def test_phinet_icassp_shapes():
    shapes = create_network("phinet-icassp").boundary_shapes()
    assert {name: shape["main"] for name, shape in shapes.items()} == {
        "stem": (24, 124, 38),
        "block1": (24, 62, 19),
        "block2": (24, 62, 19),
        "features": (64, 62, 19),
        "head": (10,),
    }


def test_phinet_icassp_doubles_and_halves_where_it_is_told():
    options = {"n_blocks": 5, "double_at": (5,), "b1": 24, "alpha": 1.0, "t0": 1.0}
    pooled = create_network("phinet-icassp", **options).boundary_shapes()
    assert [pooled[f"block{n}"]["main"] for n in (1, 2, 3, 4, 5)] == [
        (24, 62, 19),
        (24, 62, 19),
        (48, 31, 9),
        (48, 31, 9),
        (96, 15, 4),
    ]
    strided = create_network("phinet-icassp", **options, downsampling="stride")
    assert strided.boundary_shapes()["block5"]["main"] == (96, 16, 5)
    assert macs(strided.to("meta"), 1, 126, 40) < macs(meta_network("phinet-icassp", **options), 1, 126, 40)


def parent(squeeze, *, alpha=1.0, beta=1.0, t0=6.0):
    """The image backbone of the first PhiNet paper: 7 blocks, doubling at 5 and 7, without a classifier."""
    plans = release_blocks(
        7,
        alpha=alpha,
        b1=24,
        b2=48,
        t0=t0,
        beta=beta,
        downsampling="stride",
        double_at=(5, 7),
        squeeze=squeeze,
    )
    with torch.device("meta"):
        stem = separable_input(3, scaled(alpha, 48), scaled(alpha, 24), act=nn.Hardswish)
        stem.bn = nn.BatchNorm2d(scaled(alpha, 48))  # has weights there
        return nn.Sequential(stem, *(PhiNetBlock(plan) for plan in plans))


def sixth_of_expanded(in_channels, expanded):
    return max(1, expanded // 6)


def test_the_parent_backbone_is_the_authors():
    """Figures of the authors' package micromind at its defaults."""
    net = parent(sixth_of_expanded, alpha=0.2)
    assert parameters(net) == 30_917
    assert macs(net, 3, 224, 224) == 9_815_790
    assert net(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 38, 7, 7)


def test_alpha_scales_the_work_with_its_square():
    whole = macs(parent(sixth_of_expanded), 3, 96, 96)
    for alpha, published in ((0.5, 0.276), (0.75, 0.582), (1.5, 2.17), (2.0, 3.80)):
        ratio = macs(parent(sixth_of_expanded, alpha=alpha), 3, 96, 96) / whole
        assert ratio == pytest.approx(published, rel=2e-3)
        assert ratio == pytest.approx(alpha**2, rel=0.11)


def test_beta_scales_the_parameters_faster_than_the_paper_says():
    whole = parameters(parent(sixth_of_expanded))
    for beta, ratio in ((0.25, 0.284), (0.5, 0.483), (0.75, 0.721), (1.5, 1.667), (2.0, 2.49)):
        found = parameters(parent(sixth_of_expanded, beta=beta)) / whole
        assert found == pytest.approx(ratio, abs=3e-3)


@pytest.mark.parametrize("blocks", [1, 3, 7])
def test_expansion_factor(blocks):
    for t0, beta in ((4.0, 1.0), (6.0, 0.25), (2.0, 2.0)):
        factors = [expansion_factor(t0, beta, block, blocks) for block in range(blocks + 1)]
        assert factors[-1] == pytest.approx(beta * t0)
        assert sum(factors) / len(factors) == pytest.approx(t0 * (1 + beta) / 2)
        assert beta != 1 or set(factors) == {t0}


@pytest.mark.parametrize(
    ("widths", "stride", "bias"),
    [((8, 24, 2, 8), 1, False), ((5, 21, 1, 9), 2, True), ((7, 7, 3, 7), 2, False)],
)
def test_block_costs_are_the_closed_form(widths, stride, bias):
    inputs, expanded, squeezed, outputs = widths
    with torch.device("meta"):
        block = PhiNetBlock(BlockPlan(inputs, expanded, squeezed, outputs, stride=stride), se_bias=bias)
    expected = expanded * (inputs + outputs + 13 + 2 * squeezed) + 2 * outputs
    assert parameters(block) == expected + (expanded + squeezed if bias else 0)
    small = 12 * 10 // stride**2
    assert macs(block, inputs, 12, 10) == (
        expanded * inputs * 120 + expanded * (9 + outputs) * small + 2 * expanded * squeezed
    )


@pytest.mark.parametrize(("outputs", "stride"), [(8, 1), (8, 2), (9, 1)])
def test_without_its_last_norm_a_block_is_its_shortcut(outputs, stride):
    block = PhiNetBlock(BlockPlan(8, 16, 2, outputs, stride=stride)).eval()
    nn.init.zeros_(block.project.bn.weight)
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        y = block(x)
    if (outputs, stride) == (8, 1):
        assert torch.equal(y, x)
    else:
        assert not y.any()


def test_folding_the_norms_changes_nothing():
    torch.manual_seed(0)
    net = create_network("phinet", alpha=0.2)
    net(3 * net.example(4) + 1)
    net.eval()
    folded = copy.deepcopy(net)
    for module in folded.modules():
        if isinstance(module, PhiNetBlock):
            for part in (module.expand, module.depthwise, module.project):
                part.conv, part.bn = fuse_conv_bn_eval(part.conv, part.bn), nn.Identity()
    x = net.example(2)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x), rtol=1e-5, atol=1e-5)


# On waveforms: published parameters, MACs of the frames that are kept, maps behind the bank and before the
# head, MACs of all frames, the paper's M MACs
ONE_D = [
    ("m1", 11_506, 1_340_682, (12, 210), (48, 52), 1_345_290, "1.34"),
    ("m0.5", 5_914, 402_920, (8, 124), (32, 31), 406_760, "0.40"),
    ("m0.2", 2_114, 55_272, (8, 36), (16, 18), 59_112, "0.06"),
    ("m0.1", 1_154, 145_706, (4, 210), (16, 52), 147_242, "0.15"),
    ("m0.07", 766, 71_876, (4, 124), (8, 62), 73_796, "0.07"),
]


def uncropped_macs(net, filters, stride):
    """As the release computes it: every frame of each kernel over the whole rotated waveform."""
    frames = net.boundary_shapes()["bank"]["main"][1]
    extra = sum(kernel * ((64_000 - kernel) // stride + 1 - frames) for kernel in KERNELS)
    return macs(net, 1, 64_000) + filters * extra


@pytest.mark.parametrize(("member", "numbers", "work", "bank", "last", "uncropped", "published"), ONE_D)
def test_phinet_1d_members(member, numbers, work, bank, last, uncropped, published):
    options = MEMBERS_1D[member]
    net = meta_network("phinet-1d", **options)
    assert parameters(net) == numbers
    assert macs(net, 1, 64_000) == work
    assert f"{work / 1e6:.2f}" == published
    assert uncropped_macs(net, options["filters"], options["stride"]) == uncropped
    shapes = net.boundary_shapes()
    assert shapes["bank"]["main"] == (*bank, 1)
    assert shapes[net.stage_names[-2]]["main"] == (*last, 1)


def test_phinet_1d_scaling():
    sizes = {stride: meta_network("phinet-1d", stride=stride) for stride in (200, 300, 400, 800, 1600)}
    assert {parameters(net) for net in sizes.values()} == {11_506}
    work = {stride: uncropped_macs(sizes[stride], 3, stride) for stride in (200, 400, 800)}
    assert work == {200: 2_022_060, 400: 1_001_868, 800: 491_388}
    depths = [parameters(meta_network("phinet-1d", depth_multiplier=d)) for d in (1, 2, 3, 4, 5)]
    assert depths == [4_282, 6_346, 8_410, 10_474, 12_538]
    widths = [
        parameters(meta_network("phinet-1d", filters=f, depth_multiplier=4)) for f in (1, 2, 3, 4, 8, 16)
    ]
    assert widths == [1_914, 5_418, 10_474, 17_162, 59_658, 220_682]
    assert parameters(meta_network("phinet-1d", n_layers=6)) == 57_346


@pytest.mark.parametrize("stride", [300, 500, 1600])
def test_the_bank_is_the_rotated_and_cropped_one(stride):
    """The paper's: rotate to the left, convolve all of it, crop to four frames less than kernel 32 gives."""
    torch.manual_seed(0)
    bank = FilterBank(1, 2, stride)
    x = torch.randn(2, 1, 64_000)
    with torch.no_grad():
        maps = [conv(x.roll(-offset, dims=-1)) for conv, offset in zip(bank.convs, OFFSETS, strict=True)]
        expected = torch.cat([y[..., : maps[0].shape[-1] - 4] for y in maps], dim=1)
        torch.testing.assert_close(bank(x).squeeze(-1), expected)


def test_the_bank_reads_what_it_says():
    bank = FilterBank(1, 1, 100)
    x = torch.randn(1, 1, 5_000)
    longest = bank.convs[3].weight
    with torch.no_grad():
        longest.zero_()
        longest[..., 0] = 1.0
        y = bank(x)[0, :, :, 0]
        assert torch.equal(y[3], x[0, 0, 448 + 100 * torch.arange(y.shape[1])])
        later = x.clone()
        later[..., 10 * 100 + 704 :] = 0.0  # frame 10 and those before it end here
        assert torch.equal(bank(later)[0, :, :11, 0], y[:, :11])
        assert not torch.equal(bank(later)[0, :, 11:, 0], y[:, 11:])


def test_at_a_small_stride_more_is_cropped():
    bank = FilterBank(1, 1, 100)
    assert bank.frames(64_000) == 633
    assert (633 - 1) * 100 + 704 <= 64_000 < 633 * 100 + 704
    with torch.no_grad():
        assert bank(torch.randn(1, 1, 64_000)).shape == (1, 4, 633, 1)


@pytest.mark.parametrize(("stride", "n_layers"), [(20, 4), (300, 4), (500, 3)])
def test_phinet_1d_says_how_long_a_waveform_must_be(stride, n_layers):
    net = create_network("phinet-1d", stride=stride, n_layers=n_layers, classes=3).eval()
    least = net.stage("bank").least_samples
    with torch.no_grad():
        assert net(torch.randn(2, 1, least)).shape == (2, 3)
        with pytest.raises(InputError, match=f"at least {least} samples, got {least - 1}"):
            net(torch.randn(2, 1, least - 1))


@pytest.mark.parametrize("join", ["add", "concat"])
def test_the_narrowest_block_halves_its_branch(join):
    torch.manual_seed(0)
    block = PhiNetBlock1d(4, 1.5, join).eval()
    x = torch.randn(2, 4, 9, 1)
    with torch.no_grad():
        branch = 0.5 * block.project(block.depthwise(block.expand(x)))
        expected = branch + x if join == "add" else torch.cat((branch, x), dim=1)
        assert torch.equal(block(x), expected)


def test_the_teacher():
    net = meta_network("phinet-teacher")
    assert parameters(net) == 66_026
    assert keras_parameters(net) == 66_410
    work = [macs(net, 1, frames, 40) for frames in (120, 122, 126)]
    assert work == [84_162_304, 85_658_752, 88_651_648]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("phinet", {"alpha": 0}, "'alpha' of network 'phinet' must be above 0"),
        ("phinet", {"downsampling": "fft"}, "'downsampling' of network 'phinet' is 'stride' or 'pool'"),
        ("phinet", {"channels": ()}, "'channels' of network 'phinet' needs a width per block"),
        ("phinet-icassp", {"t0": -1.0}, "'t0' of network 'phinet-icassp' must be above 0"),
        ("phinet-icassp", {"n_blocks": 1}, "'n_blocks' of network 'phinet-icassp' must be 2 or more"),
        ("phinet-icassp", {"input_conv": "wide"}, "is 'conv' or 'separable'"),
        ("phinet-1d", {"filters": 0}, "'filters' of network 'phinet-1d' must be at least 1"),
        ("phinet-1d", {"n_layers": 2}, "'n_layers' of network 'phinet-1d' must be at least 3"),
        ("phinet-1d", {"depth_multiplier": 0}, "'depth_multiplier' of network 'phinet-1d' must be above 0"),
    ],
)
def test_an_option_out_of_range_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create_network(name, **options)
