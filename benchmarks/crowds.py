"""Do ears help to count a crowd? One network with exits V1, AV1, AV2 and its end, with sound and without.

    python benchmarks/crowds.py                               # about a minute of one core
    python benchmarks/crowds.py --picture crowds.png          # and photo, true density, density of each exit
    python benchmarks/crowds.py --train 24 --epochs 1 --test 8    # to see that it runs; figures say nothing

Scenes are made by `sentio.data.simulate.crowd`: each training scene under one of four conditions, the test
scenes under all. AudioCSRNet at reduced width is trained end to end with density exits, once with the sound
and once, as the peer, with silence in its place. V1 sees only; AV1 reads the same map and what is heard; AV2
lies behind the first fusion block. The other peer always answers the mean of the training counts. MAE and
RMSE are in persons.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import machine
from torch import Tensor

import sentio
from sentio.audio.frontend import LogMel
from sentio.core.multi_exit import MultiExit
from sentio.core.task import Batch
from sentio.data.simulate.crowd import CONDITIONS, crowd_picture
from sentio.tasks.counting import Counting, counts_of
from sentio.tasks.metrics.counting import mean_absolute_error, root_mean_square_error
from sentio.vision.density import density_map
from sentio.vision.density_picture import density_picture, write_png

SIZE = (72, 96)
PEOPLE = (0, 40)
#: mean and standard deviation of DISCO's pictures, as its authors' code has them
MEAN, STD = (0.410825, 0.370635, 0.359682), (0.278581, 0.269251, 0.271564)
VGGISH = LogMel(
    rate=16_000,
    n_fft=512,
    win_length=400,
    hop_length=160,
    n_mels=64,
    f_min=125.0,
    f_max=7_500.0,
    mel_scale="htk",
    norm=None,
    power=1.0,
    center=False,
    frames_of="window",
    log="ln",
    offset=0.01,
)
FRAMES = 96
EXITS = ("V1", "AV1", "AV2", "final")


def scenes(seeds: range, condition: str | None) -> dict[str, Any]:
    """Pictures, log-mels, densities and counts; each under the condition, or each under the next one."""
    found: dict[str, list[NDArray[Any]]] = {"main": [], "audio": [], "density": [], "pixels": []}
    counts = []
    for number, seed in enumerate(seeds):
        chosen = CONDITIONS[number % len(CONDITIONS)] if condition is None else condition
        scene = crowd_picture(seed, size=SIZE, people=PEOPLE, condition=chosen)
        found["pixels"].append(scene.pixels)
        found["main"].append(((scene.pixels / 255 - MEAN) / STD).transpose(2, 0, 1))
        found["audio"].append(VGGISH(scene.sound)[None, :FRAMES])
        found["density"].append(density_map(scene.points, SIZE, sigma=3.0, side=11))
        counts.append(scene.count)
    arrays = {name: np.stack(parts) for name, parts in found.items()}
    tensors = {name: torch.from_numpy(arrays[name]).float() for name in ("main", "audio", "density")}
    return {**tensors, "pixels": arrays["pixels"], "count": torch.tensor(counts, dtype=torch.float32)}


def build(width: int, seed: int) -> MultiExit:
    torch.manual_seed(seed)
    net: Any = sentio.create_network(
        "audio-csrnet", size=SIZE, audio_size=(FRAMES, 64), width=width, answer="density"
    )
    for name, at, reads in (
        ("V1", "visual4", [("visual4", "main")]),
        ("AV1", "audio4", [("visual4", "main"), ("audio4", "audio")]),
        ("AV2", "fusion1", [("fusion1", "main")]),
    ):
        net = sentio.add_exits(
            net, "density-ee", at=[at], names=[name], reads=[reads], classes=1, answer="density"
        )
    return net


def inputs(data: dict[str, Any], rows: Any, *, hears: bool) -> dict[str, Tensor]:
    sound = data["audio"][rows]
    return {"main": data["main"][rows], "audio": sound if hears else torch.full_like(sound, np.log(0.01))}


def fit(net: MultiExit, data: dict[str, Any], *, hears: bool, epochs: int, batch: int, seed: int) -> None:
    """All exits together, the last one counting twice."""
    task = Counting(density_scale=20.0, count_weight=0.05)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)
    steps = epochs * -(-len(data["count"]) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data["count"]), generator=generator).split(batch):
            x = inputs(data, rows, hears=hears)
            density = data["density"][rows]
            mirrored = torch.rand(len(rows), generator=generator) < 0.5
            x["main"] = torch.where(mirrored[:, None, None, None], x["main"].flip(3), x["main"])
            density = torch.where(mirrored[:, None, None], density.flip(2), density)
            targets = {"count": data["count"][rows], "density": density}
            outputs = net(x)
            losses = {name: task.loss(output, Batch(x, targets)) for name, output in outputs.items()}
            optimizer.zero_grad()
            sum((1.0 if name == "final" else 0.5) * loss for name, loss in losses.items()).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    net.eval()


def answers(net: MultiExit, data: dict[str, Any], *, hears: bool) -> dict[str, NDArray[Any]]:
    """Exit -> densities."""
    parts: dict[str, list[NDArray[Any]]] = {}
    with torch.inference_mode():
        for rows in torch.arange(len(data["count"])).split(32):
            for name, output in net(inputs(data, rows, hears=hears)).items():
                parts.setdefault(name, []).append(output.numpy())
    return {name: np.concatenate(found) for name, found in parts.items()}


def over_seeds(errors: list[float]) -> str:
    """Mean, and the standard deviation (of a sample) where there are several."""
    mean = f"{np.mean(errors):.2f}"
    return f"{mean} +- {np.std(errors, ddof=1):.2f}" if len(errors) > 1 else mean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=240, help="training scenes")
    parser.add_argument("--test", type=int, default=40, help="test scenes, under each condition")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=8, help="channels of the first layers; the paper's 64")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--picture", type=Path, help="write photo, true density and each exit's here, as PNG")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    begun = process_time()
    train = scenes(range(options.train), None)
    tests = {name: scenes(range(100_000, 100_000 + options.test), name) for name in CONDITIONS}
    mean = float(train["count"].mean())
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for hears in (True, False):
            net = build(options.width, seed)
            fit(net, train, hears=hears, epochs=options.epochs, batch=options.batch, seed=seed)
            for condition, data in tests.items():
                truth = data["count"].numpy()
                found = answers(net, data, hears=hears)
                for name, output in found.items():
                    counts = counts_of(output)
                    rows.append(
                        {
                            "seed": seed,
                            "sound": hears,
                            "condition": condition,
                            "exit": name,
                            "mae": mean_absolute_error(counts, truth),
                            "rmse": root_mean_square_error(counts, truth),
                        }
                    )
                if options.picture and hears and condition == "clear" and seed == options.seeds[0]:
                    shown = int(np.argsort(truth)[len(truth) * 3 // 4])
                    maps = {"true": data["density"][shown].numpy()}
                    maps |= {name: output[shown, 0] for name, output in found.items()}
                    write_png(options.picture, density_picture(data["pixels"][shown], maps, scale=3))
                    counted = "  ".join(f"{name} {density.sum():.1f}" for name, density in maps.items())
                    print(f"picture: photo, then {counted}")
    constant = {
        name: mean_absolute_error(np.full(len(data["count"]), mean), data["count"].numpy())
        for name, data in tests.items()
    }
    costs = sentio.profile(net, measure=False).exit_macs()
    print(
        f"\nMAE in persons, mean over {len(options.seeds)} seed(s); {options.test} scenes of {PEOPLE} people"
    )
    print(f"{'exit':8} {'million MACs':>12} {'':9}" + "".join(f"{name:>14}" for name in CONDITIONS))
    for name in EXITS:
        for hears in (True, False):
            errors = [
                [r["mae"] for r in rows if (r["exit"], r["sound"], r["condition"]) == (name, hears, c)]
                for c in CONDITIONS
            ]
            cost = f"{costs[name] / 1e6:12.1f}" if hears else " " * 12
            label = "sound" if hears else "silence"
            print(
                f"{name if hears else '':8} {cost} {label:9}"
                + "".join(f"{over_seeds(e):>14}" for e in errors)
            )
    print(f"{'always the mean':31}" + "".join(f"{constant[name]:14.2f}" for name in CONDITIONS))
    seconds = process_time() - begun
    print(f"{seconds:.0f} s of processor time")
    if options.json:
        found = {"machine": about, "rows": rows, "mean": constant, "macs": costs, "seconds": seconds}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
