"""Backbones that papers put exits on: parameters, multiply-accumulates and taps; on the meta device."""

import pytest
import torch

from sentio.core.counting import count
from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import create_network, stage_key

torch.set_num_threads(1)


def on_meta(name, **options):
    with torch.device("meta"):
        return create_network(name, **options).eval()


def numbers(net):
    return sum(p.numel() for p in net.parameters())


def macs_up_to(net):
    """Stage -> multiply-accumulates up to and with it."""
    shapes = net.input_shapes
    x = {name: torch.empty(1, *shape, device="meta") for name, shape in shapes.items()}
    found = count(net, x if len(x) > 1 else x["main"])
    total, up_to = 0, {}
    for stage in net.stage_names:
        total += found.of(f"stages.{stage_key(stage)}")
        up_to[stage] = total
    return up_to


def test_resnet152_with_its_stride_in_the_first_convolution():
    net = on_meta("resnet152")
    assert numbers(net) == 60_192_808
    up_to = macs_up_to(net)
    assert up_to["layer2.0.conv1"] == 811_646_976
    assert up_to["layer2.7.conv3"] == 2_609_954_816
    assert up_to["head"] == 11_282_415_616
    shapes = net.boundary_shapes(torch.empty(2, 3, 224, 224, device="meta"))
    assert shapes["layer2.0.conv1"] == {"main": (128, 28, 28), "identity": (256, 56, 56)}
    assert shapes["layer2.7.conv3"] == {"main": (512, 28, 28), "identity": (512, 28, 28)}
    assert shapes["layer3.0.conv1"]["main"] == (256, 14, 14)


def test_resnet152_with_its_stride_in_the_second_convolution():
    net = on_meta("resnet152", version="v1.5")
    assert numbers(net) == 60_192_808
    up_to = macs_up_to(net)
    assert up_to["layer2.0.conv2"] == 1_004_322_816
    assert up_to["layer2.7.conv3"] == 2_687_025_152
    assert up_to["head"] == 11_513_626_624


SMALL_RESNET = {"classes": 3, "width": 4, "depths": (1, 2, 1, 1)}


