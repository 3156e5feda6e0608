"""The last stage of a crowd counter: features become densities or counts."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.nn.upsampling import SumPreservingUpsample

Answer = Literal["count", "regression", "density"]


class DensityHead(nn.Module):
    """1×1 convolution to a density for each class, then what is asked of it.

    ``(batch, C, H, W)`` to ``(batch, classes)``, or with ``density`` to
    ``(batch, classes, factor * H, factor * W)``, persons per pixel.

    Args:
        channels: C.
        classes: kinds of things that are counted; 1 for people.
        answer: ``count`` sums the density; ``regression`` weighs its pixels by a linear layer without bias,
            which starts as the sum; ``density`` gives the map itself, enlarged with its sum preserved.
        size: (H, W), for ``regression``, which is tied to it.
        factor: from the map to the picture.
        mode: of the enlargement.

    Raises:
        ConfigError: another answer.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        answer: Answer,
        *,
        size: tuple[int, int],
        factor: int = 8,
        mode: Literal["nearest", "bilinear"] = "bilinear",
    ) -> None:
        super().__init__()
        if answer not in get_args(Answer):
            raise ConfigError(
                f"Option 'answer' of a crowd counter is {', '.join(get_args(Answer))}, got {answer!r}"
            )
        self.answer = answer
        self.size = size
        self.conv = nn.Conv2d(channels, classes, 1)
        self.upsample = SumPreservingUpsample(factor, mode)
        self.weight: nn.Parameter | None = None
        if answer == "regression":
            self.weight = nn.Parameter(torch.ones(classes, size[0] * size[1]))

    def forward(self, x: Tensor) -> Tensor:
        density = self.conv(x)
        if self.answer == "density":
            return self.upsample(density)
        if self.weight is None:
            return density.sum(dim=(2, 3))
        if tuple(density.shape[2:]) != self.size:
            raise InputError(
                f"This crowd counter's regression was built for maps of {self.size[0]}x{self.size[1]}, got "
                f"{density.shape[2]}x{density.shape[3]}; give option 'size' the size of its pictures, or use "
                "answer='count'"
            )
        # One row of weights for each class: for one class nothing but a linear layer.
        return (density.flatten(2).transpose(0, 1) @ self.weight.unsqueeze(-1)).squeeze(-1).transpose(0, 1)
