"""ResMLP-EE: one ResMLP layer, the mean of its tokens, a dense head."""

from __future__ import annotations

from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, mlp_head
from sentio.exits.mlp_mixer_ee import MixingExit
from sentio.exits.token_reading import PAPER, token_shape
from sentio.nn.token_mixing import ResMLPLayer


@register("exit", "resmlp-ee", paper=PAPER)
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    channel_hidden: int | None = None,
    hidden: int = 256,
    dropout: float = 0.5,
) -> MixingExit:
    """One ResMLP layer over all tokens, their mean and a dense head.

    Args:
        shapes: tokens ``(N, C)``, or a map ``(C, ...)`` whose positions become tokens behind their mean.
        outputs: width of the output.
        channel_hidden: width of the layer's MLP along channels; 4 C if None.
        hidden: width of the head's two hidden layers.
        dropout: rate behind each of them.

    Raises:
        ConfigError: an option out of range, or another shape.
    """
    tokens, width = token_shape("resmlp-ee", shapes)
    wide = 4 * width if channel_hidden is None else channel_hidden
    check_options(
        "resmlp-ee",
        at_least_one={"outputs": outputs, "hidden": hidden, "channel_hidden": wide},
        dropouts={"dropout": dropout},
    )
    layer = ResMLPLayer(tokens, width, wide)
    return MixingExit("resmlp-ee", shapes[0], layer, mlp_head(width, outputs, hidden=hidden, dropout=dropout))
