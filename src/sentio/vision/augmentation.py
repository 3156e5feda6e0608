"""Augmentation of images in a batch: functions of a batch and a generator, each usable alone.

Images are ``(batch, channel, height, width)``, standardised. Every sample gets draws of its own, all at once.
Random numbers are drawn on the generator's device, so a seed gives the same augmentation wherever the batch
lies; a batch is never changed in place. A rectangle is hidden with
`sentio.audio.augmentation.random_erasing`, samples are mixed with
`sentio.audio.augmentation_mixing.mixup`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sentio.core.errors import ConfigError, InputError
from sentio.core.numeric import whole, within

Edge = Literal["zero", "reflect"]


def horizontal_flip(x: Tensor, probability: float, generator: Generator | None = None) -> Tensor:
    """Mirror samples left to right.

    Args:
        x: ``(batch, channel, height, width)``.
        probability: with which a sample is mirrored, in 0..1.
        generator: source of the choice.

    Raises:
        InputError: ``x`` does not have four axes.
        ConfigError: the probability is not in 0..1.
    """
    _check(x)
    if not within(probability, 0, 1):
        raise ConfigError(f"The share of mirrored images must lie in 0..1, got {probability!r}")
    chosen = _uniform(len(x), generator).to(x.device) < probability
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def padded_crop(
    x: Tensor, padding: int, generator: Generator | None = None, *, edge: Edge = "zero"
) -> Tensor:
    """Shift each sample by up to ``padding`` pixels up or down and left or right; the size stays.

    The crop of a padded image that He et al. (2016) train CIFAR networks with.

    Args:
        x: ``(batch, channel, height, width)``.
        padding: largest shift in pixels; 0 changes nothing.
        generator: source of the shifts.
        edge: what enters: ``zero``, the mean colour of standardised images, or what ``reflect`` shows.

    Raises:
        InputError: ``x`` does not have four axes.
        ConfigError: the padding is negative, or too wide to be a reflection; there is no such edge.
    """
    _check(x)
    height, width = x.shape[2:]
    if not whole(padding) or padding < 0:
        raise ConfigError(f"The padding of a crop must be whole and at least 0 pixels, got {padding!r}")
    if edge not in ("zero", "reflect"):
        raise ConfigError(f"What enters a crop is 'zero' or 'reflect', got {edge!r}")
    if edge == "reflect" and padding >= min(height, width):
        raise ConfigError(
            f"An image of {height}x{width} cannot be reflected by {padding} pixels; give a smaller padding"
        )
    if not padding:
        return x
    mode = "constant" if edge == "zero" else "reflect"
    around = F.pad(x, (padding,) * 4, mode=mode).permute(0, 2, 3, 1)
    device = generator.device if generator is not None else "cpu"
    starts = torch.randint(0, 2 * padding + 1, (2, len(x)), generator=generator, device=device).to(x.device)
    rows = starts[0][:, None] + torch.arange(height, device=x.device)
    columns = starts[1][:, None] + torch.arange(width, device=x.device)
    samples = torch.arange(len(x), device=x.device)[:, None, None]
    cut = around[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return cut.contiguous()  # as what came in: a network may take for granted how its input lies


def cutout(x: Tensor, side: float, generator: Generator | None = None) -> Tensor:
    """Hide a square around a random pixel of each sample, over the edge too (DeVries and Taylor, 2017).

    Args:
        x: ``(batch, channel, height, width)``.
        side: of the square, as a share of the image's shorter side, in 0..1; 0 changes nothing.
        generator: source of the places.

    Returns:
        The batch with 0, the mean colour of standardised images, in the squares.

    Raises:
        InputError: ``x`` does not have four axes.
        ConfigError: the share is not in 0..1.
    """
    _check(x)
    if not within(side, 0, 1):
        raise ConfigError(f"The side of a cutout must be a share of the image in 0..1, got {side!r}")
    if not x.numel():
        return x
    length = math.floor(side * min(x.shape[2:]) + 0.5)
    device = generator.device if generator is not None else "cpu"
    hidden = []
    for size in x.shape[2:]:
        centres = torch.randint(0, size, (len(x), 1), generator=generator, device=device).to(x.device)
        places = torch.arange(size, device=x.device) - centres + length // 2
        hidden.append((places >= 0) & (places < length))
    return x.masked_fill((hidden[0][:, None, :, None] & hidden[1][:, None, None, :]), 0.0)


def colour_jitter(x: Tensor, strength: float, generator: Generator | None = None) -> Tensor:
    """Change brightness, contrast and saturation of each sample.

    Contrast is about the sample's mean and saturation about each pixel's, each by a factor of up to
    ``1 ± strength``; brightness moves by up to ``strength`` standard deviations.

    Args:
        x: ``(batch, channel, height, width)``.
        strength: of all three, in 0..1; 0 changes nothing.
        generator: source of the changes.

    Raises:
        InputError: ``x`` does not have four axes, or holds no floats.
        ConfigError: the strength is not in 0..1.
    """
    _check(x)
    if not within(strength, 0, 1):
        raise ConfigError(f"The strength of a change of colour must lie in 0..1, got {strength!r}")
    if not x.is_floating_point():
        raise InputError(f"Images whose colours change hold floats, got {x.dtype}; convert them first")
    if not strength:
        return x
    drawn = torch.stack([_uniform(len(x), generator) for _ in range(3)]).to(x) * 2 - 1
    brightness, contrast, saturation = (drawn * strength)[:, :, None, None, None]
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * (1 + contrast) + brightness
    if x.shape[1] == 1:
        return x
    grey = x.mean(dim=1, keepdim=True)
    return grey + (x - grey) * (1 + saturation)


def _check(x: Tensor) -> None:
    if x.ndim != 4:
        raise InputError(f"Images are (batch, channel, height, width), got shape {tuple(x.shape)}")


def _uniform(count: int, generator: Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.rand(count, generator=generator, device=device)
