"""PhiNets on spectrograms: inverted residuals whose cost is set by three numbers, alpha, beta and t0."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear
from sentio.nn.init import he_init
from sentio.nn.squeeze_excitation import SqueezeExcitation
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Identity, Sum

Downsampling = Literal["stride", "pool"]

#: The five networks of the ICASSP paper's table, as options of `phinet-icassp`.
ICASSP_MEMBERS = {
    "m40": {"alpha": 0.5, "n_blocks": 3, "t0": 4.0, "input_conv": "conv"},
    "m15": {"alpha": 0.5, "n_blocks": 2, "t0": 5.0, "input_conv": "separable"},
    "m5": {"alpha": 0.2, "n_blocks": 2, "t0": 2.0, "input_conv": "conv", "b1": 24},
    "m3": {"alpha": 0.1, "n_blocks": 2, "t0": 4.0, "input_conv": "conv", "b1": 24},
    "m1.5": {"alpha": 0.1, "n_blocks": 2, "t0": 2.0, "input_conv": "separable", "b1": 24},
}


@dataclass(frozen=True)
class BlockPlan:
    """The sizes of one inverted residual.

    Args:
        in_channels, expanded, squeezed, out_channels: widths of the input, between the convolutions, inside
            the squeeze and excitation (0 for none) and of the output.
        stride: of the depthwise convolution, 1 or 2.
        pool: where a 2×2 max-pooling stands, ``before`` or ``after`` the block, if anywhere.
    """

    in_channels: int
    expanded: int
    squeezed: int
    out_channels: int
    stride: int = 1
    pool: Literal["before", "after"] | None = None


class PhiNetBlock(nn.Module):
    """Expand 1×1, depthwise 3×3, squeeze and excitation, project 1×1 without activation, shortcut by sum.

    ``(batch, in_channels, time, frequency)`` to ``(batch, out_channels, time', frequency')``. The input is
    added where widths and sizes agree. A block with ``expanded == in_channels`` and ``squeezed == 0`` can do
    without the expansion.

    Args:
        plan: the sizes; its ``pool`` is not this module's affair.
        act: kind of activation.
        se_bias: whether the squeeze and excitation has biases.
        dropout: rate of the spatial dropout behind the first two convolutions.
        expand: whether there is an expansion.
    """

    def __init__(
        self,
        plan: BlockPlan,
        *,
        act: type[nn.Module] = nn.Hardswish,
        se_bias: bool = False,
        dropout: float = 0.0,
        expand: bool = True,
    ) -> None:
        super().__init__()
        hidden = plan.expanded
        self.expand = nn.Sequential()
        if expand:
            self.expand = _layers(
                conv=nn.Conv2d(plan.in_channels, hidden, 1, bias=False),
                bn=nn.BatchNorm2d(hidden),
                act=act(),
                dropout=nn.Dropout2d(dropout),
            )
        self.depthwise = _layers(
            conv=nn.Conv2d(hidden, hidden, 3, stride=plan.stride, padding=1, groups=hidden, bias=False),
            bn=nn.BatchNorm2d(hidden),
            act=act(),
            dropout=nn.Dropout2d(dropout),
        )
        self.se = (
            SqueezeExcitation(hidden, plan.squeezed, act=act, bias=se_bias)
            if plan.squeezed
            else nn.Identity()
        )
        self.project = _layers(
            conv=nn.Conv2d(hidden, plan.out_channels, 1, bias=False), bn=nn.BatchNorm2d(plan.out_channels)
        )
        self.has_shortcut = plan.stride == 1 and plan.in_channels == plan.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return x + y if self.has_shortcut else y


@streams(PhiNetBlock)
def _phinet_block(block: PhiNetBlock) -> Form:
    main = Chain(block.expand, block.depthwise, block.se, block.project)
    return Sum(Identity(), main) if block.has_shortcut else main


def expansion_factor(t0: float, beta: float, block: int, blocks: int) -> float:
    """Expansion of one block, counted from 1: from about ``t0`` at the first to ``beta * t0`` at the last."""
    return t0 * (beta * block + (blocks - block)) / blocks


def scaled(alpha: float, channels: int) -> int:
    """A width times ``alpha``, cut off to a whole number, at least 1."""
    return max(1, int(alpha * channels))


def quarter_of_input(in_channels: int, expanded: int) -> int:
    """Width inside the squeeze and excitation: a quarter of the block's input, at least 1."""
    return max(1, in_channels // 4)


def plan_blocks(
    in_channels: int,
    channels: Sequence[int],
    *,
    t0: float,
    beta: float,
    halve: Sequence[Literal["stride", "before", "after"] | None],
    blocks: int | None = None,
    squeeze: Callable[[int, int], int] = quarter_of_input,
) -> list[BlockPlan]:
    """Inverted residuals in a row.

    Args:
        in_channels: of the first block.
        channels: output width of each block.
        t0, beta: expansion at the first and, relative to it, at the last block.
        halve: how each block halves the map: by its stride, by pooling before or after it, or not.
        blocks: what the expansion is spread over; as many as there are if None.
        squeeze: width inside the squeeze and excitation, given input and expanded width.
    """
    plans = []
    for number, (out_channels, how) in enumerate(zip(channels, halve, strict=True), start=1):
        expanded = max(1, int(expansion_factor(t0, beta, number, blocks or len(channels)) * in_channels))
        plans.append(
            BlockPlan(
                in_channels,
                expanded,
                squeeze(in_channels, expanded),
                out_channels,
                stride=2 if how == "stride" else 1,
                pool=how if how in ("before", "after") else None,
            )
        )
        in_channels = out_channels
    return plans


def release_blocks(
    n_blocks: int,
    *,
    alpha: float,
    b1: int,
    b2: int,
    t0: float,
    beta: float,
    downsampling: Downsampling,
    double_at: Sequence[int],
    squeeze: Callable[[int, int], int] = quarter_of_input,
) -> list[BlockPlan]:
    """The blocks of the published code: ``n_blocks - 1`` of them below 4, ``n_blocks`` from 4 on.

    Blocks 1 and 2 are ``b1`` wide, those from 3 on ``b2``; 1, 3 and those in ``double_at`` halve the map,
    and the latter double the width.
    """
    channels, halve = [], []
    width = b2
    for number in range(1, (n_blocks if n_blocks >= 4 else n_blocks - 1) + 1):
        doubles = number >= 4 and number in double_at
        width *= 2 if doubles else 1
        channels.append(scaled(alpha, b1 if number <= 2 else width))
        where = "before" if doubles else "after"
        halves = doubles or number in (1, 3)
        halve.append(None if not halves else "stride" if downsampling == "stride" else where)
    return plan_blocks(
        scaled(alpha, b1), channels, t0=t0, beta=beta, halve=halve, blocks=n_blocks, squeeze=squeeze
    )


@register(
    "network",
    "phinet",
    paper="A. Brutti, F. Paissan, A. Ancilotto, E. Farella, Optimizing PhiNet architectures for the "
    "detection of urban sounds on low-end devices, EUSIPCO 2022",
    input_shapes={"main": (1, 126, 40)},
    small={"classes": 4, "alpha": 0.2, "t0": 2.0},
    small_shapes={"main": (1, 24, 16)},
)
def phinet(
    *,
    classes: int = 10,
    in_channels: int = 1,
    alpha: float = 0.5,
    beta: float = 1.0,
    t0: float = 4.0,
    channels: Sequence[int] = (48, 96, 192),
    downsampling: Downsampling = "stride",
    h_swish: bool = True,
    dropout: float = 0.07,
    bn_momentum: float = 0.1,
) -> Staged:
    """Short sounds in a few thousand parameters: three inverted residuals, no input convolution.

    Takes log-mel ``(batch, 1, 126 time, 40 frequency)``, four seconds at 16 kHz with a hop of 512, gives
    logits ``(batch, classes)``; other sizes work too. The papers' parameter counts are Keras's, with the two
    running statistics per batch-norm channel: 47,349 as built by default, 45,843 of them trained.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        alpha: factor on all widths; the work grows with its square.
        beta: expansion of the last block relative to the first.
        t0: expansion of the first block; the peak of memory grows with it.
        channels: width of each block before ``alpha``.
        downsampling: each block halves the map by its stride, or by max-pooling behind it (twice the work).
        h_swish: hard-swish, or ReLU6 where hardware has no hard-swish.
        dropout: rate of the spatial dropout inside the blocks.
        bn_momentum: share of a new batch in the running statistics. The authors' 0.999 in Keras is 0.001
            here and needs tens of thousands of steps.

    Raises:
        ConfigError: an option out of range.
    """
    _check("phinet", alpha=alpha, beta=beta, t0=t0, downsampling=downsampling)
    if not channels or min(channels) < 1:
        raise ConfigError(f"Option 'channels' of network 'phinet' needs a width per block, got {channels!r}")
    act = _activation(h_swish)
    plans = plan_blocks(
        in_channels,
        [scaled(alpha, width) for width in channels],
        t0=t0,
        beta=beta,
        halve=["stride" if downsampling == "stride" else "after"] * len(channels),
    )
    stages: dict[str, nn.Module] = {}
    for number, plan in enumerate(plans, start=1):
        block = _stage(plan, act=act, se_bias=True, dropout=dropout)
        if number == 1:
            block = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(in_channels), **dict(block.named_children())))
        stages[f"block{number}"] = block
    stages["head"] = PooledLinear(plans[-1].out_channels, classes)
    return _finished(stages, bn_momentum, (in_channels, 126, 40))


