"""Programs that say words: eSpeak NG in many voices and languages, Flite in few voices of people."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, MissingProgramError, UnknownNameError


class Synthesiser(Protocol):
    """A program that says words.

    ``program`` is its name, ``install`` how it is got; ``version()`` is what it says of itself.
    """

    @property
    def program(self) -> str: ...

    @property
    def install(self) -> str: ...

    def version(self) -> str: ...

    def voices(self, language: str) -> list[str]:
        """By name, sorted or in the order of accents.

        Raises:
            ConfigError: it does not speak the language.
        """
        ...

    def say(self, word: str, voice: str, pace: float, pitch: int) -> tuple[NDArray[np.float32], int]:
        """Samples ``(time,)`` or ``(time, channel)``, and their rate; no samples where it cannot say it.

        Args:
            word: what is said.
            voice: of `voices`.
            pace: words a minute.
            pitch: from 0 to 99.
        """
        ...


@dataclass(frozen=True)
class EspeakNG:
    """Formant synthesis: every accent of a language in every variant of a voice."""

    program: str = "espeak-ng"
    install: str = "eSpeak NG, on Debian and Ubuntu with: apt install espeak-ng"

    def version(self) -> str:
        return _said(self.program, "--version").split("  ")[0]

    def voices(self, language: str) -> list[str]:
        known = {line.split()[1] for line in self._table("--voices")}
        accents = [accent for accent in ACCENTS.get(language, (language,)) if accent in known]
        if not accents:
            raise ConfigError(
                f"{self.program} does not speak {language!r}; {self.program} --voices lists what it speaks"
            )
        files = [line.split("!v/")[1].split()[0] for line in self._table("--voices=variant") if "!v/" in line]
        variants = sorted(name for name in files if name.lower() not in UNNATURAL)
        return [f"{accent}+{variant}" for accent in accents for variant in variants] or accents

    def say(self, word: str, voice: str, pace: float, pitch: int) -> tuple[NDArray[np.float32], int]:
        # "--" ends the options, so that no word is taken for one.
        options = ["-v", voice, "-s", str(round(pace)), "-p", str(pitch), "--stdout", "--", word]
        return _samples([self.program, *options])

    def _table(self, option: str) -> list[str]:
        return [line for line in _said(self.program, option).splitlines()[1:] if len(line.split()) > 1]


@dataclass(frozen=True)
class Flite:
    """Voices made of recordings of people, four of them, English only; some keep their own pitch."""

    program: str = "flite"
    install: str = "Flite, on Debian and Ubuntu with: apt install flite"

    def version(self) -> str:
        lines = _said(self.program, "--version").splitlines()
        return next((line.partition("version:")[2].split()[0] for line in lines if "version:" in line), "")

    def voices(self, language: str) -> list[str]:
        if language.partition("-")[0] != "en":
            raise ConfigError(f"{self.program} speaks English, not {language!r}; leave it out")
        known = _said(self.program, "-lv").partition(":")[2].split()
        voices = [voice for voice in FLITE_VOICES if voice in known]
        if not voices:
            raise ConfigError(
                f"{self.program} has none of the voices {', '.join(FLITE_VOICES)}; leave it out"
            )
        return voices

    def say(self, word: str, voice: str, pace: float, pitch: int) -> tuple[NDArray[np.float32], int]:
        hertz = FLITE_VOICES[voice] * 2 ** ((pitch - 50) / 100)
        options = ["--setf", f"duration_stretch={FLITE_PACE / pace:.3f}"]
        options += ["--setf", f"int_f0_target_mean={hertz:.1f}"]
        return _samples([self.program, "-voice", voice, *options, "-t", word, "-o", "/dev/stdout"])


#: ways of speaking a language
ACCENTS: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029"),
}
#: variants of a voice that nobody speaks with
UNNATURAL = frozenset({"fast", "whisper", "whisperf", "demonic"})
#: voices of Flite, one for each speaker, and their pitch in hertz
FLITE_VOICES = {"awb": 125.0, "kal16": 105.0, "rms": 105.0, "slt": 175.0}
#: words a minute that Flite's voices say by themselves, about
FLITE_PACE = 170.0

SYNTHESISERS: dict[str, Synthesiser] = {"espeak-ng": EspeakNG(), "flite": Flite()}


def installed(names: Sequence[str]) -> list[Synthesiser]:
    """The programs of these names.

    Raises:
        UnknownNameError: no such program here.
        ConfigError: none is named, or one twice.
        MissingProgramError: one is not installed.
    """
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"Words are said by at least one program, each named once, got {list(names)}")
    for name in names:
        if name not in SYNTHESISERS:
            raise UnknownNameError("program", name, tuple(SYNTHESISERS))
        if shutil.which(name) is None:
            raise MissingProgramError(
                f"Spoken words need the program {name}, which is not installed; install "
                f"{SYNTHESISERS[name].install}"
            )
    return [SYNTHESISERS[name] for name in names]


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _samples(command: Sequence[str]) -> tuple[NDArray[np.float32], int]:
    done = subprocess.run(command, capture_output=True, check=False)
    try:
        read: tuple[Any, int] = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    except soundfile.SoundFileError:
        return np.zeros(0, np.float32), 1
    return read
