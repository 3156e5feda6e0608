"""TransCrowd: crowds counted by a vision transformer, from counts alone."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.networks.vit import vit
from sentio.nn.init import truncated_normal_init


class TokenRegression(nn.Module):
    """The class token through layer norm and two linear layers: ``(batch, token, dim)`` to counts."""

    kept_at_reset = ("norm",)

    def __init__(self, dim: int, classes: int, hidden: int, dropout: float, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.norm(x[:, 0]))


class PooledRegression(nn.Module):
    """All patches, averaged over groups of channels, through two linear layers; no class token."""

    kept_at_reset = ("norm",)

    def __init__(
        self, tokens: int, dim: int, classes: int, hidden: int, dropout: float, *, eps: float = 1e-6
    ) -> None:
        super().__init__()
        if dim % 16:
            raise ConfigError(f"TransCrowd averages over 16 channels, which do not divide a width of {dim}")
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Linear(tokens * dim // 16, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        patches = self.norm(x)[:, 1:]
        return self.layers(patches.unflatten(2, (-1, 16)).mean(dim=3).flatten(1))


def cut_into_crops(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures as crops that do not overlap, whose counts add up to the picture's.

    Args:
        pictures: ``(batch, C, H, W)``; sides that the crop does not divide are padded with zeros.
        size: (height, width) of a crop.

    Returns:
        ``(batch * crops, C, height, width)``, the crops of a picture in raster order, one after the other.
    """
    height, width = size
    padded = pad(pictures, (0, -pictures.shape[3] % width, 0, -pictures.shape[2] % height))
    cells = padded.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def sum_over_crops(counts: Tensor, pictures: int) -> Tensor:
    """``(pictures * crops, ...)`` to ``(pictures, ...)``."""
    return counts.unflatten(0, (pictures, -1)).sum(dim=1)


@register(
    "network",
    "transcrowd",
    paper="D. Liang et al., TransCrowd: Weakly-Supervised Crowd Counting with Transformers, 2021",
    input_shapes={"main": (3, 384, 384)},
    small={"classes": 4, "size": (24, 24), "patch": 8, "dim": 16, "layers": 1, "heads": 2, "hidden": 8},
    small_shapes={"main": (3, 24, 24)},
)
def transcrowd(
    *,
    classes: int = 1,
    in_channels: int = 3,
    head: Literal["token", "gap"] = "token",
    size: tuple[int, int] = (384, 384),
    patch: int = 16,
    dim: int = 768,
    layers: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    dropout: float = 0.5,
) -> Staged:
    """Counts people in crops of 384×384 with ViT-B/16: 86,860,497 parameters, 55.5 G MACs a crop.

    `cut_into_crops` cuts larger pictures, and `sum_over_crops` adds up what was counted.

    Args:
        classes: kinds of things that are counted.
        in_channels: channels of the picture.
        head: what is read: the class ``token``, or with ``gap`` all patches, averaged over 16 channels.
        size: (height, width) of a crop.
        patch: side of a patch.
        dim, layers, heads: of the transformer.
        hidden: width of the head's hidden layer; 1000 for ``token`` and 128 for ``gap`` if None, as
            released by the authors.
        dropout: rate behind it.

    Raises:
        ConfigError: another head, or sizes that do not fit together.
    """
    if head not in ("token", "gap"):
        raise ConfigError(f"Option 'head' of network 'transcrowd' is token or gap, got {head!r}")
    body = vit(
        classes=classes,
        in_channels=in_channels,
        size=size,
        patch=patch,
        stride=patch,
        dim=dim,
        layers=layers,
        heads=heads,
    )
    stages = {name: body.stage(name) for name in body.stage_names[:-1]}
    if head == "token":
        stages["head"] = TokenRegression(dim, classes, hidden or 1000, dropout)
    else:
        tokens = (size[0] // patch) * (size[1] // patch)
        stages["head"] = PooledRegression(tokens, dim, classes, hidden or 128, dropout)
    truncated_normal_init(stages["head"])
    return Staged(stages, input_shapes={"main": (in_channels, *size)})
