"""A network with exits against the small fixed one that people deploy, on CIFAR-10: accuracy, MACs, time.

    python benchmarks/cifar10_anytime.py --data train.zip --from made   # trains what is not there, hours
    python benchmarks/cifar10_anytime.py --data train.zip --from made --png curve.png --json figures.json

Both networks are trained here, on the same images with the same optimiser and for as many epochs, 56. The one
with exits learns from a larger network beside the labels (recipes/cifar10-teacher.yaml, then
recipes/cifar10-first.yaml, 36 epochs), and then from itself (recipes/cifar10-anytime.yaml, 20). The peer is
ResNet-8 of MLPerf Tiny (recipes/cifar10-resnet8.yaml) and learns from labels alone, as people train it; and
once more as ours does, first from the teacher and then from itself, on the same augmented images, so that
what teaching is worth is not mistaken for what exits are. All are measured on the 10,000 validation images
that none was trained on. Thresholds are fitted on one half of those and measured on the other, both ways
round; so no image is answered by thresholds that have seen it.

Two questions: how much more accurate is the network with exits at ResNet-8's mean cost (wanted: 4 points),
and what share of ResNet-8's cost does it need for ResNet-8's accuracy (wanted: half). Time is measured at
batch 1 in one thread, in PyTorch and in the runtime without it; ResNet-8 in PyTorch is the plain module.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from timing import laps, machine, plain_text

import sentio
from sentio.core.anytime import FINAL
from sentio.core.calibration import fit_thresholds
from sentio.core.confidence import classifier_confidence
from sentio.core.model import Model
from sentio.data.features import features
from sentio.training.division import divide
from sentio.training.recipe import Recipe, read_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
TEACHER, FIRST, OURS, PEER = "cifar10-teacher", "cifar10-first", "cifar10-anytime", "cifar10-resnet8"
#: the peer, trained as ours
TAUGHT_FIRST, TAUGHT = "cifar10-resnet8-first", "cifar10-resnet8-taught"
#: who teaches whom; a network that its former self teaches begins as that
TAUGHT_BY = {FIRST: TEACHER, OURS: FIRST, TAUGHT_FIRST: TEACHER, TAUGHT: TAUGHT_FIRST}
GOES_ON = (OURS, TAUGHT)
#: wanted: points above the peer at its cost, share of its cost at its accuracy, error of the profile
MORE_POINTS, MOST_SHARE, MOST_ERROR = 4.0, 0.5, 0.15
#: budgets of the curve
POINTS = 20
#: images timed
TIMED = 200


@dataclass(frozen=True)
class Point:
    """One setting of thresholds, as measured on images that they were not fitted on.

    Args:
        accuracy, macs: means over all validation images.
        shares: of the images that leave at each exit.
        policies: thresholds of the two halves.
    """

    accuracy: float
    macs: float
    shares: dict[str, float]
    policies: tuple[dict[str, float | None], ...]


class Judged:
    """What a model with exits says about the validation images.

    Args:
        model: the model.
        inputs: of the images.
        targets: their class numbers.
    """

    def __init__(self, model: Model, inputs: NDArray[Any], targets: NDArray[np.int64]) -> None:
        outputs = model.outputs(inputs)
        self.names = list(outputs)
        self.confidence = np.stack([classifier_confidence(output) for output in outputs.values()])
        self.right = np.stack([output.argmax(1) == targets for output in outputs.values()])
        assert model.costs is not None
        self.macs = [model.costs.macs[model.costs.index(name)] for name in self.names]
        # Every second image of each class, so that both halves hold as many of each.
        self.half = np.zeros(len(targets), bool)
        for label in np.unique(targets):
            self.half[np.flatnonzero(targets == label)[::2]] = True

    def at(self, budget: float) -> Point:
        """The most accurate thresholds of at most this mean cost, fitted and measured crosswise."""
        right = np.zeros(self.right.shape[1], bool)
        left = np.zeros(self.right.shape[1], np.intp)
        policies = []
        for fitted in (self.half, ~self.half):
            found = fit_thresholds(
                self.confidence[:, fitted], self.right[:, fitted], self.macs, mean_macs=budget
            )
            other = np.flatnonzero(~fitted)
            left[other] = self._exits(found.thresholds, other)
            right[other] = self.right[left[other], other]
            policies.append(dict(zip(self.names[:-1], found.thresholds, strict=True)))
        shares = {name: float((left == place).mean()) for place, name in enumerate(self.names)}
        return Point(float(right.mean()), float(np.asarray(self.macs)[left].mean()), shares, tuple(policies))

    def _exits(self, thresholds: Any, samples: NDArray[np.intp]) -> NDArray[np.intp]:
        found = np.full(len(samples), len(self.names) - 1, np.intp)
        for place in reversed(range(len(self.names) - 1)):
            if thresholds[place] is not None:
                found[self.confidence[place, samples] >= thresholds[place]] = place
        return found


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, measure, print; always gives 0, PASS and FAIL are printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    usual = Path(os.environ.get("SENTIO_DATA", ".")) / "cifar10" / "train.zip"
    parser.add_argument("--data", type=Path, default=usual, help="CIFAR-10, as any layout (SENTIO_DATA)")
    parser.add_argument("--from", dest="made", type=Path, default=Path("cifar10-made"), help="trained models")
    parser.add_argument("--epochs", type=int, help="instead of the recipes', to see that it runs")
    parser.add_argument("--no-taught", action="store_true", help="without ResNet-8 taught as ours")
    parser.add_argument("--points", type=int, default=POINTS, help=f"of the curve ({POINTS})")
    parser.add_argument("--timed", type=int, default=TIMED, help=f"images timed, 0 for none ({TIMED})")
    parser.add_argument("--png", type=Path, help="draw the curve here")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = machine()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    made: Path = options.made.absolute()
    made.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(made):  # where the teachers lie that the recipes name
        names = (OURS, PEER) if options.no_taught else (OURS, PEER, TAUGHT)
        models = {name: trained(name, options.epochs, options.data.absolute()) for name in names}
        models |= {name: sentio.load(name, runtime="torch") for name in (TEACHER,) if Path(name).exists()}
    recipe = recipe_of(PEER)
    data = sentio.open_data(options.data, protocol=recipe.data.protocol)
    split = divide(data, recipe.data, recipe.seed)
    frontend = models[OURS].frontend
    assert frontend is not None
    chosen = features(data, frontend, cache=made / "features").select(split.validation)
    print(f"{data.name}: {len(split.train)} images to train on, {len(chosen)} to measure on, {split.name}\n")
    figures = measure(models, chosen.inputs, chosen.targets, options.points, options.timed)
    print(report(figures))
    if options.png is not None:
        draw(figures, options.png)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts, **figures}, indent=2) + "\n")
    return 0


def recipe_of(name: str, epochs: int | None = None) -> Recipe:
    """A model's recipe; of what is taught, it names the teacher in this folder."""
    change: dict[str, Any] = {"epochs": epochs}
    if name in TAUGHT_BY:
        change["technique__options__teacher"] = TAUGHT_BY[name]
    if name == TAUGHT:
        return read_recipe(RECIPES / f"{OURS}.yaml", name=name, **change)
    if name != TAUGHT_FIRST:
        return read_recipe(RECIPES / f"{name}.yaml", **change)
    ours = recipe_of(FIRST, epochs)
    as_ours = {key: getattr(ours, key).model_dump() for key in ("technique", "augment")}
    return read_recipe(RECIPES / f"{PEER}.yaml", name=name, epochs=ours.epochs, **as_ours)


