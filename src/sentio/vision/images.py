"""The image front end: a file in, pixels of one size out, which are standardised when they are used.

Features are kept as the eight bits that a file holds, a quarter of their size as numbers: the 50,000 images
of CIFAR-10 are 150 MB and not 600.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import Prepared
from sentio.core.registry import register
from sentio.vision.density import Placement
from sentio.vision.pictures import Pixels, read_picture, resized

#: an image whose values all lie within this is one colour: there is nothing to see
ONE_COLOUR = 2
CHANNELS = {"rgb": 3, "grey": 1}
Numbers = float | Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class ImageFrontEnd:
    """One image of a fixed size; implements `sentio.core.features.FrontEnd`.

    Args:
        height, width: of what comes out, in pixels.
        resize: ``crop`` scales the shorter side and cuts the middle out, ``stretch`` scales both sides as
            needed, ``pad`` scales the longer side and puts black around.
        zoom: with ``crop``, how much larger than needed the image is scaled: 1.143 is ImageNet's 256 to 224.
        colour: ``rgb`` or ``grey``.
        mean, std: of each channel between 0 and 1, or of all: ``(x - mean) / std``. A training fits them on
            its training part where they are None; 0 and 1 until then.

    Raises:
        ConfigError: a setting is not possible.
    """

    name: ClassVar[str] = "image"

    height: int = 32
    width: int = 32
    resize: Literal["crop", "stretch", "pad"] = "crop"
    zoom: float = 1.0
    colour: Literal["rgb", "grey"] = "rgb"
    mean: Numbers = None
    std: Numbers = None

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            value = getattr(self, key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                object.__setattr__(self, key, (float(value),) * CHANNELS.get(self.colour, 1))
            elif isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, key, tuple(value))
        problem = _problem(self)
        if problem:
            raise ConfigError(f"Image settings: {problem}")

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """An image's shape: ``(channel, height, width)``."""
        return {MAIN: (CHANNELS[self.colour], self.height, self.width)}

    def settings(self) -> dict[str, Any]:
        """Plain values that the builder takes as options, fit for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def noise(self) -> NDArray[np.uint8]:
        """Random pixels of the size that comes out, ``(height, width, 3)``."""
        return np.random.default_rng(0).integers(0, 256, (self.height, self.width, 3), np.uint8)

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        """One image.

        Args:
            source: the path of a file, or pixels: uint8 ``(height, width, 3)`` or ``(height, width)``.
            hop: an image has no time to hop in, so None.

        Returns:
            Inputs uint8 ``(1, channel, height, width)``, which `finish` standardises. An image of one colour
            counts as silent.

        Raises:
            InputError: the source cannot be read, or is none.
            ConfigError: a hop is given.
            MissingExtraError: Pillow is needed, for a file or to scale, and not installed.
        """
        if hop is not None:
            raise ConfigError(
                "A hop is a distance of windows in time, and an image is all of one; leave it out"
            )
        notes: tuple[str, ...] = ()
        if isinstance(source, str | PathLike):
            pixels, notes = read_picture(source, grey=self.colour == "grey")
        else:
            pixels = _checked(source, self.colour)
        inputs = np.ascontiguousarray(self._sized(pixels).transpose(2, 0, 1))[None]
        place = self.placement(pixels.shape[:2])
        (top, left), (rows, columns) = place.at, place.size
        # The black around a padded image is no part of it.
        seen = inputs[0, :, top : top + rows, left : left + columns]
        flat = seen.reshape(len(seen), -1).astype(np.int16)
        silent = bool((flat.max(1) - flat.min(1)).max() <= ONE_COLOUR)
        moment = np.zeros(1)
        return Prepared(inputs, moment, moment, np.array([silent]), notes)

    def finish(self, inputs: Pixels) -> NDArray[np.float32]:
        """Pixels, uint8 ``(batch, channel, height, width)``, standardised as a network takes them."""
        mean = np.asarray(0.0 if self.mean is None else self.mean, np.float32).reshape(-1, 1, 1)
        std = np.asarray(1.0 if self.std is None else self.std, np.float32).reshape(-1, 1, 1)
        found: NDArray[np.float32] = (inputs / np.float32(255) - mean) / std
        return found

    def fitted(self, inputs: Pixels) -> ImageFrontEnd:
        """The same front end with mean and deviation of these pixels, ``(n, channel, height, width)``."""
        mean, std = [], []
        for channel in range(inputs.shape[1]):
            counts = np.bincount(inputs[:, channel].ravel(), minlength=256).astype(np.float64)
            values = np.arange(256) / 255
            middle = float(counts @ values / counts.sum())
            mean.append(middle)
            # A channel that never changes is left at that: one step of eight bits.
            std.append(max(1 / 255, float(np.sqrt(counts @ (values - middle) ** 2 / counts.sum()))))
        return ImageFrontEnd(**{**self.settings(), "mean": mean, "std": std})

    def placement(self, size: tuple[int, int]) -> Placement:
        """Which part of a picture of ``size`` (height, width) is used, and where it comes to lie."""
        height, width = size
        goal, whole = (self.height, self.width), (0.0, 0.0, float(width), float(height))
        if self.resize == "stretch" or (size == goal and self.zoom == 1):
            return Placement(whole, goal, (0, 0), goal)
        if self.resize == "pad":
            scale = min(self.height / height, self.width / width)
            inner = max(1, round(height * scale)), max(1, round(width * scale))
            at = (self.height - inner[0]) // 2, (self.width - inner[1]) // 2
            return Placement(whole, inner, at, goal)
        scale = max(self.height / height, self.width / width) * self.zoom
        # Rounding must not make the part larger than the picture: Pillow refuses such a box.
        part = min(height, self.height / scale), min(width, self.width / scale)
        top, left = (height - part[0]) / 2, (width - part[1]) / 2
        return Placement((left, top, left + part[1], top + part[0]), goal, (0, 0), goal)

    def _sized(self, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        place = self.placement((height, width))
        inner = pixels
        if place.box != (0, 0, width, height) or place.size != (height, width):
            inner = resized(pixels, place.size, place.box)
        if place.size == place.goal:
            return inner
        found = np.zeros((*place.goal, pixels.shape[2]), np.uint8)
        (top, left), (rows, columns) = place.at, place.size
        found[top : top + rows, left : left + columns] = inner
        return found


def _checked(source: Any, colour: str) -> Pixels:
    """Pixels that were given in Python, in the colours asked for."""
    pixels = np.asarray(source) if hasattr(source, "shape") else None
    if pixels is None or pixels.dtype.kind not in "fiub":
        raise InputError(
            f"An image is a path or pixels, uint8 (height, width, 3), got {type(source).__name__}"
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError("The pixels hold NaN or infinite values; an image is uint8 from 0 to 255")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        raise InputError(
            "An image is uint8 of shape (height, width, 3) or (height, width), got "
            f"{pixels.dtype} {tuple(np.shape(source))}"
        )
    if colour == "rgb":
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels)
    # As Pillow computes it, in fixed point.
    weights = np.array([19595, 38470, 7471], np.uint32)
    grey = (pixels.astype(np.uint32) @ weights + 0x8000) >> 16
    return grey.astype(np.uint8)[:, :, None]


def _problem(s: ImageFrontEnd) -> str | None:
    """The first thing that is wrong with settings, as half a sentence."""
    for key in ("height", "width"):
        value = getattr(s, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            return f"{key} must be a whole number of pixels from 1 on, got {value!r}"
    if s.resize not in ("crop", "stretch", "pad"):
        return f"resize must be 'crop', 'stretch' or 'pad', got {s.resize!r}"
    if s.colour not in CHANNELS:
        return f"colour must be 'rgb' or 'grey', got {s.colour!r}"
    if isinstance(s.zoom, bool) or not isinstance(s.zoom, int | float) or not 1 <= s.zoom < math.inf:
        return f"zoom must be a number from 1 on, got {s.zoom!r}"
    if s.zoom != 1 and s.resize != "crop":
        return f"zoom goes with resize 'crop', not with {s.resize!r}"
    if (s.mean is None) != (s.std is None):
        return "give mean and std, or neither"
    count = CHANNELS[s.colour]
    for key in ("mean", "std"):
        value = getattr(s, key)
        if value is None:
            continue
        numbers = isinstance(value, tuple) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value
        )
        if not numbers or len(value) != count:
            return f"{key} is a number, or {count} of them for colour {s.colour!r}, got {value!r}"
    if isinstance(s.std, tuple) and min(s.std) <= 0:
        return "std must be above 0"
    return None


@register("frontend", "image")
def image(
    *,
    height: int = ImageFrontEnd.height,
    width: int = ImageFrontEnd.width,
    resize: Literal["crop", "stretch", "pad"] = ImageFrontEnd.resize,
    zoom: float = ImageFrontEnd.zoom,
    colour: Literal["rgb", "grey"] = ImageFrontEnd.colour,
    mean: float | list[float] | tuple[float, ...] | None = ImageFrontEnd.mean,
    std: float | list[float] | tuple[float, ...] | None = ImageFrontEnd.std,
) -> ImageFrontEnd:
    """Images of one size for networks such as ResNet.

    Args:
        height, ...: the settings of `ImageFrontEnd`.

    Raises:
        ConfigError: a setting is not possible.
    """
    settings: dict[str, Any] = dict(locals())
    return ImageFrontEnd(**settings)
