"""What anytime inference costs, and how it compares with earlyon: batch 1, on the CPU.

    python benchmarks/anytime.py                 # all networks, about five minutes
    python benchmarks/anytime.py --quick         # one small network, a few seconds
    python benchmarks/anytime.py --threads 2 --json anytime.json

Weights are random: how long a network takes does not depend on them. Batch norms get their statistics from
the inputs, which are noise of a seeded strength per sample, and thresholds are set so that about 40, 30 and
30 % of the samples leave at the first, second and last exit. So the leaving pattern is made, not learnt.

Two things that are compared run right after each other, in alternating order, and what is reported is the
median of the ratios of such pairs: a busy machine then slows both. A pair during which the system put the
process aside for another one is left out where enough others remain; the table says how many do ("calm").
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from rich.table import Table
from timing import Lap, Ratio, Run, compare, machine, plain_text, timed, undisturbed
from torch import Tensor, nn

import sentio
from sentio.core.anytime import FINAL, anytime
from sentio.core.profiling import EXIT
from sentio.core.torch_row import TorchRow

#: What is promised: the row loop over the backbone, and measured over predicted latency.
MOST_OVERHEAD, MOST_ERROR = 1.05, 0.15
TARGET = "row loop / backbone"
#: Samples that leave at each exit.
SHARES = (0.4, 0.3, 0.3)
CLASSES = 10
EXIT_KINDS = ("pooled-linear", "cnn-ee", "sl-vit")


@dataclass(frozen=True)
class Subject:
    """One network, untouched and with exits on the very same modules.

    Args:
        plain: the backbone as PyTorch alone runs it.
        logits: its output to logits.
        net: the backbone in stages, with two exits.
        layers: for each exit the submodule of ``plain`` behind which it sits.
        inputs: samples, each a batch of one.
        repeats: timed pairs; rounds of the thresholds' measurement are a tenth of them.
    """

    name: str
    plain: nn.Module
    logits: Callable[[Any], Tensor]
    net: sentio.MultiExit
    layers: tuple[str, ...]
    inputs: list[Tensor]
    repeats: int

    @property
    def exits(self) -> tuple[str, ...]:
        return self.net.exit_names[:-1]


@dataclass
class Result:
    """What was measured on one network."""

    network: str
    parameters: int
    ratios: dict[str, Ratio] = field(default_factory=dict)
    exit_costs: list[dict[str, Any]] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    predicted_ms: float = 0.0
    measured_ms: float = 0.0
    measured_over_predicted: float = 0.0
    notes: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; always gives 0, the targets are printed with PASS or FAIL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=BUILDERS, default=list(BUILDERS)[:-1])
    parser.add_argument("--quick", action="store_true", help="one small network, a few repeats")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (1)")
    parser.add_argument("--repeats", type=float, default=1.0, help="factor on the number of repeats")
    parser.add_argument("--samples", type=int, default=20, help="inputs per network (20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = machine()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    results = []
    for name in ["quick"] if options.quick else options.networks:
        torch.manual_seed(options.seed)
        subject = BUILDERS[name](options.samples, options.repeats)
        if subject is None:
            print(f"\n{name}: skipped, transformers is not installed")
            continue
        with torch.inference_mode():
            results.append(measure(subject))
        print("\n" + report(results[-1]))
    if options.json is not None:
        text = {"machine": facts, "seed": options.seed, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(text, indent=2) + "\n")
    return 0


# Networks


def registered(name: str, at: Sequence[str], repeats: int) -> Callable[[int, float], Subject]:
    """A builder for a network of the registry with exits behind two stages."""

    def build(samples: int, factor: float, **options: Any) -> Subject:
        backbone = sentio.create_network(name, classes=CLASSES)
        plain = nn.Sequential(OrderedDict(zip(backbone.stage_names, backbone.stages.values(), strict=True)))
        inputs = noise(backbone.input_shapes["main"], samples)
        settle(plain, inputs)
        net = sentio.add_exits(backbone, "pooled-linear", at=at, classes=CLASSES).eval()
        return Subject(name, plain, _same, net, tuple(at), inputs, max(4, round(repeats * factor)))

    return build


def transformers_resnet(samples: int, factor: float) -> Subject | None:
    """ResNet-18 as `transformers` has it, cut by graph; None where that is not installed."""
    try:
        from transformers import ResNetConfig, ResNetForImageClassification
    except ImportError:
        return None
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=CLASSES,
    )
    plain = ResNetForImageClassification(config)
    inputs = noise((3, 224, 224), samples)
    settle(plain, inputs)
    layers = ("resnet.encoder.stages.1", "resnet.encoder.stages.2")
    backbone = sentio.stage(plain, at=layers, example=inputs[0])
    net = sentio.add_exits(backbone, "pooled-linear", at=layers, classes=CLASSES).eval()
    return Subject(
        "transformers ResNet-18, cut", plain, _logits, net, layers, inputs, max(4, round(40 * factor))
    )


BUILDERS: dict[str, Callable[[int, float], Subject | None]] = {
    "dcase2024-baseline": registered("dcase2024-baseline", ["block2", "block4"], 600),
    "resnet50": registered("resnet50", ["layer2", "layer3"], 40),
    "transformers-resnet": transformers_resnet,
    "quick": registered("tiny-cnn", ["block2", "block3"], 10),
}


def noise(shape: tuple[int, ...], samples: int) -> list[Tensor]:
    """Samples ``(1, *shape)`` of normal noise, their strength drawn between 0.5 and 2."""
    strengths = torch.empty(samples).uniform_(0.5, 2.0)
    return [float(strength) * torch.randn(1, *shape) for strength in strengths]


def settle(net: nn.Module, inputs: list[Tensor]) -> None:
    """Batch norm statistics from the inputs, so that random weights neither explode nor saturate."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    with torch.no_grad():
        net.train()(torch.cat(inputs[:8]))
    net.eval()