def trained(name: str, epochs: int | None, data: Path) -> Model:
    """A model of an earlier run, or one that is trained now; an interrupted training goes on."""
    if not Path(name).exists():
        if name in TAUGHT_BY:  # before the recipe is read, which wants its teacher to be there
            trained(TAUGHT_BY[name], epochs, data)
        recipe = recipe_of(name, epochs)
        print(f"training {name}, {recipe.epochs} epochs", flush=True)
        opened = sentio.open_data(data, protocol=recipe.data.protocol)
        start = TAUGHT_BY[name] if name in GOES_ON else None
        sentio.train(start, recipe, opened, out=name, cache="features")
    model = sentio.load(name, runtime="torch")
    as_given = {TAUGHT: OURS, TAUGHT_FIRST: FIRST}.get(name, name)
    if model.card["recipe"]["epochs"] != read_recipe(RECIPES / f"{as_given}.yaml", epochs=epochs).epochs:
        raise SystemExit(f"{name} was trained for another number of epochs; choose another folder")
    return model


def measure(
    models: dict[str, Model], inputs: NDArray[Any], targets: NDArray[np.int64], many: int, images: int
) -> dict[str, Any]:
    """All figures, plain values."""
    ours, peer = Judged(models[OURS], inputs, targets), Judged(models[PEER], inputs, targets)
    alone = {
        name: float(Judged(models[name], inputs, targets).right[-1].mean())
        for name in (TEACHER, TAUGHT)
        if name in models
    }
    accuracy, macs = float(peer.right[-1].mean()), float(peer.macs[-1])
    budgets = np.geomspace(ours.macs[0] * 1.02, ours.macs[-1], many)
    curve = [ours.at(budget) for budget in budgets]
    # A little less than the peer, so that the mean on images not fitted on stays below it too.
    at_cost = ours.at(0.99 * macs) if 0.99 * macs >= ours.macs[0] else curve[0]
    reaching = [point for point in curve if point.accuracy >= accuracy]
    at_accuracy = min(reaching, key=lambda point: point.macs, default=None)
    timed_on = inputs[np.random.default_rng(0).permutation(len(inputs))[:images]]
    points = {"at its cost": at_cost, "at its accuracy": at_accuracy}
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        boxes = {}
        for name, model in ((name, models[name]) for name in (OURS, PEER) if images):
            sentio.export(model, Path(folder) / name)
            boxes[name] = sentio.load(Path(folder) / name, runtime="edge", threads=1)
        for name, point in points.items() if images else ():
            if point is not None:
                measured[name] = times(models, boxes, point, timed_on)
    return {
        "peer": {"accuracy": accuracy, "macs": macs, "parameters": parameters(models[PEER])},
        "taught": {"accuracy": alone[TAUGHT], "macs": macs} if TAUGHT in alone else None,
        "teacher": {"accuracy": alone[TEACHER], "parameters": parameters(models[TEACHER])}
        if TEACHER in alone
        else None,
        "ours": {
            "parameters": parameters(models[OURS]),
            "exits": [
                {"name": name, "accuracy": float(right.mean()), "macs": float(cost)}
                for name, right, cost in zip(ours.names, ours.right, ours.macs, strict=True)
            ],
        },
        "curve": [asdict(point) for point in curve],
        "points": {name: None if point is None else asdict(point) for name, point in points.items()},
        "time": measured,
    }


