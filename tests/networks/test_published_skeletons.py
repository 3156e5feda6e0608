"""ST-GCN, AGCN and ST-BLN against published counts, and what must not change when joints change places."""

import pytest
import torch
from torch import nn

from sentio.core.counting import count
from sentio.core.errors import ConfigError
from sentio.core.staged import create_network
from sentio.networks.st_bln import PST_BLN_AFEW, without_maps
from sentio.networks.st_gcn import STARRED
from sentio.nn.graph_conv import FreeGraph, GraphBlock, spatial_partitions
from sentio.vision.skeleton_layout import JOINTS, NTU_LINKS, ROOT

torch.set_num_threads(1)
STARRED_AGCN = {**STARRED, "similarity": "frame"}
LANDMARK_GRAPH = {
    "in_channels": 2,
    "channels": (8, 16, 16, 32, 32, 64, 64),
    "strides": (1, 1, 1, 1, 2, 1, 1),
    "joints": 51,
    "persons": 1,
    "links": [(joint, joint - 1) for joint in range(1, 51)],
    "masks": False,
}


def on_meta(name, **options):
    with torch.device("meta"):
        net = create_network(name, **options)
    return net.to("meta").eval()


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def randomised(net, dtype=torch.float64, seed=0):
    """Weights, masks, maps and running statistics that are not the starting ones."""
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.2, generator=generator)
    for name, parameter in net.named_parameters():
        if name.endswith(("mask", "left")):
            parameter.data.uniform_(0, 0.3, generator=generator)
    return net.to(dtype).eval()


def test_the_graph_of_25_joints():
    parts = spatial_partitions(NTU_LINKS, JOINTS)
    assert len(NTU_LINKS) == 24
    assert parts.sum((1, 2)).tolist() == [25, 24, 20]
    assert [int((part != 0).sum()) for part in parts] == [25, 24, 24]
    receives = parts[2, :, ROOT]
    assert receives.nonzero().flatten().tolist() == [1, 2, 4, 8]
    assert receives[receives > 0].tolist() == [0.25] * 4
    links = (parts != 0).sum(0)
    assert int(links.sum()) == 73
    assert torch.equal(links, links.T)


def test_a_link_out_of_the_graph_is_refused():
    with pytest.raises(ConfigError, match=r"Link \(3, 0\) leaves the graph: its vertices are 0 to 2"):
        spatial_partitions([(3, 0)], 3)


@pytest.mark.parametrize(
    ("name", "total", "layers"),
    [
        ("st-gcn", 3_141_478, [40_211, *[51_539] * 3, 192_083, *[199_507] * 2, 759_123, *[790_355] * 2]),
        ("agcn", 3_469_510, [40_595, *[57_779] * 3, 204_563, *[224_275] * 2, 808_659, *[889_043] * 2]),
    ],
)
def test_parameters_of_skeleton_networks(name, total, layers):
    for options in ({}, STARRED):
        net = on_meta(name, **options)
        assert parameters(net) == total
        stages = [parameters(net.stage(stage)) for stage in net.stage_names]
        assert stages == [300 + layers[0], *layers[1:], 15_420]
        assert parameters(net.stage("layer1").input) == 300


def test_parameters_for_other_numbers_of_classes():
    assert parameters(on_meta("st-gcn", classes=120)) == 3_156_898
    assert parameters(on_meta("st-gcn", classes=400)) == 3_228_858


@pytest.mark.parametrize(
    ("name", "options", "total", "macs", "features"),
    [
        ("st-gcn", {}, 16_728_105_420, 16_600_335_360, (256, 75, 50)),
        ("st-gcn", STARRED, 36_902_825_420, 36_696_130_560, (256, 220, 50)),
        ("agcn", {}, 18_685_065_420, 18_540_015_360, (256, 75, 50)),
        ("agcn", STARRED_AGCN, 40_869_603_020, 40_636_296_960, (256, 220, 50)),
    ],
)
def test_operations_of_a_clip(name, options, total, macs, features):
    """Convolutions and linear layers with biases, two for each element of a batch norm, one for each ReLU's.

    The paper counts neither products with the graph nor similarities.
    """
    net = on_meta(name, **options)
    layers = dict(net.named_modules())
    counted = count(net, net.example()).by_module
    dense = sum(work for key, work in counted.items() if isinstance(layers[key], nn.Conv2d | nn.Linear))
    rest = 0

    def weigh(layer, _, output):
        nonlocal rest
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.ReLU):
            rest += output.numel()
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            rest += 2 * output.numel()

    for layer in layers.values():
        layer.register_forward_hook(weigh)
    net(net.example().to("meta"))
    assert dense == macs
    assert dense + rest == total
    assert net.boundary_shapes()["layer10"]["main"] == features
    if name == "st-gcn" and not options:
        assert sum(counted.values()) - dense == 651_375_000