@register(
    "network",
    "phinet-icassp",
    paper="F. Paissan, A. Ancilotto, A. Brutti, E. Farella, Scalable neural architectures for end-to-end "
    "environmental sound classification, ICASSP 2022",
    input_shapes={"main": (1, 126, 40)},
    small={"classes": 4, "alpha": 0.25, "t0": 2.0, "head_channels": 16},
    small_shapes={"main": (1, 24, 16)},
)
def phinet_icassp(
    *,
    classes: int = 10,
    in_channels: int = 1,
    alpha: float = 0.5,
    beta: float = 1.0,
    t0: float = 4.0,
    n_blocks: int = 3,
    input_conv: Literal["conv", "separable"] = "conv",
    first: int = 48,
    b1: int = 48,
    b2: int = 48,
    double_at: Sequence[int] = (4,),
    downsampling: Downsampling = "pool",
    head_channels: int = 64,
    h_swish: bool = True,
    dropout: float = 0.05,
    bn_momentum: float = 0.1,
) -> Staged:
    """Short sounds with more work on the fine map: an input convolution, inverted residuals, a 3×3 head.

    Takes log-mel ``(batch, 1, 126 time, 40 frequency)``, gives logits ``(batch, classes)``; other sizes work
    too. Built as in the authors' release; by default it is the paper's M40, with 28,978 parameters (the
    paper says 27.1 k). `ICASSP_MEMBERS` holds the options of all five.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        alpha: factor on all widths but the head's.
        beta: expansion of the last block relative to the first.
        t0: expansion of the first block.
        n_blocks: the paper's B: one more than there are blocks below 4 (3 gives two), the number of blocks
            from 4 on.
        input_conv: 3×3 convolution without padding, or a strided depthwise-separable one and a block
            without expansion.
        first: width behind the separable input.
        b1, b2: width of blocks 1 and 2, and of those from 3 on.
        double_at: blocks from 4 on that halve the map and double the width.
        downsampling: how the map is halved.
        head_channels: width of the convolution in front of the average.
        h_swish, dropout, bn_momentum: as in `phinet`.

    Raises:
        ConfigError: an option out of range.
    """
    _check("phinet-icassp", alpha=alpha, beta=beta, t0=t0, downsampling=downsampling)
    if n_blocks < 2:
        raise ConfigError(f"Option 'n_blocks' of network 'phinet-icassp' must be 2 or more, got {n_blocks}")
    if input_conv not in ("conv", "separable"):
        raise ConfigError(
            f"Option 'input_conv' of network 'phinet-icassp' is 'conv' or 'separable', got {input_conv!r}"
        )
    act = _activation(h_swish)
    plans = release_blocks(
        n_blocks,
        alpha=alpha,
        b1=b1,
        b2=b2,
        t0=t0,
        beta=beta,
        downsampling=downsampling,
        double_at=double_at,
    )
    width = scaled(alpha, b1)
    stages: dict[str, nn.Module] = {
        "stem": _layers(
            conv=nn.Conv2d(in_channels, width, 3, bias=False), act=act(), bn=nn.BatchNorm2d(width)
        )
        if input_conv == "conv"
        else separable_input(in_channels, scaled(alpha, first), width, act=act, dropout=dropout)
    }
    for number, plan in enumerate(plans, start=1):
        stages[f"block{number}"] = _stage(plan, act=act, se_bias=False, dropout=dropout)
    stages["features"] = _layers(
        conv=nn.Conv2d(plans[-1].out_channels, head_channels, 3, padding=1, bias=False),
        act=nn.ReLU(),
        bn=nn.BatchNorm2d(head_channels),
    )
    stages["head"] = PooledLinear(head_channels, classes)
    return _finished(stages, bn_momentum, (in_channels, 126, 40))


