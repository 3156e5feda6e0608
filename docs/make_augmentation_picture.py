"""Write docs/img/augmentation.png: ``python docs/make_augmentation_picture.py``. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from sentio.audio import augmentation_waveform as waveform
from sentio.audio.frontend import LogMel
from sentio.audio.impulse_responses import synthetic_microphones

PICTURE = Path(__file__).parent / "img" / "augmentation.png"
RATE = 16000


def sound() -> np.ndarray:
    """Two calls over noise, with a few harmonics each."""
    time = np.arange(2 * RATE) / RATE
    found = np.random.default_rng(0).normal(0, 0.003, len(time))
    for start, hertz in ((0.25, 500.0), (1.1, 700.0)):
        inside = (time - start) / 0.5
        shape = np.where((inside > 0) & (inside < 1), np.sin(np.pi * np.clip(inside, 0, 1)), 0)
        phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.5 * np.clip(inside, 0, 1))) / RATE
        found += sum(0.2 / k * shape * np.sin(k * phase) for k in range(1, 6))
    return found.astype(np.float32)


def main() -> None:
    x, draws = sound(), np.random.default_rng(3)
    panels = {
        "original": x,
        "time_shift, 0.4 s": waveform.time_shift(x, int(0.4 * RATE)),
        "pitch_shift, 4 semitones": waveform.pitch_shift(x, 4, n_fft=1024),
        "time_stretch, rate 0.8": waveform.fit_length(waveform.time_stretch(x, 0.8, n_fft=1024), len(x)),
        "time_mask, 0.4 s": waveform.time_mask(x, int(0.4 * RATE), draws),
        "band_mask": waveform.band_mask(x, 0.1, 0.25),
        "add_noise, 5 dB": waveform.add_noise(x, 5, draws),
        "impulse_response": waveform.impulse_response(x, synthetic_microphones(RATE)[3]),
    }
    log_mel = LogMel(rate=RATE, n_fft=1024, win_length=512, hop_length=256, n_mels=64)
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.4), sharex=True, sharey=True, layout="constrained")
    for axis, (title, samples) in zip(axes.flat, panels.items(), strict=True):
        axis.imshow(log_mel(samples).T, origin="lower", aspect="auto", extent=(0, 2, 0, 64), vmin=-75, vmax=5)
        axis.set_title(title, fontsize=10)
    for axis in axes[1]:
        axis.set_xlabel("s")
    for axis in axes[:, 0]:
        axis.set_ylabel("mel band")
    figure.savefig(PICTURE, dpi=70)


if __name__ == "__main__":
    main()
