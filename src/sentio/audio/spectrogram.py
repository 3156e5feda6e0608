"""A whole recording as a picture: a mel spectrogram with few enough frames to look at."""

from __future__ import annotations

from os import PathLike

import numpy as np
from numpy.typing import NDArray

from sentio.audio.frontend import LogMel
from sentio.audio.io import blocks, duration

RATE = 16000
BLOCK = 5.0  # seconds


def spectrogram(path: str | PathLike[str], *, frames: int = 600, bands: int = 96) -> NDArray[np.float32]:
    """Mean power of mel bands up to 8 kHz, in dB re full scale; a long file is read in constant memory.

    Args:
        path: a sound file of any rate and number of channels.
        frames: how many there are at most.
        bands: mel bands.

    Returns:
        ``(time, frequency)``.

    Raises:
        InputError: the file cannot be read as sound.
    """
    seconds = duration(path)
    log_mel = LogMel(rate=RATE, n_fft=1024, win_length=1024, hop_length=256, n_mels=bands, f_max=RATE / 2)
    sums = np.zeros((frames, bands))
    counts = np.zeros(frames)
    place = 0.0
    for block in blocks(path, seconds=BLOCK, rate=RATE, mono=True):
        samples = block.samples[0]
        step = log_mel.hop_length / RATE
        power = 10.0 ** (log_mel(np.pad(samples, (0, max(0, log_mel.n_fft - len(samples))))) / 10)
        used = max(1, min(len(power), round(len(samples) / log_mel.hop_length)))
        times = place + (np.arange(used) + 0.5) * step
        columns = np.minimum((times / max(seconds, step) * frames).astype(int), frames - 1)
        np.add.at(sums, columns, power[:used])
        np.add.at(counts, columns, 1)
        place += len(samples) / RATE
    filled = counts > 0
    return (10 * np.log10(np.maximum(sums[filled] / counts[filled, None], log_mel.amin))).astype(np.float32)
