"""What the exits share: the dense head and the checks of what they are given."""

from __future__ import annotations

from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.numeric import whole
from sentio.nn.init import he_init

Shape = tuple[int, ...]


def mlp_head(features: int, outputs: int, *, hidden: int = 256, dropout: float = 0.5) -> nn.Sequential:
    """Flatten, two hidden layers with ReLU and dropout, one linear output; He initialisation.

    The head of every branch in Bakhtiarnia et al., *Single-Layer Vision Transformers for More Accurate
    Early Exits with Less Overhead*. ``(batch, ...)`` with ``features`` values per sample to
    ``(batch, outputs)``.
    """
    head = nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )
    he_init(head)
    return head


def one_map(kind: str, shapes: tuple[Shape, ...]) -> tuple[int, int, int]:
    """The shape of the one feature map that an exit reads.

    Raises:
        ConfigError: it reads several tensors, or one that is not ``(channel, height, width)``.
    """
    if len(shapes) != 1:
        raise ConfigError(
            f"Exit {kind!r} reads one tensor, got {len(shapes)}; give it one (boundary, tensor)"
        )
    if len(shapes[0]) != 3:
        raise ConfigError(
            f"Exit {kind!r} needs a feature map (channel, height, width), got shape {shapes[0]}; "
            "attach it to another stage or use 'pooled-linear'"
        )
    channels, height, width = shapes[0]
    return channels, height, width


def vector_width(kind: str, shape: Shape) -> int:
    """Width of what `mean_vector` makes of a tensor of that shape.

    Raises:
        ConfigError: the shape has no axes.
    """
    if not shape:
        raise ConfigError(f"Exit {kind!r} reads tensors with a channel axis; one without axes was given")
    return shape[1] if len(shape) == 2 else shape[0]


def one_width(kind: str, shapes: tuple[Shape, ...]) -> int:
    """Channels of the one tensor that an exit reads: a vector, tokens or a map.

    Raises:
        ConfigError: it reads several tensors, or one without axes.
    """
    if len(shapes) != 1:
        raise ConfigError(
            f"Exit {kind!r} reads one tensor, got {len(shapes)}; give it one (boundary, tensor)"
        )
    return vector_width(kind, shapes[0])


def mean_vector(x: Tensor) -> Tensor:
    """A vector ``(batch, C)``, tokens ``(batch, N, C)`` or a map ``(batch, C, ...)`` as ``(batch, C)``."""
    if x.ndim == 2:
        return x
    return x.mean(dim=1) if x.ndim == 3 else x.flatten(2).mean(dim=2)


def check_size(kind: str, x: Tensor, shape: Shape) -> None:
    """Refuse a tensor of another size than the exit's flattened head was built for.

    Raises:
        InputError: the shape without the batch axis is not ``shape``.
    """
    if tuple(x.shape[1:]) != shape:
        raise InputError(
            f"Exit {kind!r} was built for features of shape {shape}, got {tuple(x.shape[1:])}; give the "
            "network inputs of the size it was built with, or attach the exit again with an example of the "
            "new size"
        )


def check_options(kind: str, *, at_least_one: dict[str, int], dropouts: dict[str, float]) -> None:
    """Refuse option values that no exit can be built with.

    Raises:
        ConfigError: a size below 1, or a dropout outside 0 to 1.
    """
    for name, size in at_least_one.items():
        if not whole(size) or size < 1:
            raise ConfigError(
                f"Option {name!r} of exit {kind!r} must be a whole number from 1 up, got {size!r}"
            )
    for name, rate in dropouts.items():
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ConfigError(
                f"Option {name!r} of exit {kind!r} must be at least 0 and below 1, got {rate!r}"
            )
