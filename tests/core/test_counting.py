"""Counts against hand formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sentio.core.counting import count
from sentio.core.errors import UnknownNameError
from sentio.nn.attention import FullWidthAttention

torch.set_num_threads(1)


class Calls(nn.Module):
    """A module that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


class NeedsValues(nn.Module):
    """Looks at its input's values, which the meta device does not have."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if x.abs().sum().item() >= 0 else x


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3), (4, 10, 12), 8 * 10 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 10, 12), 5 * 6 * 6 * 4 * 9),
        (nn.Conv2d(4, 8, 3, groups=4, padding="same", bias=False), (4, 10, 12), 10 * 12 * 8 * 9),
        (nn.Conv1d(4, 6, 5, dilation=2), (4, 20), 12 * 6 * 4 * 5),
        (nn.Conv3d(2, 3, 2), (2, 4, 5, 6), 3 * 4 * 5 * 3 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 25 * 4 * 6 * 9),
        (nn.Linear(7, 5), (7,), 35),
        (nn.Linear(7, 5), (3, 7), 105),
        (nn.LSTM(4, 3, num_layers=2, batch_first=True), (5, 4), 5 * 12 * (4 + 3 + 3 + 3)),
        (nn.LSTM(4, 3, bidirectional=True, batch_first=True), (5, 4), 2 * 5 * 12 * 7),
        (nn.LSTM(4, 6, proj_size=2, batch_first=True), (5, 4), 5 * (24 * (4 + 2) + 2 * 6)),
        (nn.GRU(4, 3, batch_first=True), (5, 4), 5 * 9 * 7),
        (nn.RNN(4, 3, batch_first=True), (5, 4), 5 * 3 * 7),
        (nn.LSTMCell(4, 3), (4,), 12 * 7),
        (nn.MaxPool2d(2), (4, 8, 8), 0),
        (nn.BatchNorm2d(4), (4, 8, 8), 0),
        (nn.GELU(), (4, 8, 8), 0),
    ],
    ids=str,
)
def test_macs_of_layers(layer, shape, macs):
    assert count(layer, torch.randn(1, *shape)).total == macs


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda a, b: a @ b, [(3, 4), (4, 5)], 60),
        (torch.bmm, [(3, 4), (4, 5)], 60),
        (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(3, 4), (5, 4)], 60),
        (lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), [(2, 3, 4), (2, 5, 4)], 120),
        (lambda a: F.linear(a.transpose(1, 2), torch.ones(5, 3).to(a)), [(3, 4)], 60),
        (F.scaled_dot_product_attention, [(2, 5, 4), (2, 7, 4), (2, 7, 3)], 2 * 5 * 7 * (4 + 3)),
    ],
)
def test_macs_of_functional_calls(function, shapes, macs):
    assert count(Calls(function), tuple(torch.randn(1, *shape) for shape in shapes)).total == macs


def test_packed_sequences_count_the_steps_there_are():
    lstm = nn.LSTM(4, 3)

    def run(x):
        return lstm(nn.utils.rnn.pack_padded_sequence(x, [3], batch_first=True))[0].data

    assert count(Calls(run), torch.randn(1, 5, 4)).total == 3 * 12 * 7


def attention_macs(tokens: int, dim: int, inner: int) -> int:
    return 4 * tokens * dim * inner + 2 * tokens**2 * inner


@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention(weights):
    layer = nn.MultiheadAttention(12, 3, batch_first=True)
    x = torch.randn(1, 7, 12)
    module = Calls(lambda x: layer(x, x, x, need_weights=weights)[0])
    module.layer = layer
    assert count(module, x).total == attention_macs(7, 12, 12)
    assert count(module, x, rule="tf-2021").total == 5 * 3 * 7 * 7


def test_ready_made_encoder_layer_is_not_one_opaque_operation():
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)
    found = count(layer, torch.randn(1, 7, 12))
    assert found.total == attention_macs(7, 12, 12) + 2 * 7 * 12 * 24
    assert found.of("self_attn") == attention_macs(7, 12, 12)
    assert torch.backends.mha.get_fastpath_enabled()


def test_full_width_attention():
    layer = FullWidthAttention(12, 5)
    x = torch.randn(1, 7, 12)
    assert count(layer, x).total == attention_macs(7, 12, 60)
    assert count(layer, x, rule="tf-2021").total == 5 * 5 * 7 * 7


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_vision_transformer_of_transformers(implementation):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        attn_implementation=implementation,
    )
    net = transformers.ViTModel(config, add_pooling_layer=False)
    tokens = 4 + 1
    expected = 4 * 3 * 64 * 16 + 2 * (attention_macs(tokens, 16, 16) + 2 * tokens * 16 * 32)
    assert count(net, torch.randn(1, 3, 16, 16)).total == expected


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(1, 2),
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
        nn.LSTM(6, 3, batch_first=True),
    )


@pytest.mark.parametrize("rule", ["macs", "dcase", "tf-2021"])
def test_meta_and_real_counts_agree(rule):
    net = small_net()
    x = torch.randn(1, 1, 14, 14)
    on_meta, real = count(net, x, rule=rule), count(NeedsValues(net), x, rule=rule)
    assert on_meta.total > 0
    assert real.by_module == {f"inner.{name}": work for name, work in on_meta.by_module.items()}


def test_the_tf_ledger_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),  # 6x6 out
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(3),  # 2x2 out
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 5, bias=False),
        nn.Softmax(-1),
    )
    convolution = 2 * 36 * 4 * 27 + 36 * 4
    pool, linear, softmax = 9 * 16, 2 * 80, 5 * 5
    found = count(net, torch.randn(1, 3, 8, 8), rule="tf-2021")
    assert found.by_module == {"0": convolution, "3": pool, "6": linear, "7": softmax}


def test_the_tf_ledger_counts_products_but_no_sums():
    film = Calls(lambda x, scale, shift: scale * x + shift)
    tensors = (torch.randn(1, 4, 3, 3), torch.randn(1, 4, 1, 1), torch.randn(1, 4, 1, 1))
    assert count(film, tensors, rule="tf-2021").total == 36
    assert count(film, tensors).total == 0


def test_the_dcase_rule_adds_two_per_norm_channel_once():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    x = torch.randn(1, 3, 8, 8)
    assert count(net, x, rule="dcase").total - count(net, x).total == 16


def test_work_is_attributed_to_the_module_that_did_it():
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 5)), nn.Linear(5, 1))
    found = count(net, torch.randn(1, 3))
    assert found.by_module == {"0": 12, "1.1": 20, "2": 5}
    assert (found.of("1"), found.of(""), found.of("10"), found.total) == (20, 37, 0, 37)


def test_a_layer_that_runs_twice_counts_twice():
    shared = nn.Linear(4, 4)
    assert count(nn.Sequential(shared, shared), torch.randn(1, 4)).total == 32


def test_only_one_sample_is_counted():
    assert count(nn.Linear(3, 4), torch.randn(9, 3)).total == 12


def test_named_inputs():
    module = Calls(lambda named: named["a"] @ named["b"])
    assert count(module, {"a": torch.randn(2, 3, 4), "b": torch.randn(2, 4, 5)}).total == 60


def test_modes_hooks_and_weights_are_left_as_they_were():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    count(net, torch.randn(2, 1, 8, 8))
    count(NeedsValues(net), torch.randn(2, 1, 8, 8))
    assert [module.training for module in net] == [True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net[0].weight.requires_grad
    assert not net[0].weight.is_meta


def test_an_error_of_the_module_is_not_swallowed():
    net = nn.Linear(3, 4)
    with pytest.raises(RuntimeError, match="shape"):
        count(net, torch.randn(1, 5))
    assert not net._forward_hooks


def test_an_unknown_rule_is_refused():
    with pytest.raises(UnknownNameError, match="Unknown counting rule 'mac'; did you mean 'macs'"):
        count(nn.Linear(3, 4), torch.randn(1, 3), rule="mac")


def test_ptflops_counts_norms_activations_and_what_is_pooled():
    """Of a 3x3 convolution with bias, batch norm, ReLU, maximum and mean, on 4 maps of 8x8."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
    )
    elements = 4 * 64
    want = elements * 18 + elements + 2 * elements + elements + elements + elements // 4
    assert count(net, torch.randn(1, 2, 8, 8), rule="ptflops").total == want
