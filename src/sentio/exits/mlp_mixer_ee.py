"""MLP-Mixer-EE: one mixer layer, the mean of its tokens, a dense head."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, check_size, mlp_head
from sentio.exits.token_reading import PAPER, as_tokens, token_shape
from sentio.nn.token_mixing import MixerLayer, ResMLPLayer


class MixingExit(nn.Module):
    """A layer that mixes tokens, their mean, a dense head.

    ``(batch, token, C)``, the class token among them, or a map, whose mean stands for it, to
    ``(batch, outputs)``.

    Args:
        kind: the exit's name.
        shape: of what it reads.
        layer, head: one after the other, the mean in between.
        norm: before the mean.
    """

    def __init__(
        self,
        kind: str,
        shape: Shape,
        layer: MixerLayer | ResMLPLayer,
        head: nn.Module,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.shape = shape
        self.layer = layer
        self.norm = nn.Identity() if norm is None else norm
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        check_size(self.kind, x, self.shape)
        return self.head(self.norm(self.layer(as_tokens(x))).mean(dim=1))


@register("exit", "mlp-mixer-ee", paper=PAPER)
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    token_hidden: int | None = None,
    channel_hidden: int | None = None,
    norm: bool = False,
    hidden: int = 256,
    dropout: float = 0.5,
) -> MixingExit:
    """One MLP-Mixer layer over all tokens, their mean and a dense head.

    Args:
        shapes: tokens ``(N, C)``, or a map ``(C, ...)`` whose positions become tokens behind their mean.
        outputs: width of the output.
        token_hidden: width of the layer's MLP across tokens; C / 2 if None, as in Mixer-B/16.
        channel_hidden: width of its MLP along channels; 4 C if None.
        norm: whether a layer norm precedes the mean, as in MLP-Mixer; the paper names none.
        hidden: width of the head's two hidden layers.
        dropout: rate behind each of them.

    Raises:
        ConfigError: an option out of range, or another shape.
    """
    tokens, width = token_shape("mlp-mixer-ee", shapes)
    sizes = {
        "token_hidden": max(1, width // 2) if token_hidden is None else token_hidden,
        "channel_hidden": 4 * width if channel_hidden is None else channel_hidden,
    }
    check_options(
        "mlp-mixer-ee",
        at_least_one=sizes | {"outputs": outputs, "hidden": hidden},
        dropouts={"dropout": dropout},
    )
    layer = MixerLayer(tokens, width, sizes["token_hidden"], sizes["channel_hidden"])
    head = mlp_head(width, outputs, hidden=hidden, dropout=dropout)
    return MixingExit("mlp-mixer-ee", shapes[0], layer, head, nn.LayerNorm(width, eps=1e-6) if norm else None)
