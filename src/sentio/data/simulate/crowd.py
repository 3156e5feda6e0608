"""Pictures of crowds with the sound around them: people drawn on a square, who talk.

Heads are known to the pixel and the babble grows with their number, so a counter with eyes and ears can be
trained and tested where no public data is. Pictures may be dark, blurred or noisy; the sound stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError
from sentio.data.simulate.signals import band, noise
from sentio.data.simulate.voices import CONSONANTS, talker

Condition = Literal["clear", "dark", "blurred", "noisy"]
CONDITIONS: tuple[Condition, ...] = ("clear", "dark", "blurred", "noisy")
#: talkers that are rendered one by one; more of them are as loud as they would be
_VOICES = 6


@dataclass(frozen=True)
class CrowdSettings:
    """How scenes are drawn.

    Args:
        size: (height, width) of the picture in pixels.
        people: fewest and most; each scene draws its number in between, small ones more often.
        condition: ``clear``; ``dark``, with a fifth of the light or less and the camera's noise; ``blurred``,
            by up to a twentieth of the height; ``noisy``, with noise as strong as the contrast.
        rate: of the sound, Hz.
        seconds: of the sound.
        talking: share of the people who talk.
        spread: standard deviation in dB of how loud a crowd is for its number.

    Raises:
        ConfigError: a value out of range.
    """

    size: tuple[int, int] = (96, 128)
    people: tuple[int, int] = (0, 60)
    condition: Condition = "clear"
    rate: int = 16000
    seconds: float = 1.0
    talking: float = 0.5
    spread: float = 1.5

    def __post_init__(self) -> None:
        least, most = self.people
        if not 0 <= least <= most:
            raise ConfigError(f"A crowd has from 0 people up, the fewest first, got people={self.people}")
        if min(self.size) < 16:
            raise ConfigError(f"Pictures of crowds are at least 16x16, got {self.size[0]}x{self.size[1]}")
        if self.condition not in CONDITIONS:
            raise ConfigError(
                f"A crowd's condition is one of {', '.join(CONDITIONS)}, got {self.condition!r}"
            )
        if self.rate < 8000 or not self.seconds > 0 or not 0 <= self.talking <= 1 or self.spread < 0:
            raise ConfigError(
                "A crowd's sound has a rate from 8000 Hz, a length above 0, a share of talkers from 0 to 1 "
                f"and a spread from 0 dB, got {self.rate}, {self.seconds}, {self.talking} and {self.spread}"
            )


@dataclass(frozen=True)
class CrowdPicture:
    """A picture, its sound, and where the heads are.

    Args:
        pixels: ``(height, width, 3)`` uint8.
        sound: ``(samples,)`` float32, within -1 to 1.
        rate: of the sound, Hz.
        points: ``(n, 2)`` of (x, y), the middle of each head, front heads last.
        condition: how the picture was spoilt.
    """

    pixels: NDArray[np.uint8]
    sound: NDArray[np.float32]
    rate: int
    points: NDArray[np.float64]
    condition: str

    @property
    def count(self) -> int:
        return len(self.points)


def crowd_picture(
    seed: int | Sequence[int], settings: CrowdSettings | None = None, **options: Any
) -> CrowdPicture:
    """One scene; the same seed and options give the same people under every condition.

    Args:
        seed: of everything, a whole number from 0 or several.
        settings: or its fields as ``options``.

    Raises:
        ConfigError: a value out of range.
    """
    settings = CrowdSettings(**options) if settings is None else settings
    people, looks, spoiling, voices = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
    )
    least, most = settings.people
    count = least + int(np.floor((most - least + 1) * people.uniform() ** 1.5))
    points, scales = _places(people, count, settings.size)
    image = _ground(looks, settings.size)
    for point, scale in zip(points, scales, strict=True):
        _draw(looks, image, point, scale)
    return CrowdPicture(
        pixels=(255 * _spoilt(spoiling, image, settings.condition)).round().astype(np.uint8),
        sound=_babble(voices, count, settings),
        rate=settings.rate,
        points=points,
        condition=settings.condition,
    )


def _places(
    generator: np.random.Generator, count: int, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heads on a plane that a camera looks down on, and how large each is; far ones first.

    Three in five are drawn around a few centres, but depths are sorted without their places across: people
    bunch across the picture and bunch in depth, each by itself, and do not stand together in groups. Figures
    were published with these scenes, so a seed keeps giving them.
    """
    height, width = size
    groups = max(1, count // 8)
    centres = generator.uniform((0.05, 0.0), (0.95, 1.0), (groups, 2))
    place = centres[generator.integers(groups, size=count)] + generator.normal(0, 0.12, (count, 2))
    lone = generator.uniform(size=count) < 0.4
    place[lone] = generator.uniform((0.0, 0.0), (1.0, 1.0), (int(lone.sum()), 2))
    place = np.abs(place) % 2
    place = np.where(place > 1, 2 - place, place)  # mirrored at the edges
    depth = np.sort(place[:, 1])
    # From far to near a person grows from 1/16 to 1/5 of the picture's height.
    scales = height * (1 / 16 + (1 / 5 - 1 / 16) * depth)
    y = height * (0.18 + 0.62 * depth**1.2)
    x = place[:, 0] * (width - 1)
    return np.stack([np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)], axis=1), scales


