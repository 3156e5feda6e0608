"""ResNet-152 with boundaries inside its blocks, where published early exits sit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.networks.resnet import Bottleneck, ImageStem
from sentio.nn.conv import PooledLinear
from sentio.nn.init import he_init

#: the tensor that the block's shortcut still needs, behind a boundary inside a block
IDENTITY = "identity"
#: where the papers put their exits: "12th" and "36th convolution" (Bakhtiarnia et al. 2022), and the first
#: convolution of the third group (curriculum learning, IJCNN 2021), by version of the network
CUTS = {
    "v1": ("layer2.0.conv1", "layer2.7.conv3", "layer3.0.conv1"),
    "v1.5": ("layer2.0.conv2", "layer2.7.conv3", "layer3.0.conv2"),
}


class BlockStart(nn.Module):
    """A bottleneck up to a cut: ``(batch, C, H, W)`` to ``main`` and, for the shortcut, ``identity``."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {MAIN: self.layers(x), IDENTITY: x}


class BlockEnd(nn.Module):
    """A bottleneck from a cut on: what `BlockStart` gives, to ``(batch, C, H, W)``."""

    def __init__(self, layers: Sequence[tuple[str, nn.Module]], downsample: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))
        self.downsample = downsample
        self.relu = nn.ReLU()

    def forward(self, boundary: Mapping[str, Tensor]) -> Tensor:
        return self.relu(self.layers(boundary[MAIN]) + self.downsample(boundary[IDENTITY]))


def split_block(block: Bottleneck, after: str, *, act: bool = False) -> tuple[nn.Module, nn.Module]:
    """A bottleneck in two, behind its convolution ``after``, or behind the batch norm and ReLU that follow.

    Args:
        block: its layers are moved, not copied.
        after: ``conv1``, ``conv2`` or ``conv3``.
        act: behind the activation. For ``conv3`` that is behind the sum, so nothing is left for the second
            part.
    """
    relu = block.relu
    layers = [
        ("conv1", block.conv1),
        ("bn1", block.bn1),
        ("relu1", relu),
        ("conv2", block.conv2),
        ("bn2", block.bn2),
        ("relu2", relu),
        ("conv3", block.conv3),
        ("bn3", block.bn3),
    ]
    if act and after == "conv3":
        return block, nn.Identity()
    place = [name for name, _ in layers].index(after) + (3 if act else 1)
    return BlockStart(layers[:place]), BlockEnd(layers[place:], block.downsample)


@register(
    "network",
    "resnet152",
    paper="K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
    input_shapes={"main": (3, 224, 224)},
    small={
        "classes": 4,
        "width": 4,
        "depths": (1, 2, 1, 1),
        "cuts": ("layer2.0.conv1", "layer2.1.conv3"),
        "bias": True,
    },
    small_shapes={"main": (3, 48, 48)},
)
def resnet152(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    version: Literal["v1", "v1.5"] = "v1",
    cuts: Sequence[str] | None = None,
    tap: Literal["conv", "act"] = "conv",
    bias: bool = False,
    hidden: int | None = None,
    dropout: float = 0.0,
    depths: Sequence[int] = (3, 8, 36, 3),
    width: int = 64,
) -> Staged:
    """ResNet-152 with boundaries at the papers' taps: 60,192,808 parameters, 11.28 G MACs (v1).

    A boundary inside a block carries ``main``, the convolution's output, and ``identity``, the block's
    input, which the shortcut needs behind it.

    Args:
        classes: width of the output.
        in_channels: channels of the input, of any size from about 32×32.
        version: ``v1`` has a group's stride in its first 1×1 convolution, ``v1.5`` in its first 3×3.
        cuts: boundaries inside blocks, as ``layer2.0.conv1``: the convolution 1 to 3 of a block counted from
            0; by default the papers' (`CUTS`).
        tap: whether these lie behind the bare convolution or behind the activation that follows.
        bias: whether convolutions have biases, as Keras's have.
        hidden: width of a layer between average and output, 256 in the papers on exits; none by default.
        dropout: rate in front of the output.
        depths: blocks of each group; ``(3, 4, 23, 3)`` is ResNet-101.
        width: channels of the stem.

    Raises:
        ConfigError: another version or tap, or a cut where there is no convolution.
    """
    if version not in CUTS:
        raise ConfigError(f"Option 'version' of network 'resnet152' is v1 or v1.5, got {version!r}")
    if tap not in ("conv", "act"):
        raise ConfigError(f"Option 'tap' of network 'resnet152' is conv or act, got {tap!r}")
    wanted = list(CUTS[version] if cuts is None else cuts)
    stages: dict[str, nn.Module] = {"stem": ImageStem(in_channels, width, bias=bias)}
    channels = width
    for group, depth in enumerate(depths, start=1):
        row: list[nn.Module] = []
        for index in range(depth):
            stride = 2 if index == 0 and group > 1 else 1
            out = 4 * width * 2 ** (group - 1)
            block: nn.Module = Bottleneck(channels, out, stride, stride_in_first=version == "v1", bias=bias)
            channels = out
            inside = [f"layer{group}.{index}.conv{number}" for number in (1, 2, 3)]
            here = [name for name in inside if name in wanted]
            if len(here) > 1:
                raise ConfigError(
                    f"Network 'resnet152' is cut once in a block; choose one of {', '.join(here)}"
                )
            if here:
                name = here[0]
                wanted.remove(name)
                start, block = split_block(block, name.rpartition(".")[2], act=tap == "act")
                stages[name] = nn.Sequential(*row, start)
                row = []
            row.append(block)
        stages[f"layer{group}"] = nn.Sequential(*row)
    if wanted:
        raise ConfigError(
            f"Network 'resnet152' has no convolution {wanted[0]!r} to cut behind; name one as layer2.0.conv1 "
            f"in groups of {', '.join(map(str, depths))} blocks"
        )
    stages["head"] = PooledLinear(channels, classes, hidden=hidden, dropout=dropout)
    for name, stage in stages.items():
        if name != "head":
            he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 224, 224)})
