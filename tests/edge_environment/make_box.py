"""Write what `check_box.py` compares: an exported model, recordings, and PyTorch's answers about them.

    python make_box.py DIR

The network is small and untrained; what is tested is that both runtimes say the same. Its threshold is put
between the confidences of the recordings, so that some leave early and some do not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

import sentio
from sentio.core import registry
from sentio.core.staged import Staged
from sentio.core.torch_row import TorchRow

LABELS = ["low", "middle", "high"]


def main(folder: Path) -> None:
    clips = folder / "clips"
    clips.mkdir(parents=True)
    for name, samples, rate in recordings():
        soundfile.write(clips / f"{name}.wav", samples, rate)
    files = sorted(clips.iterdir())
    model = small_model()
    inputs = np.concatenate([model.frontend.prepare(file).inputs for file in files])
    early = model.answer(inputs, policy=sentio.Fixed("early")).confidence
    in_order = np.sort(early)
    widest = int(np.argmax(np.diff(in_order[1:-1]))) + 1
    model.policy = sentio.Confidence(float(in_order[widest : widest + 2].mean()))
    exported = sentio.export(model, folder / "box")
    answers = {file.name: model.predict(file).to_dict() for file in files}
    used = {window["exit"] for found in answers.values() for window in (*found["windows"], found)}
    if not used >= set(model.exit_names):
        sys.exit(f"The recordings use only the exits {sorted(used)}; the comparison needs all of them")
    (folder / "reference.json").write_text(json.dumps(answers, indent=1), encoding="utf-8")
    print(f"{folder}: {len(files)} recordings, exported stages differ by {exported.difference:.1e}")


def recordings() -> Iterator[tuple[str, np.ndarray, int]]:
    """(name, float32 samples ``(time,)`` or ``(time, channel)``, hertz)."""
    random = np.random.default_rng(0)
    for rate, hertz in ((16_000, 200.0), (16_000, 1500.0), (44_100, 5000.0)):
        time = np.arange(rate) / rate
        yield f"tone{hertz:.0f}", (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate
    noise = random.standard_normal(16_000 * 3).astype(np.float32)
    yield "noise", 0.1 * noise[:16_000], 16_000
    yield "clicks", np.where(noise[:16_000] > 3.0, 0.9, 0.0).astype(np.float32), 16_000
    yield "long", noise * np.linspace(0.0, 0.3, len(noise), dtype=np.float32), 16_000
    yield "short-stereo", 0.2 * noise[:12_000].reshape(-1, 2), 22_050
    yield "silence", np.zeros(16_000, dtype=np.float32), 16_000


def small_model() -> sentio.Model:
    frontend = registry.build(
        "frontend",
        "log-mel",
        window=1.0,
        rate=16_000,
        n_fft=512,
        hop_length=320,
        n_mels=32,
        mean=-40.0,
        std=20.0,
    )
    torch.manual_seed(0)
    net = Staged(
        {
            "stem": nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
            "body": nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()),
            "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(LABELS))),
        },
        input_shapes=frontend.input_shapes,
    )
    exits = sentio.add_exits(net, "pooled-linear", at=["stem"], names=["early"], classes=len(LABELS))
    with torch.no_grad():
        for last in (
            net.stage("head")[-1],
            *(m for m in exits.branch("early").modules() if isinstance(m, nn.Linear)),
        ):
            last.weight *= 8.0  # untrained answers are all alike otherwise
    return sentio.Model(
        TorchRow(exits), registry.build("task", "classification", LABELS), frontend=frontend, name="edge-box"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
