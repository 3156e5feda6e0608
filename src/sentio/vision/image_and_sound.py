"""The front end of eyes and ears: a picture and the sound around it in, features of both out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sentio.core import registry
from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import Prepared
from sentio.core.registry import register
from sentio.vision.density import Placement

#: the network's input that sound is for
AUDIO = "audio"
#: folders beside the picture's in which its sound may lie, and what such a file may end in
FOLDERS = ("sounds", "audio", "audios", "auds")
ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
#: what each of the two is scaled by is kept in one place, under ``mean`` and ``std``
SCALE = ("mean", "std")
#: a front end of sound that is built where no name is given
SOUND = "log-mel"

ByInput = Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ImageAndSound:
    """A picture as ``main`` and the sound of its moment as ``audio``; a `sentio.core.features.FrontEnd`.

    Args:
        picture: options of the front end ``image``.
        sound: options of a front end of sound; ``name`` among them says which, ``log-mel`` by default. A
            recording longer than its window is heard around its middle.
        mean, std: what features are standardised with, by input. A training fits them on its training part
            where they are None; 0 and 1 until then.

    Raises:
        ConfigError: a setting is not possible.
    """

    name: ClassVar[str] = "image-and-sound"

    picture: Mapping[str, Any] = field(default_factory=dict)
    sound: Mapping[str, Any] = field(default_factory=dict)
    mean: ByInput = None
    std: ByInput = None

    def __post_init__(self) -> None:
        for key in ("picture", "sound"):
            given = getattr(self, key)
            if not isinstance(given, Mapping):
                raise ConfigError(
                    f"Option {key!r} of front end {self.name!r} is names and values, got {given!r}"
                )
            named = [name for name in SCALE if given.get(name) is not None]
            if named:
                raise ConfigError(
                    f"Option {key!r} of front end {self.name!r} has {named[0]!r}; give it beside, by input"
                )
        for key in SCALE:
            value = getattr(self, key)
            if value is not None and (not isinstance(value, Mapping) or set(value) != {MAIN, AUDIO}):
                raise ConfigError(
                    f"Option {key!r} of front end {self.name!r} is a value for {MAIN} and one for {AUDIO}, "
                    f"got {value!r}"
                )
        if (self.mean is None) != (self.std is None):
            raise ConfigError(f"Front end {self.name!r} takes mean and std, or neither")
        scale = {key: (getattr(self, key) or {}).get(MAIN) for key in SCALE}
        eye = registry.build("frontend", "image", **{**self.picture, **scale})
        options = {key: value for key, value in self.sound.items() if key not in ("name", *SCALE)}
        ear = registry.build("frontend", self.sound.get("name", SOUND), **options)
        if set(ear.input_shapes) != {MAIN} or not hasattr(ear, "middle"):
            raise ConfigError(f"Front end {ear.name!r} does not hear; name one of sound, such as {SOUND}")
        object.__setattr__(self, "_eye", eye)
        object.__setattr__(self, "_ear", ear)

    @property
    def parts(self) -> tuple[Any, Any]:
        """The front ends of the picture, with its mean and deviation, and of the sound, without."""
        return self._eye, self._ear  # type: ignore[attr-defined]

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The picture's ``(channel, height, width)`` and the sound's ``(1, time, frequency)``."""
        eye, ear = self.parts
        return {MAIN: eye.input_shapes[MAIN], AUDIO: ear.input_shapes[MAIN]}

    def settings(self) -> dict[str, Any]:
        """Plain values that the builder takes as options, fit for JSON."""
        eye, ear = self.parts
        plain = [{k: v for k, v in part.settings().items() if k not in SCALE} for part in (eye, ear)]
        scale = {key: None if getattr(self, key) is None else dict(getattr(self, key)) for key in SCALE}
        return {"picture": plain[0], "sound": {"name": ear.name, **plain[1]}, **scale}

    def noise(self) -> dict[str, Any]:
        """A picture of random pixels, and a window of noise with samples per second."""
        eye, ear = self.parts
        rate, length = ear.features.rate, ear.window_samples
        sound = np.random.default_rng(0).normal(0.0, 0.1, length).astype(np.float32)
        return {MAIN: eye.noise(), AUDIO: (sound, rate)}

    def prepare(self, source: Any, *, hop: float | None = None) -> Prepared:
        """One picture with its sound.

        Args:
            source: ``{"main": picture, "audio": sound}`` or ``(picture, sound)``, each as its front end takes
                it, a sound that is known not to be there as None; or the path of a picture alone, whose sound
                has the same name and lies beside it or in a folder ``sounds`` or ``audio`` beside its own.
            hop: a picture has no time to hop in, so None.

        Returns:
            Inputs by name: ``main`` uint8 ``(1, channel, height, width)`` and ``audio`` float32
            ``(1, 1, time, frequency)``, which `finish` standardises. Silent is where there is nothing to see
            and nothing to hear.

        Raises:
            InputError: a source cannot be read, or a picture has no sound.
            ConfigError: a hop is given.
        """
        picture, sound = _both(source)
        if sound is None:
            shown = picture if isinstance(picture, str | PathLike) else "The picture"
            raise InputError(
                f"{shown} comes without a sound; name one, or use a front end and a network of pictures alone"
            )
        eye, ear = self.parts
        seen, heard = eye.prepare(picture, hop=hop), ear.middle(sound)
        inputs = {MAIN: seen.inputs, AUDIO: heard.inputs}
        return Prepared(
            inputs, seen.starts, seen.ends, seen.silent & heard.silent, (*seen.notes, *heard.notes)
        )

    def companions(self, source: str | PathLike[str]) -> dict[str, Path]:
        """The sound that `prepare` finds for a picture's path, under ``audio``; nothing if there is none."""
        found = _sound_beside(Path(source))
        return {} if found is None else {AUDIO: found}

    def finish(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Both standardised as a network takes them, batch first."""
        mean, std = (self.mean or {}).get(AUDIO, 0.0), (self.std or {}).get(AUDIO, 1.0)
        heard = (inputs[AUDIO] - np.float32(mean)) / np.float32(std)
        return {MAIN: self.parts[0].finish(inputs[MAIN]), AUDIO: heard.astype(np.float32, copy=False)}

    def fitted(self, inputs: Mapping[str, NDArray[Any]]) -> ImageAndSound:
        """The same front end with mean and deviation of these features.

        Raises:
            InputError: nothing is to be heard in any of them.
        """
        eye = self.parts[0].fitted(inputs[MAIN])
        heard = inputs[AUDIO]
        middle, spread = float(heard.mean(dtype=np.float64)), float(heard.std(dtype=np.float64))
        if spread < 1e-6 * max(1.0, abs(middle)):
            raise InputError(
                "Nothing to train on: the sounds of the training part do not vary, as of silence"
            )
        scale = {"mean": {MAIN: eye.mean, AUDIO: middle}, "std": {MAIN: eye.std, AUDIO: spread}}
        plain = {
            key: {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()}
            for key, value in scale.items()
        }
        return ImageAndSound(picture=self.picture, sound=self.sound, **plain)

    def placement(self, size: tuple[int, int]) -> Placement:
        """Where what is in a picture comes to lie, see `ImageFrontEnd.placement`."""
        place: Placement = self.parts[0].placement(size)
        return place


def _both(source: Any) -> tuple[Any, Any]:
    if isinstance(source, Mapping):
        if set(source) != {MAIN, AUDIO}:
            raise InputError(
                f"A picture with its sound has {MAIN!r} and {AUDIO!r}, got "
                f"{', '.join(map(str, source)) or 'none'}"
            )
        return source[MAIN], source[AUDIO]
    if isinstance(source, tuple) and len(source) == 2:
        return source
    if isinstance(source, str | PathLike):
        return source, _sound_of(Path(source))
    raise InputError(
        f"A picture with its sound is a pair, or the path of the picture, got {type(source).__name__}"
    )


def _sound_of(picture: Path) -> Path:
    """The sound of the same name.

    Raises:
        InputError: there is no such picture, or none of its sound.
    """
    if not picture.is_file():
        raise InputError(f"There is no image file {picture}; check the path")
    found = _sound_beside(picture)
    if found is None:
        raise InputError(
            f"{picture} has no sound of the same name; put {picture.stem}.wav beside it, or in a folder "
            f"{FOLDERS[0]} beside its own"
        )
    return found


def _sound_beside(picture: Path) -> Path | None:
    for folder in (picture.parent, *(picture.parent.parent / name for name in FOLDERS)):
        for ending in ENDINGS:
            if (folder / f"{picture.stem}{ending}").is_file():
                return folder / f"{picture.stem}{ending}"
    return None


@register("frontend", "image-and-sound")
def image_and_sound(
    *,
    picture: Mapping[str, Any] | None = None,
    sound: Mapping[str, Any] | None = None,
    mean: ByInput = None,
    std: ByInput = None,
) -> ImageAndSound:
    """A picture and a second of its sound, for networks with eyes and ears such as AudioCSRNet.

    Args:
        picture: options of the front end ``image``.
        sound: options of the front end ``log-mel``, or of the one that ``name`` among them names.
        mean, std: by input, ``main`` and ``audio``.

    Raises:
        ConfigError: a setting is not possible.
    """
    return ImageAndSound(picture=picture or {}, sound=sound or {}, mean=mean, std=std)