@pytest.mark.parametrize(
    ("options", "published", "whole"),
    [
        ({"edges": 309, "classes": 6}, 132_274, 2_137_375),
        ({"edges": 303}, 132_315, 2_060_304),
        ({}, 132_351, 2_176_575),
        (PST_BLN_AFEW, 10_750, 1_762_942),
    ],
)
def test_parameters_of_st_bln(options, published, whole):
    net = on_meta("st-bln", **options)
    assert (without_maps(net), parameters(net)) == (published, whole)


def test_one_map_and_unique_edges_are_smaller():
    assert parameters(on_meta("st-bln", num_maps=1)) == 797_135
    assert parameters(on_meta("st-bln", num_maps=1, edges=309, classes=6)) == 784_017
    assert parameters(on_meta("st-bln", num_maps=1, edges=303)) == 758_354
    assert parameters(on_meta("st-bln", num_maps=1, **PST_BLN_AFEW)) == 593_734
    assert parameters(on_meta("st-bln", edges=181)) == 819_808
    assert parameters(on_meta("st-bln", edges=181, num_maps=1)) == 344_530
    ranked = on_meta("st-bln", rank=4)
    assert parameters(ranked) - without_maps(ranked) == 7 * 3 * 2 * 4 * 312


@pytest.mark.parametrize(
    ("widths", "published"),
    [
        ([5], 1_592),
        ([10], 2_392),
        ([5, 5], 1_932),
        ([10, 5], 2_907),
        ([10, 10], 3_672),
        ([15, 10], 5_402),
        ([10, 10, 10], 4_952),
        ([15, 15, 15], 9_282),
    ],
)
def test_parameters_while_growing(widths, published):
    assert without_maps(on_meta("st-bln", edges=309, classes=6, widths=widths)) == published


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [("st-gcn", 7, 131_307), ("agcn", 7, 143_775), ("agcn", 6, 143_710)],
)
def test_parameters_of_graph_networks_on_landmarks(name, classes, published):
    assert parameters(on_meta(name, classes=classes, **LANDMARK_GRAPH)) == published


@pytest.mark.parametrize(
    ("options", "shape", "macs"),
    [
        ({}, (2, 150, 312), 8_842_579_648),
        (PST_BLN_AFEW, (2, 150, 312), 2_540_163_670),
        ({"edges": 309}, (2, 4, 309), 232_178_104),
        ({"edges": 309, **PST_BLN_AFEW}, (2, 4, 309), 66_535_804),
    ],
)
def test_macs_of_st_bln(options, shape, macs):
    net = on_meta("st-bln", **options)
    counted = count(net, torch.zeros(1, *shape))
    assert counted.total == macs
    if shape[1] == 150:
        products = sum(work for key, work in counted.by_module.items() if key.endswith("graph"))
        assert products == (5_344_185_600 if not options else 2_168_337_600)


SMALL = {
    "classes": 4,
    "channels": (8, 8, 12),
    "strides": (1, 1, 1),
    "joints": 5,
    "links": ((1, 0), (2, 1), (3, 0), (4, 3)),
}


def small(name, **options):
    torch.manual_seed(0)
    return randomised(create_network(name, **SMALL, **options))