def parameters(model: Model) -> int:
    return sum(p.numel() for p in model.network.parameters())


def times(
    models: dict[str, Model], boxes: dict[str, Model], point: Point, inputs: NDArray[Any]
) -> dict[str, float]:
    """Mean milliseconds of an image: ours by the clock and by the profile, and the peer's; both runtimes."""
    ours, peer = models[OURS], models[PEER]
    policy = sentio.Confidence(point.policies[0])
    assert ours.frontend is not None and peer.frontend is not None
    xs = [ours.frontend.finish(inputs[at : at + 1]) for at in range(len(inputs))]  # type: ignore[attr-defined]
    tensors = [torch.from_numpy(x) for x in xs]
    net, plain = ours.network.eval(), peer.network.backbone.eval()

    def with_exits(x: torch.Tensor) -> Any:
        return net.predict(x, policy, temperatures=ours.temperatures)

    def fixed(x: torch.Tensor) -> Any:
        with torch.inference_mode():
            return plain(x).argmax(1)

    mine, theirs = map(mean, laps(with_exits, fixed, tensors))
    left = [ours.exit_names[int(with_exits(x).exit[0])] for x in tensors]
    costs = [sentio.profile(net, tensors[0], repeats=30, warmup=5).exit_ms() for _ in range(5)]
    predicted = median(mean(cost[name] for name in left) for cost in costs)

    def on_box(x: NDArray[Any]) -> Any:
        return boxes[OURS].answer(x, policy=policy)

    def fixed_on_box(x: NDArray[Any]) -> Any:
        return boxes[PEER].answer(x, policy=sentio.Fixed(FINAL))

    box, box_peer = map(mean, laps(on_box, fixed_on_box, xs))
    return {
        "ms": mine,
        "peer_ms": theirs,
        "profile_ms": predicted,
        "edge_ms": box,
        "edge_peer_ms": box_peer,
    }


