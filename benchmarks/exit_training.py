"""Ways to train a network with exits, and what its exits are worth in accuracy, MACs and time.

    pip install --no-deps earlyon fvcore      # one of the peers; its core needs no torchvision
    python benchmarks/exit_training.py --data train.zip --from made --json figures.json    # about 20 minutes
    python benchmarks/exit_training.py --data train.zip --images 256 --test 64 --epochs 1 --timed 4

One backbone (glance-resnet at half its width, exits behind three stages) is trained on the same images of
CIFAR-10 for as many epochs, with the same optimiser and augmentation, in five ways:

- self-distillation: end to end, all exits learn from the last one too;
- BranchyNet: end to end on the sum of all exits' losses, weights fixed (Teerapittayanon et al. 2016);
- SDN: end to end, an exit's weight rises in every epoch up to its share of the whole cost, as Shallow-Deep
  Networks are trained from scratch (Kaya et al. 2019);
- frozen: the backbone alone, then exits on it, the other training of that paper (IC-only) and classifier-wise
  here; the exits train for as many epochs again;
- earlyon: its wrapper around the same backbone, its heads, its joint trainer with its default loss weights.

Beside them: the same backbone without exits, and a small static network, ResNet-8 at half its width. All are
measured on images of the 10,000 that nobody was trained on. Thresholds are fitted on one half of them and
measured on the other, both ways round, for the static network's cost as the mean.

Time is the processor's, in one thread, so that a busy machine changes it little: at batch 1 each image's
median lap, and in batches of 64, both in turns with the static network on the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from cifar10_anytime import Judged, Point
from cifar_images import Parts, cifar_parts
from numpy.typing import NDArray
from rich.table import Table
from timing import Run, compare, laps, machine, plain_text
from torch import Tensor, nn

import sentio
from sentio.core import registry
from sentio.core.anytime import FINAL
from sentio.core.calibration import fit_temperature
from sentio.core.multi_exit import MultiExit
from sentio.core.torch_row import TorchRow
from sentio.techniques.objective import LabelLoss, Setting, TrainingBatch
from sentio.techniques.phases import Phase
from sentio.training.batches import Arrays
from sentio.training.loop import run_phase
from sentio.training.recipe import read_recipe
from sentio.vision import augmentation

BATCH, MANY = 128, 64
AT = ("glance1", "glance2", "look1")
WIDTH, STATIC_WIDTH = 8, 8
RECIPE: dict[str, Any] = {
    "name": "exits",
    "optimiser": {"name": "sgd", "lr": 0.15, "momentum": 0.9, "weight_decay": 0.0005},
    "schedule": {"name": "one-cycle", "warmup_epochs": 1, "every": "step"},
    "augment": {"flip": 0.5, "crop": 4},
    "batch": BATCH,
    "keep": "last",
    "devices": {"precision": "bf16-mixed", "channels_last": True},
}
#: mean costs at which accuracies are compared, in those of the static network
SHARES = (0.5, 1.0, 2.0)
TIMES = ("p50_ms", "p95_ms", "mean_ms", "static_p50_ms", "static_p95_ms", "static_mean_ms")
EARLYON, STATIC, PLAIN = "earlyon", "static: ResNet-8", "backbone without exits"


class RisingWeights:
    """The loss of Shallow-Deep Networks: in each epoch exits count more, up to their share of the cost.

    Implements `sentio.techniques.objective.Objective`.

    Args:
        shares: exit -> its cost as a share of the whole.
        epochs: of the training.
    """

    def __init__(self, shares: dict[str, float], epochs: int) -> None:
        self.shares, self.epochs = shares, epochs

    def check(self, net: MultiExit, setting: Setting) -> None:
        pass

    def prepare(self, net: MultiExit, setting: Setting, inputs: NDArray[Any]) -> None:
        pass

    def losses(self, net: MultiExit, batch: TrainingBatch, label_loss: LabelLoss) -> dict[str, Tensor]:
        grown = (batch.epoch + 1) / self.epochs
        weights = {name: min(share, 0.01 + grown * share) for name, share in self.shares.items()}
        outputs = net(batch.inputs)
        return {
            name: weights.get(name, 1.0) * label_loss(out, batch.targets) for name, out in outputs.items()
        }

    def identity(self) -> str:
        return f"{self.shares} {self.epochs}"


class Bench:
    """The images, how all are trained, and where trained weights are kept.

    Args:
        parts: the images.
        options: of the command.
    """

    def __init__(self, parts: Parts, options: argparse.Namespace) -> None:
        self.parts, self.options = parts, options
        self.said = (
            f"{len(parts.train)} training images, {len(parts.test)} test images, {options.epochs} epochs"
        )
        self.folder = options.made / f"exit-training-{len(parts.train)}-{options.epochs}-{options.seed}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def network(self) -> MultiExit:
        """The backbone with its exits, the same weights each time."""
        classes = self.parts.task.outputs
        torch.manual_seed(self.options.seed)
        backbone = sentio.create_network("glance-resnet", classes=classes, width=WIDTH)
        return sentio.add_exits(backbone, "pooled-linear", at=AT, classes=classes, hidden=128)

    def once(self, name: str, net: nn.Module, train: Callable[[], None]) -> None:
        """Train it, or take the weights that an earlier run left."""
        path = self.folder / f"{name}.pt"
        if path.exists():
            net.load_state_dict(torch.load(path, weights_only=True))
            return
        begun = process_time()
        train()
        torch.save(net.state_dict(), path)
        print(f"  trained {name}: {process_time() - begun:.0f} s", flush=True)

    def phases(self, name: str, net: MultiExit, phases: list[Phase]) -> None:
        """Train with the product's loop."""
        recipe = read_recipe({**RECIPE, "epochs": self.options.epochs, "seed": self.options.seed})
        images = self.parts.train
        arrays = Arrays(images.inputs, images.targets, finish=self.parts.finish)

        def train() -> None:
            for phase in phases:
                with tempfile.TemporaryDirectory() as folder:
                    run_phase(net, phase, recipe, self.parts.task, arrays, None, Path(folder))

        self.once(name, net, train)
        net.eval()

    def model(self, net: MultiExit, name: str) -> sentio.Model:
        """With its costs and temperatures; these are fitted on the test images, they change no answer."""
        costs = sentio.profile(net, measure=False).costs
        model = sentio.Model(
            TorchRow(net), self.parts.task, frontend=self.parts.frontend, costs=costs, name=name
        )
        outputs = model.outputs(self.parts.test.inputs)
        targets = self.parts.test.targets
        model.temperatures = {exit: fit_temperature(logits, targets) for exit, logits in outputs.items()}
        return model


