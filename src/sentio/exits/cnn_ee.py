"""CNN-EE: the convolutional early exit that SL-ViT is compared with."""

from __future__ import annotations

from torch import Tensor, nn

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
from sentio.nn.film import FeatureModulation
from sentio.nn.init import he_init


class CNNExit(nn.Module):
    """Convolution, ReLU, max-pooling, dense head: ``(batch, C, H, W)`` to ``(batch, outputs)``."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        conv: nn.Conv2d,
        pool: int,
        head: nn.Module,
        more: tuple[nn.Conv2d, ...] = (),
    ) -> None:
        super().__init__()
        self.shape = shape
        self.conv = conv
        self.act = nn.ReLU()
        self.more = nn.Sequential(*(layer for conv_ in more for layer in (conv_, nn.ReLU())))
        self.pool = nn.MaxPool2d(pool)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        check_size("cnn-ee", x, self.shape)
        return self.head(self.pool(self.more(self.act(self.conv(x)))))


class ModulatedCNNExit(CNNExit):
    """`CNNExit` whose map is normalised, scaled and shifted by a second sense before the ReLU.

    Takes ``(batch, C, H, W)`` and a vector, tokens or a map of the other sense, which is averaged.

    Args:
        condition: width of the other sense.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        conv: nn.Conv2d,
        pool: int,
        head: nn.Module,
        more: tuple[nn.Conv2d, ...],
        condition: int,
    ) -> None:
        super().__init__(shape, conv, pool, head, more)
        self.bn = nn.BatchNorm2d(conv.out_channels, affine=False)
        self.film = FeatureModulation(condition, conv.out_channels)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        check_size("cnn-ee", x, self.shape)
        modulated = self.film(self.bn(self.conv(x)), mean_vector(other))
        return self.head(self.pool(self.more(self.act(modulated))))


@register(
    "exit",
    "cnn-ee",
    paper="A. Bakhtiarnia, Q. Zhang, A. Iosifidis, Single-Layer Vision Transformers for More Accurate Early "
    "Exits with Less Overhead, Neural Networks 2022",
)
def build(
    shapes: tuple[Shape, ...],
    outputs: int,
    /,
    *,
    filters: int = 16,
    kernel: int = 3,
    padding: int = 0,
    dilation: int = 1,
    convolutions: int = 1,
    pool: int = 2,
    hidden: int = 256,
    dropout: float = 0.5,
) -> CNNExit | ModulatedCNNExit:
    """One convolution, ReLU, max-pooling and a dense head with two hidden layers.

    The defaults are the paper's for classifiers; AudioCSRNet has ``padding=1, pool=4``. Tied to one input
    size, since the head reads the flattened map. Where it reads a second tensor, such as a sound's vector,
    that one scales and shifts the convolution's normalised output.

    Args:
        shapes: one ``(C, H, W)``, and for two senses a second tensor: a vector, tokens or a map.
        outputs: width of the output.
        filters, kernel, padding, dilation: of the convolution, stride 1.
        convolutions: how many; those behind the first keep the map's size, which needs an odd kernel.
        pool: side and stride of the max-pooling.
        hidden: width of the head's two hidden layers.
        dropout: rate behind each of them.

    Raises:
        ConfigError: an option out of range, another shape, or a map too small for kernel and pooling.
    """
    shape = one_map("cnn-ee", shapes[:1] if len(shapes) == 2 else shapes)
    sizes = {"outputs": outputs, "filters": filters, "kernel": kernel, "dilation": dilation, "pool": pool}
    sizes |= {"convolutions": convolutions, "hidden": hidden}
    check_options("cnn-ee", at_least_one=sizes, dropouts={"dropout": dropout})
    if convolutions > 1 and kernel % 2 == 0:
        raise ConfigError(
            f"Exit 'cnn-ee' with {convolutions} convolutions needs an odd kernel, got {kernel}; make it one"
        )
    if not isinstance(padding, int) or padding < 0:
        raise ConfigError(f"Option 'padding' of exit 'cnn-ee' is a whole number from 0 up, got {padding!r}")
    channels, height, width = shape
    shrink = dilation * (kernel - 1) - 2 * padding
    rows, columns = (height - shrink) // pool, (width - shrink) // pool
    if rows < 1 or columns < 1:
        raise ConfigError(
            f"Exit 'cnn-ee' leaves nothing of a {height}x{width} map after its {kernel}x{kernel} kernel and "
            f"{pool}x{pool} pooling; use padding={dilation * (kernel - 1) // 2}, a smaller pool or an "
            "earlier stage"
        )
    conv = nn.Conv2d(channels, filters, kernel, padding=padding, dilation=dilation)
    he_init(conv)
    head = mlp_head(filters * rows * columns, outputs, hidden=hidden, dropout=dropout)
    same = dilation * (kernel // 2)
    more = tuple(
        nn.Conv2d(filters, filters, kernel, padding=same, dilation=dilation) for _ in range(convolutions - 1)
    )
    for layer in more:
        he_init(layer)
    if len(shapes) == 2:
        return ModulatedCNNExit(shape, conv, pool, head, more, vector_width("cnn-ee", shapes[1]))
    return CNNExit(shape, conv, pool, head, more)
