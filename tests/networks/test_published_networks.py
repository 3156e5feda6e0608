"""The networks' counts against the figures of their sheets and papers."""

import pytest
import torch

from sentio.core.counting import count
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import add_exits
from sentio.core.profiling import profile
from sentio.core.staged import create_network
from sentio.networks.resnet import averaged_shortcut

torch.set_num_threads(1)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.fixture(scope="module")
def baseline():
    return create_network("dcase2024-baseline").eval()


def test_dcase2024_baseline_totals(baseline):
    assert parameters(baseline) == 61_148
    assert count(baseline, baseline.example()).total == 29_416_448
    assert count(baseline, baseline.example(), rule="dcase").total == 29_419_156


def test_dcase2024_baseline_layers(baseline):
    by_layer = count(baseline, baseline.example(), rule="dcase")
    expected = {
        "stem.first": 304_144,
        "stem.second": 2_506_816,
        "block1.expand": 2_228_352,
        "block1.depthwise": 626_816,
        "block1.project": 2_228_288,
        "block2.expand": 2_228_352,
        "block3.expand": 2_228_352,
        "block3.depthwise": 331_904,
        "block3.project": 1_179_712,
        "block4.expand": 1_179_776,
        "block4.depthwise": 166_016,
        "block4.project": 1_032_304,
        "block6.expand": 1_935_600,
        "block6.depthwise": 311_280,
        "block6.project": 3_594_448,
        "head.classify.conv": 299_520,
    }
    assert {name: by_layer.of(f"stages.{name}") for name in expected} == expected


def test_dcase2024_baseline_shapes(baseline):
    assert baseline.stage_names == ("stem", *(f"block{n}" for n in range(1, 7)), "head")
    shapes = {name: boundary["main"] for name, boundary in baseline.boundary_shapes().items()}
    assert shapes == {
        "stem": (32, 17, 64),
        "block1": (32, 17, 64),
        "block2": (32, 17, 64),
        "block3": (32, 9, 64),
        "block4": (56, 9, 32),
        "block5": (56, 9, 32),
        "block6": (104, 9, 32),
        "head": (10,),
    }
    with torch.no_grad():
        assert baseline(baseline.example(2)).shape == (2, 10)


def test_dcase2024_baseline_has_smaller_members():
    small = create_network("dcase2024-baseline", base_channels=8, channels_multiplier=1.5, expansion=2.0)
    assert parameters(small) < 10_000
    assert small.boundary_shapes()["block6"]["main"] == (16, 9, 32)


def test_resnet8():
    net = create_network("resnet8")
    assert parameters(net) == 77_850
    assert count(net, net.example()).total == 12_501_632


def test_resnet20():
    net = create_network("resnet20")
    assert parameters(net) == 269_722
    assert count(net, net.example()).total == 40_551_040


def test_cifar_mobilenet():
    net = create_network("cifar-mobilenet")
    assert parameters(net) == 141_802
    assert count(net, net.example()).total == 10_542_144
    with pytest.raises(ConfigError, match="a width above 0 and an expansion from 1 on"):
        create_network("cifar-mobilenet", width=0.0)


def test_glance_resnet_answers_early_at_a_fraction_of_resnet8():
    net = create_network("glance-resnet")
    assert parameters(net) == 302_314
    shapes = net.boundary_shapes()
    assert shapes["glance2"] == {"main": (64, 8, 8), "fine": (16, 32, 32)}
    assert shapes["look1"] == {"main": (32, 16, 16), "coarse": (64, 8, 8)}
    assert shapes["look2"] == {"main": (80, 8, 8)}
    at = ["glance1", "glance2", "look1"]
    exits = add_exits(net, "pooled-linear", at=at, classes=10, hidden=128)
    macs = profile(exits, measure=False).exit_macs()
    assert list(macs.values()) == [3_398_912, 7_733_760, 23_205_632, 37_100_064]
    assert macs["glance2"] < 12_501_632 < macs["look1"]


def test_small_resnet_is_as_wide_and_deep_as_it_is_told():
    net = create_network("small-resnet")
    assert parameters(net) == 2_067_490
    assert count(net, net.example()).total == 133_670_784
    net = create_network("small-resnet", classes=3, stem=(8, 16), widths=(16, 24), strides=(1, 2))
    assert net.boundary_shapes()["block2"] == {"main": (24, 8, 8)}
    with pytest.raises(ConfigError, match="as many strides as widths, got 2 in stem, 1 widths and 2 strides"):
        create_network("small-resnet", widths=(16,), strides=(1, 2))


@pytest.mark.parametrize("size", [(28, 28), (30, 31), (33, 47), (32, 32)])
def test_small_resnet_takes_images_whose_sides_its_strides_do_not_divide(size):
    net = create_network("small-resnet", classes=3, stem=(4, 8), widths=(8, 12, 12), strides=(1, 2, 2)).eval()
    assert net(torch.randn(2, 3, *size)).shape == (2, 3)


def test_the_averaged_shortcut_ends_in_a_mean_of_what_is_there():
    pool = averaged_shortcut(1, 1, 2)[0]
    x = torch.tensor([[[[1.0, 3.0, 5.0], [3.0, 5.0, 7.0], [2.0, 4.0, 9.0]]]])
    assert pool(x).tolist() == [[[[3.0, 6.0], [3.0, 9.0]]]]


def test_resnet50():
    with torch.device("meta"):
        net = create_network("resnet50")
    assert parameters(net) == 25_557_032
    assert count(net, torch.empty(1, 3, 224, 224, device="meta")).total == 4_089_184_256
    assert net.boundary_shapes(torch.empty(1, 3, 224, 224, device="meta"))["layer4"] == {"main": (2048, 7, 7)}


def test_resnet50_names_are_torchvisions():
    with torch.device("meta"):
        names = set(create_network("resnet50").state_dict())
    assert {
        "stages.stem.conv1.weight",
        "stages.layer1.0.downsample.1.running_var",
        "stages.layer3.5.bn3.bias",
        "stages.head.fc.weight",
    } <= names


def test_resnet_shortcut_without_weights_pads_channels():
    net = create_network("resnet20")
    shortcut = net.stage("layer2")[0].downsample
    x = torch.randn(1, 16, 6, 6)
    padded = shortcut(x)
    assert padded.shape == (1, 32, 3, 3)
    assert torch.equal(padded[:, 8:24], x[:, :, ::2, ::2])
    assert not padded[:, :8].any()
    assert not padded[:, 24:].any()


def test_tiny_cnn_is_compact():
    net = create_network("tiny-cnn")
    assert parameters(net) == 44_618
    assert count(net, net.example()).total == 4_431_168
    assert net.stage_names == ("block1", "block2", "block3", "block4", "head")


def test_tap_cnn_has_the_published_taps():
    shapes = create_network("tap-cnn").boundary_shapes()
    assert [shapes[f"tap{n}"]["main"] for n in (1, 2, 3)] == [(128, 28, 28), (256, 28, 28), (512, 28, 28)]


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "tiny-cnn", "dcase2024-baseline"])
@pytest.mark.parametrize("size", [(20, 31), (40, 64)])
def test_audio_and_small_image_networks_take_any_size(name, size):
    net = create_network(name, classes=6, in_channels=2).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 2, *size)).shape == (2, 6)
