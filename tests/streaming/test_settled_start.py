"""Streams that begin as if their first unit had been there forever."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sentio
from sentio.core.errors import InputError
from sentio.nn.squeeze_excitation import SqueezeExcitation
from sentio.nn.window_attention import WindowAttention

torch.set_num_threads(1)


@settings(deadline=None, max_examples=25)
@given(
    kernels=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)), min_size=1, max_size=3
    ),
    hops=st.integers(1, 2),
    rows=st.integers(1, 2),
)
def test_a_still_picture_is_answered_alike_from_the_first_step_on(kernels, hops, rows):
    """And as by a stream that began with zeros long ago."""
    torch.manual_seed(len(kernels))
    layers = []
    for kernel, dilation, stride in kernels:
        same = dilation * (kernel - 1) // 2
        layers += [nn.Conv2d(3, 3, (kernel, 1), (stride, 1), padding=(same, 0), dilation=(dilation, 1))]
        layers += [SqueezeExcitation(3, 2), nn.BatchNorm2d(3), nn.MaxPool2d((3, 1), 1, padding=(1, 0))]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    example = torch.zeros(rows, 3, 96, 2, dtype=torch.float64)
    options = {"example": example, "squeeze": "window"}
    stream = sentio.stream(net, hop=hops * sentio.stream(net, **options).hop, **options)
    picture = torch.randn(rows, 3, 1, 2, dtype=torch.float64)
    chunk = picture.expand(-1, -1, stream.hop, -1)
    state, old = stream.begin(picture), None
    assert all(torch.equal(tensor, stream.begin(picture[:, :, 0])[name]) for name, tensor in state.items())
    for _ in range(2 * int(stream.receptive_field) // stream.hop + 2):
        want, _, old = stream.step(chunk, old)
    assert state.keys() == old.keys()
    for _ in range(3):
        output, valid, state = stream.step(chunk, state)
        assert valid.all()
        assert torch.allclose(output, want, rtol=0, atol=1e-10)


def test_a_network_begins_settled_and_forgets_how_it_began():
    torch.manual_seed(0)
    net = sentio.create_network("tiny-cnn", classes=4, width=8).double().eval()
    net.input_shapes = {"main": (1, 32, 32)}
    stream = sentio.stream(net)
    x = torch.randn(1, 1, 20 * stream.hop, 32, dtype=torch.float64)
    state, other = stream.begin(x), None
    differences = []
    for chunk in x.split(stream.hop, 2):
        settled, _, state = stream.step(chunk, state)
        zeros, _, other = stream.step(chunk, other)
        differences.append(float((settled - zeros).abs().max()))
    assert differences[stream.warm_up] > 1e-6
    assert max(differences[-4:]) < 1e-12


def test_what_tends_to_nothing_known_cannot_begin_settled():
    attention = WindowAttention(4, 2, 3, output="window")
    stream = sentio.stream(nn.Sequential(attention), axis=1, example=torch.zeros(1, 9, 4))
    with pytest.raises(InputError, match=r"cannot begin settled: what '0.scores' tends to is not known"):
        stream.begin(torch.zeros(1, 1, 4))
    stream = sentio.stream(nn.Sequential(nn.Conv1d(2, 2, 3)), example=torch.zeros(1, 2, 9))
    with pytest.raises(InputError, match=r"of 3 axes cannot begin with shape \(1, 2, 0\)"):
        stream.begin(torch.zeros(1, 2, 0))
