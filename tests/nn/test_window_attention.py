"""Attention over a window of time, held to PyTorch's attention over each window."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sentio
from sentio.core.errors import ConfigError, InputError
from sentio.nn.window_attention import WindowAttention

torch.set_num_threads(1)


def layers(window, output, seed=0):
    torch.manual_seed(seed)
    plain = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    nn.init.normal_(plain.in_proj_bias)
    ours = WindowAttention(8, 2, window, output=output).double().eval()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def reference(plain, x, window, output):
    """PyTorch's layer on each window by itself."""
    found = []
    first = 0 if output == "causal" else window - 1
    for end in range(first, x.shape[1]):
        part = x[:, max(0, end - window + 1) : end + 1]
        y = plain(part, part, part, need_weights=False)[0]
        found.append(y if output == "window" else y[:, -1])
    return torch.stack(found, 1)


@settings(deadline=None, max_examples=30)
@given(output=st.sampled_from(["causal", "last", "window"]), window=st.integers(1, 6), hop=st.integers(1, 3))
def test_steps_and_clip_equal_pytorch_on_each_window(on_stream, output, window, hop):
    plain, ours = layers(window, output)
    x = torch.randn(2, 14, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    want = reference(plain, x, window, output)
    assert torch.allclose(ours(x), want, rtol=0, atol=1e-12)
    stream = sentio.stream(nn.Sequential(ours), axis=1, hop=hop, example=x)
    got = on_stream(stream, x)
    assert want.shape[1] - 2 * hop < got.shape[1]
    assert torch.allclose(got, want[:, : got.shape[1]], rtol=0, atol=1e-12)
    assert torch.allclose(stream.clip(x), want, rtol=0, atol=1e-12)
    assert stream.delay == (0 if output == "causal" else window - 1)


@pytest.mark.parametrize("hop", [1, 2, 3, 4])
def test_behind_a_delay_the_units_before_the_start_are_not_attended_to(on_stream, hop):
    """Not by units of the same chunk either."""
    torch.manual_seed(0)
    first = WindowAttention(8, 2, 4, output="last")
    second = WindowAttention(8, 2, 3, output="causal")
    net = nn.Sequential(first, nn.LayerNorm(8), second).double().eval()
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    got = on_stream(sentio.stream(net, axis=1, example=x, hop=hop), x)
    assert got.shape[1] > 9 - hop
    assert torch.allclose(got, net(x)[:, : got.shape[1]], rtol=0, atol=1e-12)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="at least 1 unit, got 0"):
        WindowAttention(8, 2, 0)
    with pytest.raises(ConfigError, match="'causal', 'last' or 'window' outputs, got 'all'"):
        WindowAttention(8, 2, 3, output="all")
    _, ours = layers(5, "last")
    with pytest.raises(InputError, match="windows of 5 units was given 4"):
        ours(torch.zeros(1, 4, 8, dtype=torch.float64))
    with pytest.raises(ConfigError, match="time is axis 2"):
        sentio.stream(nn.Sequential(ours), axis=2, example=torch.zeros(1, 8, 8))
