"""The front end by itself: any file or array to log-mel features, in numpy."""

import numpy as np

from sentio.audio.frontend import LogMel
from sentio.audio.windows import AudioFrontEnd

chirp = np.sin(2 * np.pi * np.cumsum(np.linspace(100, 4000, 48000)) / 16000).astype(np.float32)

log_mel = LogMel(rate=16000, n_fft=512, hop_length=160, n_mels=64)
print("frames by bands:", log_mel(chirp).shape)

windows = AudioFrontEnd(log_mel, window=1.0).prepare((chirp, 16000), hop=0.5)
for start, end, features in zip(windows.starts, windows.ends, windows.inputs, strict=True):
    print(f"{start:.1f} to {end:.1f} s: loudest band {features[0].mean(axis=0).argmax()}")
