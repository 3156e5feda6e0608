"""A residual network for small images that glances first and looks closely later."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.networks.resnet import BasicBlock, averaged_shortcut
from sentio.nn.conv import PooledLinear, conv_bn_act
from sentio.nn.init import he_init

#: what waits beside ``main``: the stem's map until a stage looks closely, then the glance's until both join
FINE, COARSE = "fine", "coarse"


class Glance(nn.Module):
    """A residual block at a quarter of the resolution, with what it was given kept beside as ``fine``."""

    def __init__(self, in_channels: int, between: int, out_channels: int) -> None:
        super().__init__()
        self.enter = conv_bn_act(in_channels, between, stride=2)
        self.block = BasicBlock(between, out_channels, 2, shortcut=averaged_shortcut)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"main": self.block(self.enter(x)), FINE: x}


class Beside(nn.Module):
    """A block on ``main`` that lets ``fine`` pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"main": self.block(x["main"]), FINE: x[FINE]}


class CloseLook(nn.Module):
    """Residual blocks on ``fine``, then on at half its resolution in the light of the glance.

    What the glance found is added at every position of the finer map, so that the close look knows what it
    looks at; it is kept beside as ``coarse``.
    """

    def __init__(self, fine: int, glance: int, out_channels: int) -> None:
        super().__init__()
        self.look = nn.Sequential(*(BasicBlock(fine, fine, 1, shortcut=averaged_shortcut) for _ in range(2)))
        self.down = nn.Conv2d(fine, out_channels, 3, stride=2, padding=1, bias=False)
        self.hint = nn.Conv2d(glance, out_channels, 1, bias=False)
        self.spread = nn.Upsample(scale_factor=2)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.block = BasicBlock(out_channels, out_channels, 1, shortcut=averaged_shortcut)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        glance = x["main"]
        near = self.relu(self.bn(self.down(self.look(x[FINE])) + self.spread(self.hint(glance))))
        return {"main": self.block(near), COARSE: glance}


class Joined(nn.Module):
    """A residual block on ``main``, then on at the resolution of ``coarse``, both together."""

    def __init__(self, near: int, glance: int, out_channels: int) -> None:
        super().__init__()
        self.block = BasicBlock(near, near, 1, shortcut=averaged_shortcut)
        self.down = nn.Conv2d(near, out_channels, 3, stride=2, padding=1, bias=False)
        self.keep = nn.Conv2d(glance, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.last = BasicBlock(out_channels, out_channels, 1, shortcut=averaged_shortcut)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        near = self.down(self.block(x["main"]))
        return self.last(self.relu(self.bn(near + self.keep(x[COARSE]))))


@register(
    "network",
    "glance-resnet",
    input_shapes={"main": (3, 32, 32)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (3, 16, 16)},
)
def glance_resnet(
    *, classes: int = 10, in_channels: int = 3, width: int = 16, dropout: float = 0.0
) -> Staged:
    """Small images at several depths: coarse stages that answer cheaply, then a fine one that knows them.

    Takes ``(batch, 3, height, width)`` with sides that 8 divides, gives logits ``(batch, classes)``. An early
    answer needs coarse features, a late one fine ones (Huang et al., MSDNet, ICLR 2018): the first two blocks
    work at a quarter of the resolution, while the stem's map waits beside them as ``fine``; ``look1`` then
    looks at it in full resolution, knowing what they found, and ``look2`` joins the two. Dense 3×3
    convolutions only, which CPUs compute fast. The network of `cifar10-anytime`.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        width: channels of the stem; those of the blocks follow from it.
        dropout: before the last linear layer.
    """
    glance, again, near, last = 3 * width, 4 * width, 2 * width, 5 * width
    stages: dict[str, nn.Module] = {
        "stem": conv_bn_act(in_channels, width),
        "glance1": Glance(width, width * 3 // 2, glance),
        "glance2": Beside(BasicBlock(glance, again, 1, shortcut=averaged_shortcut)),
        "look1": CloseLook(width, again, near),
        "look2": Joined(near, again, last),
    }
    for stage in stages.values():
        he_init(stage)
    head = PooledLinear(last, classes)
    stages["head"] = nn.Sequential(nn.Dropout(dropout), head) if dropout else head
    return Staged(stages, input_shapes={"main": (in_channels, 32, 32)})
