"""The features as they are: the baseline of exits that give embeddings."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.exits.head import Shape, check_options, mean_vector, one_width


class RawExit(nn.Module):
    """Mean over all places, and zeros behind it: ``(batch, C, ...)`` to ``(batch, outputs)``."""

    def __init__(self, missing: int) -> None:
        super().__init__()
        self.missing = missing

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(mean_vector(x), (0, self.missing))


@register(
    "exit",
    "raw",
    paper="N. Passalis, A. Tefas, Adaptive Inference for Face Recognition leveraging Deep Metric "
    "Learning-enabled Early Exits, EUSIPCO 2021",
)
def build(shapes: tuple[Shape, ...], outputs: int, /) -> RawExit:
    """The mean of each channel, without parameters, filled up with zeros to the width of the embedding.

    Zeros change no distance. These are not embeddings of the last layer: compare them only with those of the
    same exit.

    Args:
        shapes: of the one tensor it reads: a map ``(C, H, W)`` or longer, tokens ``(N, C)``, a vector.
        outputs: width of the output, at least C.

    Raises:
        ConfigError: another number of tensors, or more channels than outputs.
    """
    check_options("raw", at_least_one={"outputs": outputs}, dropouts={})
    channels = one_width("raw", shapes)
    if channels > outputs:
        raise ConfigError(
            f"Exit 'raw' gives the {channels} channels that it reads, and the network's output has only "
            f"{outputs}; use 'linear-regressor', or an earlier stage with fewer channels"
        )
    return RawExit(outputs - channels)
