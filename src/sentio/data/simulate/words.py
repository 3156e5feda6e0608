"""Spoken words in many voices, by speech synthesisers: keywords to start from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from sentio import __version__
from sentio.audio.io import from_array, resample, to_mono
from sentio.core.errors import ArtifactError, CancelledError, ConfigError
from sentio.data.processes import cores
from sentio.data.simulate.accents import Accents, check_accents
from sentio.data.simulate.jobs import write
from sentio.data.simulate.rendering import SETTINGS, begun, check_settings, stems, table
from sentio.data.simulate.synthesisers import SYNTHESISERS, installed

#: words a minute, pitch from 0 to 99, and dB of noise below the word
PACES, PITCHES, SNR = (100, 260), (10, 95), (15.0, 45.0)
#: what is left before and after the word, s, and how much fainter than its peak its ends are
MARGIN, ENDS = 0.03, 0.02
META = ("filename", "label", "word", "program", "voice", "words_a_minute", "pitch", "size", "snr_db")
#: the program that reads other languages
READER = "espeak-ng"
#: of a speaker, at most so many times larger or smaller than the voice
MOST_SIZE = 0.5


@dataclass(frozen=True)
class Spoken:
    """A word as one voice says it.

    Args:
        filename, label, word: where it goes, its class, and what is said.
        program, voice: who says it, the voice as the program names it.
        pace: words a minute.
        pitch: from 0 to 99.
        size: of the speaker, over the voice's own: lowers pitch and formants alike.
        snr: dB of white noise below it.
        key: of the noise.
    """

    filename: str
    label: str
    word: str
    program: str
    voice: str
    pace: int
    pitch: int
    size: float
    snr: float
    key: tuple[int, ...]


def render_words(
    out: str | Path,
    words: Sequence[str] | Mapping[str, str],
    *,
    per_word: int,
    language: str = "en",
    programs: Sequence[str] = ("espeak-ng",),
    sizes: float = 0.0,
    accents: Accents | None = None,
    accented: float = 0.5,
    seed: int = 0,
    rate: int = 16000,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """Words said by many synthetic voices: data for a keyword spotter to start from.

    Writes ``audio/WORD_0000.wav`` and so on, cut to the word, ``meta.csv`` and ``simulation.json``;
    `sentio.open_data` takes the folder. Voices, paces and pitches are drawn at random from all that a
    program has for the language, each program as often; the same versions give the same files.

    Args:
        out: a folder, made if it is not there.
        words: what is said; or label -> what is said, where they are not the same.
        per_word: clips of each word.
        language: ``en`` in all its accents, or any language or accent that the programs know.
        programs: ``espeak-ng``, in hundreds of voices that no person has, and ``flite``, in four that persons
            lent (English only).
        sizes: how much larger or smaller than a voice its speakers are at most, up to 0.5: pitch and formants
            are lowered or raised by a factor drawn from 1 / (1 + sizes) to 1 + sizes.
        accents: language -> label -> the word as a speaker of that language says it, in its spelling;
            ``espeak-ng`` reads it with the rules and sounds of that language.
        accented: where there are ``accents``, the share of clips that have one, each as often.
        seed: of all that is random.
        rate: samples per second, 8000 to 48000.
        workers: programs at once; by default one per core.
        progress: called with (clips done, clips in all).
        cancel: asked between clips; true stops the work.

    Returns:
        The folder.

    Raises:
        UnknownNameError: no such program here.
        MissingProgramError: a program is not installed.
        ConfigError: a setting is not possible, an accent does not spell the words, or a program does not know
            a language or say a word.
        ArtifactError: the folder holds something else, or cannot be written.
        CancelledError: ``cancel`` said so.
    """
    said = dict(words) if isinstance(words, Mapping) else {word: word for word in words}
    if len(said) < 2 or not all(text.strip() for pair in said.items() for text in pair):
        raise ConfigError(f"A keyword spotter needs at least two words to tell apart, got {list(said)}")
    if per_word < 1:
        raise ConfigError(f"There must be at least 1 clip per word, got {per_word!r}")
    if not 0.0 <= sizes <= MOST_SIZE:
        raise ConfigError(f"Speakers differ in size by 0 to {MOST_SIZE}, got {sizes!r}")
    if not 0.0 < accented <= 1.0:
        raise ConfigError(f"The share of clips with an accent is above 0 and at most 1, got {accented!r}")
    check_accents(accents or {}, said)
    if accents and READER not in programs:
        raise ConfigError(f"Accents are said by {READER}; name it among the programs: {', '.join(programs)}")
    check_settings(seed, rate, workers)
    folder = Path(out)
    speakers = installed(programs)
    own = [_Way(speaker.program, speaker.voices(language), said) for speaker in speakers]
    foreign = [
        _Way(READER, SYNTHESISERS[READER].voices(other), spelled)
        for other, spelled in (accents or {}).items()
    ]
    draw = np.random.default_rng(seed)
    jobs = []
    for place, (label, stem) in enumerate(zip(said, stems(list(said)), strict=True)):
        for number in range(per_word):
            ways = foreign if foreign and draw.random() < accented else own
            way = ways[int(draw.integers(len(ways)))] if len(ways) > 1 else ways[0]
            jobs.append(
                Spoken(
                    f"{stem}_{number:04d}.wav",
                    label,
                    way.words[label],
                    way.program,
                    str(draw.choice(way.voices)),
                    int(draw.integers(*PACES)),
                    int(draw.integers(*PITCHES)),
                    _size(sizes, draw),
                    float(draw.uniform(*SNR)),
                    (seed, place, number),
                )
            )
    settings = {
        "format": 1,
        "sentio": __version__,
        "programs": [f"{speaker.program}: {speaker.version()}" for speaker in speakers],
        "kind": "words",
        "words": said,
        "per_word": per_word,
        "language": language,
        "sizes": sizes,
        "accents": {name: dict(table) for name, table in (accents or {}).items()},
        "accented": accented if accents else 0.0,
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
        rows = [
            (
                j.filename,
                j.label,
                j.word,
                j.program,
                j.voice,
                j.pace,
                j.pitch,
                f"{j.size:.3f}",
                f"{j.snr:.1f}",
            )
            for j in jobs
        ]
        write(folder / "meta.csv", table([META, *rows]))
    except OSError as error:
        raise ArtifactError(f"{folder} could not be written: {error.strerror or error}") from error
    return folder


class _Way(NamedTuple):
    """Of saying the words: a program's voices, and what they are given to read, by label."""

    program: str
    voices: list[str]
    words: Mapping[str, str]


