"""Squeeze and excitation: channels weighed by what the whole map holds."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.nn.streaming import Form, PerFrame, streams
from sentio.nn.streaming_layers import Squeeze, by_frame


class SqueezeExcitation(nn.Module):
    """Each channel times a gate between 0 and 1 that is computed from all channels' means.

    ``(batch, C, time, frequency)`` or ``(batch, C, time, height, width)`` to the same: global average,
    ``Linear(C, hidden)``, ``act``,
    ``Linear(hidden, C)``, sigmoid, product. J. Hu et al., *Squeeze-and-Excitation Networks*, CVPR 2018.

    Args:
        channels: C.
        hidden: width between the two layers. With 0 there are no layers and every gate is sigmoid(0) = 0.5,
            as it is in published networks so narrow that their reduction leaves nothing.
        act: kind of activation between the layers.
        bias: whether the two layers have biases.
        scope: ``clip`` averages over all axes behind the channels, ``frame`` over those behind time, so that
            each frame has gates of its own, as a stream computes them.

    Raises:
        ConfigError: another scope.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        act: type[nn.Module] = nn.ReLU,
        bias: bool = True,
        scope: Literal["clip", "frame"] = "clip",
    ) -> None:
        super().__init__()
        if scope not in ("clip", "frame"):
            raise ConfigError(f"Squeeze and excitation averages over a 'clip' or a 'frame', got {scope!r}")
        self.scope = scope
        self.gate: nn.Sequential | None = None
        if hidden:
            self.gate = nn.Sequential(
                nn.Linear(channels, hidden, bias=bias),
                act(),
                nn.Linear(hidden, channels, bias=bias),
                nn.Sigmoid(),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return 0.5 * x
        if self.scope == "frame":
            return by_frame(self.gate, x)
        return x * self.gate(x.mean(dim=tuple(range(2, x.ndim)))).view(*x.shape[:2], *[1] * (x.ndim - 2))


@streams(SqueezeExcitation)
def _squeeze_excitation(module: SqueezeExcitation) -> Form:
    return PerFrame(module) if module.gate is None or module.scope == "frame" else Squeeze(module.gate)
