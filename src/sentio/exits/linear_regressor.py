"""LR: an embedding from the mean of a map, by one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, mean_vector, one_width
from sentio.nn.init import he_init


class LinearRegressorExit(nn.Module):
    """Mean over all places, one linear layer: ``(batch, C, ...)`` to ``(batch, outputs)``."""

    def __init__(self, channels: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.regressor = nn.Linear(channels, outputs, bias=bias)
        he_init(self.regressor)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer is given, ``(batch, C)``."""
        return mean_vector(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.regressor(self.features(x))


@register(
    "exit",
    "linear-regressor",
    paper="N. Passalis, A. Tefas, Adaptive Inference for Face Recognition leveraging Deep Metric "
    "Learning-enabled Early Exits, EUSIPCO 2021",
)
def build(shapes: tuple[Shape, ...], outputs: int, /, *, bias: bool = False) -> LinearRegressorExit:
    """A mean and one linear layer, to be fitted in closed form (`sentio.techniques.embedding_exits`).

    Works at any size of the map.

    Args:
        shapes: of the one tensor it reads: a map ``(C, H, W)`` or longer, tokens ``(N, C)``, a vector.
        outputs: width of the network's embedding.
        bias: whether the layer has one; the paper's has none.

    Raises:
        ConfigError: another number of tensors.
    """
    check_options("linear-regressor", at_least_one={"outputs": outputs}, dropouts={})
    return LinearRegressorExit(one_width("linear-regressor", shapes), outputs, bias=bias)
