"""What a box costs: stages in ONNX Runtime beside PyTorch and beside one graph of the whole network.

    python benchmarks/edge.py                            # all shipped models, some minutes
    python benchmarks/edge.py --models fsdd-digits --repeats 20 --json edge.json

One thread everywhere, on the CPU. For every model that ships, in float32 and in int8:

- an answer about features, in batches of 1 and 16, with all samples at the last exit and with thresholds;
- of a model of sound, how many streams of 16 kHz one core holds: each gives a window every half second, which
  has to be read, resampled, made into features and answered before the next one comes;
- bytes on disk, memory, and the time from nothing to the first answer, in a process of its own.

The peers compute with the same weights: PyTorch eager (the same model and policy), and one ONNX graph of
the whole network with all its exits, which cannot stop early and is what an exporter gives by itself; that
graph in int8 too. Before anything is timed, the float ones have to give the same logits.

Inputs are noise, and thresholds are set so that the samples leave at the exits where those of the model's
validation data do, by its card. All runs take the same input in turn, beginning with
another one each time; a ratio is the median over such rounds, so a busy machine slows both sides.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.table import Table
from timing import Lap, machine, plain_text, timed, undisturbed
from torch import nn

import sentio
from sentio.core.anytime import FINAL
from sentio.core.artifact import ArtifactFiles, write_artifact
from sentio.core.onnx_exporter import check_exporter, to_program
from sentio.core.shelf import shipped
from sentio.exporting.quantisation import Int8, quantise_row
from sentio.exporting.quantised_graph import quantise_graph, weight_bytes

STAGES, STAGES_INT8, TORCH = "stages", "stages, int8", "PyTorch"
WHOLE, WHOLE_INT8 = "one graph", "one graph, int8"
BATCHES = (1, 16)
#: of the streams, in hertz
RATE = 16_000
#: what a process of its own measures: seconds to import, to open, to the first answer, and its memory in MiB
START = """
import sys, time
begun = time.perf_counter()
import sentio
imported = time.perf_counter()
model = sentio.load(sys.argv[1], runtime=sys.argv[2], **({"threads": 1} if sys.argv[2] == "edge" else {}))
opened = time.perf_counter()
import numpy as np
random = np.random.default_rng(0)
if model.frontend.name == "image":
    (shape,) = model.input_shapes.values()
    model.predict(random.integers(0, 256, (*shape[1:], shape[0]), np.uint8))
else:
    samples = random.standard_normal(model.frontend.window_samples).astype("float32")
    model.predict((0.1 * samples, model.frontend.log_mel.rate))
done = time.perf_counter()
try:  # what resource.getrusage says holds the memory of the process that started this one
    lines = open("/proc/self/status").read().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
except OSError:
    memory = float("nan")
