"""Which branch is best on a frozen backbone? SL-ViT and CNN-EE, seven branches of a ViT, orders of samples.

    python benchmarks/exit_kinds.py --data train.zip --from made --json figures.json     # about 45 minutes
    python benchmarks/exit_kinds.py --data train.zip --from made --parts orders --seeds 0 1 2
    python benchmarks/exit_kinds.py ... --images 60 --test 20 --epochs 1      # to see that it runs

Three comparisons on CIFAR-10, each over several seeds:

- taps: at each boundary of a trained backbone, ``cnn-ee`` as published against ``sl-vit`` with at most as
  many parameters, whose patch and heads are chosen by `sentio.exits.branch_search` on training images alone.
  The backbones are those that benchmarks/cifar10_anytime.py leaves in the folder ``--from``.
- vit: the seven branches of Multi-Exit ViT behind two layers of a small vision transformer, which is trained
  first if the folder does not hold it.
- orders: one branch with its training images in order of difficulty, in the reverse, at random with the same
  pacing, and without any. Every run of a seed begins with the same weights.

All branches are trained classifier-wise, as in the papers: the backbone is frozen, so its features are
computed once, without augmentation, and kept as float16. The backbones have seen the training images and none
of the test images. A run that is in the folder already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any

import numpy as np
import torch
from cifar_images import Images, Parts, cifar_parts
from numpy.typing import NDArray
from rich.table import Table
from timing import machine, plain_text
from torch import nn

import sentio
from sentio.core.anytime import FINAL, MAIN
from sentio.core.multi_exit import MultiExit
from sentio.core.profiling import EXIT
from sentio.exits.branch_search import Candidate, search_sl_vit
from sentio.techniques.curriculum import Curriculum, difficulty
from sentio.techniques.objective import Setting
from sentio.techniques.pacing import find_pacing
from sentio.techniques.phases import Phase
from sentio.training.batches import Arrays
from sentio.training.loop import run_phase
from sentio.training.recipe import read_recipe

BATCH, CHUNK = 64, 256
#: trained backbone -> boundaries at which branches are compared
TAPS = {"cifar10-resnet8": ("layer1", "layer2"), "cifar10-anytime": ("glance1", "look1")}
#: the share of the training images that the search for SL-ViT's size goes by, and its seed
SEARCHED, SEARCH_SEED = 0.2, 1000
VIT_TAPS = ("block2", "block4")
VIT_KINDS = (
    "mlp-ee",
    "cnn-ignore-ee",
    "cnn-add-ee",
    "cnn-project-ee",
    "vit-ee",
    "mlp-mixer-ee",
    "resmlp-ee",
)
#: where orders are compared, and who says what is hard
ORDER_BACKBONE, ORDER_TAP, ORDER_KIND, TEACHER = "cifar10-resnet8", "layer2", "cnn-ee", "cifar10-anytime"
ORDERS = ("none", "easy-first", "hard-first", "random")
#: epochs until all images are available, as with FEP(200) of the paper on 40,000 images
PACED_EPOCHS = 1.92
#: how each branch is trained
RECIPE: dict[str, Any] = {
    "name": "branch",
    "optimiser": {"name": "adam", "lr": 1e-3},
    "schedule": {"name": "cosine", "every": "step"},
    "batch": BATCH,
    "keep": "last",
}
#: how the small vision transformer is trained
VIT_RECIPE: dict[str, Any] = {
    "data": {"protocol": "official"},
    "optimiser": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
    "schedule": {"name": "cosine", "warmup_epochs": 1, "every": "step"},
    "augment": {"flip": 0.5, "crop": 4},
    "batch": 128,
    "keep": "last",
    "validate_every": 5,
}


@dataclass(frozen=True)
class Features:
    """What a frozen backbone gives at one boundary, float16, for the training and the test images."""

    train: NDArray[np.float16]
    train_targets: NDArray[np.int64]
    test: NDArray[np.float16]
    test_targets: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's."""
        return self.train.shape[1:]

    def without_test(self) -> Features:
        """The training images alone, a share of them in place of the test images."""
        kept = round((1 - SEARCHED) * len(self.train))
        targets = self.train_targets
        return Features(self.train[:kept], targets[:kept], self.train[kept:], targets[kept:])