# Measuring


def measure(subject: Subject) -> Result:
    """Everything about one network."""
    net, plain = subject.net, subject.plain
    result = Result(subject.name, sum(p.numel() for p in plain.parameters()))
    last = sentio.Fixed(FINAL)

    row = TorchRow(net)

    def loop(x: Tensor) -> Tensor:
        return next(step.output for step in net.anytime(x, evaluates=last.evaluates))

    def model_loop(x: Tensor) -> Tensor:
        return next(step.output for step in anytime(row, x, evaluates=last.evaluates))

    def against(run: Run, reference: Run) -> Ratio:
        return compare(run, reference, subject.inputs, subject.repeats)

    for x in subject.inputs:
        check_same("the row loop", loop(x), subject.logits(plain(x)))
    result.ratios[TARGET] = against(loop, plain)
    result.ratios["row loop of a Model / backbone"] = against(model_loop, plain)
    result.ratios["predict(Fixed('final')) / backbone"] = against(lambda x: net.predict(x, last), plain)
    result.exit_costs = exit_costs(subject)

    thresholds, result.shares = choose_thresholds(subject)
    policy = sentio.Confidence(thresholds)

    def with_exits(x: Tensor) -> Any:
        return net.predict(x, policy)

    predict_against_profile(subject, with_exits, result)
    for name, run in peers(subject, thresholds, result.notes).items():
        check_peer(name, subject, policy, run)
        result.ratios[f"with exits: sentio / {name}"] = against(with_exits, run)
    return result