print(imported - begun, opened - imported, done - opened, memory)
"""


@dataclass
class Laps:
    """Milliseconds of one way to compute, and how many times as long as `STAGES` it takes."""

    p50: float
    p95: float
    p99: float
    ratio: float


@dataclass
class Box:
    """What one artifact takes up; seconds from nothing to its first answer."""

    bytes: int
    import_s: float
    load_s: float
    first_s: float
    memory_mib: float


@dataclass
class Result:
    """What was measured on one model."""

    name: str
    weight_ratio: float
    shares: dict[str, float]
    difference_int8: float
    #: "batch 1, thresholds off" -> way -> milliseconds
    laps: dict[str, dict[str, Laps]] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; always gives 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(shipped()), default=list(shipped()))
    parser.add_argument("--repeats", type=int, default=300, help="timed rounds of each comparison (300)")
    parser.add_argument(
        "--hop", type=float, default=0.5, help="seconds from window to window of a stream (0.5)"
    )
    parser.add_argument("--rounds", type=int, default=8, help="windows that every stream has to hold (8)")
    parser.add_argument("--starts", type=int, default=5, help="processes started for each box (5)")
    parser.add_argument("--samples", type=int, default=64, help="different inputs (64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    check_exporter()
    torch.set_num_threads(1)
    facts = machine() | {"onnxruntime": onnxruntime.__version__}
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    results = []
    for name in options.models:
        results.append(measure(name, options))
        print("\n" + report(results[-1]))
    if options.json is not None:
        text = {"machine": facts, "seed": options.seed, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(text, indent=1) + "\n")
    return 0


def measure(name: str, options: argparse.Namespace) -> Result:
    """Everything about one shipped model."""
    ours = sentio.load(name, runtime="edge", threads=1)
    eager = sentio.load(name, runtime="torch")
    x = noise(ours, max(options.samples, max(BATCHES)), options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        boxes = write_boxes(name, x, Path(scratch))
        small = sentio.load(boxes[STAGES_INT8], runtime="edge", threads=1)
        whole = whole_graph(eager.network, x)
        graphs = {WHOLE: whole, WHOLE_INT8: quantise_graph(whole, [{"x": x}], answers=True)}
        sessions = {key: open_graph(graph) for key, graph in graphs.items()}
        check_same(ours, eager, sessions[WHOLE], x)
        policies = {key: with_thresholds(model, x) for key, model in ((STAGES, ours), (STAGES_INT8, small))}
        policies[TORCH] = policies[STAGES]
        models = {STAGES: ours, STAGES_INT8: small, TORCH: eager}
        left = ours.answer(x, policy=policies[STAGES]).exit_names()
        result = Result(
            name,
            _weights(boxes[STAGES_INT8]) / _weights(boxes["stages without weights"]),
            {exit: left.count(exit) / len(left) for exit in ours.exit_names},
            difference(ours, small, x),
        )
        for batch in BATCHES:
            for on in (False, True):
                runs = {key: answering(m, policies[key] if on else None) for key, m in models.items()}
                runs |= {key: running(session) for key, session in sessions.items()}
                inputs = [np.roll(x, -start, axis=0)[:batch] for start in range(len(x))]
                title = f"batch {batch}, thresholds {'on' if on else 'off'}"
                result.laps[title] = in_turn(runs, inputs, options.repeats)
        if ours.frontend.name != "image":
            for key, model in models.items():
                result.streams[key] = streams_held(model, policies[key], options)
        for key, path in boxes.items():
            runtimes = ("edge", "torch") if key == "stages and weights" else ("edge",)
            for runtime in runtimes:
                title = key if runtime == "edge" else "the same in PyTorch"
                result.boxes[title] = started(path, runtime, options.starts)
    return result


# What is compared


def noise(model: sentio.Model, samples: int, seed: int) -> NDArray[np.float32]:
    """Features like standardised ones, of a strength drawn between 0.5 and 2, ``(sample, 1, time, mel)``."""
    random = np.random.Generator(np.random.PCG64(seed))
    shape = model.input_shapes["main"]
    strength = random.uniform(0.5, 2.0, (samples, *[1] * len(shape)))
    return (strength * random.standard_normal((samples, *shape))).astype(np.float32)


def write_boxes(name: str, x: NDArray[np.float32], folder: Path) -> dict[str, Path]:
    """The shipped artifact as it is, without PyTorch's weights, and in int8, each as one file."""
    files = ArtifactFiles(shipped()[name])
    manifest = files.manifest
    graphs = {facts.file: files.read(facts.file) for facts in manifest.graphs.values()}
    small = quantise_row(manifest.graphs, graphs, {"main": x}, Int8(calibration=x))
    return {
        "stages and weights": shipped()[name],
        "stages without weights": write_artifact(folder / "stages.zip", manifest, graphs),
        STAGES_INT8: write_artifact(folder / "int8.zip", manifest, small.files),
    }


def _weights(box: Path) -> int:
    files = ArtifactFiles(box)
    return sum(weight_bytes(files.read(facts.file)) for facts in files.manifest.graphs.values())


class AllExits(nn.Module):
    """The outputs of all exits, in order."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.net(x).values())


def whole_graph(net: Any, x: NDArray[np.float32]) -> bytes:
    """The network with all exits as one ONNX graph of input ``x``, with a dynamic batch."""
    batch = ({0: torch.export.Dim.DYNAMIC},)
    with torch.no_grad():
        given = {"x": torch.from_numpy(x[:2])}
        program = to_program(AllExits(net).eval(), given, net.exit_names, dynamic_shapes=batch)
    buffer = io.BytesIO()
    program.save(buffer, external_data=False)
    return buffer.getvalue()


def open_graph(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def answering(model: sentio.Model, policy: Any) -> Callable[[Any], Any]:
    chosen = policy or sentio.Fixed(FINAL)
    return lambda x: model.answer(x, policy=chosen)


def running(session: onnxruntime.InferenceSession) -> Callable[[Any], Any]:
    """All exits, whatever the policy: nothing can leave a single graph."""
    return lambda x: session.run(None, {"x": x})


def with_thresholds(model: sentio.Model, x: NDArray[np.float32]) -> sentio.Confidence:
    """Confidences at which as many leave at each exit as on the model's validation data."""
    shares = model.card["validation"]["operating_point"]["share"]
    staying = np.arange(len(x))
    thresholds: dict[str, float | None] = dict.fromkeys(model.exit_names[:-1])
    for name in thresholds:
        count = min(round(shares[name] * len(x)), len(staying))
        if not count:
            continue
        sure = model.answer(x[staying], policy=sentio.Fixed(name)).confidence
        order = np.argsort(-sure)
        below = sure[order[count]] if count < len(order) else 0.0
        thresholds[name] = float((sure[order[count - 1]] + below) / 2)
        staying = staying[np.sort(order[count:])]
        if not len(staying):
            break
    return sentio.Confidence(thresholds)


