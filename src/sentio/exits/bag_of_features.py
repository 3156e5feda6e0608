"""BoF: an embedding from a map's soft histogram over learnt codewords."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, one_width
from sentio.nn.bag_of_features import BagOfFeatures
from sentio.nn.init import he_init


class BagOfFeaturesExit(nn.Module):
    """Bag-of-Features pooling, one linear layer: ``(batch, C, ...)`` to ``(batch, outputs)``.

    The layer has no bias: a histogram sums to 1, so equal rows of weights are one.
    """

    def __init__(self, channels: int, outputs: int, codewords: int) -> None:
        super().__init__()
        self.bag = BagOfFeatures(channels, codewords)
        self.regressor = nn.Linear(codewords, outputs, bias=False)
        he_init(self.regressor)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer is given, ``(batch, codewords)``."""
        return self.bag(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.regressor(self.features(x))


@register(
    "exit",
    "bag-of-features",
    paper="N. Passalis, A. Tefas, Adaptive Inference for Face Recognition leveraging Deep Metric "
    "Learning-enabled Early Exits, EUSIPCO 2021",
)
def build(shapes: tuple[Shape, ...], outputs: int, /, *, codewords: int = 512) -> BagOfFeaturesExit:
    """Pooling over a codebook of its own and one linear layer, fitted by `sentio.techniques.embedding_exits`.

    Works at any size of the map. ``(C + outputs) * codewords + 1`` parameters.

    Args:
        shapes: of the one tensor it reads: a map ``(C, H, W)`` or longer, tokens ``(N, C)``, a vector.
        outputs: width of the network's embedding.
        codewords: of the codebook.

    Raises:
        ConfigError: an option out of range, or another number of tensors.
    """
    check_options("bag-of-features", at_least_one={"outputs": outputs, "codewords": codewords}, dropouts={})
    return BagOfFeaturesExit(one_width("bag-of-features", shapes), outputs, codewords)
