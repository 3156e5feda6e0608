"""Spoken words in many voices, by the speech synthesiser eSpeak NG: keywords to start from."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from sentio import __version__
from sentio.audio.io import from_array, resample, to_mono
from sentio.core.errors import ArtifactError, CancelledError, ConfigError, MissingProgramError
from sentio.data.processes import cores
from sentio.data.simulate.jobs import write
from sentio.data.simulate.rendering import SETTINGS, begun, check_settings, stems, table

PROGRAM = "espeak-ng"
#: ways of speaking a language
ACCENTS: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029"),
}
#: variants of a voice that nobody speaks with
UNNATURAL = frozenset({"fast", "whisper", "whisperf", "demonic"})
#: words a minute, the program's pitch from 0 to 99, and dB of noise below the word
PACES, PITCHES, SNR = (100, 260), (10, 95), (15.0, 45.0)
#: what is left before and after the word, s, and how much fainter than its peak its ends are
MARGIN, ENDS = 0.03, 0.02
META = ("filename", "label", "word", "voice", "words_a_minute", "pitch", "snr_db")


@dataclass(frozen=True)
class Spoken:
    """A word as one voice says it.

    Args:
        filename, label, word: where it goes, its class, and what is said.
        voice: as the program names it.
        pace: words a minute.
        pitch: from 0 to 99.
        snr: dB of white noise below it.
        key: of the noise.
    """

    filename: str
    label: str
    word: str
    voice: str
    pace: int
    pitch: int
    snr: float
    key: tuple[int, ...]


def render_words(
    out: str | Path,
    words: Sequence[str] | Mapping[str, str],
    *,
    per_word: int,
    language: str = "en",
    seed: int = 0,
    rate: int = 16000,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """Words said by many synthetic voices: data for a keyword spotter to start from.

    Writes ``audio/WORD_0000.wav`` and so on, cut to the word, ``meta.csv`` and ``simulation.json``;
    `sentio.open_data` takes the folder. Voices, paces and pitches are drawn at random from all that the
    program has for the language; the same version of it gives the same files.

    Args:
        out: a folder, made if it is not there.
        words: what is said; or label -> what is said, where they are not the same.
        per_word: clips of each word.
        language: ``en`` in all its accents, or any language or accent that the program knows.
        seed: of all that is random.
        rate: samples per second, 8000 to 48000.
        workers: programs at once; by default one per core.
        progress: called with (clips done, clips in all).
        cancel: asked between clips; true stops the work.

    Returns:
        The folder.

    Raises:
        MissingProgramError: eSpeak NG is not installed.
        ConfigError: a setting is not possible, or the program does not know the language or say the word.
        ArtifactError: the folder holds something else, or cannot be written.
        CancelledError: ``cancel`` said so.
    """
    said = dict(words) if isinstance(words, Mapping) else {word: word for word in words}
    if len(said) < 2 or not all(text.strip() for pair in said.items() for text in pair):
        raise ConfigError(f"A keyword spotter needs at least two words to tell apart, got {list(said)}")
    if per_word < 1:
        raise ConfigError(f"There must be at least 1 clip per word, got {per_word!r}")
    check_settings(seed, rate, workers)
    folder = Path(out)
    voices, version = _voices(language)
    draw = np.random.default_rng(seed)
    jobs = [
        Spoken(
            f"{stem}_{number:04d}.wav",
            label,
            said[label],
            str(draw.choice(voices)),
            int(draw.integers(*PACES)),
            int(draw.integers(*PITCHES)),
            float(draw.uniform(*SNR)),
            (seed, place, number),
        )
        for place, (label, stem) in enumerate(zip(said, stems(list(said)), strict=True))
        for number in range(per_word)
    ]
    settings = {
        "format": 1,
        "sentio": __version__,
        "program": version,
        "kind": "words",
        "words": said,
        "per_word": per_word,
        "language": language,
        "seed": seed,
        "rate": rate,
        "samples": None,
        "notes": [],
    }
    sound = folder / "audio"
    if begun(folder, settings) and all(p.is_file() for p in (folder / "meta.csv", *_files(sound, jobs))):
        return folder
    try:
        sound.mkdir(parents=True, exist_ok=True)
        (folder / "meta.csv").unlink(missing_ok=True)
        write(folder / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
        with ThreadPoolExecutor(workers or cores()) as pool:
            for done, (job, clip) in enumerate(
                zip(jobs, pool.map(lambda job: say(job, rate), jobs), strict=True)
            ):
                if cancel is not None and cancel():
                    pool.shutdown(cancel_futures=True)
                    raise CancelledError(f"Speaking was stopped on request after {done} of {len(jobs)} words")
                write(sound / job.filename, _wav(clip, rate))
                if progress is not None:
                    progress(done + 1, len(jobs))
        rows = [(j.filename, j.label, j.word, j.voice, j.pace, j.pitch, f"{j.snr:.1f}") for j in jobs]
        write(folder / "meta.csv", table([META, *rows]))
    except OSError as error:
        raise ArtifactError(f"{folder} could not be written: {error.strerror or error}") from error
    return folder


def say(job: Spoken, rate: int) -> NDArray[np.float32]:
    """One word, cut to it, with its noise, peak 0.5; shape ``(time,)``.

    Raises:
        ConfigError: the program cannot say it.
    """
    # "--" ends the options, so that no word is taken for one.
    command = [
        PROGRAM,
        "-v",
        job.voice,
        "-s",
        str(job.pace),
        "-p",
        str(job.pitch),
        "--stdout",
        "--",
        job.word,
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    try:
        samples, own_rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    except soundfile.SoundFileError:
        samples = np.zeros(0, np.float32)
    loud = np.flatnonzero(np.abs(samples) > ENDS * np.abs(samples).max(initial=0.0))
    if not len(loud):
        raise ConfigError(f"{PROGRAM} does not say {job.word!r} with voice {job.voice!r}; take another word")
    margin = round(MARGIN * own_rate)
    samples = samples[max(loud[0] - margin, 0) : loud[-1] + margin]
    clip = resample(to_mono(from_array(samples, own_rate, what="The word")), rate).samples[0]
    noise = np.random.default_rng(job.key).standard_normal(len(clip))
    clip = clip + noise * np.sqrt(np.mean(clip**2)) * 10 ** (-job.snr / 20)
    return (0.5 * clip / np.abs(clip).max()).astype(np.float32)


def _voices(language: str) -> tuple[list[str], str]:
    """Every accent of the language in every variant, and the program's version."""
    if shutil.which(PROGRAM) is None:
        raise MissingProgramError(
            f"Spoken words need the program {PROGRAM}, which is not installed; install eSpeak NG, on Debian "
            f"and Ubuntu with: apt install {PROGRAM}"
        )
    known = {line.split()[1] for line in _lines("--voices")}
    accents = [accent for accent in ACCENTS.get(language, (language,)) if accent in known]
    if not accents:
        raise ConfigError(f"{PROGRAM} does not speak {language!r}; {PROGRAM} --voices lists what it speaks")
    files = [line.split("!v/")[1].split()[0] for line in _lines("--voices=variant") if "!v/" in line]
    variants = sorted(name for name in files if name.lower() not in UNNATURAL)
    voices = [f"{accent}+{variant}" for accent in accents for variant in variants] or accents
    return voices, subprocess.run([PROGRAM, "--version"], capture_output=True, text=True).stdout.split("  ")[
        0
    ]


def _lines(option: str) -> list[str]:
    found = subprocess.run([PROGRAM, option], capture_output=True, text=True, check=False)
    return [line for line in found.stdout.splitlines()[1:] if len(line.split()) > 1]


def _files(folder: Path, jobs: Sequence[Spoken]) -> list[Path]:
    return [folder / job.filename for job in jobs]


def _wav(clip: NDArray[np.float32], rate: int) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, clip, rate, format="WAV", subtype="PCM_16")
    return content.getvalue()