# Ways to train


def with_sentio(bench: Bench) -> dict[str, MultiExit]:
    """The four ways of Sentio, and the backbone that one of them begins with."""
    found = {}
    net = bench.network()
    options = {"teacher": "self", "weight": 0.5, "temperature": 3.0}
    base = {"name": "end-to-end", "options": {"weights": 0.6}}
    found["self-distillation"] = net
    phases = registry.build("technique", "distillation", net, **options, phases=base)
    setting = Setting(bench.parts.task, bench.parts.frontend, bench.options.seed)
    for phase in phases:
        phase.objective.check(net, setting)
        phase.objective.prepare(net, setting, bench.parts.train.inputs)
    bench.phases("self-distillation", net, phases)
    found["BranchyNet"] = net = bench.network()
    bench.phases("branchynet", net, registry.build("technique", "end-to-end", net, weights=1.0))
    found["SDN"] = net = bench.network()
    macs = sentio.profile(net, measure=False).exit_macs()
    shares = {name: macs[name] / macs[FINAL] for name in AT}
    (phase,) = registry.build("technique", "end-to-end", net, weights=1.0)
    bench.phases("sdn", net, [replace(phase, objective=RisingWeights(shares, bench.options.epochs))])
    found["frozen"] = net = bench.network()
    backbone, exits = registry.build("technique", "classifier-wise", net)
    bench.phases("backbone", net, [backbone])
    found[PLAIN] = MultiExit(deepcopy(net.backbone))
    bench.phases("frozen", net, [exits])
    return found


def static(bench: Bench) -> MultiExit:
    """The small network beside them."""
    torch.manual_seed(bench.options.seed)
    net = MultiExit(sentio.create_network("resnet8", classes=bench.parts.task.outputs, width=STATIC_WIDTH))
    bench.phases("static", net, registry.build("technique", "end-to-end", net))
    return net


class Augmented:
    """Batches with the recipe's augmentation, for a trainer that takes a loader."""

    def __init__(self, parts: Parts, seed: int) -> None:
        self.parts, self.seed, self.epoch = parts, seed, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1000 + self.epoch)
        self.epoch += 1
        images = self.parts.train
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            x = torch.from_numpy(self.parts.finish(images.inputs[rows.numpy()]))
            x = augmentation.horizontal_flip(x, RECIPE["augment"]["flip"], generator)
            x = augmentation.padded_crop(x, RECIPE["augment"]["crop"], generator, edge="zero")
            yield x, torch.from_numpy(images.targets[rows.numpy()])


