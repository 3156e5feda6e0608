"""CP-Mobile and BC-ResNet against the figures of their papers and the challenge's results."""

import pytest
import torch

from sentio.core.counting import count
from sentio.core.errors import InputError
from sentio.core.staged import create_network
from sentio.networks.bc_resnet import BC_RESNET_WIDTHS
from sentio.networks.cp_mobile import CP_MOBILE_MEMBERS
from sentio.techniques.batch_norm_folding import fold_batch_norm

torch.set_num_threads(1)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def biased_outputs(net):
    """Numbers to which a convolution or linear layer adds a bias, for one sample."""
    added = 0

    def note(layer, _, output):
        nonlocal added
        added += output[0].numel() if layer.bias is not None else 0

    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        net(net.example(1))
    for hook in hooks:
        hook.remove()
    return added


@pytest.mark.parametrize(
    ("member", "published_parameters", "published_macs"),
    [
        ("6k", 5_722, 1_582_336),
        ("12k", 12_310, 4_354_304),
        ("30k", 30_106, 9_638_144),
        ("54k", 54_182, 16_803_072),
    ],
)
def test_cp_mobile_submissions(member, published_parameters, published_macs):
    folded = fold_batch_norm(create_network("cp-mobile", **CP_MOBILE_MEMBERS[member]))
    assert parameters(folded) == published_parameters
    assert count(folded, folded.example()).total + biased_outputs(folded) == published_macs


def test_cp_mobile_release():
    net = create_network("cp-mobile").eval()
    assert parameters(net) == 126_952
    assert parameters(fold_batch_norm(net)) == 124_862
    assert count(net, net.example()).total == 28_889_088
    shapes = {name: boundary["main"] for name, boundary in net.boundary_shapes().items()}
    assert shapes == {
        "stem": (32, 16, 64),
        "block1": (32, 16, 64),
        "block2": (32, 8, 32),
        "block3": (32, 8, 32),
        "block4": (72, 8, 16),
        "block5": (72, 8, 16),
        "block6": (168, 8, 16),
        "head": (10,),
    }


def test_cp_mobile_keeps_nine_tenths_of_a_width():
    # 8.8 stays at 8, which is enough of it; 10.4 and 11.6 are nearest to 8 too, which is too little.
    widths = [
        create_network("cp-mobile", base_channels=8, expansion=expansion)
        .stage("block1")
        .expand.conv.out_channels
        for expansion in (1.1, 1.3, 1.45)
    ]
    assert widths == [8, 16, 16]


@pytest.mark.parametrize(
    ("tau", "exact", "published", "macs"),
    [
        ("1", 9_232, 9.2, 2_482_156),
        ("1.5", 17_154, 17.2, 4_607_994),
        ("2", 27_284, 27.3, 7_323_672),
        ("3", 54_168, 54.2, 14_524_548),
        ("6", 187_812, 188, 50_283_336),
        ("8", 321_068, 321, 85_919_328),
    ],
)
def test_bc_resnets(tau, exact, published, macs):
    net = create_network("bc-resnet", width=BC_RESNET_WIDTHS[tau]).eval()
    assert parameters(net) == exact
    assert round(exact / 1000, 1 if published < 100 else None) == published
    assert count(net, net.example()).total == macs


def test_bc_resnet_halves_frequency_and_keeps_time():
    net = create_network("bc-resnet", width=8)
    shapes = {name: boundary["main"] for name, boundary in net.boundary_shapes().items()}
    assert shapes == {
        "stem": (16, 101, 20),
        "layer1": (8, 101, 20),
        "layer2": (12, 101, 10),
        "layer3": (16, 101, 5),
        "layer4": (20, 101, 5),
        "head": (12,),
    }


@pytest.mark.parametrize(("bands", "sub_bands"), [(40, [5, 5, 5, 5]), (64, [4, 4, 4, 4]), (24, [4, 3, 3, 3])])
def test_bc_resnet_normalises_as_many_ranges_as_divide_the_map(bands, sub_bands):
    net = create_network("bc-resnet", width=4, bands=bands).eval()
    assert [net.stage(f"layer{n}")[-1].norm.sub_bands for n in (1, 2, 3, 4)] == sub_bands
    with torch.no_grad():
        assert net(torch.zeros(2, 1, 9, bands)).shape == (2, 12)


def test_bc_resnet_of_other_bands_is_refused():
    with pytest.raises(
        InputError, match=r"normalises 5 equally wide .* features 16 wide; build it with bands="
    ):
        create_network("bc-resnet", width=4)(torch.zeros(2, 1, 9, 32))


def test_one_block_by_hand():
    """The residual along time is the same for every band; both residuals and the input are added."""
    block = create_network("bc-resnet", width=4).stage("layer1")[1].eval()
    x = torch.randn(2, 4, 7, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        frequency = block.norm(block.frequency(x))
        expected = x + frequency + block.time(frequency.mean(dim=3, keepdim=True)).expand_as(frequency)
        torch.testing.assert_close(block(x), expected.clamp(min=0))
    assert block.time.depthwise.dilation == (1, 1)


def test_dilation_in_time_doubles_from_group_to_group():
    net = create_network("bc-resnet", width=4)
    assert [net.stage(f"layer{n}")[0].time.depthwise.dilation for n in (1, 2, 3, 4)] == [
        (1, 1),
        (2, 1),
        (4, 1),
        (8, 1),
    ]