def check_same(ours: sentio.Model, eager: sentio.Model, whole: Any, x: NDArray[np.float32]) -> None:
    """Stages, PyTorch and the one graph give the same logits, or the benchmark stops."""
    first, second = ours.outputs(x), eager.outputs(x)
    third = dict(zip(ours.exit_names, whole.run(None, {"x": x}), strict=True))
    for name, values in first.items():
        scaled = third[name] / ours.temperatures.get(name, 1.0)
        np.testing.assert_allclose(values, second[name], rtol=1e-3, atol=1e-3, err_msg=f"PyTorch, {name}")
        np.testing.assert_allclose(values, scaled, rtol=1e-3, atol=1e-3, err_msg=f"one graph, {name}")


def difference(ours: sentio.Model, small: sentio.Model, x: NDArray[np.float32]) -> float:
    """Mean difference of logits in int8, over the mean magnitude."""
    first, second = ours.outputs(x), small.outputs(x)
    gaps = [np.abs(first[name] - second[name]).mean() / np.abs(first[name]).mean() for name in first]
    return float(np.mean(gaps))


# Measuring


def in_turn(runs: Mapping[str, Callable[[Any], Any]], inputs: Sequence[Any], repeats: int) -> dict[str, Laps]:
    """Time all runs on the same input, round by round, each round beginning with another one."""
    names = list(runs)
    rounds: list[dict[str, Lap]] = []
    for turn in range(-3, repeats):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        laps = {name: timed(runs[name], inputs[turn % len(inputs)]) for name in order}
        if turn >= 0:
            rounds.append(laps)
    calm = [laps for laps in rounds if not any(lap.disturbed for lap in laps.values())]
    counted = calm if len(calm) >= max(4, repeats // 10) else rounds
    found = {}
    for name in names:
        ms = undisturbed([laps[name] for laps in rounds])
        p50, p95, p99 = (float(value) for value in np.percentile(ms, (50, 95, 99)))
        found[name] = Laps(p50, p95, p99, median(laps[name].ms / laps[STAGES].ms for laps in counted))
    return found


def streams_held(model: sentio.Model, policy: Any, options: argparse.Namespace) -> int:
    """The most streams of which no window is answered later than the next one comes."""
    random = np.random.Generator(np.random.PCG64(options.seed))
    windows = 0.1 * random.standard_normal((16, round(model.frontend.window * RATE))).astype(np.float32)

    def held(streams: int) -> bool:
        for _ in range(options.rounds):
            begun = perf_counter()
            given = [model.frontend.prepare((windows[i % 16], RATE)).inputs[:1] for i in range(streams)]
            for start in range(0, streams, 16):
                model.answer(np.concatenate(given[start : start + 16]), policy=policy)
            if perf_counter() - begun > options.hop:
                return False
        return True

    model.answer(model.frontend.prepare((windows[0], RATE)).inputs[:1], policy=policy)
    low, high = 0, 1
    while held(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 50):  # to 2 %: it is not repeated more exactly
        middle = (low + high) // 2
        low, high = (middle, high) if held(middle) else (low, middle)
    return low


def started(path: Path, runtime: str, starts: int) -> Box:
    """Medians over processes of their own."""
    rows = []
    for _ in range(starts):
        command = [sys.executable, "-c", START, str(path), runtime]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append([float(word) for word in done.stdout.split()])
    return Box(path.stat().st_size, *(median(column) for column in zip(*rows, strict=True)))


# Reporting


def report(result: Result) -> str:
    """The figures of one model as plain text."""
    left = ", ".join(f"{share:.0%} at {name}" for name, share in result.shares.items())
    lines = [
        f"{result.name}; with thresholds {left} leave",
        f"int8: weights take {result.weight_ratio:.3f} of their bytes; logits of noise move by "
        f"{result.difference_int8:.1%}",
    ]
    for title, laps in result.laps.items():
        table = _table(title, "p50 ms", "p95", "p99", f"/ {STAGES}")
        for name, row in laps.items():
            table.add_row(name, f"{row.p50:.3f}", f"{row.p95:.3f}", f"{row.p99:.3f}", f"{row.ratio:.2f}")
        lines += ["", plain_text(table)]
    if result.streams:
        table = _table("streams of 16 kHz that one core holds", "streams", f"/ {STAGES}")
        for name, count in result.streams.items():
            table.add_row(name, str(count), f"{count / max(1, result.streams[STAGES]):.2f}")
        lines += ["", plain_text(table)]
    table = _table("box", "KB", "import s", "open s", "first answer s", "memory MiB")
    for name, box in result.boxes.items():
        seconds = (f"{value:.3f}" for value in (box.import_s, box.load_s, box.first_s))
        table.add_row(name, f"{box.bytes / 1000:.0f}", *seconds, f"{box.memory_mib:.0f}")
    return "\n".join([*lines, "", plain_text(table)])


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(first, no_wrap=True, min_width=40)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
