"""Exits that give embeddings: raw features, LR, BoF and the proposed method beside each other.

    python benchmarks/metric_exits.py --model cifar10-made/cifar10-resnet8 --data train.zip
    python benchmarks/metric_exits.py --model my-face-network --data faces --at unit4 unit9 unit13
        --codewords 512 --pairs lfw/pairs.txt --images lfw/images --enrol 1      # faces, on one line

The first is a stand-in, since face data cannot be had here: a trained CIFAR-10 classifier (made by
benchmarks/cifar10_anytime.py), what its last layer is given as the embedding, "same class" in place of "same
person", and pairs of images that the network was not trained on. It says how the four methods compare with
each other on one network, not how well faces are told apart.

All exits are fitted on the same images, unlabelled. Verification: distance of both embeddings at the exit, or
of one there and one of the last layer, ten folds, the threshold from the other nine. Identification: one
gallery of the last layer's embeddings for all exits (raw features have one of their own at each exit), the
nearest name. MACs and milliseconds are of the way to one exit, no other computed.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from timing import machine, plain_text

import sentio
from sentio.core.anytime import FINAL
from sentio.core.features import FrontEnd
from sentio.core.model import Model
from sentio.core.multi_exit import MultiExit
from sentio.core.policy import Fixed
from sentio.core.staged import Staged
from sentio.core.torch_row import TorchRow
from sentio.data.face_pairs import read_face_pairs
from sentio.data.features import features
from sentio.nn.conv import PooledLinear
from sentio.tasks.embedding import EmbeddingTask
from sentio.tasks.gallery import Gallery
from sentio.tasks.pairs import (
    evaluate_pairs,
    exit_distances,
    fit_identification,
    fit_verification,
    verify_pairs,
)
from sentio.techniques.embedding_exits import fit_embedding_exits
from sentio.training.division import divide
from sentio.training.recipe import read_recipe

#: method -> kind of exit
METHODS = {"raw": "raw", "LR": "linear-regressor", "BoF": "bag-of-features", "proposed": "bag-of-features"}
FOLDS = 10


@dataclass(frozen=True)
class Material:
    """What is measured on.

    Args:
        fit: inputs that exits are fitted on.
        images: inputs of the pairs.
        names: whom or what each image shows.
        first, second: of each pair the places in ``images``.
        same, folds: of each pair.
    """

    fit: NDArray[Any]
    images: NDArray[Any]
    names: list[str]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]


def embedding_network(net: MultiExit) -> Staged:
    """The network without its classifier, where it has one behind an average; else as it is."""
    backbone = net.backbone
    last = backbone.stage_names[-1]
    if not isinstance(backbone.stage(last), PooledLinear):
        return backbone
    stages = {name: backbone.stage(name) for name in backbone.stage_names[:-1]}
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return Staged({**stages, last: pool}, input_shapes=backbone.input_shapes)


def classes_as_persons(model: Model, data: Path, fit: int, images: int, pairs: int, seed: int) -> Material:
    """Images that the model was trained on to fit, and pairs of those that it was not."""
    recipe = read_recipe(model.card["recipe"])
    dataset = sentio.open_data(data, protocol=recipe.data.protocol)
    split = divide(dataset, recipe.data, recipe.seed)
    generator = np.random.default_rng(seed)
    assert model.frontend is not None
    seen = generator.permutation(split.train)[:fit]
    unseen = generator.permutation(split.validation)[:images]
    found = features(dataset.subset(unseen), model.frontend)
    who = found.targets
    first, second, same = draw_pairs(who, pairs, generator)
    folds = np.concatenate([np.arange(int(kind.sum())) % FOLDS for kind in (same, ~same)])
    names = [dataset.labels[number] for number in who]
    fitted_on = features(dataset.subset(seen), model.frontend).inputs
    return Material(fitted_on, found.inputs, names, first, second, same, folds)


def draw_pairs(
    who: NDArray[np.int64], count: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Different pairs, one half of one name and then one half of two."""
    halves: dict[bool, set[tuple[int, int]]] = {True: set(), False: set()}
    while min(map(len, halves.values())) < count // 2:
        low, high = sorted(generator.integers(0, len(who), 2).tolist())
        kind = halves[bool(who[low] == who[high])]
        if low != high and len(kind) < count // 2:
            kind.add((low, high))
    rows = np.array([*sorted(halves[True]), *sorted(halves[False])])
    order = np.concatenate([generator.permutation(count // 2) + at for at in (0, count // 2)])
    first, second = rows[order].T
    return first, second, np.arange(len(rows)) < count // 2


def faces(frontend: FrontEnd, pairs: Path, images: Path, data: Path, fit: int, seed: int) -> Material:
    """Pairs of a list, and a folder of other faces to fit on."""
    listed = read_face_pairs(pairs, images)
    others = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = np.random.default_rng(seed).permutation(len(others))[:fit]
    return Material(
        np.concatenate([frontend.prepare(others[place]).inputs for place in chosen]),
        np.concatenate([frontend.prepare(path).inputs for path in listed.images]),
        [path.parent.name for path in listed.images],
        listed.first,
        listed.second,
        listed.same,
        listed.folds,
    )


def fitted(
    net: Staged, at: list[str], codewords: int, material: Material, iterations: int, **options: Any
) -> Any:
    """The network with all exits of all methods, and how far each is from the last layer."""
    (dimension,) = net.boundary_shapes()[net.stage_names[-1]]["main"]
    whole: Any = net
    for method, kind in METHODS.items():
        more = {"codewords": codewords} if kind == "bag-of-features" else {}
        names = [f"{method} {stage}" for stage in at]
        whole = sentio.add_exits(whole, kind, at=at, names=names, classes=dimension, **more)
    closed = [f"{method} {stage}" for method in ("LR", "BoF") for stage in at]
    proposed = [f"proposed {stage}" for stage in at]
    losses = fit_embedding_exits(whole, material.fit, exits=closed, iterations=0, **options)
    losses |= fit_embedding_exits(whole, material.fit, exits=proposed, iterations=iterations, **options)
    return whole.eval(), losses


def identified(
    outputs: dict[str, NDArray[Any]], names: list[str], enrol: int
) -> tuple[dict[str, float], Gallery, NDArray[np.int64]]:
    """Share of probes that are named rightly at each exit; the gallery, and which images are probes."""
    who = np.array(names)
    known = np.concatenate([np.flatnonzero(who == name)[:enrol] for name in sorted(set(names))])
    probes = np.setdiff1d(np.arange(len(who)), known)
    found, galleries = {}, {}
    for exit, embeddings in outputs.items():
        key = exit if exit.startswith("raw ") else FINAL
        if key not in galleries:
            galleries[key] = Gallery(embeddings.shape[1])
            for place in known:
                galleries[key].enrol(names[place], outputs[key][place])
        gallery = galleries[key]
        place = gallery.nearest(embeddings[probes]).place
        found[exit] = float((np.array(gallery.names)[place] == who[probes]).mean())
    return found, galleries[FINAL], probes


def milliseconds(model: Model, names: list[str], count: int) -> dict[str, float]:
    """Of one sample, to one exit, no other computed: the median of the processor's time, in turn."""
    x = model.network.backbone.example().numpy()
    laps: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-3, count):
        for name, found in laps.items():
            policy = Fixed(name)
            begun = process_time()
            model.answer(x, policy=policy)
            if turn >= 0:
                found.append((process_time() - begun) * 1000.0)
    return {name: median(found) for name, found in laps.items()}


def leaving_early(
    model: Model,
    outputs: dict[str, NDArray[Any]],
    material: Material,
    gallery: Gallery,
    probes: NDArray[np.int64],
    max_error: float,
) -> dict[str, Any]:
    """Pairs by margin and probes by ratio, fitted on one half and measured on the other."""
    costs = sentio.profile(model.network, measure=False).costs
    exits = model.exit_names
    own = {name: outputs[name] for name in exits}
    fold = material.folds % 2 == 0
    sides = [{n: o[part[fold]] for n, o in own.items()} for part in (material.first, material.second)]
    thresholds, margins = fit_verification(exit_distances(*sides), material.same[fold], max_error=max_error)
    dimension = gallery.dimension
    model.task = EmbeddingTask(dimension=dimension, thresholds=thresholds, margins=margins)
    images, other = material.images, np.flatnonzero(~fold)
    parts = [
        verify_pairs(model, images[material.first[rows]], images[material.second[rows]])
        for rows in np.array_split(other, max(1, len(other) // 100))
    ]
    left = np.concatenate([part.exit for part in parts])
    right = np.concatenate([part.same for part in parts]) == material.same[other]
    figures = {"verification": _left(left, right, exits, costs.macs)}

    model.task = EmbeddingTask(dimension=dimension, gallery=gallery)
    fit_on, rest = probes[::2], probes[1::2]
    who = np.array(material.names)
    policy = fit_identification(
        model.task, {n: o[fit_on] for n, o in own.items()}, who[fit_on].tolist(), max_error=max_error
    )
    answers = [
        model.answer(images[rows], policy=policy) for rows in np.array_split(rest, len(rest) // 100 + 1)
    ]
    left = np.concatenate([part.exit for part in answers])
    named = np.concatenate([model.task.choice(part.outputs) for part in answers])
    right = np.array(gallery.names)[named] == who[rest]
    return {**figures, "identification": _left(left, right, exits, costs.macs)}


def _left(
    left: NDArray[np.intp], right: NDArray[np.bool_], exits: tuple[str, ...], macs: tuple[float, ...]
) -> dict[str, Any]:
    return {
        "accuracy": float(right.mean()),
        "macs": float(np.asarray(macs)[left].mean()),
        "shares": {name: float((left == place).mean()) for place, name in enumerate(exits)},
        "wrong": {
            name: float((~right[left == place]).mean()) if (left == place).any() else None
            for place, name in enumerate(exits)
        },
    }


def report(figures: dict[str, Any]) -> str:
    """All figures as plain text."""
    table = Table()
    columns = (
        "exit",
        "method",
        "loss",
        "verification %",
        "against last %",
        "identified %",
        "million MACs",
        "ms",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in ("exit", "method") else "right")
    before = ""
    for row in figures["rows"]:
        if row["at"] != before:
            table.add_section()
        same, against = (
            "" if each is None else f"{100 * each['accuracy']:.2f} ± {100 * each['deviation']:.2f}"
            for each in (row["verification"], row["against"])
        )
        table.add_row(
            row["at"] if row["at"] != before else "",
            row["method"],
            "" if row["loss"] is None else f"{row['loss']:.3f}",
            same,
            against,
            f"{100 * row['identified']:.2f}",
            f"{row['macs'] / 1e6:.2f}",
            f"{row['ms']:.2f}",
        )
        before = row["at"]
    lines = [plain_text(table), ""]
    for share, parts in figures["early"].items():
        lines.append(f"leaving early, at most {float(share):.0%} of those wrong:")
        for what, found in parts.items():
            left = (
                f"{part:.0%} at {name.removeprefix('proposed ')}" for name, part in found["shares"].items()
            )
            lines.append(
                f"  {what}: {found['accuracy']:.2%} right, {found['macs'] / 1e6:.2f} million MACs a sample; "
                f"{', '.join(left)}"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    usual = Path(os.environ.get("SENTIO_DATA", ".")) / "cifar10" / "train.zip"
    parser.add_argument(
        "--model", type=Path, default=Path("cifar10-made/cifar10-resnet8"), help="the artifact"
    )
    parser.add_argument("--data", type=Path, default=usual, help="CIFAR-10; with --pairs, a folder of faces")
    parser.add_argument("--pairs", type=Path, help="a list of pairs as LFW's pairs.txt")
    parser.add_argument("--images", type=Path, help="its folder of a folder for each person")
    parser.add_argument("--at", nargs="+", default=["stem", "layer1", "layer2"], help="stages with exits")
    parser.add_argument("--codewords", type=int, default=64)
    parser.add_argument("--fit", type=int, default=16_000, help="images to fit on")
    parser.add_argument("--measure", type=int, default=10_000, help="images to draw pairs from")
    parser.add_argument("--count", type=int, default=6_000, help="pairs")
    parser.add_argument("--enrol", type=int, default=100, help="images of each name in the gallery")
    parser.add_argument("--iterations", type=int, default=2_000)
    parser.add_argument(
        "--max-error", type=float, nargs="+", default=[0.05, 0.2], help="of what leaves early"
    )
    parser.add_argument("--laps", type=int, default=100, help="runs that are timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begun = process_time()
    about = machine()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    source = sentio.load(options.model, runtime="torch")
    if source.frontend is None:
        raise SystemExit(f"{options.model} has no front end, and images need one")
    if options.pairs is not None:
        material = faces(
            source.frontend, options.pairs, options.images, options.data, options.fit, options.seed
        )
    else:
        material = classes_as_persons(
            source, options.data, options.fit, options.measure, options.count, options.seed
        )
    print(
        f"{len(material.fit)} images to fit on, {len(material.images)} to measure on, {len(material.same)} "
        f"pairs, seed {options.seed}",
        flush=True,
    )
    base = embedding_network(source.network)
    settings = {"seed": options.seed, "frontend": source.frontend}
    net, losses = fitted(base, options.at, options.codewords, material, options.iterations, **settings)
    figures = measure(
        net,
        losses,
        source.frontend,
        options.at,
        material,
        options.enrol,
        options.laps,
        options.max_error,
    )
    figures["seconds"] = process_time() - begun
    print(report(figures))
    print(f"{figures['seconds']:.0f} s of processor time")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, **figures}, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(
    net: MultiExit,
    losses: Any,
    frontend: FrontEnd,
    at: list[str],
    material: Material,
    enrol: int,
    laps: int,
    max_errors: list[float],
) -> dict[str, Any]:
    """All figures, plain values."""
    (dimension,) = net.backbone.boundary_shapes()[net.stage_names[-1]]["main"]
    model = Model(TorchRow(net), EmbeddingTask(dimension=dimension), frontend=frontend)
    outputs = model.outputs(material.images)
    first, second = ({n: o[part] for n, o in outputs.items()} for part in (material.first, material.second))
    own = evaluate_pairs(exit_distances(first, second), material.same, material.folds)
    against = evaluate_pairs(exit_distances(first, second[FINAL]), material.same, material.folds)
    named, gallery, probes = identified(outputs, material.names, enrol)
    rows = {row.name: row for row in sentio.profile(net, measure=False).rows}
    macs = {name: rows[name].path_macs for name in net.exit_names[:-1]}
    macs[FINAL] = rows[net.stage_names[-1]].path_macs
    names = [*(f"{method} {stage}" for stage in at for method in METHODS), FINAL]
    ms = milliseconds(model, names, laps)
    found = []
    for name in names:
        method, _, stage = name.partition(" ")
        found.append(
            {
                "at": stage or FINAL,
                "method": method if stage else "",
                "loss": losses[name].loss if name in losses else None,
                "tuned": losses[name].tuned if name in losses else None,
                "verification": asdict(own[name]),
                "against": None if method == "raw" else asdict(against[name]),
                "identified": named[name],
                "macs": macs[name],
                "ms": ms[name],
            }
        )
    net.switch(*(name for name in net.exit_names[:-1] if not name.startswith("proposed ")), on=False)
    early = {
        str(share): leaving_early(model, outputs, material, gallery, probes, share) for share in max_errors
    }
    return {"rows": found, "early": early, "probes": len(probes), "gallery": len(gallery)}


if __name__ == "__main__":
    raise SystemExit(main())
