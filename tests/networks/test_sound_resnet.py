"""The residual network for few recordings: its sizes, and its forms."""

import pytest
import torch

import sentio
from sentio.core.errors import ConfigError
from sentio.core.staged import create_network

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 116_690),
        ({"kernel": 5, "hidden": False, "blocks": [32, 46, 64]}, 116_338),
        ({"width": 7, "kernel": 5, "hidden": False}, 21_874),
    ],
)
def test_parameters(options, parameters):
    net = create_network("sound-resnet", **options)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_it_has_three_blocks():
    with pytest.raises(ConfigError, match="three blocks, got channels for 2"):
        create_network("sound-resnet", blocks=[8, 8])


def test_on_a_stream_without_a_hidden_layer():
    options = {"classes": 3, "width": 4, "blocks": (6, 5, 7), "kernel": 5, "hidden": False}
    net = create_network("sound-resnet", **options).double().eval()
    stream = sentio.stream(net, window=64)
    x = torch.randn(1, 1, 160, 64, dtype=torch.float64)
    state, answers = None, []
    for start in range(0, 160 - stream.hop + 1, stream.hop):
        y, valid, state = stream.step(x[:, :, start : start + stream.hop], state)
        if valid.all():
            answers.append(y)
    got, want = torch.stack(answers, 1), stream.clip(x)
    count = min(got.shape[1], want.shape[1])
    assert count >= 3
    assert (got[:, :count] - want[:, :count]).abs().max() < 1e-10 * want.abs().max()
