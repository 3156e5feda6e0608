"""Another pitch, tempo and microphone: a sound changed, and a data set with copies. Needs no PyTorch."""

from pathlib import Path

import numpy as np

from sentio.audio import augmentation_waveform as waveform
from sentio.audio import io
from sentio.audio.augmentation_chain import WaveformChanges
from sentio.audio.impulse_responses import synthetic_microphones
from sentio.data.augmenting import augment_data
from sentio.data.readers import open_data
from sentio.data.splits import splits

RATE = 16000
tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)


def pitch(samples):
    return np.argmax(np.abs(np.fft.rfft(samples, 8 * RATE))) / 8


def level(samples):
    return 20 * np.log10(np.sqrt(np.mean(samples**2)))


print(f"original      {pitch(tone):7.2f} Hz {len(tone)} samples {level(tone):6.1f} dB")
for name, changed in {
    "two semitones": waveform.pitch_shift(tone, 2),
    "faster": waveform.time_stretch(tone, 1.1),
    "microphone 7": waveform.impulse_response(tone, synthetic_microphones(RATE)[7]),
    "all, drawn": WaveformChanges(pitch=2, stretch=(0.9, 1.1), noise=(10, 30), impulse_response=1.0)(
        tone, RATE, np.random.default_rng(0)
    ),
}.items():
    print(f"{name:13} {pitch(changed):7.2f} Hz {len(changed)} samples {level(changed):6.1f} dB")

for label, hertz in (("low", 220), ("high", 880)):
    Path("tones", label).mkdir(parents=True)
    for number in range(5):
        clip = np.sin(2 * np.pi * hertz * (1 + number / 50) * np.arange(4000) / RATE)
        io.write(f"tones/{label}/{number}.wav", 0.3 * clip, RATE)

found = augment_data("tones", "more", "data-hunger", seed=1, processes=1)
print(dict(found.files))
data = open_data("more")
split = splits(data)[0]
tested = {data.items[place].name for place in split.test}
print(f"trained on {len(split.train)} of {len(data)} files, tested on {sorted(tested)}")
assert not any(data.items[place].details["augmented_from"] in tested for place in split.train)
