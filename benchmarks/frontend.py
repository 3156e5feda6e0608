"""Log-mel features: throughput against librosa, one thread, in the same run.

    python benchmarks/frontend.py                  # six settings, clips of 1 s and 10 s, about two minutes
    python benchmarks/frontend.py --repeats 5      # to see that it runs
    python benchmarks/frontend.py --json frontend.json

Ours is the front end of record, which needs numpy alone, and its twin where PyTorch is there. The peer is
called as its users call it, ``melspectrogram`` and ``power_to_db``, and once more with its filter bank made
beforehand, since it makes it anew for every clip. Before anything is timed, all must give the same features,
or the benchmark stops with an error. A lap is eight clips in a row. Milliseconds are the processor's, for one
clip, and laps are compared in pairs, in alternating order; a pair during which the system put the process
aside for another is left out where enough others remain ("calm").
"""

from __future__ import annotations

import os

#: before numpy is imported, which reads them
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import asdict  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import librosa  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rich.table import Table  # noqa: E402
from timing import Lap, compare, machine, plain_text, timed, undisturbed  # noqa: E402

from sentio.audio.frontend import LogMel  # noqa: E402
from sentio.audio.scalogram import Scalogram  # noqa: E402
from sentio.audio.torch_frontend import TorchLogMel  # noqa: E402
from sentio.core import registry  # noqa: E402

TARGET = 3.0
#: What librosa can compute too: presets without its own scaling, and three settings of common use.
SETTINGS: dict[str, LogMel] = {
    "sp4asc": registry.build("frontend", "log-mel", preset="sp4asc").features,
    "phinet": registry.build("frontend", "log-mel", preset="phinet", mean=None, std=None).features,
    "sed-tagging": registry.build("frontend", "log-mel", preset="sed-tagging", drop_last=False).features,
    "dcase 256 bands": LogMel(rate=32_000, n_fft=4096, win_length=3072, hop_length=500, n_mels=256),
    "panns": LogMel(rate=32_000, n_fft=1024, hop_length=320, n_mels=64, f_min=50.0, f_max=14_000.0),
    "speech": LogMel(rate=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=64),
}
SECONDS = (1, 10)
CLIPS = 8

