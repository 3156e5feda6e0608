"""IR-50: faces to embeddings, the backbone on which metric-learning exits were published."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import ceil

from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.init import xavier_init

#: least side of the input: each of four groups halves it
LEAST = 16


class ImprovedResidual(nn.Module):
    """Batch norm, 3×3, PReLU, 3×3, batch norm, and a shortcut; nothing behind their sum.

    ``(batch, C, H, W)`` to ``(batch, depth, H', W')``.

    Args:
        in_channels, depth: channels of input and output.
        stride: of the second convolution; the shortcut takes every so many positions.
    """

    def __init__(self, in_channels: int, depth: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if in_channels == depth
            else nn.Sequential(nn.Conv2d(in_channels, depth, 1, stride, bias=False), nn.BatchNorm2d(depth))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, depth, 3, padding=1, bias=False),
            nn.PReLU(depth),
            nn.Conv2d(depth, depth, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(depth),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class EmbeddingHead(nn.Module):
    """Batch norm, dropout, the flattened map through one linear layer, batch norm: to ``(batch, classes)``.

    Args:
        shape: ``(C, H, W)`` of the maps it takes.
        classes: width of the embedding.
        dropout: rate in front of the linear layer.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        channels, height, width = shape
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(channels * height * width, classes),
            nn.BatchNorm1d(classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(
                f"The head of this network takes maps {self.shape}, got {tuple(x.shape[1:])}; "
                "give option 'size' the size of its inputs"
            )
        return self.layers(x)


@register(
    "network",
    "ir-50",
    paper="J. Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019; "
    "layers as in face.evoLVe",
    input_shapes={"main": (3, 112, 112)},
    small={"classes": 4, "size": (32, 32), "width": 8, "depths": (1, 2, 1, 1)},
    small_shapes={"main": (3, 32, 32)},
)
def ir_50(
    *,
    classes: int = 512,
    in_channels: int = 3,
    size: tuple[int, int] = (112, 112),
    width: int = 64,
    depths: Sequence[int] = (3, 4, 14, 3),
    dropout: float = 0.5,
) -> Staged:
    """IR-50 for faces: an embedding of 512 in 43,574,976 parameters and 6.30 G MACs.

    Takes ``(batch, 3, 112, 112)``, aligned faces, pixels as ``(x - 127.5) / 128``; tied to one ``size``.
    Each of its 24 residual units is a stage, numbered through all groups. What is ``unit1`` here is
    ``body.0`` in face.evoLVe, with the same names inside; the stem is its ``input_layer`` and the head's
    layers are its ``output_layer``, in the same order.

    Args:
        classes: width of the embedding.
        in_channels: channels of the input.
        size: (height, width) of the input.
        width: channels of the stem; groups have 1, 2, 4 and 8 times as many.
        depths: units of each group.
        dropout: rate in front of the embedding's layer.

    Raises:
        ConfigError: ``size`` is below 16×16, or there are not four depths.
    """
    if min(size) < LEAST:
        raise ConfigError(
            f"Network 'ir-50' takes sizes from {LEAST}x{LEAST} up, got {'x'.join(map(str, size))}"
        )
    if len(depths) != 4 or min(depths) < 1:
        raise ConfigError(f"Network 'ir-50' has four groups of one unit or more, got depths {list(depths)}")
    stem = [
        ("conv", nn.Conv2d(in_channels, width, 3, padding=1, bias=False)),
        ("bn", nn.BatchNorm2d(width)),
        ("act", nn.PReLU(width)),
    ]
    stages: dict[str, nn.Module] = {"stem": nn.Sequential(OrderedDict(stem))}
    channels, number = width, 0
    for group, depth in enumerate(depths):
        for index in range(depth):
            number += 1
            out = width * 2**group
            stages[f"unit{number}"] = ImprovedResidual(channels, out, 2 if index == 0 else 1)
            channels = out
    rows, columns = (ceil(side / LEAST) for side in size)
    stages["head"] = EmbeddingHead((channels, rows, columns), classes, dropout)
    for stage in stages.values():
        xavier_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, *size)})
