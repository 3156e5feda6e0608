"""Attention with heads of any width."""

import torch
from torch import nn

from sentio.nn.attention import EncoderLayer, FullWidthAttention

torch.set_num_threads(1)


def test_narrow_heads_equal_torch_multihead_attention():
    torch.manual_seed(0)
    ours = FullWidthAttention(12, 3, head_dim=4).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_every_head_is_as_wide_as_the_tokens():
    attention = FullWidthAttention(32, 12)
    assert attention.query.out_features == 384
    assert sum(p.numel() for p in attention.parameters()) == 3 * (32 * 384 + 384) + 384 * 32 + 32


def test_full_width_heads_by_hand():
    torch.manual_seed(0)
    attention = FullWidthAttention(3, 2).double()
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    query, key, value = attention.query(x)[0], attention.key(x)[0], attention.value(x)[0]
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = query[:, head] @ key[:, head].T / 3**0.5
        heads.append(torch.softmax(scores, -1) @ value[:, head])
    torch.testing.assert_close(attention(x)[0], attention.output(torch.cat(heads, 1)))


def test_encoder_layer_does_not_know_the_order_of_tokens():
    torch.manual_seed(0)
    layer = EncoderLayer(8, 3).double().eval()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    order = torch.randperm(9)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=0, atol=1e-13)


def test_encoder_norms_have_the_papers_epsilon():
    layer = EncoderLayer(8, 3)
    assert layer.norm1.eps == layer.norm2.eps == 1e-6


def test_the_fused_kernel_agrees_in_value_and_gradient():
    torch.manual_seed(0)
    plain, fused = FullWidthAttention(12, 3, head_dim=4), FullWidthAttention(12, 3, head_dim=4, fused=True)
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(fused(x), plain(x))
    for attention in (plain, fused):
        attention(x).square().sum().backward()
    torch.testing.assert_close(fused.query.weight.grad, plain.query.weight.grad)


def test_weights_are_rows_that_sum_to_one():
    torch.manual_seed(0)
    weights = FullWidthAttention(12, 3, head_dim=4).weights(torch.randn(2, 7, 12))
    assert weights.shape == (2, 3, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))
