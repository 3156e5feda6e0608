"""Rows of `streaming.py` for video: X3D-S and Slow, and the same networks out of the peer's layers.

At a side of 160 pixels, Slow too, which is published at 256. The peer converts no residual blocks, so each
is put together from its own containers; squeeze and excitation is ours, frame by frame, in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import sentio
from sentio.networks.slow import SlowBlock
from sentio.networks.x3d import X3DBlock
from sentio.nn.squeeze_excitation import SqueezeExcitation

SIDE = 160


def features(name: str, last: str, **options: Any) -> Callable[[], nn.Module]:
    """A video network up to and including a stage.

    Its batch norms have seen a clip, since without that rounding grows from block to block.
    """

    def build() -> nn.Module:
        net = sentio.create_network(name, side=SIDE, **options).before(last)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = 1.0
        with torch.no_grad():
            net.train()(torch.randn(4, 3, 4, 64, 64))
        return net.eval()

    return build


def of_the_peer(net: nn.Module) -> Any:
    """The same network in the peer's layers, with the same weights."""
    import continual

    def convert(module: nn.Module) -> Any:
        if isinstance(module, X3DBlock):
            parts = (module.expand, module.depthwise, module.squeeze, module.swish, module.project)
            return residual(parts, module.shortcut, module.act)
        if isinstance(module, SlowBlock):
            return residual((module.reduce, module.spatial, module.expand), module.shortcut, module.act)
        if isinstance(module, SqueezeExcitation):
            return continual.Lambda(
                module, forward_step_only_fn=lambda x: by_frame(module, x), takes_time=True
            )
        if isinstance(module, nn.Sequential):
            return continual.Sequential(*(convert(child) for child in module))
        return continual.continual(module)

    def residual(parts: tuple[nn.Module, ...], shortcut: nn.Module, act: nn.Module) -> Any:
        main = continual.Sequential(*(convert(p) for p in parts if not isinstance(p, nn.Identity)))
        aside = continual.Delay(0) if isinstance(shortcut, nn.Identity) else convert(shortcut)
        return continual.Sequential(
            continual.BroadcastReduce(aside, main, auto_delay=True), continual.continual(act)
        )

    stages = [net.stage(name) for name in net.stage_names]
    return continual.Sequential(*(convert(stage) for stage in stages)).eval()


def by_frame(module: SqueezeExcitation, x: Tensor) -> Tensor:
    return module(x.unsqueeze(2)).squeeze(2)


#: what `streaming.Row` takes
VIDEO: tuple[dict[str, Any], ...] = (
    {
        "name": "x3d-s features",
        "shape": (3, 13, SIDE, SIDE),
        "build": features("x3d-s", "features", squeeze="frame"),
        "options": {},
        "peer": of_the_peer,
    },
    {
        "name": "slow features",
        "shape": (3, 8, SIDE, SIDE),
        "build": features("slow", "res5"),
        "options": {},
        "peer": of_the_peer,
    },
)