def exit_costs(subject: Subject) -> list[dict[str, Any]]:
    """Parameters, multiply-accumulates and milliseconds of every kind of exit behind the same stages."""
    rows = []
    for kind in EXIT_KINDS:
        for at in subject.exits:
            try:
                net = sentio.add_exits(subject.net.backbone, kind, at=[at], classes=CLASSES).eval()
            except sentio.ConfigError as error:
                rows.append({"kind": kind, "after": at, "refused": str(error)})
                continue
            profile = sentio.profile(net, subject.inputs[0], repeats=max(5, subject.repeats // 8))
            row = next(row for row in profile.rows if row.kind == EXIT)
            share = 100.0 * (row.ms or 0.0) / sum(r.ms or 0.0 for r in profile.rows if r is not row)
            rows.append(
                {
                    "kind": kind,
                    "after": at,
                    "parameters": row.parameters,
                    "macs": row.macs,
                    "ms": row.ms,
                    "percent_of_backbone": share,
                }
            )
    return rows


def choose_thresholds(subject: Subject) -> tuple[dict[str, float], dict[str, float]]:
    """Confidences at which `SHARES` of the samples leave, and the shares that do.

    A threshold lies halfway between two samples, so that no rounding turns a decision.
    """
    staying = list(range(len(subject.inputs)))
    thresholds, shares = {}, {}
    for name, share in zip(subject.exits, SHARES, strict=False):
        policy = sentio.Fixed(name)
        sure = {i: float(subject.net.predict(subject.inputs[i], policy).confidence[0]) for i in staying}
        order = sorted(staying, key=sure.__getitem__, reverse=True)
        leaving = round(share * len(subject.inputs))
        thresholds[name] = (sure[order[leaving - 1]] + sure[order[leaving]]) / 2
        staying = order[leaving:]
        shares[name] = leaving / len(subject.inputs)
    return thresholds, {**shares, FINAL: len(staying) / len(subject.inputs)}


def predict_against_profile(subject: Subject, run: Run, result: Result) -> None:
    """Mean latency with thresholds, measured and as the profile says it, in rounds of both.

    Of each sample's laps the median counts, as it does in a profile.
    """
    predicted: list[float] = []
    laps: list[list[Lap]] = [[] for _ in subject.inputs]
    for turn in range(-1, max(3, subject.repeats // 10)):
        costs = sentio.profile(subject.net, subject.inputs[0], repeats=10, warmup=2).exit_ms()
        for x, mine in zip(subject.inputs, laps, strict=True):
            lap = timed(run, x)
            if turn >= 0:
                mine.append(lap)
        if turn >= 0:
            predicted.append(sum(share * costs[name] for name, share in result.shares.items()))
    result.predicted_ms = median(predicted)
    result.measured_ms = mean(median(undisturbed(mine)) for mine in laps)
    result.measured_over_predicted = result.measured_ms / result.predicted_ms


# The peer


def peers(subject: Subject, thresholds: dict[str, float], notes: list[str]) -> dict[str, Run]:
    """earlyon around the same backbone, branches and thresholds: its wrapper, and its stages if it can.

    Its staged runtime takes an ``nn.Sequential`` that is cut between its children, nothing else.
    """
    try:
        from earlyon import EarlyExitConfig, EarlyExitWrapper, ExitPoint
        from earlyon.staged import staged_model
    except ImportError:
        notes.append("no peer: earlyon is not installed (pip install --no-deps earlyon fvcore)")
        return {}
    # Its own modules, since its hooks would slow ours, around the very same tensors.
    shared = {id(tensor): tensor for tensor in (*subject.plain.parameters(), *subject.plain.buffers())}
    backbone = deepcopy(subject.plain, shared)
    names = [f"exit_{number}" for number in range(len(subject.exits))]  # it takes no dots
    config = EarlyExitConfig(
        backbone=subject.name,
        num_classes=CLASSES,
        exit_points=[ExitPoint(*pair, in_channels=0) for pair in zip(names, subject.layers, strict=True)],
        confidence_thresholds=[thresholds[name] for name in subject.exits],
    )
    wrapper = EarlyExitWrapper(
        backbone,
        {name: subject.net.branch(mine) for name, mine in zip(names, subject.exits, strict=True)},
        subject.logits,
        config,
        input_shape=tuple(subject.inputs[0].shape),
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its estimate of operations, made once
        _ = wrapper.flops_estimate
    found: dict[str, Run] = {"earlyon wrapper": wrapper}
    if isinstance(backbone, nn.Sequential):
        found["earlyon staged"] = staged_model(wrapper).eval().infer
    return found


def check_peer(name: str, subject: Subject, policy: sentio.Confidence, run: Run) -> None:
    """The peer answers every sample from the same exit with the same logits."""
    for x in subject.inputs:
        mine, theirs = subject.net.predict(x, policy), run(x)
        number = theirs.exit_taken % len(subject.net.exit_names)  # it calls the last one -1
        if mine.exit[0] != number:
            raise RuntimeError(f"{subject.name}: {name} leaves at exit {number}, sentio at {mine.exit[0]}")
        check_same(name, theirs.prediction, torch.from_numpy(mine.outputs))


def check_same(what: str, found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3, msg=lambda m: f"{what} differs: {m}")


# Reporting


def report(result: Result) -> str:
    """The figures of one network as plain text."""
    overhead = result.ratios[TARGET].ratio
    error = abs(result.measured_over_predicted - 1.0)
    compared = Table(box=None, pad_edge=False, header_style="")
    for title in ("", "ms", "reference ms", "ratio", "p95", "calm", ""):
        compared.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for name, ratio in result.ratios.items():
        mark = verdict(overhead <= MOST_OVERHEAD, f"<= {MOST_OVERHEAD}") if name == TARGET else ""
        values = (ratio.ms, ratio.reference_ms, ratio.ratio, ratio.p95)
        compared.add_row(name, *(f"{value:.3f}" for value in values), f"{ratio.calm:.0%}", mark)
    compared.add_row(
        "mean with thresholds, measured / profile",
        f"{result.measured_ms:.3f}",
        f"{result.predicted_ms:.3f}",
        f"{result.measured_over_predicted:.3f}",
        "",
        "",
        verdict(error <= MOST_ERROR, f"within {MOST_ERROR:.0%}"),
    )
    exits = Table(box=None, pad_edge=False, header_style="")
    for title in ("exit", "after", "parameters", "macs", "ms", "% of backbone"):
        exits.add_column(title, justify="left" if title in ("exit", "after") else "right", no_wrap=True)
    for row in result.exit_costs:
        if "refused" in row:
            exits.add_row(row["kind"], row["after"], "refused", "", "", "")
        else:
            numbers = (f"{row['parameters']:,}", f"{row['macs']:,}", f"{row['ms']:.3f}")
            exits.add_row(row["kind"], row["after"], *numbers, f"{row['percent_of_backbone']:.1f}")
    left = ", ".join(f"{share:.0%} at {name}" for name, share in result.shares.items())
    heading = f"{result.network}, {result.parameters:,} parameters; leaving: {left}"
    return "\n".join([heading, plain_text(compared), plain_text(exits), *result.notes])


def verdict(met: bool, target: str) -> str:
    return f"{'PASS' if met else 'FAIL'} ({target})"


def _same(output: Tensor) -> Tensor:
    return output


def _logits(output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits


if __name__ == "__main__":
    raise SystemExit(main())
