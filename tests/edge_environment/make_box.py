"""Write what `check_box.py` compares: models, recordings, and PyTorch's answers about them.

    python make_box.py DIR

The exported model is small and untrained; what is tested is that both runtimes say the same. Its threshold is
put between the confidences of the recordings, so that some leave early and some do not. Of every model that
ships it writes what PyTorch says about rendered clips, and a copy of their table with labels that it knows.
Of these models and of one network of each family it writes features and every exit's output.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

import sentio
from sentio.core import registry
from sentio.core.features import finished
from sentio.core.shelf import shipped
from sentio.core.staged import Staged
from sentio.core.torch_row import TorchRow
from sentio.data.simulate.rendering import render_clips

#: of the rendered clips; `check_box.py` renders them without PyTorch
CLIPS = {"per_class": 2, "seconds": 2.0, "seed": 7, "workers": 1}
LABELS = ["low", "middle", "high"]
#: of sound, plain and separable, of its tokens, of waveforms, of pictures, of skeletons, of video
FAMILIES = ("cnn6", "bc-resnet", "ast", "phinet-1d", "resnet8", "st-gcn", "x3d-xs")


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
    (folder / "shelf.json").write_text(json.dumps(shelf_answers(folder), indent=1), encoding="utf-8")
    for name in shipped():
        model = sentio.load(name, runtime="torch")
        if model.frontend.name == "image":
            sources = list(np.load(folder / f"{name}.npy"))
        else:
            sources = sorted((folder / "rendered").rglob("*.wav"))
        inputs = [finished(model.frontend, model.frontend.prepare(source).inputs) for source in sources]
        write_features(folder, name, model, np.concatenate(inputs))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for name in pool.map(export_family, [folder] * len(FAMILIES), FAMILIES):
            print(f"{name}: exported")


def export_family(folder: Path, name: str) -> str:
    """Export a network at its small size, with an exit behind its first stage and steps where it streams."""
    torch.set_num_threads(1)
    entry = registry.find("network", name)
    torch.manual_seed(0)
    backbone = sentio.create_network(name, **entry.small)
    backbone.input_shapes = dict(entry.small_shapes or entry.input_shapes)
    first, classes = backbone.stage_names[0], entry.small["classes"]
    net = sentio.add_exits(backbone, "pooled-linear", at=[first], classes=classes)
    task = registry.build("task", "classification", [f"label {i}" for i in range(classes)])
    model = sentio.Model(TorchRow(net), task, name=name)
    features = backbone.example(12, seed=1).numpy()
    sure = np.sort(model.answer(features, policy=sentio.Fixed(first)).confidence)
    model.policy = sentio.Confidence({first: float(sure[5:7].mean())})
    sentio.export(model, folder / "networks" / f"{name}.sentio")
    write_features(folder, name, model, features)
    return name


def write_features(folder: Path, name: str, model: sentio.Model, features: np.ndarray) -> None:
    """Features, every exit's output in PyTorch, and who leaves where under the model's own policy."""
    place = folder / "features"
    place.mkdir(exist_ok=True)
    answers = model.answer(features)
    outputs = {f"output {exit}": values for exit, values in model.outputs(features).items()}
    np.savez(place / f"{name}.npz", features=features, exits=np.array(answers.exit_names()), **outputs)


def shelf_answers(folder: Path) -> dict[str, dict[str, object]]:
    """Of each shipped model its answers in PyTorch, by clip, and its confusion on the labelled clips."""
    clips = render_clips(folder / "rendered", **CLIPS)
    (folder / "clips.json").write_text(json.dumps(CLIPS), encoding="utf-8")
    found: dict[str, dict[str, object]] = {}
    for name in shipped():
        model = sentio.load(name, runtime="torch")
        if model.frontend.name == "image":
            # Of the size that it takes, so that nothing is missing where Pillow is not installed.
            (shape,) = model.input_shapes.values()
            pictures = np.random.default_rng(0).integers(0, 256, (6, *shape[1:], shape[0]), np.uint8)
            np.save(folder / f"{name}.npy", pictures)
            answers = {str(place): model.predict(each).to_dict() for place, each in enumerate(pictures)}
            found[name] = {"answers": answers}
            continue
        answers = {
            file.name: model.predict(file).to_dict() for file in sorted((clips / "audio").glob("*.wav"))
        }
        confusion = sentio.evaluate(model, relabelled(clips, folder / f"{name}.csv", model)).confusion
        found[name] = {"answers": answers, "confusion": confusion}
        print(f"{name}: {len(answers)} answers")
    return found


def relabelled(clips: Path, table: Path, model: sentio.Model) -> Path:
    """The clips' table for a model: a label that it does not know becomes one that it does."""
    known = model.task.labels
    with (clips / "meta.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    with table.open("w", newline="", encoding="utf-8") as lines:
        out = csv.writer(lines)
        out.writerow(["filename", "label"])
        for index, row in enumerate(rows):
            label = row["label"] if row["label"] in known else known[index % len(known)]
            out.writerow([f"{clips.name}/audio/{Path(row['filename']).name}", label])
    return table


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
