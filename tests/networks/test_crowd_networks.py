"""Crowd counters against their sheet: counts on the meta device, identities of fusion, sums, crops."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from sentio.core import registry
from sentio.core.counting import count
from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import create_network, reset_classifier
from sentio.networks.csrnet import FusionBlock
from sentio.networks.transcrowd import cut_into_crops, sum_over_crops
from sentio.nn.density_heads import DensityHead
from sentio.nn.upsampling import SumPreservingUpsample

torch.set_num_threads(1)


def on_meta(name, **options):
    with torch.device("meta"):
        return create_network(name, **options).eval()


def numbers(net):
    return sum(p.numel() for p in net.parameters())


def test_audio_csrnet_counts():
    net = on_meta("audio-csrnet", answer="count")
    assert numbers(net) == 22_798_785
    assert numbers(on_meta("audio-csrnet", answer="count", affine=True)) == 22_802_753
    assert numbers(on_meta("audio-csrnet")) == 22_798_785 + 72 * 128
    x = {name: torch.empty(1, *shape, device="meta") for name, shape in net.input_shapes.items()}
    found = count(net, x)
    assert found.total == 244_391_477_248
    assert sum(found.of(f"stages.visual{n}") for n in range(1, 5)) == 164_093_755_392
    assert sum(found.of(f"stages.audio{n}") for n in range(1, 5)) == 796_262_400
    assert found.of("stages.fusion1.conv") + found.of("stages.fusion1.film") == 21_743_796_224
    assert sum(numbers(net.stage(f"visual{n}")) for n in range(1, 5)) == 7_635_264
    assert sum(numbers(net.stage(f"audio{n}")) for n in range(1, 5)) == 4_499_712
    fusion = [numbers(net.stage(f"fusion{n}")) for n in range(1, 7)]
    assert fusion == [2_885_120, 2_885_120, 2_885_120, 1_442_560, 426_368, 139_456]
    shapes = net.boundary_shapes({name: tensor.expand(2, -1, -1, -1) for name, tensor in x.items()})
    assert shapes["visual4"] == {"main": (512, 72, 128), "audio": (1, 96, 64)}
    assert shapes["audio4"] == {"main": (512, 72, 128), "audio": (512,)}
    assert shapes["fusion1"]["main"] == (512, 72, 128) and shapes["fusion6"] == {"main": (64, 72, 128)}


def test_csrnet_and_transcrowd_counts():
    assert numbers(on_meta("csrnet")) == 16_263_489
    token = on_meta("transcrowd")
    body = numbers(token) - numbers(token.stage("head").layers)
    assert body == 86_090_496  # ViT-B/16 at 384x384 with its last layer norm
    assert numbers(token.stage("head").layers) == 769 * 1000 + 1001
    gap = on_meta("transcrowd", head="gap")
    assert numbers(gap.stage("head").layers) == (27_648 + 1) * 128 + 129


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_keeps_the_sum(mode):
    density = torch.rand(2, 1, 9, 7, dtype=torch.float64)
    larger = SumPreservingUpsample(8, mode)(density)
    assert larger.shape == (2, 1, 72, 56)
    torch.testing.assert_close(larger.sum((2, 3)), density.sum((2, 3)), rtol=1e-14, atol=0)
    other = interpolate(density, scale_factor=8.0, mode="bilinear", align_corners=True) / 64
    assert ((other.sum((2, 3)) / density.sum((2, 3)) - 1).abs() > 1e-6).any()


@pytest.mark.parametrize(("factor", "mode"), [(8, "bicubic"), (0, "nearest"), (1.5, "nearest")])
def test_upsampling_that_changes_the_sum_is_refused(factor, mode):
    with pytest.raises(ConfigError):
        SumPreservingUpsample(factor, mode)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_regression_starts_as_the_sum(classes):
    head = DensityHead(5, classes, "regression", size=(6, 4)).double()
    x = torch.randn(2, 5, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(head(x), head.conv(x).sum((2, 3)), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        head.weight[0] = 0
        head.weight[0, 7] = 2
    torch.testing.assert_close(head(x)[:, 0], 2 * head.conv(x)[:, 0, 1, 3])
    with pytest.raises(InputError, match="was built for maps of 6x4, got 6x5"):
        head(torch.randn(2, 5, 6, 5, dtype=torch.float64))


def test_answers_of_a_network_agree():
    options = {"width": 4, "size": (32, 48), "audio_size": (32, 16)}
    torch.manual_seed(0)
    counter = create_network("audio-csrnet", **options, answer="count").eval()
    density = create_network("audio-csrnet", **options, answer="density").eval()
    density.load_state_dict(counter.state_dict())
    x = counter.example(2)
    with torch.no_grad():
        drawn = density(x)
        assert drawn.shape == (2, 1, 32, 48)
        torch.testing.assert_close(drawn.sum((2, 3)), counter(x))


def test_fusion_with_gamma_one_and_beta_zero_is_the_plain_block():
    block = FusionBlock(4, 6, 5, affine=False, last=False).eval()
    nn.init.zeros_(block.film.linear.weight)
    x, heard = torch.randn(2, 4, 7, 9), torch.randn(2, 5)
    boundary = block({"main": x, "audio": heard})
    assert torch.equal(boundary["main"], block.act(block.bn(block.conv(x))))
    assert boundary["audio"] is heard
    with torch.no_grad():  # γ = 0: what was seen no longer matters
        block.film.linear.bias[:6], block.film.linear.bias[6:] = 0, torch.linspace(-1, 1, 6)
    shifted = block({"main": x, "audio": heard})["main"]
    expected = torch.linspace(-1, 1, 6).relu()[None, :, None, None]
    assert torch.equal(shifted, expected.expand_as(shifted))


def test_gamma_and_beta_come_from_what_is_heard():
    block = FusionBlock(4, 6, 5, affine=False, last=True).eval()
    nn.init.normal_(block.film.linear.weight)
    x, heard = torch.randn(2, 4, 7, 9), torch.randn(2, 5)
    gamma, beta = block.film.linear(heard).chunk(2, 1)
    expected = (gamma[..., None, None] * block.bn(block.conv(x)) + beta[..., None, None]).relu()
    torch.testing.assert_close(block({"main": x, "audio": heard}), expected)


def test_an_exit_on_the_picture_has_heard_nothing():
    torch.manual_seed(0)
    net = create_network("audio-csrnet", width=4, size=(32, 32), audio_size=(32, 16), answer="count").eval()
    x = net.example(2)
    loud = {**x, "audio": 10 * x["audio"]}
    for stage, same in (("visual4", True), ("fusion1", False)):
        before = net.before(stage)
        assert torch.equal(before(x)["main"], before(loud)["main"]) == same


def test_crops_add_up_to_the_picture():
    pictures = torch.arange(2 * 3 * 5 * 7.0).reshape(2, 3, 5, 7)
    crops = cut_into_crops(pictures, (4, 4))
    assert crops.shape == (2 * 4, 3, 4, 4)
    assert torch.equal(crops[4], pictures[1, :, :4, :4])
    assert torch.equal(crops[5, :, :, :3], pictures[1, :, :4, 4:])
    assert not crops[5, :, :, 3].any()
    torch.testing.assert_close(
        sum_over_crops(crops.sum((1, 2, 3))[:, None], 2)[:, 0], pictures.sum((1, 2, 3))
    )


def test_transcrowd_reads_the_class_token_or_all_patches():
    options = {"size": (24, 24), "patch": 8, "dim": 16, "layers": 1, "heads": 2, "hidden": 8}
    for head, changed in (("token", True), ("gap", False)):
        net = create_network("transcrowd", head=head, **options).eval()
        tokens = torch.randn(2, 10, 16)
        other = tokens.clone()
        other[:, 0] = torch.randn(2, 16)
        last = net.stage("head")
        assert torch.equal(last(tokens), last(other)) != changed
    renewed = reset_classifier(net, 3)
    assert renewed(net.example(2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("csrnet", {"size": (100, 96)}, "sides are multiples of 8, got 100x96"),
        ("csrnet", {"answer": "number"}, "'answer' of a crowd counter is count, regression, density"),
        ("audio-csrnet", {"audio_size": (8, 64)}, "log-mels from 16x16 up, got 8x64"),
        ("transcrowd", {"head": "mean"}, "'head' of network 'transcrowd' is token or gap"),
        ("transcrowd", {"head": "gap", "dim": 24, "heads": 2}, "do not divide a width of 24"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(name, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        on_meta(name, **options)
    assert ". " not in str(error.value)


def test_a_density_exit_counts_what_it_draws():
    torch.manual_seed(0)
    drawing = registry.build("exit", "density-ee", ((6, 5, 7), (3,)), 2, answer="density", factor=4).eval()
    counting = registry.build("exit", "density-ee", ((6, 5, 7), (3,)), 2).eval()
    counting.load_state_dict(drawing.state_dict())
    x, heard = torch.randn(2, 6, 5, 7), torch.randn(2, 3)
    assert drawing(x, heard).shape == (2, 2, 20, 28)
    torch.testing.assert_close(drawing(x, heard).sum((2, 3)), counting(x, heard))
    assert not torch.equal(counting(x, heard), counting(x, heard + 1))
    alone = registry.build("exit", "density-ee", ((6, 5, 7),), 2).eval()
    assert alone(torch.randn(2, 6, 9, 4)).shape == (2, 2)
    with pytest.raises(ConfigError, match="'filters' of exit 'density-ee'"):
        registry.build("exit", "density-ee", ((6, 5, 7),), 2, filters=0)