def separable_input(
    in_channels: int, first: int, out_channels: int, *, act: type[nn.Module], dropout: float = 0.0
) -> nn.Sequential:
    """Depthwise 3×3 with stride 2, 1×1 to ``first`` channels, then a block without expansion."""
    plan = BlockPlan(first, first, 0, out_channels)
    return _layers(
        depthwise=nn.Conv2d(in_channels, in_channels, 3, 2, padding=1, groups=in_channels, bias=False),
        pointwise=nn.Conv2d(in_channels, first, 1, bias=False),
        bn=nn.BatchNorm2d(first, affine=False),
        act=act(),
        block=PhiNetBlock(plan, act=act, dropout=dropout, expand=False),
    )


def _stage(plan: BlockPlan, *, act: type[nn.Module], se_bias: bool, dropout: float) -> nn.Sequential:
    """A block with its pooling, if it has one."""
    block = PhiNetBlock(plan, act=act, se_bias=se_bias, dropout=dropout)
    if plan.pool is None:
        return _layers(block=block)
    pool = nn.MaxPool2d(2)
    return _layers(pool=pool, block=block) if plan.pool == "before" else _layers(block=block, pool=pool)


def _layers(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _activation(h_swish: bool) -> type[nn.Module]:
    return nn.Hardswish if h_swish else nn.ReLU6


def _finished(stages: dict[str, nn.Module], bn_momentum: float, shape: tuple[int, int, int]) -> Staged:
    for stage in stages.values():
        he_init(stage)
        for layer in stage.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps, layer.momentum = 1e-3, bn_momentum
    return Staged(stages, input_shapes={"main": shape})


def _check(network: str, *, alpha: float, beta: float, t0: float, downsampling: str) -> None:
    for name, value in (("alpha", alpha), ("beta", beta), ("t0", t0)):
        if not value > 0:
            raise ConfigError(f"Option {name!r} of network {network!r} must be above 0, got {value!r}")
    if downsampling not in ("stride", "pool"):
        raise ConfigError(
            f"Option 'downsampling' of network {network!r} is 'stride' or 'pool', got {downsampling!r}"
        )