@pytest.mark.parametrize("name", ["st-gcn", "agcn"])
def test_joints_may_be_numbered_otherwise(name):
    net = small(name)
    x = torch.randn(2, 3, 20, 5, 2, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        want = net(x)
        for key, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if key.endswith(("mask", "adjacency")):
                tensor.copy_(tensor[:, order][:, :, order])
        _reorder(net.stage("layer1").input.bn, lambda v: v.view(2, 5, 3)[:, order])
        assert torch.allclose(net(x[:, :, :, order]), want, rtol=0, atol=1e-12)
        assert not torch.allclose(net(x), want, rtol=0, atol=1e-3)


def test_persons_may_change_places():
    net = small("st-gcn")
    x = torch.randn(2, 3, 20, 5, 2, dtype=torch.float64)
    with torch.no_grad():
        want = net(x)
        _reorder(net.stage("layer1").input.bn, lambda v: v.view(2, 5, 3).flip(0))
        assert torch.allclose(net(x.flip(-1)), want, rtol=0, atol=1e-12)


def test_edges_may_be_numbered_otherwise():
    net = randomised(create_network("st-bln", edges=6, classes=3, widths=(4, 6)))
    x = torch.randn(2, 2, 12, 6, dtype=torch.float64)
    order = torch.randperm(6)
    with torch.no_grad():
        want = net(x)
        for layer in net.modules():
            if isinstance(layer, FreeGraph):
                layer.left.copy_(layer.left[:, order][:, :, order])
        _reorder(net.stage("layer1").input.bn, lambda v: v.view(6, 2)[order])
        assert torch.allclose(net(x[..., order]), want, rtol=0, atol=1e-12)


def _reorder(norm, change):
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.copy_(change(tensor.clone()).flatten())


def test_one_identity_map_keeps_edges_apart():
    block = randomised(GraphBlock(2, 3, FreeGraph(4, 1)))
    block.spatial.graph.left.data.copy_(torch.eye(4))
    x = torch.randn(1, 2, 12, 4, dtype=torch.float64)
    y = x.clone()
    y[..., 1] += 1
    with torch.no_grad():
        changed = (block(x) != block(y)).any(2).any(1)[0]
    assert changed.tolist() == [False, True, False, False]


def test_without_maps_a_layer_sees_its_input_through_shortcuts_alone():
    block = randomised(GraphBlock(3, 3, FreeGraph(4, 2), shortcut=False))
    block.spatial.graph.left.data.zero_()
    x = torch.randn(2, 3, 12, 4, dtype=torch.float64)
    with torch.no_grad():
        bilinear = block.spatial.bn(
            sum(
                conv(p.flatten(3))
                for conv, p in zip(block.spatial.convs, block.spatial.graph(x.unsqueeze(3)), strict=True)
            )
        )
    assert torch.allclose(bilinear, bilinear[:1, :, :1, :1].expand_as(bilinear), rtol=0, atol=1e-12)


def test_one_person_needs_no_axis_of_persons():
    net = small("st-gcn", persons=1)
    x = torch.randn(2, 3, 20, 5, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(net(x), net(x.unsqueeze(-1)))


def test_similarity_by_frame_is_another_answer():
    clip, frame = small("agcn"), small("agcn", similarity="frame")
    x = torch.randn(2, 3, 20, 5, 2, dtype=torch.float64)
    with torch.no_grad():
        assert clip.state_dict().keys() == frame.state_dict().keys()
        frame.load_state_dict(clip.state_dict())
        assert (clip(x) - frame(x)).abs().max() > 1e-3
        # Of a single frame both are the same.
        one = x[:, :, :1]
        assert torch.allclose(clip(one), frame(one), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("st-gcn", {"channels": (8, 8)}, "has 2 channels and 10 strides"),
        ("st-gcn", {"joints": 18}, "knows the links of 25 joints only; give links="),
        ("agcn", {"persons": 0}, r"'persons' of network 'agcn' must be at least 1"),
        ("agcn", {"similarity": "all"}, "must be 'clip' or 'frame', got 'all'"),
        ("st-bln", {"widths": ()}, "'widths' of network 'st-bln' must be at least 1"),
        ("st-bln", {"rank": 0}, "'rank' of network 'st-bln' must be at least 1, or None"),
        ("st-bln", {"dropout": 1.0}, "from 0 to below 1"),
        ("st-bln", {"dropout_position": "inside"}, "'after' or 'before', got 'inside'"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(ConfigError, match=message):
        create_network(name, **options)
