"""VGG-16, and VGGish, its small relative for sounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.init import he_init

#: channels of each convolution, block by block
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGGISH = ((64,), (128,), (256, 256), (512, 512))


def conv_block(in_channels: int, widths: Sequence[int], *, pool: bool = True) -> nn.Sequential:
    """3×3 convolutions with bias and ReLU, then 2×2 max-pooling unless ``pool`` is false."""
    layers: list[tuple[str, nn.Module]] = []
    for number, width in enumerate(widths, start=1):
        layers.append((f"conv{number}", nn.Conv2d(in_channels, width, 3, padding=1)))
        layers.append((f"relu{number}", nn.ReLU()))
        in_channels = width
    if pool:
        layers.append(("pool", nn.MaxPool2d(2)))
    return nn.Sequential(OrderedDict(layers))


class DenseLayers(nn.Module):
    """The flattened map through two wide layers with ReLU and dropout: ``(batch, C, H, W)`` to a vector."""

    def __init__(self, shape: tuple[int, int, int], width: int, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        channels, height, columns = shape
        self.layers = nn.Sequential(
            nn.Linear(channels * height * columns, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(
                f"The dense layers of this network take maps {self.shape}, got {tuple(x.shape[1:])}; "
                "give option 'size' the size of its inputs"
            )
        return self.layers(x.flatten(1))


def _vgg(
    name: str,
    blocks: Sequence[Sequence[int]],
    classes: int,
    in_channels: int,
    size: tuple[int, int],
    width: int,
    dense: int,
    dropout: float,
) -> Staged:
    shrink = 2 ** len(blocks)
    if min(size) < shrink:
        raise ConfigError(f"Network {name!r} takes sizes from {shrink}x{shrink} up, got {size[0]}x{size[1]}")
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number, widths in enumerate(blocks, start=1):
        scaled = [channels_ * width // 64 for channels_ in widths]
        stages[f"block{number}"] = conv_block(channels, scaled)
        channels = scaled[-1]
    stages["dense"] = DenseLayers((channels, size[0] // shrink, size[1] // shrink), dense, dropout)
    stages["head"] = nn.Linear(dense, classes)
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, *size)})


@register(
    "network",
    "vgg16",
    paper="K. Simonyan, A. Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, "
    "ICLR 2015",
    input_shapes={"main": (3, 224, 224)},
    small={"classes": 4, "size": (32, 32), "width": 4, "dense": 16},
    small_shapes={"main": (3, 32, 32)},
)
def vgg16(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    size: tuple[int, int] = (224, 224),
    width: int = 64,
    dense: int = 4096,
    dropout: float = 0.5,
) -> Staged:
    """VGG-16: 138,357,544 parameters, 15.5 G MACs; tied to one input size by its dense layers.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        size: (height, width) of the input.
        width: channels of the first block; 64 in the paper.
        dense: width of both dense layers.
        dropout: rate behind each of them.

    Raises:
        ConfigError: ``size`` is below 32×32.
    """
    return _vgg("vgg16", VGG16, classes, in_channels, tuple(size), width, dense, dropout)


@register(
    "network",
    "vggish",
    paper="S. Hershey et al., CNN Architectures for Large-Scale Audio Classification, ICASSP 2017",
    input_shapes={"main": (1, 96, 64)},
    small={"classes": 4, "size": (32, 16), "width": 4, "dense": 16},
    small_shapes={"main": (1, 32, 16)},
)
def vggish(
    *,
    classes: int = 128,
    in_channels: int = 1,
    size: tuple[int, int] = (96, 64),
    width: int = 64,
    dense: int = 4096,
    dropout: float = 0.0,
) -> Staged:
    """VGGish on 0.96 s of log-mels: 72,141,184 parameters with its embedding of 128, 864 M MACs.

    Args:
        classes: width of the output; 128 is the published embedding.
        in_channels: channels of the input.
        size: (time, frequency) of the input.
        width: channels of the first block; 64 in the paper.
        dense: width of both dense layers.
        dropout: rate behind each of them.

    Raises:
        ConfigError: ``size`` is below 16×16.
    """
    return _vgg("vggish", VGGISH, classes, in_channels, tuple(size), width, dense, dropout)