class Bench:
    """What all comparisons share, and results that are kept so that a run is not done twice.

    Args:
        parts: the images.
        options: of the command.
    """

    def __init__(self, parts: Parts, options: argparse.Namespace) -> None:
        self.parts, self.options = parts, options
        self.said = (
            f"{len(parts.train)} training images, {len(parts.test)} test images, {options.epochs} epochs"
        )
        self.path = options.made / "exit_kinds.json"
        self.kept = self._read()

    def once(self, what: str, measure: Callable[[], float]) -> float:
        """The result of this name, measured if it is new."""
        key = f"{what}; {self.said}"
        if key not in self.kept:
            begun = process_time()
            found = measure()
            self.kept = {**self._read(), key: found}  # another run may have kept something in the meantime
            print(f"  {what}: {self.kept[key]:.4f} ({process_time() - begun:.0f} s)", flush=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.kept, indent=1) + "\n")
            part.replace(self.path)
        return self.kept[key]

    def _read(self) -> dict[str, float]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def network(self, name: str) -> MultiExit:
        """A trained network of the folder.

        Raises:
            SystemExit: it is not there.
        """
        path = self.options.made / name
        if not path.exists():
            folder = self.options.made
            raise SystemExit(f"{path} is not there; benchmarks/cifar10_anytime.py --from {folder} makes it")
        net: MultiExit = sentio.load(path, runtime="torch").network
        return net

    def features(self, net: MultiExit, places: Sequence[str]) -> dict[str, Features]:
        """What the network gives at these boundaries, computed once."""
        net.eval()
        train, test = (self._tapped(net, places, part) for part in (self.parts.train, self.parts.test))
        targets = self.parts.train.targets, self.parts.test.targets
        return {place: Features(train[place], targets[0], test[place], targets[1]) for place in places}

    def _tapped(
        self, net: MultiExit, places: Sequence[str], images: Images
    ) -> dict[str, NDArray[np.float16]]:
        found: dict[str, list[NDArray[np.float16]]] = {place: [] for place in places}
        with torch.inference_mode():
            for at in range(0, len(images), CHUNK):
                x = torch.from_numpy(self.parts.finish(images.inputs[at : at + CHUNK]))
                _, taps = net.tapped(x, (), [(place, MAIN) for place in places])
                for place in places:
                    found[place].append(taps[place, MAIN].half().numpy())
        return {place: np.concatenate(arrays) for place, arrays in found.items()}

    def accuracy(
        self,
        features: Features,
        kind: str,
        seed: int,
        given: dict[str, Any],
        order: Curriculum | None = None,
    ) -> float:
        """Train one branch on its own, its boundary being the input, and measure it on the test images."""
        torch.manual_seed(seed)
        row = sentio.Staged({"tap": nn.Identity(), "end": nn.Identity()}, input_shapes=features.shape)
        net = sentio.add_exits(
            row, kind, at=["tap"], names=["branch"], classes=self.parts.task.outputs, **given
        )
        if order is not None:
            setting = Setting(self.parts.task, self.parts.frontend, seed)
            order.prepare(net, setting, features.train, features.train_targets)
        phase = Phase("branch", (), ("branch",), {"branch": 1.0}, order=order)
        arrays = Arrays(features.train, features.train_targets, finish=as_float32)  # type: ignore[arg-type]
        recipe = read_recipe({**RECIPE, "seed": seed, "epochs": self.options.epochs})
        with tempfile.TemporaryDirectory() as folder:
            run_phase(net, phase, recipe, self.parts.task, arrays, None, Path(folder))
        right = 0
        with torch.inference_mode():
            for at in range(0, len(features.test), CHUNK):
                x = torch.from_numpy(as_float32(features.test[at : at + CHUNK]))
                chosen = net(x, ("branch",))["branch"].argmax(1).numpy()
                right += int((chosen == features.test_targets[at : at + CHUNK]).sum())
        return right / len(features.test)

    def row(
        self, name: str, net: MultiExit, place: str, kind: str, given: dict[str, Any], features: Features
    ) -> dict[str, Any]:
        """One branch over all seeds, and what it costs."""
        label = f"{name} {place}, {kind} {given or ''}".strip()
        runs = [
            self.once(f"{label}, seed {seed}", partial(self.accuracy, features, kind, seed, given))
            for seed in self.options.seeds
        ]
        with_exit = sentio.add_exits(net.backbone, kind, at=[place], classes=self.parts.task.outputs, **given)
        (cost,) = [row for row in sentio.profile(with_exit, measure=False).rows if row.kind == EXIT]
        return {
            "backbone": name,
            "at": place,
            "branch": kind,
            "options": given,
            **summed_up(runs),
            "parameters": cost.parameters,
            "macs": cost.macs,
            "path_macs": cost.path_macs,
        }


