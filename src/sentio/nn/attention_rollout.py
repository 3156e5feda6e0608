"""Attention rollout: which patches the class token looks at, through all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sentio.core.errors import ConfigError
from sentio.core.staged import Staged, evaluating
from sentio.nn.attention import FullWidthAttention
from sentio.nn.patch_tokens import KEEP, PatchTokens

Fusion = Literal["mean", "max", "min"]


def attention_maps(net: nn.Module, x: Any) -> list[Tensor]:
    """How much each token attends to each, layer by layer: ``(batch, head, token, token)``, rows sum to one.

    Runs the network in eval mode and without gradients; its own mode is restored.

    Args:
        net: any module whose attention is `sentio.nn.attention.FullWidthAttention`.
        x: its input, batch first.

    Raises:
        ConfigError: there is no such layer in it.
    """
    layers = [module for module in net.modules() if isinstance(module, FullWidthAttention)]
    if not layers:
        raise ConfigError(
            "This network has no attention to look at; take a transformer, such as 'vit-medium'"
        )
    maps: list[Tensor] = []

    def note(layer: FullWidthAttention, arguments: tuple[Tensor, ...]) -> None:
        maps.append(layer.weights(arguments[0]))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad(), evaluating(net):
            net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def attention_rollout(maps: Sequence[Tensor], *, fusion: Fusion = "mean", normalise: bool = True) -> Tensor:
    """How much of each input token is in each output token, by attention and shortcuts alone.

    ``R = (A + I) / 2`` of the last layer times that of the one before, and so on. S. Abnar and W. Zuidema,
    *Quantifying Attention Flow in Transformers*, ACL 2020.

    Args:
        maps: of each layer, first to last, ``(batch, head, token, token)``.
        fusion: how heads become one: their mean, or the largest or smallest weight (rows are then made to
            sum to one again where ``normalise``).
        normalise: halve each sum. Without, the row sums double with each layer, as the thesis on acoustic
            scenes has it; the picture is the same, a factor of two per layer apart.

    Returns:
        ``(batch, token, token)``.

    Raises:
        ConfigError: no layers, or another fusion.
    """
    if not maps:
        raise ConfigError("Attention rollout needs the attention of at least one layer, got none")
    if fusion not in ("mean", "max", "min"):
        raise ConfigError(f"Heads are fused by 'mean', 'max' or 'min', got {fusion!r}")
    rolled: Tensor | None = None
    for weights in maps:
        fused = {"mean": weights.mean, "max": weights.amax, "min": weights.amin}[fusion](dim=1)
        if normalise and fusion != "mean":
            fused = fused / fused.sum(dim=-1, keepdim=True)
        step = fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
        step = step / 2 if normalise else step
        rolled = step if rolled is None else step @ rolled
    assert rolled is not None
    return rolled


def class_token_map(
    net: Staged,
    x: Tensor | Mapping[str, Tensor],
    *,
    layer: int | None = None,
    head: int | None = None,
    fusion: Fusion = "mean",
) -> Tensor:
    """Where the class token looks on the input: ``(batch, time, frequency)`` on the grid of patches.

    Args:
        net: a vision transformer, its first stage `sentio.nn.patch_tokens.PatchTokens`.
        x: ``(batch, C, time, frequency)``, or named tensors with the patches to ``keep``.
        layer: only this layer, counted from 0, without rollout; all layers if None.
        head: only this head of ``layer``; their mean if None.
        fusion: of the heads, for the rollout.

    Returns:
        weights; NaN where a patch was dropped.

    Raises:
        ConfigError: another kind of network, or no such layer or head.
    """
    patches = net.stage(net.stage_names[0])
    if not isinstance(patches, PatchTokens):
        raise ConfigError("A class token's map needs a vision transformer, whose first stage makes patches")
    if head is not None and layer is None:
        raise ConfigError("One head belongs to one layer; pass layer= as well")
    maps = attention_maps(net, x)
    if layer is None:
        rows = attention_rollout(maps, fusion=fusion)[:, 0]
    else:
        heads = maps[layer][:, :, 0] if -len(maps) <= layer < len(maps) else None
        if heads is None or not (head is None or 0 <= head < heads.shape[1]):
            raise ConfigError(
                f"There is no layer {layer!r} with head {head!r}; the network has {len(maps)} layers"
            )
        rows = heads.mean(dim=1) if head is None else heads[:, head]
    row = rows[:, patches.special.shape[0] :]
    image, keep = (x["main"], x.get(KEEP)) if isinstance(x, Mapping) else (x, None)
    grid = patches.grid_of(image)
    if keep is not None:
        row = row.new_full((len(row), grid[0] * grid[1]), torch.nan).scatter(1, keep.to(row.device), row)
    return row.unflatten(1, grid)


def on_input(heat: Tensor, size: tuple[int, int], *, patch: int, stride: int) -> Tensor:
    """A map on the grid, drawn over the input it belongs to: ``(batch, *size)``.

    Resized bilinearly to the area that patches cover, ``(n - 1) * stride + patch`` along each axis, from the
    start; NaN beside it, and where more than half of the weight would come from dropped patches.

    Args:
        heat: ``(batch, time, frequency)`` from `class_token_map`.
        size: (time, frequency) of the input.
        patch, stride: the network's.
    """
    covered = tuple((cells - 1) * stride + patch for cells in heat.shape[1:])
    kept = ~heat.isnan()
    both = torch.stack([heat.nan_to_num(0), kept.to(heat)], dim=1)
    weighted, share = interpolate(both, size=covered, mode="bilinear", align_corners=False).unbind(1)
    drawn = heat.new_full((len(heat), *size), torch.nan)
    drawn[:, : covered[0], : covered[1]] = torch.where(share < 0.5, torch.nan, weighted / share)
    return drawn
