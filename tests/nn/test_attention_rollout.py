"""Attention rollout: by hand, its invariants, and on networks."""

import pytest
import torch

from sentio.core.errors import ConfigError
from sentio.core.staged import create_network
from sentio.nn.attention_rollout import attention_maps, attention_rollout, class_token_map, on_input
from sentio.nn.patchout import draw_patchout

torch.set_num_threads(1)

WORKED = [
    torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]], dtype=torch.float64),
    torch.tensor([[[[1, 0], [0.5, 0.5]]]], dtype=torch.float64),
]


def network(**options):
    torch.manual_seed(0)
    small = {"classes": 4, "size": (26, 20), "patch": 8, "stride": 6, "dim": 16, "layers": 3, "heads": 2}
    return create_network("vit-medium", **small, **options).double()


def any_attention(layers=3, heads=4, tokens=5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, heads, tokens, tokens)
    return [torch.randn(shape, generator=generator).double().softmax(-1) for _ in range(layers)]


def test_by_hand():
    assert attention_rollout(WORKED, normalise=False)[0].tolist() == [[3, 1], [1.125, 2.875]]
    assert attention_rollout(WORKED)[0].tolist() == [[0.75, 0.25], [0.28125, 0.71875]]


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_raw_is_a_power_of_two_of_the_normalised(layers):
    maps = any_attention(layers)
    raw, normalised = attention_rollout(maps, normalise=False), attention_rollout(maps)
    torch.testing.assert_close(raw.sum(-1), torch.full((2, 5), 2.0**layers, dtype=torch.float64))
    assert torch.equal(raw, 2**layers * normalised)


def test_tokens_that_look_at_themselves_stay_where_they_are():
    eye = torch.eye(5, dtype=torch.float64).expand(2, 4, 5, 5)
    assert torch.equal(attention_rollout([eye] * 3), eye[:, 0])


@pytest.mark.parametrize("fusion", ["max", "min"])
def test_other_fusions_sum_to_one_and_agree_where_heads_do(fusion):
    maps = any_attention()
    fused = attention_rollout(maps, fusion=fusion)
    torch.testing.assert_close(fused.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    assert not torch.allclose(fused, attention_rollout(maps))
    alike = [each[:, :1].expand(-1, 4, -1, -1) for each in maps]
    torch.testing.assert_close(attention_rollout(alike, fusion=fusion), attention_rollout(alike))


def test_maps_of_a_network_explain_its_layers():
    net = network().train()
    x = net.example(2).double()
    maps = attention_maps(net, x)
    assert net.training
    assert [tuple(each.shape) for each in maps] == [(2, 2, 13, 13)] * 3
    tokens = net.before("patches")(x)
    layer = net.stage("block1")
    value = layer.attention._split(layer.attention.value(layer.norm1(tokens)))
    expected = layer.attention.output((maps[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer.attention(layer.norm1(tokens)), expected)


def test_the_class_tokens_map():
    net = network()
    x = net.example(2).double()
    heat = class_token_map(net, x)
    assert heat.shape == (2, 4, 3)
    maps = attention_maps(net, x)
    assert torch.equal(heat.flatten(1), attention_rollout(maps)[:, 0, 1:])
    torch.testing.assert_close(heat.sum((1, 2)) + attention_rollout(maps)[:, 0, 0], torch.ones(2).double())
    assert torch.equal(class_token_map(net, x, layer=1, head=0).flatten(1), maps[1][:, 0, 0, 1:])
    assert torch.equal(class_token_map(net, x, layer=-1).flatten(1), maps[2].mean(1)[:, 0, 1:])


def test_a_distillation_token_is_no_patch():
    net = network(head="deit")
    x = net.example(1).double()
    assert torch.equal(
        class_token_map(net, x).flatten(1), attention_rollout(attention_maps(net, x))[:, 0, 2:]
    )


def test_dropped_patches_are_missing():
    net = network()
    x = net.example(2).double()
    keep = draw_patchout((4, 3), frequency=1, batch=2, generator=torch.Generator().manual_seed(0))
    heat = class_token_map(net, {"main": x, "keep": keep})
    assert heat.isnan().sum((1, 2)).tolist() == [4, 4]
    assert torch.equal(heat.flatten(1).gather(1, keep).isnan(), torch.zeros_like(keep, dtype=torch.bool))
    drawn = on_input(heat, (26, 20), patch=8, stride=6)
    assert 0 < drawn.isnan().sum() < drawn.numel() * 0.7
    assert drawn.nan_to_num(0).max() <= heat.nan_to_num(0).max()


def test_the_map_is_drawn_on_what_patches_cover():
    heat = torch.full((1, 9, 12), 0.25)
    drawn = on_input(heat, (100, 128), patch=16, stride=10)
    assert drawn.shape == (1, 100, 128)
    assert (drawn[0, :96, :126] == 0.25).all()
    assert drawn[0, 96:].isnan().all()
    assert drawn[0, :, 126:].isnan().all()


def test_the_peak_is_where_it_was():
    heat = torch.zeros(1, 9, 12)
    heat[0, 2, 7] = 1
    drawn = on_input(heat, (100, 128), patch=16, stride=10).nan_to_num(0)[0]
    time, frequency = divmod(drawn.argmax().item(), 128)
    assert 2 * 96 / 9 <= time < 3 * 96 / 9
    assert 7 * 126 / 12 <= frequency < 8 * 126 / 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_rollout([]), "at least one layer"),
        (lambda: attention_rollout(WORKED, fusion="sum"), "'mean', 'max' or 'min', got 'sum'"),
        (lambda: attention_maps(create_network("tiny-cnn"), torch.zeros(1, 1, 98, 64)), "no attention"),
        (lambda: class_token_map(create_network("tiny-cnn"), torch.zeros(1, 1, 98, 64)), "first stage"),
        (lambda: class_token_map(network(), network().example().double(), head=1), "pass layer="),
        (lambda: class_token_map(network(), network().example().double(), layer=3), "no layer 3"),
        (lambda: class_token_map(network(), network().example().double(), layer=0, head=2), "with head 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
