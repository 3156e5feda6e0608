"""Cutting networks of the `transformers` library, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sentio.core.cutting import CutNetwork, stage
from sentio.core.multi_exit import ExitSpec, MultiExit

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def resnet() -> nn.Module:
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", num_labels=5
        )
    )


def vit() -> nn.Module:
    config = transformers.ViTConfig(**VIT, image_size=32, patch_size=8, num_labels=5)
    return transformers.ViTForImageClassification(config)


def mobilevit() -> nn.Module:
    return transformers.MobileViTForImageClassification(
        transformers.MobileViTConfig(
            image_size=64,
            hidden_sizes=[16, 16, 16],
            neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32],
            num_attention_heads=2,
            num_labels=5,
        )
    )


def ast() -> nn.Module:
    config = transformers.ASTConfig(**VIT, max_length=64, num_mel_bins=32, num_labels=5)
    return transformers.ASTForAudioClassification(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(**VIT, vocab_size=50, max_position_embeddings=32, num_labels=5)
    return transformers.BertForSequenceClassification(config)


def swin() -> nn.Module:
    return transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=8,
            depths=[2, 1],
            num_heads=[1, 2],
            window_size=4,
            num_labels=5,
        )
    )


def words(batch: int) -> dict[str, Tensor]:
    lengths = 12 - 3 * torch.arange(batch) % 10
    return {
        "input_ids": torch.randint(0, 50, (batch, 12)),
        "attention_mask": (torch.arange(12) < lengths[:, None]).long(),
    }


def images(size: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, 3, size, size)


#: network -> builder, cuts (some inside blocks), inputs of a batch size
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str], Callable[[int], Any]]] = {
    "resnet": (
        resnet,
        [
            "resnet.embedder",
            "resnet.encoder.stages.0.layers.1.layer.0",
            "resnet.encoder.stages.0",
            "resnet.encoder.stages.1.layers.0.shortcut",
            "resnet.encoder.stages.1.layers.1",
        ],
        images(32),
    ),
    "vit": (
        vit,
        ["vit.embeddings", "vit.layers.0", "vit.layers.1.attention.q_proj", "vit.layers.1"],
        images(32),
    ),
    "mobilevit": (
        mobilevit,
        [
            "mobilevit.encoder.layer.1",
            "mobilevit.encoder.layer.2.conv_1x1",
            "mobilevit.encoder.layer.2.transformer.layer.0",
            "mobilevit.encoder.layer.3.transformer.layer.1.attention.attention.query",
            "mobilevit.encoder.layer.4",
        ],
        images(64),
    ),
    "ast": (
        ast,
        [
            "audio_spectrogram_transformer.embeddings",
            "audio_spectrogram_transformer.layers.0.attention",
            "audio_spectrogram_transformer.layers.1",
        ],
        lambda batch: torch.randn(batch, 64, 32),
    ),
    "bert": (bert, ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1.attention"], words),
    "swin": (
        swin,
        ["swin.encoder.layers.0.blocks.1.attention", "swin.encoder.layers.0", "swin.layernorm"],
        images(32),
    ),
}


@cache
def cut(name: str) -> tuple[nn.Module, CutNetwork]:
    torch.manual_seed(0)
    build, at, inputs = NETWORKS[name]
    module = build().eval()
    net = stage(module, at, inputs(1))
    assert isinstance(net, CutNetwork)
    return module, net


def answer(module: nn.Module, x: Any) -> Tensor:
    return (module(**x) if isinstance(x, dict) else module(x)).logits


def multi_exit(name: str) -> MultiExit:
    """An exit behind every stage: the features' mean and a linear layer, made by hand."""
    _, net = cut(name)
    shapes = net.boundary_shapes()
    torch.manual_seed(1)
    branches, specs = {}, []
    for cut_stage in net.stage_names[:-1]:
        width = torch.Size(shapes[cut_stage]["main"]).numel()
        branches[cut_stage] = nn.Sequential(nn.Flatten(), nn.Linear(width, 5))
        specs.append(ExitSpec(cut_stage, "linear", cut_stage, ((cut_stage, "main"),), 5))
    return MultiExit(net, branches, specs).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stages_answer_as_the_network_at_batch_1_2_and_7(name: str) -> None:
    module, net = cut(name)
    assert net.stage_names == (*NETWORKS[name][1], "rest")
    for batch in (1, 2, 7):
        torch.manual_seed(batch)
        x = NETWORKS[name][2](batch)
        with torch.no_grad():
            torch.testing.assert_close(net(x), answer(module, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_main_is_the_submodules_own_output(name: str) -> None:
    module, net = cut(name)
    seen: dict[str, Tensor] = {}
    hooks = [
        module.get_submodule(at).register_forward_hook(
            lambda m, a, out, at=at: seen.update({at: (out if isinstance(out, Tensor) else out[0]).clone()})
        )
        for at in NETWORKS[name][1]
    ]
    x = NETWORKS[name][2](3)
    with torch.no_grad():
        answer(module, x)
        for hook in hooks:
            hook.remove()
        for at, boundary in list(net.boundaries(x))[:-1]:
            assert len(boundary["main"]) == 3
            main = boundary["main"].reshape(seen[at].shape)
            torch.testing.assert_close(main, seen[at], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_exit_answers_as_alone_while_samples_leave(name: str) -> None:
    module, _ = cut(name)
    multi = multi_exit(name)
    torch.manual_seed(3)
    x = NETWORKS[name][2](4)
    with torch.no_grad():
        full = multi(x)
        torch.testing.assert_close(full["final"], answer(module, x), rtol=1e-5, atol=1e-6)
        count = 4
        for step in multi.anytime(x):
            assert len(step.samples) == count
            torch.testing.assert_close(step.output, full[step.exit][step.samples], rtol=1e-5, atol=1e-5)
            if count > 1:
                step.drop(step.samples == step.samples[len(step.samples) // 2])
                count -= 1
    assert count == max(1, 4 - len(multi.exit_names))


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_shared_and_none_is_lost(name: str) -> None:
    module, net = cut(name)
    own = dict(module.named_parameters())
    held = {id(parameter) for parameter in net.parameters()}
    assert held <= {id(parameter) for parameter in own.values()}
    lost = {key for key, parameter in own.items() if id(parameter) not in held}
    assert not lost


def test_patches_of_a_mobilevit_cross_by_sample() -> None:
    _, net = cut("mobilevit")
    shapes = net.boundary_shapes()
    assert shapes["mobilevit.encoder.layer.2.transformer.layer.0"]["main"] == (4, 16, 16)
    assert shapes["mobilevit.encoder.layer.4"].keys() == {"main"}


def test_the_shortcut_of_a_residual_block_crosses() -> None:
    _, net = cut("resnet")
    shapes = net.boundary_shapes()
    assert shapes["resnet.encoder.stages.0.layers.1.layer.0"] == {
        "main": (8, 8, 8),
        "resnet.encoder.stages.0.layers.0.activation": (8, 8, 8),
    }
    # The shortcut runs after the block's own layers, whose sum with it is still to come.
    assert shapes["resnet.encoder.stages.1.layers.0.shortcut"] == {
        "main": (16, 4, 4),
        "resnet.encoder.stages.1.layers.0.layer.1.normalization": (16, 4, 4),
    }
    assert shapes["resnet.encoder.stages.0"] == {"main": (8, 8, 8)}


def test_the_mask_of_a_bert_crosses_in_a_small_form() -> None:
    _, net = cut("bert")
    shapes = net.boundary_shapes()
    assert shapes["bert.embeddings"] == {"main": (12, 16), "attention_mask": (12,)}
    masks = [
        shape for key, shape in shapes["bert.encoder.layer.0"].items() if key.startswith("attention_mask")
    ]
    assert [torch.Size(shape).numel() for shape in masks] == [12]


def test_a_resnet_trains_end_to_end_and_the_stages_see_it() -> None:
    torch.manual_seed(0)
    module = resnet()
    at = ["resnet.encoder.stages.0", "resnet.encoder.stages.1.layers.0.layer.0"]
    net = stage(module.eval(), at, torch.randn(1, 3, 32, 32))
    spec = ExitSpec("early", "linear", at[0], ((at[0], "main"),), 5)
    branch = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    multi = MultiExit(net, {"early": branch}, [spec]).train()
    x, labels = torch.randn(10, 3, 32, 32) * 2 + 1, torch.arange(10) % 5
    norm = module.resnet.encoder.stages[1].layers[0].layer[0].normalization
    mean, weight = norm.running_mean.clone(), module.resnet.embedder.embedder.convolution.weight.clone()
    optimiser = torch.optim.SGD(multi.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        loss = sum(F.cross_entropy(output, labels) for output in multi(x).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not torch.allclose(norm.running_mean, mean)
    assert not torch.allclose(module.resnet.embedder.embedder.convolution.weight, weight)
    multi.eval()
    with torch.no_grad():
        torch.testing.assert_close(multi(x)["final"], module(x).logits, rtol=1e-5, atol=1e-6)
    held = net.stage(at[1]).get_buffer("resnet.encoder.stages.1.layers.0.layer.0.normalization.running_mean")
    assert held is norm.running_mean