Samples = NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=60, help="pairs of runs for each line")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*mel")
    about = {**machine(), "librosa": librosa.__version__, "numpy": np.__version__, "fft": _fft()}
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    rows = [
        measure(name, settings, seconds, options.repeats)
        for name, settings in SETTINGS.items()
        for seconds in SECONDS
    ]
    print(report(rows))
    scalogram_ms = scalogram_cost(max(3, options.repeats // 20))
    figures = {"machine": about, "rows": rows, "scalogram_ms": scalogram_ms}
    smallest = {name: min(row[key] for row in rows) for name, key in (("numpy", "ratio"), ("twin", "twin"))}
    print()
    for name, ratio in smallest.items():
        print(f"smallest ratio of {name} {ratio:.1f}: {'PASS' if ratio >= TARGET else 'FAIL'}", end=" ")
        print(f"(target at least {TARGET:g})")
    passt_ms = passt_cost(max(3, options.repeats // 4))
    print(
        f"one second of preset passt {passt_ms:.2f} ms, of the scalogram {scalogram_ms:.1f} ms: "
        f"{scalogram_ms / passt_ms:.0f} times as long"
    )
    if options.json:
        options.json.write_text(json.dumps({**figures, "passt_ms": passt_ms, "smallest": smallest}, indent=1))
    return 0


def measure(name: str, settings: LogMel, seconds: int, repeats: int) -> dict[str, Any]:
    """One setting on clips of one length."""
    clips = noise(settings.rate * seconds)
    kept = filters(settings)

    module = TorchLogMel(settings).eval()

    @torch.inference_mode()
    def twin(samples: Samples) -> NDArray[Any]:
        found: NDArray[Any] = module(torch.from_numpy(samples)).numpy()
        return found

    def peer(samples: Samples) -> NDArray[Any]:
        return librosa_features(samples, settings)

    def peer_with_filters(samples: Samples) -> NDArray[Any]:
        return librosa_features(samples, settings, kept)

    for run in (peer, peer_with_filters):
        near = (expected := run(clips[0])) > expected.max() - 60
        for ours in (settings, twin):
            np.testing.assert_allclose(ours(clips[0])[near], expected[near], rtol=0, atol=1e-3)
    plain, prepared, torch_plain, torch_prepared = (
        compare(in_a_row(run), in_a_row(ours), [clips], repeats, processor=True)
        for ours in (settings, twin)
        for run in (peer, peer_with_filters)
    )
    return {
        "setting": name,
        "seconds": seconds,
        "ms": plain.reference_ms / CLIPS,
        "librosa_ms": plain.ms / CLIPS,
        "ratio": plain.ratio,
        "twin_ms": torch_plain.reference_ms / CLIPS,
        "twin": torch_plain.ratio,
        "librosa_filters_kept_ms": prepared.ms / CLIPS,
        "ratio_filters_kept": prepared.ratio,
        "twin_filters_kept": torch_prepared.ratio,
        "times_real_time": 1000 * seconds * CLIPS / plain.reference_ms,
        "calm": min(plain.calm, torch_plain.calm),
        "settings": asdict(settings),
    }


def filters(s: LogMel) -> NDArray[Any]:
    """librosa's filter bank, float32."""
    return librosa.filters.mel(
        sr=s.rate,
        n_fft=s.n_fft,
        n_mels=s.n_mels,
        fmin=s.f_min,
        fmax=s.f_max,
        htk=s.mel_scale == "htk",
        norm=s.norm,
    )


def librosa_features(samples: Samples, s: LogMel, kept: NDArray[Any] | None = None) -> NDArray[Any]:
    """Decibels ``(time, mel)`` as librosa computes them, its filters given or not."""
    frames = {
        "n_fft": s.n_fft,
        "hop_length": s.hop_length,
        "win_length": s.win_length,
        "center": s.center,
        "pad_mode": s.pad_mode,
    }
    if kept is None:
        mel = librosa.feature.melspectrogram(
            y=samples,
            sr=s.rate,
            power=2.0,
            n_mels=s.n_mels,
            fmin=s.f_min,
            fmax=s.f_max,
            htk=s.mel_scale == "htk",
            norm=s.norm,
            **frames,
        )
    else:
        mel = kept @ np.abs(librosa.stft(samples, **frames)) ** 2
    reference = np.max if s.ref == "max" else 1.0
    return librosa.power_to_db(mel, ref=reference, amin=s.amin, top_db=s.top_db).T


def in_a_row(run: Callable[[Samples], Any]) -> Callable[[list[Samples]], None]:
    def lap(clips: list[Samples]) -> None:
        for clip in clips:
            run(clip)

    return lap


def noise(samples: int, clips: int = CLIPS) -> list[Samples]:
    generator = np.random.default_rng(0)
    return [(0.1 * generator.standard_normal(samples)).astype(np.float32) for _ in range(clips)]


def scalogram_cost(repeats: int) -> float:
    return _median_ms(Scalogram(), repeats)


def passt_cost(repeats: int) -> float:
    return _median_ms(registry.build("frontend", "log-mel", preset="passt").features, repeats)


def _median_ms(run: Callable[[Samples], Any], repeats: int) -> float:
    """Milliseconds for a second at 32 kHz."""
    clip = noise(32_000, 1)[0]
    laps: list[Lap] = [timed(run, clip, processor=True) for _ in range(repeats + 1)][1:]
    return median(undisturbed(laps))


def report(rows: list[dict[str, Any]]) -> str:
    table = Table(box=None, pad_edge=False, header_style="")
    titles = (
        "setting",
        "clip s",
        "numpy ms",
        "twin ms",
        "librosa ms",
        "/ numpy",
        "/ twin",
        "filters kept ms",
        "/ numpy",
        "/ twin",
        "x real time",
        "calm",
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "setting" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["setting"],
            str(row["seconds"]),
            f"{row['ms']:.2f}",
            f"{row['twin_ms']:.2f}",
            f"{row['librosa_ms']:.2f}",
            f"{row['ratio']:.1f}",
            f"{row['twin']:.1f}",
            f"{row['librosa_filters_kept_ms']:.2f}",
            f"{row['ratio_filters_kept']:.1f}",
            f"{row['twin_filters_kept']:.1f}",
            f"{row['times_real_time']:,.0f}",
            f"{row['calm']:.0%}",
        )
    return plain_text(table)


def _fft() -> str:
    try:
        import scipy
    except ImportError:
        return "numpy"
    return f"scipy {scipy.__version__}"


if __name__ == "__main__":
    raise SystemExit(main())
