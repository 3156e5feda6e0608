"""MobileViT: a mobile CNN with transformers inside."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.attention import EncoderLayer
from sentio.nn.conv import conv_bn_act
from sentio.nn.init import he_init, truncated_normal_init
from sentio.nn.unfolding import fold, unfold

#: the published sizes, as options
SIZES = {
    "s": {},
    "xs": {"channels": (16, 32, 48, 64, 80, 96, 384), "dims": (96, 120, 144)},
    "xxs": {"channels": (16, 16, 24, 48, 64, 80, 320), "dims": (64, 80, 96), "expansion": 2},
}
#: side of the patches whose cells attend to each other
PATCH = 2


class Residual(nn.Module):
    """MobileNetV2's inverted residual with SiLU: expand 1×1, depthwise 3×3, project 1×1 without activation.

    ``(batch, in_channels, H, W)`` to ``(batch, out_channels, H/stride, W/stride)``; the input is added where
    the shape stays.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = conv_bn_act(in_channels, hidden, 1, act=nn.SiLU)
        self.depthwise = conv_bn_act(hidden, hidden, 3, stride=stride, groups=hidden, act=nn.SiLU)
        self.project = conv_bn_act(hidden, out_channels, 1, act=False)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class MobileViTBlock(nn.Module):
    """Convolution, a transformer between equal cells of all patches, and fusion: a map to its like.

    Positions need no encoding: the map is put together again exactly as it was taken apart. A map with an
    odd side is resized to the next even one and back.

    Args:
        channels: of the map.
        dim: width of the tokens.
        layers: encoder layers, their MLP twice ``dim`` wide.
        heads: of each attention; must divide ``dim``.
        dropout: rate in their MLPs.
    """

    def __init__(self, channels: int, dim: int, layers: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.local = conv_bn_act(channels, channels, 3, act=nn.SiLU)
        self.widen = nn.Conv2d(channels, dim, 1, bias=False)
        self.encoder = nn.Sequential(
            *(
                EncoderLayer(
                    dim, heads, head_dim=dim // heads, act=nn.SiLU, eps=1e-5, dropout=dropout, fused=True
                )
                for _ in range(layers)
            )
        )
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.project = conv_bn_act(dim, channels, 1, act=nn.SiLU)
        self.fusion = conv_bn_act(2 * channels, channels, 3, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.widen(self.local(x))
        size = (tokens.shape[2], tokens.shape[3])
        even = (size[0] + size[0] % PATCH, size[1] + size[1] % PATCH)
        if even != size:
            tokens = interpolate(tokens, size=even, mode="bilinear", align_corners=False)
        tokens = fold(self.norm(self.encoder(unfold(tokens, PATCH))), even, PATCH)
        if even != size:
            tokens = interpolate(tokens, size=size, mode="bilinear", align_corners=False)
        return self.fusion(torch.cat([x, self.project(tokens)], dim=1))


@register(
    "network",
    "mobilevit",
    paper="S. Mehta, M. Rastegari, MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision "
    "Transformer, ICLR 2022",
    input_shapes={"main": (3, 256, 256)},
    small={
        "classes": 4,
        "channels": (8, 8, 8, 12, 12, 16, 24),
        "dims": (16, 16, 24),
        "layers": (1, 1, 1),
        "expansion": 2,
    },
    small_shapes={"main": (3, 48, 128)},  # layer 4 has an odd map, which is resized; layer 5 two patches
)
def mobilevit(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    channels: tuple[int, int, int, int, int, int, int] = (16, 32, 64, 96, 128, 160, 640),
    dims: tuple[int, int, int] = (144, 192, 240),
    layers: tuple[int, int, int] = (2, 4, 3),
    expansion: int = 4,
    heads: int = 4,
    dropout: float = 0.1,
) -> Staged:
    """Images of any size in 5,578,632 parameters: MobileViT-S, and XS and XXS by their options.

    Takes ``(batch, channel, height, width)``, or time and frequency, and gives logits ``(batch, classes)``.
    `SIZES` holds the options of the published sizes; the other two have 2,317,848 and 1,272,024 parameters.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        channels: of stem, the five layers and what the head averages.
        dims: width of the tokens in layers 3, 4 and 5.
        layers: encoder layers in each of them.
        expansion: factor on the width inside the inverted residuals.
        heads: of each attention; must divide ``dims``.
        dropout: rate in the encoders' MLPs and before the last linear layer.

    Raises:
        ConfigError: ``heads`` do not divide ``dims``, or a list of another length.
    """
    _check(channels, dims, layers, heads)
    residual = partial(Residual, expansion=expansion)
    stem, first, second, *deep, last = channels
    stages: dict[str, nn.Module] = {
        "stem": conv_bn_act(in_channels, stem, 3, stride=2, act=nn.SiLU),
        "layer1": residual(stem, first, stride=1),
        "layer2": nn.Sequential(
            residual(first, second, stride=2), *(residual(second, second, stride=1) for _ in range(2))
        ),
    }
    width = second
    for number, (out, dim, depth) in enumerate(zip(deep, dims, layers, strict=True), start=3):
        down = residual(width, out, stride=2)
        block = MobileViTBlock(out, dim, depth, heads=heads, dropout=dropout)
        stages[f"layer{number}"] = nn.Sequential(OrderedDict(down=down, block=block))
        width = out
    stages["features"] = conv_bn_act(width, last, 1, act=nn.SiLU)
    stages["head"] = nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            fc=nn.Linear(last, classes),
        )
    )
    for stage in stages.values():
        he_init(stage)
        for module in stage.modules():
            if isinstance(module, EncoderLayer):
                truncated_normal_init(module)
    truncated_normal_init(stages["head"])
    return Staged(stages, input_shapes={"main": (in_channels, 256, 256)})


def _check(channels: tuple[int, ...], dims: tuple[int, ...], layers: tuple[int, ...], heads: int) -> None:
    for name, values, length in (("channels", channels, 7), ("dims", dims, 3), ("layers", layers, 3)):
        if len(values) != length or not all(isinstance(value, int) and value > 0 for value in values):
            raise ConfigError(
                f"Option {name!r} of MobileViT is {length} whole numbers from 1 up, got {values!r}"
            )
    if any(dim % heads for dim in dims):
        raise ConfigError(f"{heads} heads do not divide tokens of widths {dims}; choose a common divisor")
