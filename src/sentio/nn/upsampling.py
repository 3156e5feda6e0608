"""Larger maps with the same sum, as densities need."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import interpolate

from sentio.core.errors import ConfigError


class SumPreservingUpsample(nn.Module):
    """A density map ``factor`` times as high and wide, divided by ``factor`` squared: its sum stays.

    ``(batch, C, H, W)`` to ``(batch, C, factor * H, factor * W)``.

    Args:
        factor: of both sides.
        mode: ``nearest``, or ``bilinear`` with corners not aligned. Others, such as bicubic, change the sum
            and are refused.

    Raises:
        ConfigError: another mode, or a factor below 1.
    """

    def __init__(self, factor: int = 8, mode: Literal["nearest", "bilinear"] = "bilinear") -> None:
        super().__init__()
        if mode not in ("nearest", "bilinear"):
            raise ConfigError(f"Only 'nearest' and 'bilinear' keep the sum of a density map, got {mode!r}")
        if not isinstance(factor, int) or factor < 1:
            raise ConfigError(f"A density map is enlarged by a whole factor from 1 up, got {factor!r}")
        self.factor = factor
        self.mode = mode

    def forward(self, density: Tensor) -> Tensor:
        corners = False if self.mode == "bilinear" else None
        larger = interpolate(density, scale_factor=float(self.factor), mode=self.mode, align_corners=corners)
        return larger / self.factor**2
