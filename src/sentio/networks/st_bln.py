"""ST-BLN: facial expressions from edges between landmarks, with bilinear layers in place of a graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear
from sentio.nn.graph_conv import FreeGraph, GraphBlock, GraphInput

WIDTHS = (8, 16, 16, 32, 32, 64, 64)
#: Options of PST-BLN as growth found it on AFEW in the paper.
PST_BLN_AFEW: dict[str, Any] = {"widths": (15, 10, 15, 5, 5, 10)}
#: Layers that halve the number of frames, counted from 1, as far as a network has them.
STRIDED = (5, 8)


@register(
    "network",
    "st-bln",
    paper="N. Heidari, A. Iosifidis, Progressive Spatio-Temporal Bilinear Network with Monte Carlo Dropout "
    "for Landmark-based Facial Expression Recognition with Uncertainty Estimation, MMSP 2021",
    input_shapes={"main": (2, 150, 312)},
    small={"classes": 4, "edges": 12, "widths": (4, 4, 6)},
    small_shapes={"main": (2, 16, 12)},
)
def st_bln(
    *,
    classes: int = 7,
    in_channels: int = 2,
    edges: int = 312,
    widths: Sequence[int] = WIDTHS,
    num_maps: int = 3,
    rank: int | None = None,
    dropout: float = 0.2,
    dropout_position: Literal["after", "before"] = "after",
) -> Staged:
    """Expressions from landmarks in 132,351 parameters beside 2,044,224 in its maps between edges.

    Takes ``(batch, 2, time, edge)``, differences of landmarks in pixels or shares of a face, gives logits
    ``(batch, classes)``. The paper counts parameters without the maps, which are most of them; ``rank`` or a
    list of edges without duplicates makes them smaller.

    Args:
        classes: width of the output.
        in_channels: coordinates of an edge.
        edges: of the input.
        widths: channels of each layer; the fifth and the eighth halve the number of frames.
        num_maps: learned ``(edge, edge)`` maps of each layer; its published counts are of 3.
        rank: of each map as a product of two narrow matrices; None for full ones, as published.
        dropout: rate, which Monte Carlo dropout needs above 0.
        dropout_position: ``after`` each layer, as in the paper, or ``before``, on the input too.

    Raises:
        ConfigError: an option out of range.
    """
    sizes = {"edges": [edges], "widths": widths, "num_maps": [num_maps], "rank": [rank or 1]}
    for option, values in sizes.items():
        if not values or any(value < 1 for value in values):
            raise ConfigError(f"Option {option!r} of network 'st-bln' must be at least 1, got {values!r}")
    if rank == 0:
        raise ConfigError("Option 'rank' of network 'st-bln' must be at least 1, or None for full maps")
    if not 0 <= dropout < 1:
        raise ConfigError(f"Option 'dropout' of network 'st-bln' is from 0 to below 1, got {dropout!r}")
    if dropout_position not in ("after", "before"):
        raise ConfigError(
            f"Option 'dropout_position' of network 'st-bln' is 'after' or 'before', got {dropout_position!r}"
        )
    stages: dict[str, nn.Module] = {}
    before = in_channels
    for number, width in enumerate(widths, start=1):
        block = GraphBlock(
            before,
            width,
            FreeGraph(edges, num_maps, rank=rank),
            stride=2 if number in STRIDED else 1,
            shortcut=number > 1,
        )
        layers = OrderedDict[str, nn.Module](block=block, drop=nn.Dropout(dropout))
        if dropout_position == "before":
            layers.move_to_end("block")
        if number == 1:
            layers["input"] = GraphInput(in_channels, edges)
            layers.move_to_end("input", last=False)
        stages[f"layer{number}"] = nn.Sequential(layers)
        before = width
    head = PooledLinear(before, classes)
    nn.init.normal_(head.fc.weight, std=(2.0 / classes) ** 0.5)
    nn.init.zeros_(head.fc.bias)
    stages["head"] = head
    return Staged(stages, input_shapes={"main": (in_channels, 150, edges)})


def without_maps(net: Staged) -> int:
    """Parameters of an ST-BLN as its paper counts them: all but the maps between edges."""
    maps = {id(p) for m in net.modules() if isinstance(m, FreeGraph) for p in m.parameters()}
    return sum(p.numel() for p in net.parameters() if id(p) not in maps)
