"""ST-GCN and AGCN: actions from skeletons, with graph convolutions and convolutions over time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import PooledLinear
from sentio.nn.graph_conv import AdaptiveGraph, FixedGraph, Graph, GraphBlock, GraphInput, spatial_partitions
from sentio.vision.skeleton_layout import JOINTS, NTU_LINKS

Links = Sequence[Sequence[int]]

CHANNELS = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)
STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)
#: Options of the variants with a star in Hedegaard et al. (Pattern Recognition 2023): no stride and no
#: padding in time, so that a stream gives the clip network's own answer for each frame. AGCN* also takes
#: ``similarity="frame"``.
STARRED: dict[str, Any] = {"strides": (1,) * len(CHANNELS), "padded": False}
#: joints of the skeletons that tests build
_SMALL: dict[str, Any] = {
    "classes": 4,
    "channels": (8, 8, 12),
    "strides": (1, 2, 1),
    "joints": 5,
    "links": ((1, 0), (2, 1), (3, 0), (4, 3)),
}


@register(
    "network",
    "st-gcn",
    paper="S. Yan, Y. Xiong, D. Lin, Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action "
    "Recognition, AAAI 2018",
    input_shapes={"main": (3, 300, JOINTS, 2)},
    small=_SMALL,
    small_shapes={"main": (3, 24, 5, 2)},
)
def st_gcn(
    *,
    classes: int = 60,
    in_channels: int = 3,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    padded: bool = True,
    masks: bool = True,
    joints: int = JOINTS,
    persons: int = 2,
    links: Links | None = None,
) -> Staged:
    """Actions from skeletons in 3,141,478 parameters: graph convolutions over joints, convolutions over time.

    Takes ``(batch, in_channels, time, joint, person)``, float32, metres for ``in_channels=3``; with one
    person the last axis may be left out. An absent person is zeros. Gives logits ``(batch, classes)``.

    Args:
        classes: width of the output.
        in_channels: coordinates of a joint.
        channels: of each block.
        strides: in time, of each block.
        padded: whether the temporal convolutions are padded; if not, each costs 8 frames.
        masks: whether each block learns how important each link is.
        joints, persons: of the input.
        links: (child, parent) for the joints, counted from 0; those of NTU RGB+D if None.

    Raises:
        ConfigError: an option out of range, or two that do not fit each other.
    """
    adjacency = _partitions("st-gcn", joints, links)

    def graph(before: int, width: int) -> Graph:
        return FixedGraph(adjacency, masked=masks)

    return _graph_network("st-gcn", graph, classes, in_channels, channels, strides, padded, joints, persons)


@register(
    "network",
    "agcn",
    paper="L. Shi, Y. Zhang, J. Cheng, H. Lu, Two-Stream Adaptive Graph Convolutional Networks for "
    "Skeleton-Based Action Recognition, CVPR 2019",
    input_shapes={"main": (3, 300, JOINTS, 2)},
    small=_SMALL,
    small_shapes={"main": (3, 24, 5, 2)},
)
def agcn(
    *,
    classes: int = 60,
    in_channels: int = 3,
    channels: Sequence[int] = CHANNELS,
    strides: Sequence[int] = STRIDES,
    padded: bool = True,
    masks: bool = True,
    similarity: Literal["clip", "frame"] = "clip",
    joints: int = JOINTS,
    persons: int = 2,
    links: Links | None = None,
) -> Staged:
    """Actions from skeletons in 3,469,510 parameters: ST-GCN with a graph that each sample changes.

    Input and output are those of ``st-gcn``.

    Args:
        classes: width of the output.
        in_channels: coordinates of a joint.
        channels: of each block; joints are compared in a quarter as many.
        strides: in time, of each block.
        padded: whether the temporal convolutions are padded; if not, each costs 8 frames.
        masks: whether each block learns links of its own.
        similarity: ``clip`` compares joints over all frames, as published; ``frame`` within each frame, with
            the same weights and other answers, which a stream can do.
        joints, persons: of the input.
        links: (child, parent) for the joints, counted from 0; those of NTU RGB+D if None.

    Raises:
        ConfigError: an option out of range, or two that do not fit each other.
    """
    if similarity not in ("clip", "frame"):
        raise ConfigError(
            f"Option 'similarity' of network 'agcn' must be 'clip' or 'frame', got {similarity!r}"
        )
    adjacency = _partitions("agcn", joints, links)

    def graph(before: int, width: int) -> Graph:
        return AdaptiveGraph(adjacency, before, max(1, width // 4), masked=masks, scope=similarity)

    return _graph_network("agcn", graph, classes, in_channels, channels, strides, padded, joints, persons)


def _partitions(name: str, joints: int, links: Links | None) -> torch.Tensor:
    if links is None and joints != JOINTS:
        raise ConfigError(
            f"Network {name!r} knows the links of {JOINTS} joints only; give links=, (child, parent) each, "
            f"for {joints}"
        )
    pairs = NTU_LINKS if links is None else [(int(child), int(parent)) for child, parent in links]
    return spatial_partitions(pairs, joints)


def _graph_network(
    name: str,
    graph: Callable[[int, int], Graph],
    classes: int,
    in_channels: int,
    channels: Sequence[int],
    strides: Sequence[int],
    padded: bool,
    joints: int,
    persons: int,
) -> Staged:
    if not channels or len(channels) != len(strides):
        raise ConfigError(
            f"Network {name!r} has {len(channels)} channels and {len(strides)} strides; give one of each for "
            "every block"
        )
    for option, values in (("channels", channels), ("strides", strides), ("persons", [persons])):
        if any(value < 1 for value in values):
            raise ConfigError(f"Option {option!r} of network {name!r} must be at least 1, got {values!r}")
    stages: dict[str, nn.Module] = {}
    before = in_channels
    for number, (width, stride) in enumerate(zip(channels, strides, strict=True), start=1):
        block = GraphBlock(
            before, width, graph(before, width), stride=stride, padded=padded, shortcut=number > 1
        )
        stages[f"layer{number}"] = block
        if number == 1:
            first = GraphInput(in_channels, joints, persons)
            stages["layer1"] = nn.Sequential(OrderedDict(input=first, block=block))
        before = width
    head = PooledLinear(before, classes)
    nn.init.normal_(head.fc.weight, std=(2.0 / classes) ** 0.5)
    nn.init.zeros_(head.fc.bias)
    stages["head"] = head
    return Staged(stages, input_shapes={"main": (in_channels, 300, joints, persons)})