def say(job: Spoken, rate: int) -> NDArray[np.float32]:
    """One word, cut to it, with its noise, peak 0.5; shape ``(time,)``.

    Raises:
        ConfigError: the program cannot say it.
    """
    # A larger speaker is a recording played slowly, so that it has to be spoken faster.
    speaker = SYNTHESISERS[job.program]
    samples, own_rate = speaker.say(job.word, job.voice, job.pace * job.size, job.pitch)
    loud = np.flatnonzero(np.abs(samples) > ENDS * np.abs(samples).max(initial=0.0))
    if not len(loud):
        raise ConfigError(
            f"{job.program} does not say {job.word!r} with voice {job.voice!r}; take another word"
        )
    own_rate = round(own_rate / job.size)
    margin = round(MARGIN * own_rate)
    samples = samples[max(loud[0] - margin, 0) : loud[-1] + margin]
    clip = resample(to_mono(from_array(samples, own_rate, what="The word")), rate).samples[0]
    noise = np.random.default_rng(job.key).standard_normal(len(clip))
    clip = clip + noise * np.sqrt(np.mean(clip**2)) * 10 ** (-job.snr / 20)
    spoken: NDArray[np.float32] = (0.5 * clip / np.abs(clip).max()).astype(np.float32)
    return spoken


def _size(sizes: float, draw: np.random.Generator) -> float:
    return float((1.0 + sizes) ** draw.uniform(-1, 1)) if sizes else 1.0


def _files(folder: Path, jobs: Sequence[Spoken]) -> list[Path]:
    return [folder / job.filename for job in jobs]


def _wav(clip: NDArray[np.float32], rate: int) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, clip, rate, format="WAV", subtype="PCM_16")
    return content.getvalue()
