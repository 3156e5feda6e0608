"""MLP-EE: a dense head on the class token."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, mlp_head
from sentio.exits.token_reading import PAPER, as_tokens, token_shape


class MLPExit(nn.Module):
    """Layer norm, then the first token through a dense head: ``(batch, token, C)`` to ``(batch, outputs)``.

    Takes maps too, whose mean stands for the class token. Any number of tokens.
    """

    def __init__(self, width: int, head: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        # All tokens are normalised, since the paper's count of operations has them.
        return self.head(self.norm(as_tokens(x))[:, 0])


@register("exit", "mlp-ee", paper=PAPER)
def build(shapes: tuple[Shape, ...], outputs: int, /, *, hidden: int = 256, dropout: float = 0.5) -> MLPExit:
    """The class token through layer norm and a dense head; the cheapest of the exits for transformers.

    Args:
        shapes: tokens ``(N, C)``, or a map ``(C, ...)``, whose mean is read.
        outputs: width of the output.
        hidden: width of the head's two hidden layers.
        dropout: rate behind each of them.

    Raises:
        ConfigError: an option out of range, or another shape.
    """
    _, width = token_shape("mlp-ee", shapes)
    check_options(
        "mlp-ee", at_least_one={"outputs": outputs, "hidden": hidden}, dropouts={"dropout": dropout}
    )
    return MLPExit(width, mlp_head(width, outputs, hidden=hidden, dropout=dropout))