def with_earlyon(bench: Bench) -> Any:
    """Its wrapper around the same backbone, trained by its joint trainer; None where it is not installed."""
    try:
        from earlyon import EarlyExitConfig, EarlyExitWrapper, ExitPoint
        from earlyon.core.exit_head import EarlyExitHead
        from earlyon.training import joint_train_backbone_and_exits
    except ImportError:
        print("no earlyon: it is not installed (pip install --no-deps earlyon fvcore)")
        return None
    net, classes = bench.network(), bench.parts.task.outputs
    stages = OrderedDict((name, net.backbone.stage(name)) for name in net.stage_names)
    shapes = net.backbone.boundary_shapes()
    torch.manual_seed(bench.options.seed)
    wrapper = EarlyExitWrapper(
        nn.Sequential(stages),
        {name: EarlyExitHead(shapes[name]["main"][0], classes, hidden_dim=128) for name in AT},
        nn.Identity(),
        EarlyExitConfig(
            backbone="glance-resnet",
            num_classes=classes,
            exit_points=[ExitPoint(name, name, shapes[name]["main"][0]) for name in AT],
        ),
        input_shape=(1, 3, 32, 32),
        feature_adapters=dict.fromkeys(AT, _main),
    )

    def train() -> None:
        settings = RECIPE["optimiser"]
        optimiser = torch.optim.SGD(
            wrapper.parameters(), 0.1, momentum=settings["momentum"], weight_decay=settings["weight_decay"]
        )
        # Without the cache: it would keep the first step's weights for as long as its trainer runs.
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            joint_train_backbone_and_exits(
                wrapper,
                Augmented(bench.parts, bench.options.seed),  # type: ignore[arg-type]
                epochs=bench.options.epochs,
                optimizer=optimiser,
                on_epoch_end=lambda _: None,
            )

    bench.once("earlyon", wrapper, train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its estimate of operations, made once
        _ = wrapper.flops_estimate
    return wrapper.eval()


def _main(boundary: Any) -> Tensor:
    """Its heads take a tensor; some boundaries here carry two."""
    tensor: Tensor = boundary["main"] if isinstance(boundary, dict) else boundary
    return tensor


# Measuring


@dataclass(frozen=True)
class Subject:
    """A trained network, as it is measured.

    Args:
        model: gives every exit's output about images, and answers them.
        wrapper: earlyon's, where that answers in its place.
    """

    model: sentio.Model
    wrapper: Any = None

    def runs(self, thresholds: dict[str, float | None]) -> tuple[Run, Run]:
        """What answers one image, and what answers a batch."""
        if self.wrapper is None:
            net, policy = self.model.network, sentio.Confidence(thresholds)

            def run(x: Tensor) -> Any:
                return net.predict(x, policy, temperatures=self.model.temperatures)

            return run, run
        config = self.wrapper.config
        config.enabled_exits = [thresholds[name] is not None for name in AT]
        config.confidence_thresholds = [min(1.0, thresholds[name] or 0.0) for name in AT]
        config.temperatures = {name: float(self.model.temperatures[name]) for name in (*AT, FINAL)}
        config.validate()
        return self.wrapper, self.wrapper.forward_inference_batched


def subjects(bench: Bench) -> tuple[dict[str, Subject], dict[str, MultiExit]]:
    """All networks with exits, and those without."""
    nets = with_sentio(bench)
    plain = {PLAIN: nets.pop(PLAIN), STATIC: static(bench)}
    found = {name: Subject(bench.model(net, name)) for name, net in nets.items()}
    wrapper = with_earlyon(bench)
    if wrapper is not None:
        # The same modules as a network with exits, so that one loop gives all outputs and counts all costs.
        backbone = sentio.Staged(dict(wrapper.backbone.named_children()), input_shapes=(3, 32, 32))
        heads = {name: wrapper.exit_heads[name] for name in AT}
        net = MultiExit(backbone, heads, bench.network().specs).eval()
        found[EARLYON] = Subject(bench.model(net, EARLYON), wrapper)
    return found, plain


def measure(bench: Bench) -> dict[str, Any]:
    """All figures of the trained networks, plain values."""
    found, plain = subjects(bench)
    images = bench.parts.test
    alone = {
        name: Judged(bench.model(net, name), images.inputs, images.targets) for name, net in plain.items()
    }
    cost = alone[STATIC].macs[-1]
    rows = {
        name: {"accuracy": float(judged.right[-1].mean()), "macs": float(judged.macs[-1])}
        for name, judged in alone.items()
    }
    reference = plain[STATIC].backbone.eval()

    def fixed(x: Tensor) -> Any:
        with torch.inference_mode():
            return reference(x).argmax(1)

    methods: dict[str, Any] = {}
    for name, subject in found.items():
        judged = Judged(subject.model, images.inputs, images.targets)
        # A little less than the static network, so that the mean on images not fitted on stays below it.
        points = {share: judged.at(0.99 * share * cost) for share in SHARES}
        methods[name] = {
            "exits": dict(zip(judged.names, judged.right.mean(1).tolist(), strict=True)),
            "macs": dict(zip(judged.names, map(float, judged.macs), strict=True)),
            "at": {share: {"accuracy": p.accuracy, "macs": p.macs} for share, p in points.items()},
            "shares": points[1.0].shares,
            "time": times(bench, subject, points[1.0], fixed),
        }
    return {"alone": rows, "methods": methods}


def times(bench: Bench, subject: Subject, point: Point, fixed: Run) -> dict[str, float]:
    """Milliseconds of an image and images in a second, beside the static network in the same minutes."""
    count = bench.options.timed
    x = torch.from_numpy(bench.parts.finish(bench.parts.test.inputs[: max(count, MANY)]))
    run, run_many = subject.runs(point.policies[0])
    mine, theirs = laps(run, fixed, [x[at : at + 1] for at in range(count)], processor=True)
    batches = [part for part in x.split(MANY) if len(part) == MANY] or [x]
    many = compare(run_many, fixed, batches, bench.options.repeats, processor=True)
    return {
        "p50_ms": float(np.median(mine)),
        "p95_ms": float(np.percentile(mine, 95)),
        "mean_ms": float(np.mean(mine)),
        "static_p50_ms": float(np.median(theirs)),
        "static_p95_ms": float(np.percentile(theirs, 95)),
        "static_mean_ms": float(np.mean(theirs)),
        "images_per_second": 1000 * len(batches[0]) / many.ms,
        "static_images_per_second": 1000 * len(batches[0]) / many.reference_ms,
        "batch_ratio": many.ratio,
    }


# Reporting


def table(titles: list[str]) -> Table:
    found = Table(box=None, pad_edge=False, header_style="")
    for place, title in enumerate(titles):
        found.add_column(title, justify="right" if place else "left", no_wrap=True)
    return found


def report(figures: dict[str, Any]) -> str:
    """The figures as plain text."""
    accuracy = table(["accuracy, %", *AT, FINAL, *(f"at {share:g}x" for share in SHARES), "M MACs there"])
    time = table(
        ["ms, batch 1", "p50", "p95", "mean", "static's p50", "p95", "mean", "images/s of 64", "static's"]
    )
    for name, found in figures["methods"].items():
        exits = [f"{100 * found['exits'][exit]:.2f}" for exit in (*AT, FINAL)]
        at = found["at"].values()
        accuracy.add_row(
            name,
            *exits,
            *(f"{100 * point['accuracy']:.2f}" for point in at),
            ", ".join(f"{point['macs'] / 1e6:.2f}" for point in at),
        )
        time_of = found["time"]
        ms = [f"{time_of[key]:.2f}" for key in TIMES]
        many = [f"{time_of[key]:.0f}" for key in ("images_per_second", "static_images_per_second")]
        time.add_row(name, *ms, *many)
    costs = next(iter(figures["methods"].values()))["macs"]
    lines = [plain_text(accuracy), "M MACs: " + ", ".join(f"{n} {m / 1e6:.2f}" for n, m in costs.items())]
    for name, row in figures["alone"].items():
        lines.append(f"{name}: {100 * row['accuracy']:.2f} % at {row['macs'] / 1e6:.2f} M MACs")
    lines.append(f"at 1x means the mean cost of {STATIC}")
    return "\n\n".join(["\n".join(lines), plain_text(time)])


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    usual = Path(os.environ.get("SENTIO_DATA", ".")) / "cifar10" / "train.zip"
    parser.add_argument("--data", type=Path, default=usual, help="CIFAR-10, as any layout (SENTIO_DATA)")
    parser.add_argument("--from", dest="made", type=Path, default=Path("cifar10-made"), help="trained models")
    parser.add_argument("--images", type=int, default=10_000, help="training images (10000)")
    parser.add_argument("--test", type=int, default=5_000, help="test images (5000)")
    parser.add_argument("--epochs", type=int, default=6, help="of each training (6)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timed", type=int, default=200, help="images timed one by one (200)")
    parser.add_argument("--repeats", type=int, default=20, help="timed pairs of batches (20)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = machine()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    parts = cifar_parts(options.data, options.made / "features")
    first = {"train": parts.train.first(options.images), "test": parts.test.first(options.test)}
    bench = Bench(replace(parts, **first), options)
    print(f"{parts.data.name}: {bench.said}, seed {options.seed}\n", flush=True)
    figures = measure(bench)
    print("\n" + report(figures))
    if options.json is not None:
        text = {"machine": facts, "measured": bench.said, "seed": options.seed, **figures}
        options.json.write_text(json.dumps(text, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