@pytest.mark.parametrize("tap", ["conv", "act"])
@pytest.mark.parametrize("conv", ["conv1", "conv2", "conv3"])
def test_a_cut_block_is_the_block(conv, tap):
    torch.manual_seed(0)
    cut = create_network("resnet152", **SMALL_RESNET, cuts=[f"layer2.0.{conv}"], tap=tap)
    whole = create_network("resnet152", **SMALL_RESNET, cuts=[])
    x = whole.example(4)
    with torch.no_grad():
        whole(x)  # moves the running statistics
    # The same layers in the same order, under other names.
    cut.load_state_dict(dict(zip(cut.state_dict(), whole.state_dict().values(), strict=True)))
    cut.eval(), whole.eval()
    with torch.no_grad():
        assert torch.equal(cut(x), whole(x))
        boundary = dict(cut.boundaries(x))[f"layer2.0.{conv}"]
        before, block = whole.before("layer1")(x), whole.stage("layer2")[0]
        main = block.conv1(before)
        if conv == "conv1":
            assert torch.equal(boundary["main"], main if tap == "conv" else block.bn1(main).relu())
            assert torch.equal(boundary["identity"], before)
        elif conv == "conv3" and tap == "act":
            assert torch.equal(boundary["main"], block(before)) and set(boundary) == {"main"}
        else:
            main = block.conv2(block.bn1(main).relu())
            main = main if conv == "conv2" and tap == "conv" else block.bn2(main).relu()
            main = block.conv3(main) if conv == "conv3" else main
            assert torch.equal(boundary["main"], main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuts": ["layer2.9.conv1"]}, "has no convolution 'layer2.9.conv1' to cut behind"),
        ({"cuts": ["layer2.0.conv1", "layer2.0.conv2"]}, "is cut once in a block"),
        ({"version": "v2"}, "'version' of network 'resnet152' is v1 or v1.5"),
        ({"tap": "bn"}, "'tap' of network 'resnet152' is conv or act"),
    ],
)
def test_resnet152_refuses_other_cuts(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        create_network("resnet152", **{**SMALL_RESNET, "cuts": [], **options})
    assert ". " not in str(error.value)


def test_densenet201():
    net = on_meta("densenet201")
    assert numbers(net) == 20_013_928
    up_to = macs_up_to(net)
    assert up_to["transition1"] == up_to["transition1.conv"] == 1_261_223_936
    assert up_to["transition2.conv"] == 2_076_884_992
    assert up_to["head"] == 4_291_365_888
    shapes = net.boundary_shapes(torch.empty(2, 3, 224, 224, device="meta"))
    taps = ("transition1", "transition2.conv", "transition2", "transition3")
    assert [shapes[tap]["main"] for tap in taps] == [
        (128, 28, 28),
        (256, 28, 28),
        (256, 14, 14),
        (896, 7, 7),
    ]


def test_inception_v3():
    net = on_meta("inception-v3")
    assert numbers(net) == 23_834_568
    up_to = macs_up_to(net)
    assert up_to["mixed1"] == 1_060_022_112
    assert up_to["mixed2"] == 1_237_622_112
    assert up_to["head"] == 2_837_921_120
    shapes = net.boundary_shapes(torch.empty(2, 3, 224, 224, device="meta"))
    assert shapes["mixed1"]["main"] == shapes["mixed2"]["main"] == (288, 25, 25)


def test_mobilenet_v1():
    net = on_meta("mobilenet-v1")
    assert numbers(net) == 4_231_976
    up_to = macs_up_to(net)
    assert up_to["block3"] == 122_630_144
    assert up_to["block4.depthwise"] == 123_533_312
    assert up_to["block6"] == 228_551_680
    assert up_to["head"] == 568_740_352
    shapes = net.boundary_shapes(torch.empty(2, 3, 224, 224, device="meta"))
    assert [shapes[tap]["main"] for tap in ("block3", "block4.depthwise", "block6")] == [
        (128, 56, 56),
        (128, 28, 28),
        (512, 14, 14),
    ]


def test_vgg16_and_vggish():
    net = on_meta("vgg16")
    assert numbers(net) == 138_357_544
    assert macs_up_to(net)["head"] == 15_470_264_320
    sound = on_meta("vggish")
    assert numbers(sound) == 72_141_184
    assert macs_up_to(sound)["block4"] == 796_262_400
    assert sum(numbers(sound.stage(f"block{n}")) for n in range(1, 5)) == 4_499_712


def test_vgg_is_tied_to_its_size():
    net = create_network("vgg16", classes=3, size=(32, 64), width=4, dense=8).eval()
    assert net(torch.randn(1, 3, 32, 64)).shape == (1, 3)
    with pytest.raises(InputError, match="give option 'size'"):
        net(torch.randn(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="takes sizes from 32x32 up, got 16x64"):
        create_network("vgg16", size=(16, 64))


def test_vit_b16():
    net = on_meta("vit-b16")
    # The published body, with the last layer norm, and a linear layer for 1000 classes.
    assert numbers(net) - 769 * 1000 == 86_090_496
    assert numbers(net.stage("block1")) == 7_087_872
    up_to = macs_up_to(net)
    assert up_to["block12"] == 55_483_582_464
    assert up_to["block6"] - up_to["block5"] == 4_595_320_320


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("b0", 5_288_548),
        ("b1", 7_794_184),
        ("b2", 9_109_994),
        ("b3", 12_233_232),
        ("b4", 19_341_616),
        ("b5", 30_389_784),
        ("b6", 43_040_704),
        ("b7", 66_347_960),
    ],
)
def test_efficientnet_parameters(size, parameters):
    assert numbers(on_meta("efficientnet", size=size)) == parameters


@pytest.mark.parametrize(("size", "parameters"), [("s", 21_458_488), ("m", 54_139_356), ("l", 118_515_272)])
def test_efficientnet_v2_parameters(size, parameters):
    assert numbers(on_meta("efficientnet-v2", size=size)) == parameters


def test_efficientnet_work():
    """Billions of multiply-accumulates as torchvision gives them: 0.386 and 8.366."""
    assert macs_up_to(on_meta("efficientnet"))["head"] == 385_814_752
    assert macs_up_to(on_meta("efficientnet-v2"))["head"] == 8_365_617_152


def test_efficientnet_has_published_sizes_only():
    for name, message in (("efficientnet", "b0, .*b7, got 'b8'"), ("efficientnet-v2", "s, m, l, got 'b8'")):
        with pytest.raises(ConfigError, match=message):
            create_network(name, size="b8")
