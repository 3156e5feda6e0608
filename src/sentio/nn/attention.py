"""Self-attention with heads of any width, and the encoder layer around it."""

from __future__ import annotations

from torch import Tensor, nn


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
    """

    #: sentio.core.counting: what runs in here is attention (one of its rules leaves such work out)
    is_attention = True

    def __init__(self, dim: int, heads: int, head_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim if head_dim is None else head_dim
        self.query = nn.Linear(dim, heads * self.head_dim)
        self.key = nn.Linear(dim, heads * self.head_dim)
        self.value = nn.Linear(dim, heads * self.head_dim)
        self.output = nn.Linear(heads * self.head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(project(x)) for project in (self.query, self.key, self.value))
        scores = (query * self.head_dim**-0.5) @ key.transpose(-2, -1)
        return self.output((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """``(batch, token, heads * head_dim)`` to ``(batch, head, token, head_dim)``."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """A pre-norm transformer encoder layer with full-width heads.

    ``Z = x + MHA(LN(x))``, ``Y = M(LN(Z))``, output ``Z + Y``, or ``Y`` alone without the last residual.
    ``M`` is ``Linear(dim, 2 dim)``, GELU, dropout, ``Linear(2 dim, dim)``, dropout.

    Shapes: ``(batch, token, dim)`` to the same.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        head_dim: int | None = None,
        dropout: float = 0.1,
        last_residual: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = FullWidthAttention(dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * dim, dim),
            nn.Dropout(dropout),
        )
        self.last_residual = last_residual

    def forward(self, x: Tensor) -> Tensor:
        z = x + self.attention(self.norm1(x))
        y = self.mlp(self.norm2(z))
        return z + y if self.last_residual else y
