"""A residual network for small images that glances first and looks closely later."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.networks.resnet import BasicBlock
from sentio.nn.conv import PooledLinear, conv_bn_act
from sentio.nn.init import he_init

#: the name of the finely resolved tensor that waits until a stage looks closely
FINE = "fine"


class Glance(nn.Module):
    """A residual block at half the resolution, with what it was given kept beside as ``fine``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = BasicBlock(in_channels, out_channels, 2, shortcut=_projection)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"main": self.block(x), FINE: x}


class Beside(nn.Module):
    """A block on ``main`` that lets ``fine`` pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"main": self.block(x["main"]), FINE: x[FINE]}


class CloseLook(nn.Module):
    """Two convolutions on ``fine`` in the light of ``main``, then both on in the resolution of ``main``.

    What the glance found is added to the fine map's channels at every position, so that the close look knows
    what it looks at.
    """

    def __init__(self, channels: int, fine: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(fine, width, 3, padding=1, bias=False)
        self.hint = nn.Conv2d(channels, width, 1, bias=False)
        self.spread = nn.Upsample(scale_factor=2)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.look = conv_bn_act(width, width)
        self.down = nn.Conv2d(width, out_channels, 3, stride=2, padding=1, bias=False)
        self.keep = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn_down = nn.BatchNorm2d(out_channels)
        self.block = BasicBlock(out_channels, out_channels, 1, shortcut=_projection)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        fine = self.relu(self.bn(self.enter(x[FINE]) + self.spread(self.hint(x["main"]))))
        fine = self.look(fine)
        return self.block(self.relu(self.bn_down(self.down(fine) + self.keep(x["main"]))))


@register(
    "network",
    "glance-resnet",
    input_shapes={"main": (3, 32, 32)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (3, 16, 16)},
)
def glance_resnet(
    *, classes: int = 10, in_channels: int = 3, width: int = 24, dropout: float = 0.0
) -> Staged:
    """Small images at several depths: coarse stages that answer cheaply, then a fine one that knows them.

    Takes ``(batch, 3, height, width)`` with sides that 8 divides, gives logits ``(batch, classes)``. An early
    answer needs coarse features, a late one fine ones (Huang et al., MSDNet, ICLR 2018): the first two blocks
    work at a quarter of the resolution, while the stem's map waits beside them as ``fine``; ``look`` then
    joins the two. Dense 3×3 convolutions only, which CPUs compute fast. The network of the shipped
    ``cifar10-anytime``.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        width: channels of the stem; those of the blocks follow from it.
        dropout: before the last linear layer.
    """
    glance, again, close, deep = 2 * width, width * 8 // 3, 4 * width, width * 16 // 3
    near = width * 4 // 3
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            OrderedDict(
                conv1=conv_bn_act(in_channels, width * 2 // 3),
                conv2=conv_bn_act(width * 2 // 3, width, stride=2),
            )
        ),
        "glance1": Glance(width, glance),
        "glance2": Beside(BasicBlock(glance, again, 1, shortcut=_projection)),
        "look": CloseLook(again, width, near, close),
        "deep1": BasicBlock(close, deep, 2, shortcut=_projection),
        "deep2": BasicBlock(deep, deep, 1, shortcut=_projection),
    }
    for stage in stages.values():
        he_init(stage)
    head = PooledLinear(deep, classes)
    stages["head"] = nn.Sequential(nn.Dropout(dropout), head) if dropout else head
    return Staged(stages, input_shapes={"main": (in_channels, 32, 32)})


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
    return nn.Sequential(
        nn.AvgPool2d(stride),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )
