"""Behaviour of the exits: identities of the SL-ViT sheet, options, refusals, export."""

import io
import re

import pytest
import torch
from torch import nn

from sentio.core import registry
from sentio.core.errors import ConfigError, InputError
from sentio.core.multi_exit import add_exits
from sentio.core.onnx_exporter import to_program
from sentio.core.staged import create_network

torch.set_num_threads(1)


def exit_of(kind, *shapes, outputs=3, **options):
    torch.manual_seed(0)
    return registry.build("exit", kind, shapes, outputs, **options)


@pytest.mark.parametrize("shape", [(6, 9, 5), (6, 4, 9, 5)])
def test_pooled_linear_is_the_mean_and_a_linear_layer(shape):
    branch = exit_of("pooled-linear", shape)
    x = torch.randn(2, *shape)
    linear = branch.head[-1]
    torch.testing.assert_close(branch(x), linear(x.flatten(2).mean(2)))


def test_pooled_linear_averages_tokens_and_takes_vectors():
    tokens, vector = torch.randn(2, 7, 5), torch.randn(2, 4)
    branch = exit_of("pooled-linear", (7, 5), (4,))
    expected = branch.head[-1](torch.cat([tokens.mean(1), vector], 1))
    torch.testing.assert_close(branch(tokens, vector), expected)


def test_pooled_linear_may_read_the_first_token_alone():
    tokens = torch.randn(2, 7, 5)
    branch = exit_of("pooled-linear", (7, 5), over="first")
    torch.testing.assert_close(branch(tokens), branch.head[-1](tokens[:, 0]))
    with pytest.raises(ConfigError, match="over='first' reads tokens"):
        exit_of("pooled-linear", (5, 7, 7), over="first")


def test_sl_vit_takes_tokens_as_patches():
    branch = exit_of("sl-vit", (7, 5), dim=4, heads=3).eval()
    assert branch.position.shape == (7, 4)
    x = torch.randn(2, 7, 5)
    expected = branch.head(branch.encoder(branch.embedding(x) + branch.position))
    assert torch.equal(branch(x), expected)
    with pytest.raises(InputError, match=r"of shape \(7, 5\), got \(6, 5\)"):
        branch(x[:, :6])
    with pytest.raises(ConfigError, match="each token is one"):
        exit_of("sl-vit", (7, 5), patch=2)


def test_pooled_linear_over_time_keeps_the_bands():
    branch = exit_of("pooled-linear", (3, 6, 4), over="time")
    x = torch.randn(2, 3, 6, 4)
    linear = branch.head[0]
    assert linear.in_features == 3 * 4
    torch.testing.assert_close(branch(x), linear(x.mean(2).flatten(1)))
    torch.testing.assert_close(branch(x), branch(x[:, :, torch.randperm(6)]))
    assert not torch.allclose(branch(x), branch(x.flip(3)))


def test_pooled_linear_works_at_any_size_and_has_a_hidden_layer():
    branch = exit_of("pooled-linear", (6, 9, 5), hidden=8, dropout=0.2)
    assert branch.eval()(torch.randn(2, 6, 3, 11)).shape == (2, 3)
    assert sum(p.numel() for p in branch.parameters()) == 7 * 8 + 9 * 3


def test_without_the_mlp_the_last_residual_passes_and_its_absence_gives_zero():
    x = torch.randn(2, 6, 8, 8)
    for last_residual in (True, False):
        branch = exit_of("sl-vit", (6, 8, 8), dim=4, heads=3, last_residual=last_residual).eval()
        layer = branch.encoder[0]
        nn.init.zeros_(layer.mlp[3].weight)
        nn.init.zeros_(layer.mlp[3].bias)
        tokens = branch.embedding(x) + branch.position
        z = tokens + layer.attention(layer.norm1(tokens))
        assert torch.equal(layer(tokens), z if last_residual else torch.zeros_like(z))


def test_only_the_last_layer_loses_its_last_residual():
    branch = exit_of("sl-vit", (6, 8, 8), layers=3, last_residual=False)
    assert [layer.last_residual for layer in branch.encoder] == [True, True, False]