def verdict(good: bool) -> str:
    return "PASS" if good else "FAIL"


def report(figures: dict[str, Any]) -> str:
    """The figures as plain text."""
    peer, ours = figures["peer"], figures["ours"]
    exits = Table(box=None, pad_edge=False, header_style="")
    for title in ("all answered by", "accuracy", "MACs", "of ResNet-8"):
        exits.add_column(title, justify="left" if title.startswith("all") else "right")
    peers, taught = [{"name": "ResNet-8", **peer}], figures["taught"]
    if taught is not None:
        peers.append({"name": "ResNet-8, taught as ours", **taught})
    for row in (*ours["exits"], *peers):
        exits.add_row(
            row["name"], f"{row['accuracy']:.2%}", f"{row['macs']:,.0f}", f"{row['macs'] / peer['macs']:.2f}"
        )
    lines = [plain_text(exits), f"parameters: {ours['parameters']:,}, ResNet-8 {peer['parameters']:,}"]
    if (teacher := figures["teacher"]) is not None:  # it need not be there once its pupil is
        lines.append(f"the teacher: {teacher['accuracy']:.2%}, {teacher['parameters']:,} parameters")
    lines.append("")
    at_cost, at_accuracy = figures["points"]["at its cost"], figures["points"]["at its accuracy"]
    more = 100 * (at_cost["accuracy"] - peer["accuracy"])
    good = more >= MORE_POINTS and at_cost["macs"] <= peer["macs"]
    lines.append(
        f"at ResNet-8's mean cost: {at_cost['accuracy']:.2%} at {at_cost['macs']:,.0f} MACs, {more:+.2f} "
        f"points (wanted: +{MORE_POINTS:g})  {verdict(good)}"
    )
    if taught is not None:
        beyond = 100 * (at_cost["accuracy"] - taught["accuracy"])
        lines.append(f"against ResNet-8 taught as ours: {beyond:+.2f} points")
    if at_accuracy is None:
        lines.append(f"at ResNet-8's accuracy: never reached  {verdict(False)}")
    else:
        share = at_accuracy["macs"] / peer["macs"]
        lines.append(
            f"at ResNet-8's accuracy: {at_accuracy['accuracy']:.2%} at {at_accuracy['macs']:,.0f} MACs, "
            f"{share:.2f} of its cost (wanted: {MOST_SHARE:g})  {verdict(share <= MOST_SHARE)}"
        )
    for name, time in figures["time"].items():
        error = abs(time["ms"] / time["profile_ms"] - 1)
        lines += [
            f"{name}, PyTorch: {time['ms']:.3f} ms, ResNet-8 {time['peer_ms']:.3f} ms, ratio "
            f"{time['ms'] / time['peer_ms']:.2f}",
            f"{name}, measured / profile: {time['ms']:.3f} / {time['profile_ms']:.3f} ms "
            f"(wanted: within {MOST_ERROR:.0%})  {verdict(error <= MOST_ERROR)}",
            f"{name}, without PyTorch: {time['edge_ms']:.3f} ms, ResNet-8 {time['edge_peer_ms']:.3f} ms, "
            f"ratio {time['edge_ms'] / time['edge_peer_ms']:.2f}",
        ]
    return "\n".join(lines)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Accuracy over mean cost: thresholds, single exits, and the peer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    curve = sorted((point["macs"] / 1e6, 100 * point["accuracy"]) for point in figures["curve"])
    axes.plot(*zip(*curve, strict=True), label="with exits, thresholds fitted", color="C0")
    exits = [(row["macs"] / 1e6, 100 * row["accuracy"]) for row in figures["ours"]["exits"]]
    axes.plot(*zip(*exits, strict=True), "o", label="all images at one exit", color="C1")
    for row, place in zip(figures["ours"]["exits"], exits, strict=True):
        axes.annotate(row["name"], place, textcoords="offset points", xytext=(6, -12), fontsize=8)
    peer = figures["peer"]
    axes.plot(peer["macs"] / 1e6, 100 * peer["accuracy"], "s", label="ResNet-8", color="C3")
    axes.set_xlabel("mean cost in million MACs")
    axes.set_ylabel("accuracy in %")
    axes.margins(x=0.08)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
