"""Self-attention with heads of any width, and the encoder layer around it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class FullWidthAttention(nn.Module):
    """Multi-head self-attention in which every head is as wide as the tokens.

    Query, key and value are ``Linear(dim, heads * head_dim)``, scores are divided by the root of
    ``head_dim``, the heads are concatenated and brought back by ``Linear(heads * head_dim, dim)``; all with
    bias. With ``head_dim=dim`` this is what Keras calls ``MultiHeadAttention(heads, key_dim=dim)`` and what
    the SL-ViT paper uses; ``torch.nn.MultiheadAttention`` is the special case ``head_dim=dim / heads``.

    Shapes: ``(batch, token, dim)`` to the same.

    Args:
        dim: width of the tokens.
        heads: number of heads; need not divide ``dim``.
        head_dim: width of each head; ``dim`` if None.
        fused: whether PyTorch's fused kernel does it, which never holds the scores of all heads at once and
            so trains on a thousand tokens; the answers agree up to rounding.
    """

    #: sentio.core.counting: what runs in here is attention (one of its rules leaves such work out)
    is_attention = True

    def __init__(self, dim: int, heads: int, head_dim: int | None = None, *, fused: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        self.head_dim = dim if head_dim is None else head_dim
        self.query = nn.Linear(dim, heads * self.head_dim)
        self.key = nn.Linear(dim, heads * self.head_dim)
        self.value = nn.Linear(dim, heads * self.head_dim)
        self.output = nn.Linear(heads * self.head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value = self._split(self.value(x))
        if self.fused:
            query, key = self._split(self.query(x)), self._split(self.key(x))
            mixed = scaled_dot_product_attention(query, key, value)
        else:
            mixed = self.weights(x) @ value
        return self.output(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor) -> Tensor:
        """How much each token attends to each: ``(batch, head, token, token)``, rows that sum to one."""
        query, key = self._split(self.query(x)), self._split(self.key(x))
        return ((query * self.head_dim**-0.5) @ key.transpose(-2, -1)).softmax(dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        """``(batch, token, heads * head_dim)`` to ``(batch, head, token, head_dim)``."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """A pre-norm transformer encoder layer.

    ``Z = x + MHA(LN(x))``, ``Y = M(LN(Z))``, output ``Z + Y``, or ``Y`` alone without the last residual.
    ``M`` is ``Linear(dim, hidden)``, GELU, dropout, ``Linear(hidden, dim)``, dropout.

    Shapes: ``(batch, token, dim)`` to the same.

    Args:
        dim, heads, head_dim, fused: of `FullWidthAttention`.
        hidden: width inside ``M``; twice ``dim`` if None.
        act: makes the activation inside ``M``.
        eps: of both layer norms.
        dropout: rate of both dropouts.
        last_residual: whether the last residual is there.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        head_dim: int | None = None,
        hidden: int | None = None,
        act: Callable[[], nn.Module] = nn.GELU,
        eps: float = 1e-6,
        dropout: float = 0.1,
        last_residual: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__()
        hidden = 2 * dim if hidden is None else hidden
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = FullWidthAttention(dim, heads, head_dim, fused=fused)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            act(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )
        self.last_residual = last_residual

    def forward(self, x: Tensor) -> Tensor:
        z = x + self.attention(self.norm1(x))
        y = self.mlp(self.norm2(z))
        return z + y if self.last_residual else y
