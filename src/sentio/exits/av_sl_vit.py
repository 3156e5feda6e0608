"""AV-SL-ViT: SL-ViT with what is heard as one more token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.exits.head import (
    Shape,
    check_options,
    check_size,
    mean_vector,
    mlp_head,
    one_map,
    vector_width,
)
from sentio.exits.sl_vit import encoder_layers, patch_for
from sentio.nn.patches import PatchEmbedding


class AVSLViTExit(nn.Module):
    """Patches of a map and one token of another sense, encoder layers, dense head over all of them.

    Takes ``(batch, C, H, W)`` and a vector, tokens or a map of the other sense, which is averaged over all
    but its channels; gives ``(batch, outputs)``.

    Args:
        shape: of the map.
        embedding: of its patches.
        projection: makes the other sense's vector a token. None shares the patches' embedding: a patch that
            holds the vector at each of its positions.
        dim: width of a token.
        encoder, head: behind them.
    """

    def __init__(
        self,
        shape: Shape,
        embedding: PatchEmbedding,
        projection: nn.Linear | None,
        dim: int,
        encoder: nn.Sequential,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = embedding
        self.projection = projection
        self.position = nn.Parameter(torch.empty(embedding.tokens + 1, dim))
        self.encoder = encoder
        self.head = head
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        check_size("av-sl-vit", x, self.shape)
        tokens = torch.cat([self.embedding(x), self._token(mean_vector(other))[:, None]], dim=1)
        return self.head(self.encoder(tokens + self.position))

    def _token(self, vector: Tensor) -> Tensor:
        if self.projection is not None:
            return self.projection(vector)
        # The vector is the same at all positions of its patch, so their weights are summed beforehand.
        weight = self.embedding.linear.weight.unflatten(1, (-1, self.shape[0])).sum(dim=1)
        return linear(vector, weight, self.embedding.linear.bias)


@register(
    "exit",
    "av-sl-vit",
    paper="A. Bakhtiarnia, Q. Zhang, A. Iosifidis, Single-Layer Vision Transformers for More Accurate Early "
    "Exits with Less Overhead, Neural Networks 2022",
)
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    token: Literal["shared", "own"] | None = None,
    patch: int | tuple[int, int] | None = None,
    dim: int = 32,
    heads: int = 12,
    layers: int = 1,
    head_dim: int | None = None,
    last_residual: bool = True,
    dropout: float = 0.1,
    hidden: int = 256,
    head_dropout: float = 0.5,
) -> AVSLViTExit:
    """SL-ViT over a map's patches and one token of another sense; reads two tensors, at any two boundaries.

    Give `add_exits` ``reads=[[(boundary, "main"), (boundary, "audio")]]``.

    Args:
        shapes: a map ``(C, H, W)``, and a vector, tokens or a map of the other sense.
        outputs: width of the output.
        token: how the other sense becomes a token: ``shared`` through the patches' embedding, as the paper's
            count says, where both have equally many channels; ``own`` through a linear layer. By default
            shared where that is possible.
        patch, dim, heads, layers, head_dim, last_residual, dropout, hidden, head_dropout: as in ``sl-vit``.

    Raises:
        ConfigError: an option out of range, other shapes, or a shared token between unequal widths.
    """
    if len(shapes) != 2:
        raise ConfigError(
            f"Exit 'av-sl-vit' reads two tensors, a map and another sense, got {len(shapes)}; give it "
            "reads=[[(boundary, tensor), (boundary, tensor)]], or use 'sl-vit'"
        )
    shape = one_map("av-sl-vit", shapes[:1])
    width = vector_width("av-sl-vit", shapes[1])
    sizes = {"outputs": outputs, "dim": dim, "heads": heads, "layers": layers, "hidden": hidden}
    if head_dim is not None:
        sizes["head_dim"] = head_dim
    check_options(
        "av-sl-vit", at_least_one=sizes, dropouts={"dropout": dropout, "head_dropout": head_dropout}
    )
    if token not in (None, "shared", "own"):
        raise ConfigError(f"Option 'token' of exit 'av-sl-vit' is shared or own, got {token!r}")
    if token == "shared" and width != shape[0]:
        raise ConfigError(
            f"Exit 'av-sl-vit' cannot share the embedding of {shape[0]} channels with a vector of {width}; "
            "use token='own'"
        )
    embedding = PatchEmbedding(shape, dim, patch_for("av-sl-vit", shape, patch))
    shared = token == "shared" or (token is None and width == shape[0])
    encoder = encoder_layers(
        dim, heads, layers, head_dim=head_dim, last_residual=last_residual, dropout=dropout
    )
    head = mlp_head((embedding.tokens + 1) * dim, outputs, hidden=hidden, dropout=head_dropout)
    return AVSLViTExit(shape, embedding, None if shared else nn.Linear(width, dim), dim, encoder, head)
