"""The rows of `streaming.py`: networks as streams take them, and the same out of the peer's layers.

The peer, `continual-inference`, has no X3D and no ST-GCN and converts no residual blocks. So each block is
put together from its own containers, with its own convolutions and delays; what treats each frame by itself
(norms, activations, squeeze and excitation, products with a graph) is ours in both.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

import sentio
from sentio.networks.st_gcn import STARRED
from sentio.networks.x3d import X3DBlock
from sentio.nn.graph_conv import GraphBlock, GraphInput
from sentio.nn.squeeze_excitation import SqueezeExcitation

#: of a video frame; X3D-S is published at 160
SIDE = 160
#: frames of a clip of skeletons; 300 as published would take ten times as long to measure and say the same
POSES = 100


@dataclass(frozen=True)
class Row:
    """A network to measure.

    Args:
        shape: of the window, without the batch; time is its second entry.
        build: the network, or its features, as our streams take it.
        options: of `sentio.stream`.
        peer: the same in the peer's layers; None if it has none for it.
        most: pairs of laps, where a lap of the window is long.
    """

    name: str
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    peer: Callable[[nn.Module], Any] | None = None
    most: int | None = None


def panns_features(name: str) -> Callable[[], nn.Module]:
    """The convolutional blocks of a PANN without norm of the bands and dropout, in a row."""

    def build() -> nn.Module:
        net = sentio.create_network(name).eval()
        layers: list[nn.Module] = []
        for stage in net.stage_names[:-1]:
            for child in net.stage(stage).children():
                layers += list(child) if isinstance(child, nn.Sequential) else [child]
        known = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AvgPool2d)
        return nn.Sequential(*(layer for layer in layers if isinstance(layer, known))).eval()

    return build


def network(name: str) -> Callable[[], nn.Module]:
    return lambda: sentio.create_network(name).eval()


def x3d_features() -> nn.Module:
    """CoX3D-S up to its last pooling; norms have seen a clip, or rounding would grow from block to block."""
    net = sentio.create_network("x3d-s", side=SIDE, squeeze="frame").before("features")
    return _settled(net, torch.randn(4, 3, 4, 64, 64))


def st_gcn_features() -> nn.Module:
    """CoST-GCN* up to its last pooling."""
    net = sentio.create_network("st-gcn", **STARRED).before("layer10")
    return _settled(net, torch.randn(2, 3, POSES, 25, 2))


def in_peers_layers(net: nn.Module) -> Any:
    """The same network out of the peer's convolutions, delays and containers, with weights of its own."""
    import continual

    def convert(module: nn.Module) -> Any:
        if isinstance(module, X3DBlock):
            parts = [module.expand, module.depthwise, module.squeeze, module.swish, module.project]
            main = [convert(part) for part in parts if not isinstance(part, nn.Identity)]
            same = isinstance(module.shortcut, nn.Identity)
            aside = continual.Delay(0) if same else convert(module.shortcut)
            return residual(aside, main, module.act, auto_delay=True)
        if isinstance(module, GraphBlock):
            main = [frame_by_frame(module.spatial), convert(module.conv), convert(module.bn)]
            if module.shortcut is None:
                return continual.Sequential(*main, convert(module.act))
            delay = continual.Delay(module.crop, auto_shrink=True)
            same = isinstance(module.shortcut, nn.Identity)
            aside = delay if same else continual.Sequential(delay, convert(module.shortcut))
            return residual(aside, main, module.act, auto_delay=False)
        if isinstance(module, SqueezeExcitation | GraphInput):
            return frame_by_frame(module)
        if isinstance(module, nn.Sequential):
            return continual.Sequential(*(convert(child) for child in module))
        return continual.continual(module)

    def residual(aside: Any, main: list[Any], act: nn.Module, *, auto_delay: bool) -> Any:
        joined = continual.BroadcastReduce(aside, continual.Sequential(*main), auto_delay=auto_delay)
        return continual.Sequential(joined, convert(act))

    def frame_by_frame(module: nn.Module) -> Any:
        return continual.forward_stepping(module)

    # The peer puts methods of its own on modules that it does not know; a copy keeps ours as they are.
    net = deepcopy(net)
    rows = [net] if isinstance(net, nn.Sequential) else [net.stage(name) for name in net.stage_names]
    return continual.Sequential(*(convert(row) for row in rows)).eval()


def _settled(net: nn.Module, clip: torch.Tensor) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(clip)
    return net.eval()


def dilated(dilation: int) -> nn.Sequential:
    """Four convolutions whose receptive field grows with their dilation, and whose work does not."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(32, 32, 3, dilation=(dilation, 1), padding=(0, 1)), nn.ReLU()]
    return nn.Sequential(*layers).eval()


ROWS = (
    Row("cnn6 features", (1, 64, 64), panns_features("cnn6"), peer=in_peers_layers),
    Row("cnn10 features", (1, 64, 64), panns_features("cnn10"), peer=in_peers_layers),
    Row("cox3d-s features", (3, 13, SIDE, SIDE), x3d_features, peer=in_peers_layers, most=20),
    Row("cost-gcn* features", (3, POSES, 25, 2), st_gcn_features, peer=in_peers_layers, most=8),
    Row("four convolutions", (32, 16, 64), partial(dilated, 1), peer=in_peers_layers),
    Row("cnn6", (1, 50, 64), network("cnn6")),
    Row("cnn10", (1, 50, 64), network("cnn10")),
    Row("sp4asc", (1, 431, 256), network("sp4asc")),
    Row("crnn", (1, 256, 40), network("crnn")),
    Row("crnn-desed", (1, 256, 40), network("crnn-desed")),
    Row("dcase2024-baseline", (1, 65, 256), network("dcase2024-baseline")),
    Row("tiny-cnn", (1, 98, 64), network("tiny-cnn")),
    Row("phinet-1d", (1, 64_000), network("phinet-1d"), {"squeeze": "frame"}),
)