def _ground(generator: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """A sky or a wall above a square, with patches of light, some posts and grain."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    far, near = generator.uniform(0.45, 0.8, 3), generator.uniform(0.3, 0.7, 3)
    horizon = generator.uniform(0.08, 0.16)
    image = np.where(rows[..., None] < horizon, far, near + (far - near) * (1 - rows[..., None]) * 0.4)
    for _ in range(4):
        middle, reach = generator.uniform(0, 1, 2), generator.uniform(0.1, 0.4)
        lit = np.exp(-((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2) / reach**2)
        image = image + generator.uniform(-0.12, 0.12) * lit[..., None]
    for _ in range(generator.integers(0, 4)):  # posts and poles, that a counter must leave out
        left, top = int(generator.uniform(0, width)), int(height * generator.uniform(0, 0.5))
        image[top : top + height // 3, left : left + max(1, width // 60)] = generator.uniform(0.1, 0.8, 3)
    return np.clip(image + generator.normal(0, 0.02, image.shape), 0, 1)


def _draw(
    generator: np.random.Generator, image: NDArray[np.float64], head: NDArray[np.float64], scale: float
) -> None:
    """A body, an oval from the shoulders down, and a head over it; ``scale`` is the person's height."""
    x, y = head
    radius = scale / 8
    clothes, skin = generator.uniform(0, 1, 3), generator.uniform(0.25, 0.9) * np.array([1.0, 0.78, 0.62])
    hair = generator.uniform(0, 0.35, 3)
    wide = generator.uniform(0.16, 0.22) * scale
    _oval(image, x, y + 0.5 * scale, wide, 0.42 * scale, clothes)
    _oval(image, x, y, radius, 1.2 * radius, skin)
    _oval(image, x, y - 0.5 * radius, radius, 0.8 * radius, hair)


def _oval(
    image: NDArray[np.float64], x: float, y: float, half_width: float, half_height: float, colour: Any
) -> None:
    height, width = image.shape[:2]
    top, bottom = max(int(y - half_height - 1), 0), min(int(y + half_height + 2), height)
    left, right = max(int(x - half_width - 1), 0), min(int(x + half_width + 2), width)
    if top >= bottom or left >= right:
        return
    rows, columns = np.mgrid[top:bottom, left:right]
    inside = np.hypot((columns - x) / half_width, (rows - y) / half_height)
    soft = np.clip((1 - inside) * min(half_width, half_height) + 0.5, 0, 1)[..., None]
    part = image[top:bottom, left:right]
    part += soft * (colour - part)


def _spoilt(
    generator: np.random.Generator, image: NDArray[np.float64], condition: str
) -> NDArray[np.float64]:
    if condition == "dark":
        image = image * generator.uniform(0.02, 0.2) + generator.normal(0, 0.04, image.shape)
    elif condition == "blurred":
        image = _blurred(image, image.shape[0] * generator.uniform(0.03, 0.05))
    elif condition == "noisy":
        image = image + generator.normal(0, generator.uniform(0.2, 0.35), image.shape)
    return np.clip(image, 0, 1)


def _blurred(image: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """A Gaussian along both sides, the edges continued."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(reach, reach) if other == axis else (0, 0) for other in range(3)]
        padded = np.pad(image, padding, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=axis)
        image = windows @ weights
    return image


def _babble(generator: np.random.Generator, count: int, settings: CrowdSettings) -> NDArray[np.float32]:
    """Those who talk, over the murmur of the place: each talker adds the same power on average."""
    rate, samples = settings.rate, round(settings.seconds * settings.rate)
    murmur = noise(generator, samples, rate, band(100, 3000, 1))
    murmur = murmur / (np.sqrt(np.mean(murmur**2)) + 1e-9)
    total = 0.6 * murmur
    talkers = generator.binomial(count, settings.talking)
    rendered = min(talkers, _VOICES)
    if rendered:
        breath = noise(generator, samples, rate, band(200, min(8000, 0.45 * rate), 1))
        kinds = [
            noise(generator, round(0.12 * rate), rate, band(low, min(high, 0.45 * rate), 1))
            for low, high in CONSONANTS
        ]
        voices = sum(
            np.exp(generator.normal(0, 0.3)) * talker(generator, breath, kinds, rate) for _ in range(rendered)
        )
        voices = voices / (np.sqrt(np.mean(voices**2)) + 1e-9)
        # Unrelated voices add in power.
        total = total + np.sqrt(talkers) * voices
    loudness = 0.03 * 10 ** (generator.normal(0, settings.spread) / 20)
    return np.clip(loudness * total, -1, 1).astype(np.float32)
