"""Front ends by name: the features that published networks take, and two that are not log-mels."""

import numpy as np

from sentio.audio.presets import PRESETS
from sentio.core import registry

rate = 16000
time = np.arange(4 * rate) / rate
siren = (0.3 * np.sin(2 * np.pi * (700 * time + 40 * np.sin(2 * np.pi * time)))).astype(np.float32)

for preset in PRESETS:
    frontend = registry.build("frontend", "log-mel", preset=preset)
    features = frontend.prepare((siren, rate)).inputs
    print(f"log-mel {preset:18} windows by 1 by time by mel: {features.shape}")

scalogram = registry.build("frontend", "scalogram", rate=rate, f_max=7500.0, n_scales=64)
loudest = scalogram.prepare((siren, rate)).inputs.mean(axis=(0, 1, 2)).argmax()
print(f"scalogram: loudest around {scalogram.features.frequencies()[loudest]:.0f} Hz")

waveform = registry.build("frontend", "waveform").prepare((siren, rate)).inputs
print(f"waveform: {waveform.shape}, peak {np.abs(waveform).max():.1f}")