def as_float32(inputs: NDArray[Any]) -> NDArray[np.float32]:
    return inputs.astype(np.float32)


def summed_up(runs: list[float]) -> dict[str, Any]:
    """Mean and standard deviation (of a sample) over seeds, in per cent."""
    return {
        "accuracy": 100 * mean(runs),
        "std": 100 * stdev(runs) if len(runs) > 1 else 0.0,
        "runs": runs,
    }


def compare_taps(bench: Bench) -> list[dict[str, Any]]:
    """SL-ViT against CNN-EE at the same boundaries."""
    rows = []
    for name, places in TAPS.items():
        net = bench.network(name)
        for place, features in bench.features(net, places).items():
            chosen = searched(bench, f"{name} {place}", features)
            rows.append(bench.row(name, net, place, "cnn-ee", {}, features))
            rows.append(bench.row(name, net, place, "sl-vit", chosen.options, features))
    return rows


def searched(bench: Bench, where: str, features: Features) -> Candidate:
    """Patch and heads of SL-ViT within CNN-EE's parameters that do best on held-out training images."""
    inner = features.without_test()
    side = features.shape[1]
    patches = [patch for patch in (2, 4, 8) if 2 <= side // patch <= 8]

    def score(each: Candidate) -> float:
        return bench.once(
            f"search {where}, {each.options}",
            partial(bench.accuracy, inner, "sl-vit", SEARCH_SEED, each.options),
        )

    return search_sl_vit(
        features.shape, bench.parts.task.outputs, score, patches=patches, heads=bench.options.heads
    )[0]


def compare_vit(bench: Bench) -> list[dict[str, Any]]:
    """The seven branches behind two layers of a small vision transformer."""
    patch, epochs = bench.options.vit_patch, bench.options.vit_epochs
    path = bench.options.made / f"exit-kinds-vit-{patch}-{epochs}"
    if not path.exists():
        print(f"  training {path.name}", flush=True)
        sizes = {"size": [32, 32], "patch": patch, "stride": patch, "dim": 64, "layers": 6, "heads": 4}
        recipe = {**VIT_RECIPE, "name": path.name, "epochs": epochs}
        recipe["network"] = {"name": "vit-b16", "options": sizes}
        recipe["frontend"] = {"name": bench.parts.frontend.name, "options": bench.parts.frontend.settings()}
        sentio.train(None, recipe, bench.parts.data, out=path, cache=bench.options.made / "features")
    net = bench.network(path.name)
    found = sentio.load(path, runtime="torch").card["validation"]["exits"][-1]["accuracy"]
    print(f"  the ViT itself, on all 10,000 test images: {found:.2%}")
    return [
        bench.row(path.name, net, place, kind, {}, features)
        for place, features in bench.features(net, VIT_TAPS).items()
        for kind in VIT_KINDS
    ]


def compare_orders(bench: Bench) -> list[dict[str, Any]]:
    """One branch with its images in several orders; a seed's runs begin with the same weights."""
    net, teacher = bench.network(ORDER_BACKBONE), bench.network(TEACHER)
    features = bench.features(net, [ORDER_TAP])[ORDER_TAP]
    images, scores = bench.parts.train, []
    with torch.inference_mode():
        for at in range(0, len(images), CHUNK):
            x = torch.from_numpy(bench.parts.finish(images.inputs[at : at + CHUNK]))
            targets = torch.from_numpy(images.targets[at : at + CHUNK])
            scores.append(difficulty(teacher(x, (FINAL,))[FINAL], targets))
    hard = torch.cat(scores).numpy()
    # Six steps lead from 4 % of the images to all of them.
    every = max(1, round(PACED_EPOCHS * len(images) / BATCH / 6))
    rows = []
    for order in ORDERS:
        runs = []
        for seed in bench.options.seeds:
            plan = None
            if order != "none":
                pacing = find_pacing({"name": "fixed-exponential", "every": every})
                plan = Curriculum(hard, None, order, pacing, balanced=False)
            measure = partial(bench.accuracy, features, ORDER_KIND, seed, {}, plan)
            runs.append(bench.once(f"order {order}, seed {seed}", measure))
        rows.append({"order": order, **summed_up(runs)})
    return rows


PARTS = {"taps": compare_taps, "vit": compare_vit, "orders": compare_orders}


def report(name: str, rows: list[dict[str, Any]]) -> str:
    """One comparison as plain text."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(name if name != "orders" else f"order, {ORDER_KIND} at {ORDER_BACKBONE} {ORDER_TAP}")
    titles = ["accuracy, %", "std"]
    if name != "orders":
        titles += ["parameters", "MACs", "MACs up to and with it"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        figures = [f"{row['accuracy']:.2f}", f"{row['std']:.2f}"]
        if name == "orders":
            table.add_row(row["order"], *figures)
            continue
        options = " ".join(f"{key}={value}" for key, value in row["options"].items())
        label = f"{row['backbone']} {row['at']}, {row['branch']} {options}".strip()
        table.add_row(label, *figures, *(f"{row[key]:,}" for key in ("parameters", "macs", "path_macs")))
    return plain_text(table)


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    usual = Path(os.environ.get("SENTIO_DATA", ".")) / "cifar10" / "train.zip"
    parser.add_argument("--data", type=Path, default=usual, help="CIFAR-10, as any layout (SENTIO_DATA)")
    parser.add_argument("--from", dest="made", type=Path, default=Path("cifar10-made"), help="trained models")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which comparisons")
    parser.add_argument("--images", type=int, default=6_000, help="training images of the branches (6000)")
    parser.add_argument("--test", type=int, default=5_000, help="test images (5000)")
    parser.add_argument("--epochs", type=int, default=5, help="of each branch (5)")
    parser.add_argument("--heads", type=int, nargs="+", default=[2, 8], help="searched for SL-ViT (2 8)")
    parser.add_argument("--vit-patch", type=int, default=4, help="side of the small ViT's patches (4)")
    parser.add_argument("--vit-epochs", type=int, default=4, help="of the small ViT (4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = machine()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    options.made.mkdir(parents=True, exist_ok=True)
    parts = cifar_parts(options.data, options.made / "features")
    first = {"train": parts.train.first(options.images), "test": parts.test.first(options.test)}
    bench = Bench(replace(parts, **first), options)
    print(f"{parts.data.name}: {bench.said}, seeds {', '.join(map(str, options.seeds))}\n")
    begun = process_time()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.parts:
        found[name] = PARTS[name](bench)
        print("\n" + report(name, found[name]) + "\n", flush=True)
    print(f"{process_time() - begun:.0f} s of processor time, without what was kept from an earlier run")
    if options.json is not None:
        figures = {"machine": facts, "measured": bench.said, "seeds": options.seeds, **found}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
