"""CNN6 and CNN10 of PANNs against the published counts."""

import pytest
import torch
from torch import nn

from sentio.core.counting import count
from sentio.core.errors import InputError
from sentio.core.staged import create_network
from sentio.techniques.batch_norm_folding import fold_batch_norm

torch.set_num_threads(1)


def on_meta(name, **options):
    with torch.device("meta"):
        return create_network(name, **options).eval()


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("cnn6", 3, 4_568_643),
        ("cnn6", 4, 4_569_156),
        ("cnn6", 16, 4_575_312),
        ("cnn6", 527, 4_837_455),
        ("cnn10", 3, 4_950_467),
        ("cnn10", 4, 4_950_980),
        ("cnn10", 16, 4_957_136),
        ("cnn10", 527, 5_219_279),
    ],
)
def test_parameters(name, classes, parameters):
    assert sum(p.numel() for p in on_meta(name, classes=classes).parameters()) == parameters


@pytest.mark.parametrize(("name", "macs"), [("cnn6", 483_796_480), ("cnn10", 636_757_504)])
def test_macs_of_one_second(name, macs):
    net = on_meta(name, classes=3)
    assert count(net, torch.empty(1, 1, 50, 64, device="meta")).total == macs


@pytest.mark.parametrize("name", ["cnn6", "cnn10"])
def test_maps(name):
    shapes = {key: boundary["main"] for key, boundary in on_meta(name, classes=3).boundary_shapes().items()}
    assert shapes == {
        "block1": (64, 25, 32),
        "block2": (128, 12, 16),
        "block3": (256, 6, 8),
        "block4": (512, 3, 4),
        "head": (3,),
    }


@pytest.mark.parametrize("name", ["cnn6", "cnn10"])
def test_folded(name):
    """Each convolution has one number a channel instead of two; bn0 keeps two a band."""
    widths = 960 * (2 if name == "cnn10" else 1)
    net = on_meta(name, classes=3)
    folded = fold_batch_norm(net)
    before, after = (sum(p.numel() for p in form.parameters()) for form in (net, folded))
    assert before - after == widths
    assert sum(p.numel() for p in folded.stage("block1").norm.parameters()) == 128


@pytest.mark.parametrize("name", ["cnn6", "cnn10"])
def test_other_bands_are_refused(name):
    net = create_network(name, classes=3, bands=32, width=2)
    with pytest.raises(InputError, match="each of 32 bands, got features with 40"):
        net(torch.zeros(2, 1, 50, 40))


def test_a_band_is_normalised_over_batch_and_time():
    net = create_network("cnn6", classes=3, bands=16, width=2)
    norm = net.stage("block1").norm
    x = torch.randn(4, 1, 20, 16) * torch.arange(1, 17) + torch.arange(16)
    y = norm.train()(x)
    torch.testing.assert_close(y.mean(dim=(0, 1, 2)), torch.zeros(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(dim=(0, 1, 2), correction=0), torch.ones(16), rtol=1e-4, atol=0)


def test_starting_weights_are_xavier_uniform():
    torch.manual_seed(0)
    net = create_network("cnn6", classes=3)
    weight = net.stage("block3").conv1.conv.weight
    bound = (6 / (25 * (128 + 256))) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    assert all(not m.bias.any() for m in net.modules() if isinstance(m, nn.Linear))
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.2] * 4 + [0.5] * 2
