"""Patches and their embedding."""

import pytest
import torch
import torch.nn.functional as F

from sentio.nn.patches import FramePatchEmbedding, PatchEmbedding, choose_patch, patchify


@pytest.mark.parametrize(
    ("size", "patch"),
    [
        ((28, 28), (4, 4)),
        ((25, 25), (5, 5)),
        ((72, 128), (8, 8)),
        ((16, 16), (4, 4)),
        ((1, 1), (1, 1)),
        ((7, 7), (3, 3)),  # prime: padded to 9
        ((17, 64), (4, 8)),  # 17 is prime, 64 is not
        ((4, 512), (2, 16)),  # no square patch suits both sides
        ((31, 31), (6, 6)),
    ],
)
def test_the_patch_is_near_the_root_and_divides_where_it_can(size, patch):
    assert choose_patch(*size) == patch


@pytest.mark.parametrize("size", [(h, w) for h in (1, 2, 3, 5, 12, 13, 41, 98) for w in (1, 4, 11, 40, 257)])
def test_the_number_of_tokens_stays_near_the_root_of_the_map(size):
    embedding = PatchEmbedding((1, *size), 2, choose_patch(*size))
    for side, cells in zip(size, embedding.grid, strict=True):
        assert side**0.5 / 2 <= cells <= 2 * side**0.5 + 1


def test_order_of_patches_is_that_of_unfold():
    x = torch.randn(2, 3, 6, 8)
    unfolded = F.unfold(x, (3, 2), stride=(3, 2))  # (B, C * row * column, patch)
    expected = unfolded.unflatten(1, (3, 6)).permute(0, 3, 2, 1).flatten(2)
    assert torch.equal(patchify(x, (3, 2)), expected)


@pytest.mark.parametrize("patch", [(4, 4), (2, 3)])
def test_embedding_is_a_strided_convolution_with_reordered_weights(patch):
    torch.manual_seed(0)
    embedding = PatchEmbedding((5, 8, 12), 7, patch).double()
    x = torch.randn(2, 5, 8, 12, dtype=torch.float64)
    kernel = embedding.linear.weight.unflatten(1, (*patch, 5)).permute(0, 3, 1, 2)
    strided = F.conv2d(x, kernel, embedding.linear.bias, stride=patch)
    torch.testing.assert_close(embedding(x), strided.flatten(2).transpose(1, 2), rtol=0, atol=1e-13)


def test_padding_is_zero_and_at_the_end():
    embedding = PatchEmbedding((2, 5, 7), 3, (2, 4))
    x = torch.randn(1, 2, 5, 7)
    padded = torch.zeros(1, 2, 6, 8)
    padded[:, :, :5, :7] = x
    assert embedding.tokens == 6
    assert torch.equal(embedding(x), embedding.linear(patchify(padded, (2, 4))))


def test_patches_of_a_video_are_those_of_its_frames():
    torch.manual_seed(0)
    embedding = FramePatchEmbedding((3, 4, 6, 7), 5, (2, 3))
    video = torch.randn(2, 3, 4, 6, 7)
    tokens = embedding(video)
    assert tokens.shape == (2, embedding.tokens, 5) == (2, 4 * 3 * 3, 5)
    frame = PatchEmbedding.forward(embedding, video[:, :, 1])
    torch.testing.assert_close(tokens[:, 9:18], frame)
