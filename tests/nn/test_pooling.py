"""Heads that pool over time and frequency."""

import pytest
import torch
from torch import nn

from sentio.nn.pooling import BandsHead, MaxMeanHead

torch.set_num_threads(1)


def pooled(x):
    """What the head pools to: its layers as identities, its input not negative."""
    head = MaxMeanHead(3, 3, dropout=0.5).eval()
    for layer in (head.fc1, head.fc2):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        return head(x)


@pytest.mark.parametrize("size", [(1, 1), (5, 2), (26, 16)])
def test_maximum_plus_mean_over_time_of_the_mean_over_frequency(size):
    x = torch.rand(2, 3, *size)
    frames = x.mean(3)
    torch.testing.assert_close(pooled(x), frames.max(2).values + frames.mean(2))


def test_where_nothing_changes_it_is_twice_the_value():
    torch.testing.assert_close(pooled(torch.full((1, 3, 4, 5), 0.25)), torch.full((1, 3), 0.5))


def test_parameters():
    head = MaxMeanHead(128, 10, dropout=0.2)
    assert sum(p.numel() for p in head.parameters()) == 17_802


def test_without_a_hidden_layer_it_is_linear_in_what_is_pooled():
    head = MaxMeanHead(3, 4, dropout=0.5, hidden=False).eval()
    x = torch.randn(2, 3, 6, 5)
    frames = x.mean(3)
    want = head.fc2(frames.amax(2) + frames.mean(2))
    torch.testing.assert_close(head(x), want)
    assert sum(p.numel() for p in head.parameters()) == 3 * 4 + 4


def test_bands_are_told_apart_and_frames_are_not():
    head = BandsHead(3, 5, 4, dropout=0.5).eval()
    x = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(head(x), head.fc(x.mean(2).reshape(2, 15)))
    torch.testing.assert_close(head(x.flip(2)), head(x))
    assert not torch.allclose(head(x.flip(3)), head(x))
    assert sum(p.numel() for p in head.parameters()) == 15 * 4 + 4
