"""An exit of a crowd counter that draws a density, so that it shows where it counts."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, mean_vector, one_map, vector_width
from sentio.nn.density_heads import Answer, DensityHead
from sentio.nn.film import FeatureModulation
from sentio.nn.init import he_init


class DensityExit(nn.Module):
    """Dilated 3×3 convolution, ReLU, 1×1 convolution to a density; with a second sense scaled and shifted.

    Takes ``(batch, C, H, W)`` and, where built for it, a vector, tokens or a map of another sense, which is
    averaged; gives ``(batch, outputs)``, or densities ``(batch, outputs, factor * H, factor * W)``.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.Module, film: FeatureModulation | None, head: DensityHead
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.film = film
        self.act = nn.ReLU()
        self.head = head

    def forward(self, x: Tensor, *other: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        if self.film is not None:
            y = self.film(y, mean_vector(other[0]))
        return self.head(self.act(y))


@register("exit", "density-ee")
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    answer: Literal["count", "density"] = "count",
    filters: int = 16,
    factor: int = 8,
    mode: Literal["nearest", "bilinear"] = "bilinear",
) -> DensityExit:
    """A dilated convolution, batch norm and a density, or its sum: a crowd counter's last layers in small.

    Works at any size of the map. Where it reads a second tensor, such as a sound's vector, that one scales
    and shifts the normalised convolution, as in AudioCSRNet.

    Args:
        shapes: one ``(C, H, W)``, and for two senses a second tensor: a vector, tokens or a map.
        outputs: kinds of things that are counted.
        answer: ``count`` or ``density``.
        filters: of the convolution.
        factor: from the map to the picture, for ``density``.
        mode: of the enlargement; both keep the sum.

    Raises:
        ConfigError: an option out of range, or another shape.
    """
    channels, height, width = one_map("density-ee", shapes[:1] if len(shapes) == 2 else shapes)
    check_options("density-ee", at_least_one={"outputs": outputs, "filters": filters}, dropouts={})
    kind: Answer = answer
    head = DensityHead(filters, outputs, kind, size=(height, width), factor=factor, mode=mode)
    nn.init.normal_(head.conv.weight, std=0.01)
    nn.init.zeros_(head.conv.bias)
    conv = nn.Conv2d(channels, filters, 3, padding=2, dilation=2)
    he_init(conv)
    film = None
    if len(shapes) == 2:
        film = FeatureModulation(vector_width("density-ee", shapes[1]), filters)
    return DensityExit(conv, nn.BatchNorm2d(filters, affine=film is None), film, head)
