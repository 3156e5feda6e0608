"""SL-ViT: a single-layer vision transformer as an early exit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, check_size, mlp_head, one_map
from sentio.nn.attention import EncoderLayer
from sentio.nn.patches import FramePatchEmbedding, PatchEmbedding, choose_patch


class SLViTExit(nn.Module):
    """Patch embedding, learnable positions, encoder layers, dense head.

    ``(batch, C, H, W)``, video ``(batch, C, time, H, W)``, or tokens ``(batch, N, C)``, to
    ``(batch, outputs)``. No class token: the head reads all tokens, flattened.

    Args:
        shape: of what it reads, without the batch.
        embedding: makes ``(batch, tokens, dim)`` of it.
        tokens, dim: of what ``embedding`` makes.
        encoder, head: behind it.
    """

    def __init__(
        self,
        shape: Shape,
        embedding: nn.Module,
        tokens: int,
        dim: int,
        encoder: nn.Sequential,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = embedding
        self.position = nn.Parameter(torch.empty(tokens, dim))
        self.encoder = encoder
        self.head = head
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        check_size("sl-vit", x, self.shape)
        return self.head(self.encoder(self.embedding(x) + self.position))


@register(
    "exit",
    "sl-vit",
    paper="A. Bakhtiarnia, Q. Zhang, A. Iosifidis, Single-Layer Vision Transformers for More Accurate Early "
    "Exits with Less Overhead, Neural Networks 2022",
)
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    patch: int | tuple[int, int] | None = None,
    dim: int = 32,
    heads: int = 12,
    layers: int = 1,
    head_dim: int | None = None,
    last_residual: bool = True,
    dropout: float = 0.1,
    hidden: int = 256,
    head_dropout: float = 0.5,
) -> SLViTExit:
    """One transformer encoder layer over the patches of a feature map, and a dense head.

    Tied to one input size, since positions and head belong to a fixed number of patches. A transformer's
    tokens ``(N, C)`` are taken as the patches; of a video's map ``(C, time, H, W)`` each frame has its own.

    Args:
        shapes: one ``(C, H, W)``, ``(C, time, H, W)`` or ``(N, C)``.
        outputs: width of the output.
        patch: side of a square patch, or (height, width); must divide the map. By default close to the root
            of the map's sides (`sentio.nn.patches.choose_patch`), and a map that nothing sensible divides,
            such as one with a prime side, is padded with zeros.
        dim: width of a token.
        heads: attention heads, each ``head_dim`` wide.
        layers: encoder layers.
        head_dim: width of a head; ``dim`` if None, as in the paper.
        last_residual: whether the last encoder layer adds its input to its MLP's output.
        dropout: rate in the encoder's MLP.
        hidden: width of the head's two hidden layers.
        head_dropout: rate behind each of them.

    Raises:
        ConfigError: an option out of range, another shape, or a patch that does not divide the map.
    """
    sizes = {"outputs": outputs, "dim": dim, "heads": heads, "layers": layers, "hidden": hidden}
    if head_dim is not None:
        sizes["head_dim"] = head_dim
    check_options("sl-vit", at_least_one=sizes, dropouts={"dropout": dropout, "head_dropout": head_dropout})
    shape: Shape
    embedding: nn.Module
    if [len(given) for given in shapes] == [2]:
        if patch is not None:
            raise ConfigError(
                "Exit 'sl-vit' on tokens has no option 'patch': each token is one; leave it out"
            )
        (shape,) = shapes
        tokens, embedding = shape[0], nn.Linear(shape[1], dim)
    elif [len(given) for given in shapes] == [4]:
        channels, time, height, width = shape = shapes[0]
        side = patch_for("sl-vit", (channels, height, width), patch)
        embedding = FramePatchEmbedding((channels, time, height, width), dim, side)
        tokens = embedding.tokens
    else:
        shape = one_map("sl-vit", shapes)
        embedding = PatchEmbedding(shape, dim, patch_for("sl-vit", shape, patch))
        tokens = embedding.tokens
    encoder = encoder_layers(
        dim, heads, layers, head_dim=head_dim, last_residual=last_residual, dropout=dropout
    )
    head = mlp_head(tokens * dim, outputs, hidden=hidden, dropout=head_dropout)
    return SLViTExit(shape, embedding, tokens, dim, encoder, head)


def encoder_layers(
    dim: int, heads: int, layers: int, *, head_dim: int | None, last_residual: bool, dropout: float
) -> nn.Sequential:
    """Encoder layers as in SL-ViT; only the last one may lack its last residual."""
    return nn.Sequential(
        *(
            EncoderLayer(
                dim,
                heads,
                head_dim=head_dim,
                dropout=dropout,
                last_residual=last_residual or index < layers - 1,
            )
            for index in range(layers)
        )
    )


def patch_for(kind: str, shape: tuple[int, int, int], patch: int | tuple[int, int] | None) -> tuple[int, int]:
    """The patch that an exit was told to use on a map, or the one chosen for it.

    Raises:
        ConfigError: it is not a size, or does not divide the map.
    """
    _, height, width = shape
    if patch is None:
        return choose_patch(height, width)
    sides = tuple(patch) if isinstance(patch, tuple | list) else (patch, patch)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigError(
            f"Option 'patch' of exit {kind!r} is a whole number or a pair of them, got {patch!r}"
        )
    if height % sides[0] or width % sides[1]:
        raise ConfigError(
            f"Patches of {sides[0]}x{sides[1]} do not divide the {height}x{width} map of exit {kind!r}; "
            "choose divisors of its sides, or leave 'patch' out to have one chosen"
        )
    return sides[0], sides[1]
