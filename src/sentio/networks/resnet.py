"""Residual networks: ResNet-8 and ResNet-20 for small images, ResNet-50.

Modules are named as in torchvision's ResNet, inside the stages ``stem``, ``layer1``, …, ``head``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear, conv_bn_act
from sentio.nn.init import he_init
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Identity, Sum

Block = Callable[[int, int, int], nn.Module]


class PadShortcut(nn.Module):
    """Every second position, and zeros for the channels that are missing: a shortcut without weights."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.missing = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.missing // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, shortcut: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.downsample = nn.Identity() if same else shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


@streams(BasicBlock)
def _basic_block(block: BasicBlock) -> Form:
    shortcut = Identity() if isinstance(block.downsample, nn.Identity) else block.downsample
    main = Chain(block.conv1, block.bn1, block.relu, block.conv2, block.bn2)
    return Chain(Sum(main, shortcut), block.relu)


def averaged_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A 1×1 convolution over means where it strides (He et al., Bag of Tricks, CVPR 2019, ResNet-D)."""
    if stride == 1:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
    return nn.Sequential(
        # Where the stride does not divide a side, the last mean is of fewer values, so that the maps fit.
        nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution; the last is four times as wide.

    Args:
        stride_in_first: whether the stride is in the first 1×1 ("v1") and not in the 3×3 ("v1.5").
        bias: whether convolutions have biases, as in Keras's files.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        stride_in_first: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        width = out_channels // 4
        first, second = (stride, 1) if stride_in_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        same = stride == 1 and in_channels == out_channels
        self.downsample = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=bias),
                nn.BatchNorm2d(out_channels),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ImageStem(nn.Module):
    """7×7 convolution and 3×3 max-pooling, each with stride 2."""

    def __init__(self, in_channels: int, channels: int, *, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=bias)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))


def _residual_stages(
    stem: nn.Module, channels: int, widths: Sequence[int], depths: Sequence[int], block: Block, classes: int
) -> dict[str, nn.Module]:
    stages: dict[str, nn.Module] = {"stem": stem}
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        blocks = []
        for index in range(depth):
            blocks.append(block(channels, width, 2 if index == 0 and number > 1 else 1))
            channels = width
        stages[f"layer{number}"] = nn.Sequential(*blocks)
    for stage in stages.values():
        he_init(stage)
    return {**stages, "head": PooledLinear(channels, classes)}


@register(
    "network",
    "resnet8",
    paper="C. Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021",
    input_shapes={"main": (3, 32, 32)},
    small={"classes": 4},
    small_shapes={"main": (3, 16, 16)},
)
def resnet8(*, classes: int = 10, in_channels: int = 3, width: int = 16) -> Staged:
    """ResNet-8 of MLPerf Tiny: three residual blocks, 77,850 parameters, for images of about 32×32.

    Shortcuts are bare 1×1 convolutions; unlike in the benchmark's Keras file convolutions have no bias.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size.
        width: channels of the first block; the others have two and four times as many.
    """

    def block(in_width: int, out_width: int, stride: int) -> BasicBlock:
        return BasicBlock(in_width, out_width, stride, shortcut=_projection)

    stem = conv_bn_act(in_channels, width)
    stages = _residual_stages(stem, width, (width, 2 * width, 4 * width), (1, 1, 1), block, classes)
    return Staged(stages, input_shapes={"main": (in_channels, 32, 32)})


@register(
    "network",
    "resnet20",
    paper="K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2",
    input_shapes={"main": (3, 32, 32)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (3, 16, 16)},
)
def resnet20(*, classes: int = 10, in_channels: int = 3, width: int = 16) -> Staged:
    """ResNet-20 for CIFAR: three groups of three residual blocks, 269,722 parameters.

    Shortcuts have no weights (the paper's option A).

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size.
        width: channels of the first group; the others have two and four times as many.
    """

    def block(in_width: int, out_width: int, stride: int) -> BasicBlock:
        return BasicBlock(in_width, out_width, stride, shortcut=PadShortcut)

    stem = conv_bn_act(in_channels, width)
    stages = _residual_stages(stem, width, (width, 2 * width, 4 * width), (3, 3, 3), block, classes)
    return Staged(stages, input_shapes={"main": (in_channels, 32, 32)})


@register(
    "network",
    "resnet50",
    paper="K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016; stride in the 3x3 (v1.5)",
    input_shapes={"main": (3, 224, 224)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (3, 48, 48)},
)
def resnet50(*, classes: int = 1000, in_channels: int = 3, width: int = 64) -> Staged:
    """ResNet-50 v1.5: 25,557,032 parameters at 1000 classes, 4.09 G MACs at 224×224.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from about 32×32.
        width: channels of the stem; 64 in the paper.
    """
    widths = [4 * width * 2**group for group in range(4)]
    stages = _residual_stages(ImageStem(in_channels, width), width, widths, (3, 4, 6, 3), Bottleneck, classes)
    return Staged(stages, input_shapes={"main": (in_channels, 224, 224)})


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
