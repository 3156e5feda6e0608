"""Inception-V3: filters of several sizes side by side."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear
from sentio.nn.init import he_init

Kernel = int | tuple[int, int]


def _conv(
    in_channels: int, out_channels: int, kernel: Kernel, *, stride: int = 1, same: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; padded to keep the size unless ``same`` is false."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in sides) if same else (0, 0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, sides, stride=stride, padding=padding, bias=False),
            bn=nn.BatchNorm2d(out_channels, eps=1e-3),
            relu=nn.ReLU(),
        )
    )


class Concat(nn.Module):
    """Branches side by side on one map; their channels are concatenated in the order they are named."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()], dim=1)


class _Widths:
    """Channels of the published network, times a factor."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, channels: int) -> int:
        return max(1, round(channels * self.scale))


def _average(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), _conv(in_channels, out_channels, 1))


def _block_35(w: _Widths, channels: int, pooled: int) -> Concat:
    five = nn.Sequential(_conv(channels, w(48), 1), _conv(w(48), w(64), 5))
    three = nn.Sequential(_conv(channels, w(64), 1), _conv(w(64), w(96), 3), _conv(w(96), w(96), 3))
    return Concat(
        branch1x1=_conv(channels, w(64), 1),
        branch5x5=five,
        branch3x3dbl=three,
        branch_pool=_average(channels, w(pooled)),
    )


def _shrink_35(w: _Widths, channels: int) -> Concat:
    double = nn.Sequential(
        _conv(channels, w(64), 1), _conv(w(64), w(96), 3), _conv(w(96), w(96), 3, stride=2, same=False)
    )
    return Concat(
        branch3x3=_conv(channels, w(384), 3, stride=2, same=False),
        branch3x3dbl=double,
        branch_pool=nn.MaxPool2d(3, stride=2),
    )


def _block_17(w: _Widths, channels: int, inner: int) -> Concat:
    i, out = w(inner), w(192)
    seven = nn.Sequential(_conv(channels, i, 1), _conv(i, i, (1, 7)), _conv(i, out, (7, 1)))
    double = nn.Sequential(
        _conv(channels, i, 1),
        _conv(i, i, (7, 1)),
        _conv(i, i, (1, 7)),
        _conv(i, i, (7, 1)),
        _conv(i, out, (1, 7)),
    )
    return Concat(
        branch1x1=_conv(channels, out, 1),
        branch7x7=seven,
        branch7x7dbl=double,
        branch_pool=_average(channels, out),
    )


def _shrink_17(w: _Widths, channels: int) -> Concat:
    i = w(192)
    seven = nn.Sequential(
        _conv(channels, i, 1), _conv(i, i, (1, 7)), _conv(i, i, (7, 1)), _conv(i, i, 3, stride=2, same=False)
    )
    three = nn.Sequential(_conv(channels, i, 1), _conv(i, w(320), 3, stride=2, same=False))
    return Concat(branch3x3=three, branch7x7x3=seven, branch_pool=nn.MaxPool2d(3, stride=2))


def _block_8(w: _Widths, channels: int) -> Concat:
    def both(width: int) -> Concat:
        return Concat(a=_conv(width, w(384), (1, 3)), b=_conv(width, w(384), (3, 1)))

    return Concat(
        branch1x1=_conv(channels, w(320), 1),
        branch3x3=nn.Sequential(_conv(channels, w(384), 1), both(w(384))),
        branch3x3dbl=nn.Sequential(_conv(channels, w(448), 1), _conv(w(448), w(384), 3), both(w(384))),
        branch_pool=_average(channels, w(192)),
    )


@register(
    "network",
    "inception-v3",
    paper="C. Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016",
    input_shapes={"main": (3, 224, 224)},
    small={"classes": 4, "scale": 1 / 32},
    small_shapes={"main": (3, 75, 75)},
)
def inception_v3(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    hidden: int | None = None,
    dropout: float = 0.0,
    scale: float = 1.0,
) -> Staged:
    """Inception-V3 without its auxiliary classifier: 23,834,568 parameters, 2.84 G MACs at 224×224.

    The blocks are called ``mixed0`` to ``mixed10``, as in Keras; in torchvision ``mixed1`` and ``mixed2``
    are ``Mixed_5c`` and ``Mixed_5d``. The paper's own input is 299×299; papers on exits give it 224×224.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from 75×75.
        hidden: width of a layer between average and output, 256 in the papers on exits; none by default.
        dropout: rate in front of the output.
        scale: factor on all widths.
    """
    w = _Widths(scale)
    widths_35 = [w(64) + w(64) + w(96) + w(pooled) for pooled in (32, 64, 64)]
    width_17 = w(384) + w(96) + widths_35[-1]
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            _conv(in_channels, w(32), 3, stride=2, same=False),
            _conv(w(32), w(32), 3, same=False),
            _conv(w(32), w(64), 3),
            nn.MaxPool2d(3, stride=2),
            _conv(w(64), w(80), 1, same=False),
            _conv(w(80), w(192), 3, same=False),
            nn.MaxPool2d(3, stride=2),
        ),
        "mixed0": _block_35(w, w(192), 32),
        "mixed1": _block_35(w, widths_35[0], 64),
        "mixed2": _block_35(w, widths_35[1], 64),
        "mixed3": _shrink_35(w, widths_35[2]),
    }
    for number, inner in zip(range(4, 8), (128, 160, 160, 192), strict=True):
        stages[f"mixed{number}"] = _block_17(w, width_17 if number == 4 else 4 * w(192), inner)
    width_8 = w(320) + 4 * w(384) + w(192)
    stages["mixed8"] = _shrink_17(w, 4 * w(192))
    stages["mixed9"] = _block_8(w, w(320) + w(192) + 4 * w(192))
    stages["mixed10"] = _block_8(w, width_8)
    for stage in stages.values():
        he_init(stage)
    stages["head"] = PooledLinear(width_8, classes, hidden=hidden, dropout=dropout)
    return Staged(stages, input_shapes={"main": (in_channels, 224, 224)})
