"""ViT-EE: one more encoder layer, then a dense head on the class token."""

from __future__ import annotations

from math import isfinite

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, mlp_head
from sentio.exits.token_reading import PAPER, as_tokens, token_shape
from sentio.nn.attention import EncoderLayer


class ViTExit(nn.Module):
    """Encoder layer, layer norm, then the first token through a dense head.

    ``(batch, token, C)``, or a map, whose mean stands for the class token, to ``(batch, outputs)``. Any
    number of tokens.
    """

    def __init__(self, width: int, layer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(as_tokens(x)))[:, 0])


@register("exit", "vit-ee", paper=PAPER)
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    heads: int | None = None,
    ratio: float = 4.0,
    dropout: float = 0.0,
    hidden: int = 256,
    head_dropout: float = 0.5,
) -> ViTExit:
    """A transformer's own kind of encoder layer, then layer norm and a dense head on the class token.

    Args:
        shapes: tokens ``(N, C)``, or a map ``(C, ...)`` whose positions become tokens behind their mean.
        outputs: width of the output.
        heads: of the attention; must divide C. By default the largest divisor up to the paper's 12.
        ratio: width of the encoder's MLP, in C.
        dropout: rate in it.
        hidden: width of the head's two hidden layers.
        head_dropout: rate behind each of them.

    Raises:
        ConfigError: an option out of range, heads that do not divide C, or another shape.
    """
    _, width = token_shape("vit-ee", shapes)
    heads = max(n for n in range(1, 13) if width % n == 0) if heads is None else heads
    check_options(
        "vit-ee",
        at_least_one={"outputs": outputs, "heads": heads, "hidden": hidden},
        dropouts={"dropout": dropout, "head_dropout": head_dropout},
    )
    if width % heads:
        raise ConfigError(f"{heads} heads do not divide the width {width} that exit 'vit-ee' reads")
    if not isinstance(ratio, int | float) or not isfinite(ratio) or round(ratio * width) < 1:
        raise ConfigError(f"Option 'ratio' of exit 'vit-ee' must be above 0, got {ratio!r}")
    layer = EncoderLayer(
        width, heads, head_dim=width // heads, hidden=round(ratio * width), dropout=dropout, fused=True
    )
    return ViTExit(width, layer, mlp_head(width, outputs, hidden=hidden, dropout=head_dropout))