def test_position_breaks_the_equivariance_of_the_encoder():
    branch = exit_of("sl-vit", (6, 8, 8), dim=8, heads=3).double().eval()
    order = torch.randperm(branch.embedding.tokens)
    tokens = branch.embedding(torch.randn(2, 6, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(branch.encoder(tokens[:, order]), branch.encoder(tokens)[:, order])
    moved = branch.encoder(tokens[:, order] + branch.position)
    assert (moved - branch.encoder(tokens + branch.position)[:, order]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["cnn-ee", "sl-vit", "pooled-linear"])
def test_running_up_to_an_exit_gives_what_the_full_pass_gives(kind):
    torch.manual_seed(0)
    net = create_network("resnet8", width=8)
    net.input_shapes = {"main": (3, 16, 16)}
    net = add_exits(net, kind, at=["layer1", "layer2"], classes=5).eval()
    x = net.backbone.example(3)
    with torch.no_grad():
        full = net(x)
        for step in net.anytime(x, evaluates=lambda name: name == "layer2"):
            assert torch.equal(step.output, full["layer2"])
        assert torch.equal(net.branch("layer1")(net.backbone.before("layer1")(x)), full["layer1"])


def test_sl_vit_pads_a_map_that_nothing_sensible_divides():
    branch = exit_of("sl-vit", (4, 31, 17)).eval()
    assert branch.embedding.patch == (6, 4)
    assert branch.embedding.grid == (6, 5)
    x = torch.randn(2, 4, 31, 17)
    assert branch(x).shape == (2, 3)
    padded = torch.zeros(2, 4, 36, 20)
    padded[:, :, :31, :17] = x
    wide = exit_of("sl-vit", (4, 36, 20), patch=(6, 4)).eval()
    wide.load_state_dict(branch.state_dict())
    assert torch.equal(branch(x), wide(padded))


@pytest.mark.parametrize("kind", ["cnn-ee", "sl-vit"])
def test_fixed_size_exits_refuse_another_size_in_one_sentence(kind):
    branch = exit_of(kind, (6, 12, 12))
    with pytest.raises(
        InputError, match=r"built for features of shape \(6, 12, 12\), got \(6, 12, 13\);"
    ) as error:
        branch(torch.randn(1, 6, 12, 13))
    assert ". " not in str(error.value)


@pytest.mark.parametrize("kind", ["cnn-ee", "sl-vit"])
def test_map_exits_refuse_other_shapes(kind):
    for shape in ((7,), (7, 5)) if kind == "cnn-ee" else ((7,), (3, 6, 4, 9, 5)):
        with pytest.raises(ConfigError, match=rf"needs a feature map .* got shape {re.escape(str(shape))}"):
            exit_of(kind, shape)
    several = [(6, 8, 8)] * (3 if kind == "cnn-ee" else 2)  # cnn-ee may read a second sense
    with pytest.raises(ConfigError, match=f"reads one tensor, got {len(several)}"):
        exit_of(kind, *several)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("sl-vit", {"patch": 5}, "Patches of 5x5 do not divide the 8x12 map"),
        ("sl-vit", {"patch": (4, 5)}, "Patches of 4x5 do not divide"),
        ("sl-vit", {"patch": 4.0}, "whole number or a pair"),
        ("sl-vit", {"dropout": "0.1"}, "'dropout'"),
        ("sl-vit", {"patch": 0}, "whole number or a pair"),
        ("sl-vit", {"patch": (2, 2, 2)}, "whole number or a pair"),
        ("sl-vit", {"heads": 0}, "'heads' of exit 'sl-vit' must be a whole number from 1 up, got 0"),
        ("sl-vit", {"head_dim": 1.5}, "'head_dim'"),
        ("sl-vit", {"dropout": 1.0}, "'dropout' of exit 'sl-vit' must be at least 0 and below 1"),
        ("cnn-ee", {"kernel": 9}, "leaves nothing of a 8x12 map"),
        ("cnn-ee", {"padding": -1}, "'padding'"),
        ("cnn-ee", {"padding": "same"}, "'padding' of exit 'cnn-ee' is a whole number from 0 up, got 'same'"),
        ("cnn-ee", {"pool": 0}, "'pool'"),
        ("pooled-linear", {"over": "space"}, "'time'"),
        ("pooled-linear", {"hidden": 0}, "'hidden'"),
        ("pooled-linear", {"dropout": -0.1}, "'dropout'"),
        ("sl-vit", {"depth": 2}, "has no option 'depth'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(kind, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        exit_of(kind, (6, 8, 12), **options)
    assert ". " not in str(error.value)


def test_pooled_linear_needs_a_channel_axis():
    with pytest.raises(ConfigError, match="one without axes"):
        exit_of("pooled-linear", ())


def test_the_paper_is_named():
    for kind in ("cnn-ee", "sl-vit"):
        assert "Single-Layer Vision Transformers" in registry.find("exit", kind).paper


def test_heads_start_with_he_initialisation():
    head = exit_of("sl-vit", (64, 28, 28)).head
    for layer in (head[1], head[4]):
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.05)
        assert not layer.bias.any()


@pytest.mark.parametrize("kind", ["cnn-ee", "sl-vit", "pooled-linear"])
def test_bfloat16_autocast_agrees(kind):
    branch = exit_of(kind, (6, 12, 16)).eval()
    x = torch.randn(4, 6, 12, 16)
    with torch.no_grad():
        full = branch(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = branch(x).float()
    assert half.isfinite().all()
    assert (half - full).abs().max() < 0.05 * full.abs().max() + 0.02


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("cnn-ee", (6, 12, 16)),
        ("sl-vit", (6, 12, 17)),
        ("pooled-linear", (6, 12, 16)),
        ("cnn-project-ee", (17, 8)),
        ("vit-ee", (6, 4, 4)),
        ("resmlp-ee", (17, 8)),
    ],
)
def test_exports_to_onnx_with_a_dynamic_batch(kind, shape):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    branch = exit_of(kind, shape).eval()
    file = io.BytesIO()
    rows = {0: torch.export.Dim("batch", min=1)}
    shapes = ((rows,),) if kind == "pooled-linear" else (rows,)  # it takes any number of tensors
    to_program(branch, {"x": torch.randn(2, *shape)}, ["y"], dynamic_shapes=shapes).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for size in (1, 5):
        x = torch.randn(size, *shape)
        (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), branch(x).detach(), rtol=1e-4, atol=1e-5)
