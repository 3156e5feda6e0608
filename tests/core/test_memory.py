import pytest
import torch
from torch import nn

from sentio.core.memory import peak_activations
from sentio.core.staged import Staged

torch.set_num_threads(1)


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Shortcut(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


def test_a_convolution_needs_its_input_and_its_output():
    assert peak_activations(conv(1, 4), torch.zeros(1, 1, 8, 8)) == 64 + 256
    # Each is freed once it has been read: the largest pair decides.
    net = nn.Sequential(conv(1, 4), conv(4, 8), conv(8, 2))
    assert peak_activations(net, torch.zeros(1, 1, 8, 8)) == 256 + 512


@pytest.mark.parametrize("act", [nn.ReLU, nn.Hardswish, nn.ReLU6, nn.SiLU, nn.GELU])
def test_norms_and_activations_write_over_their_input(act):
    net = nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), act())
    assert peak_activations(net, torch.zeros(1, 1, 8, 8)) == 64 + 256
    assert net.training


def test_a_shortcut_keeps_its_input():
    plain = nn.Sequential(conv(4, 8), conv(8, 4))
    assert peak_activations(plain, torch.zeros(1, 4, 8, 8)) == 256 + 512
    assert peak_activations(Shortcut(plain), torch.zeros(1, 4, 8, 8)) == 256 + 512 + 256


def test_indices_of_a_maximum_are_not_kept():
    assert peak_activations(nn.MaxPool2d(2), torch.zeros(1, 4, 8, 8)) == 256 + 64


def test_views_share_their_memory():
    net = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 64)), nn.Flatten(), nn.Linear(256, 10))
    assert peak_activations(net, torch.zeros(1, 4, 8, 8)) == 266


def test_named_tensors_and_the_meta_device():
    class Fork(nn.Module):
        def forward(self, x):
            return {"main": x["a"] * 2, "b": x["b"]}

    with torch.device("meta"):
        net = Staged({"fork": Fork()})
        inputs = {"a": torch.zeros(1, 3), "b": torch.zeros(1, 5)}
    assert peak_activations(net, inputs) == 8
