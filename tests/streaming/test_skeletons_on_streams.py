"""Continual ST-GCN, AGCN and ST-BLN: the published delays, costs and states, and equality with the clip."""

import pytest
import torch
from torch import nn

import sentio
from sentio.core.errors import ConfigError
from sentio.core.staged import create_network
from sentio.networks.st_gcn import STARRED
from sentio.nn.graph_conv import FreeGraph

torch.set_num_threads(1)
SMALL = {"classes": 4, "joints": 5, "links": ((1, 0), (2, 1), (3, 0), (4, 3)), "channels": (8, 8, 12)}
UNPADDED = {**SMALL, "strides": (1, 1, 1), "padded": False}
STRIDED = {**SMALL, "strides": (1, 2, 2)}
WINDOW = 40


def build(name, options, dtype=torch.float64):
    torch.manual_seed(0)
    net = create_network(name, **options)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.2)
        if isinstance(layer, FreeGraph):
            layer.left.data.uniform_(0, 0.3)
    for key, parameter in net.named_parameters():
        if key.endswith("mask"):
            parameter.data.uniform_(0, 0.5)
    net.input_shapes = {"main": (3, WINDOW, 5, 2)} if name != "st-bln" else {"main": (2, WINDOW, 6)}
    return net.to(dtype).eval()


def clip(frames, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, frames, 5, 2, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("name", "more"), [("st-gcn", {}), ("agcn", {"similarity": "frame"})])
def test_frame_by_frame_equals_every_window(name, more, dtype, tolerance):
    """And so no answer depends on frames that are older than a window."""
    net = build(name, {**UNPADDED, **more}, dtype)
    stream = sentio.stream(net)
    x = clip(WINDOW + 8, dtype)
    assert (stream.hop, stream.warm_up, stream.receptive_field) == (1, WINDOW - 1, WINDOW)
    state, answers = None, []
    for frame in x.unbind(2):
        output, valid, state = stream.step(frame, state)
        if valid.all():
            answers.append(output)
    want = torch.stack([net(x[:, :, start : start + WINDOW]) for start in range(9)])
    got = torch.stack(answers)
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize(("name", "more"), [("st-gcn", {}), ("agcn", {"similarity": "frame"})])
def test_strided_features_are_the_clips(name, more, on_stream):
    features = build(name, {**STRIDED, **more}).before("layer3")
    stream = sentio.stream(features)
    x = clip(80)
    got, want = on_stream(stream, x), features(x)
    assert stream.hop == 4
    assert stream.delay == 4 + 4 + 2 * 4
    assert got.shape[2] > 10
    assert (got - want[:, :, : got.shape[2]]).abs().max() <= 1e-10 * want.abs().max()


def test_similarity_over_a_clip_is_refused_by_name():
    net = build("agcn", UNPADDED)
    with pytest.raises(
        ConfigError, match=r"Layer 'stages\.layer1\.block\.spatial' \(GraphConv\) cannot run on a"
    ) as e:
        sentio.stream(net)
    assert "similarity='frame'" in str(e.value)


def test_similarity_by_frame_is_not_that_of_the_clip():
    whole, frame = build("agcn", UNPADDED), build("agcn", {**UNPADDED, "similarity": "frame"})
    frame.load_state_dict(whole.state_dict())
    stream = sentio.stream(frame)
    state = None
    x = clip(WINDOW)
    for step in x.unbind(2):
        output, valid, state = stream.step(step, state)
    assert valid.all()
    with torch.no_grad():
        assert (output - whole(x)).abs().max() > 1e-3


def test_published_delay_and_state_without_padding():
    """The first answer at frame 300, from 849,664 numbers: buffers, delays and the pool."""
    stream = sentio.stream(create_network("st-gcn", **STARRED))
    assert (stream.hop, stream.warm_up, stream.receptive_field) == (1, 299, 300)
    state = stream.start()
    assert sum(tensor.numel() for key, tensor in state.items() if key != "steps") == 849_664


def test_published_delay_with_strides():
    net = create_network("st-gcn")
    features = sentio.stream(net.before("layer10"))
    assert (features.hop, features.delay, features.receptive_field) == (4, 76, 153)
    whole = sentio.stream(net)
    assert whole.warm_up * 4 == 372  # frames before the one with the first answer
    assert whole.stride == 4


#: products with the graph, which the paper does not count, of a frame at stride 1 and of four with strides
PRODUCTS, PRODUCTS_STRIDED = 4_331_250, 8_685_000


@pytest.mark.parametrize(
    ("name", "options", "published", "products"),
    [
        ("st-gcn", STARRED, 154_677_760, PRODUCTS),
        ("st-gcn", {}, 221_352_960, PRODUCTS_STRIDED),
        # Similarities in a quarter of each block's width, together 352 channels; 3 maps, 2 persons.
        ("agcn", {**STARRED, "similarity": "frame"}, 170_973_760, PRODUCTS + 352 * 3 * 2 * 25 * 25),
        # Four frames in layers 1 to 5, two in 6 to 8, one in 9 and 10: 128, 128 and 128 compared channels.
        (
            "agcn",
            {"similarity": "frame"},
            247_215_360,
            PRODUCTS_STRIDED + (96 * 4 + 128 * 2 + 128) * 3 * 2 * 25 * 25,
        ),
    ],
)
def test_published_cost_of_a_step(name, options, published, products):
    assert sentio.stream(create_network(name, **options)).macs().total == published + products


@pytest.mark.parametrize(
    ("name", "options", "published", "at_most"),
    [
        ("st-gcn", STARRED, 155_506_920, 0.16e9),
        ("agcn", {**STARRED, "similarity": "frame"}, 171_908_520, 0.172e9),
        ("st-gcn", {}, 223_056_620, 0.2231e9),
        ("agcn", {"similarity": "frame"}, 249_149_420, 0.2492e9),
    ],
)
def test_published_operations_of_a_step(name, options, published, at_most):
    """In the paper's convention, which leaves products with the graph and means out."""
    stream = sentio.stream(create_network(name, **options))
    ours = stream.macs(rule="ptflops").total
    # The mean over both persons' joints of a frame, and over the frames of the window.
    means = 2 * 25 * 256 + (220 if "strides" in options else 75) * 256
    products = stream.macs().total - published_macs(name, options)
    assert published <= at_most
    assert ours - products - means == published


def published_macs(name, options):
    starred = "strides" in options
    return {
        ("st-gcn", True): 154_677_760,
        ("st-gcn", False): 221_352_960,
        ("agcn", True): 170_973_760,
        ("agcn", False): 247_215_360,
    }[name, starred]


@pytest.mark.parametrize("widths", [(4, 6), (4, 4, 4, 4, 6)])
def test_bilinear_layers_on_a_stream(widths, on_stream):
    net = build("st-bln", {"classes": 3, "edges": 6, "widths": widths})
    features = net.before(net.stage_names[-2])
    stream = sentio.stream(features)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, 80, 6, generator=generator, dtype=torch.float64)
    got, want = on_stream(stream, x), features(x)
    assert stream.hop == (2 if len(widths) == 5 else 1)
    assert got.shape[2] > want.shape[2] / 2
    assert (got - want[:, :, : got.shape[2]]).abs().max() <= 1e-10 * want.abs().max()
    whole = sentio.stream(net)
    answers, form = on_stream(whole, x), whole.clip(x)
    shared = min(answers.shape[1], form.shape[1])
    assert shared >= 2
    assert (answers[:, :shared] - form[:, :shared]).abs().max() <= 1e-10 * form.abs().max()
