"""Listen to a stream of sound blocks with a shipped model, each window by a deadline."""

import tempfile
from pathlib import Path

import sentio
from sentio.audio.io import blocks
from sentio.data.simulate.rendering import render_street
from sentio.serve.listening import listen

model = sentio.load("street-sounds")
with tempfile.TemporaryDirectory() as scratch:
    street = render_street(Path(scratch) / "street", minutes=0.25, seed=3)
    recording = min((street / "audio").glob("*.wav"))
    # A microphone would give such blocks: mono, at the model's rate, of any length.
    microphone = blocks(recording, seconds=0.1, rate=model.frontend.log_mel.rate, mono=True)
    for window in listen(model, microphone, hop=1.0, deadline_ms=20):
        print(
            f"{window.start:4.1f} to {window.end:4.1f} s: {window.label} {window.score:.2f} "
            f"from {window.exit} in {window.milliseconds:.1f} ms"
        )
