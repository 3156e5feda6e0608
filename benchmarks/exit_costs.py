"""What published early exits cost: every cell of cost in three papers, measured here beside what is printed.

    python benchmarks/exit_costs.py                    # all tables, under a minute; nothing is computed
    python benchmarks/exit_costs.py --markdown         # as they stand in docs/exit_costs.md
    python benchmarks/exit_costs.py --json costs.json

The papers: Single-Layer Vision Transformers for More Accurate Early Exits with Less Overhead (Neural Networks
2022, its preprint where they differ), and Multi-Exit Vision Transformer for Dynamic Inference (BMVC 2021),
both by A. Bakhtiarnia, Q. Zhang and A. Iosifidis. The first counts operations as TensorFlow's profiler did in
2021 (rule ``tf-2021``), the second multiply-accumulates with element-wise work (rule ``elementwise``).
Networks and exits are built on the meta device and counted by `sentio.core.counting`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentio.core import registry
from sentio.core.counting import count
from sentio.core.staged import Staged, create_network, stage_key
from sentio.nn.conv import PooledLinear

#: backbone -> options with which it is the papers': Keras's, with a layer of 256 in front of the output
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet152": {"bias": True, "hidden": 256},
    "densenet201": {"hidden": 256},
    "inception-v3": {"hidden": 256},
    "audio-csrnet": {},
}
#: backbone, name of the branch in the paper -> boundary
TAPS = {
    ("resnet152", "1"): "layer2.0.conv1",
    ("resnet152", "2"): "layer2.7.conv3",
    ("densenet201", "1"): "transition1",
    ("densenet201", "2"): "transition2.conv",
    ("inception-v3", "1"): "mixed1",
    ("inception-v3", "2"): "mixed2",
    ("audio-csrnet", "V1"): "visual4",
    ("audio-csrnet", "AV1"): "audio4",
    ("audio-csrnet", "AV2"): "fusion1",
}
CLASSES = {"CIFAR-10": 10, "CIFAR-100": 100, "Speech Commands": 12, "GTZAN": 10, "DISCO": 1}
#: data set, backbone, branch; the paper's million parameters of CNN-EE and SL-ViT, billion operations up to
#: and with each, and how many times as much the whole backbone does as SL-ViT; SL-ViT's options
SL_VIT: list[tuple[str, str, str, tuple[float, float, float, float, float], dict[str, Any]]] = [
    ("CIFAR-10", "resnet152", "1", (0.78, 0.59, 1.66, 1.64, 13.77), {}),
    ("CIFAR-10", "resnet152", "2", (0.83, 0.79, 5.33, 5.26, 4.29), {}),
    ("CIFAR-10", "densenet201", "1", (0.78, 0.59, 2.55, 2.53, 3.39), {}),
    ("CIFAR-10", "densenet201", "2", (0.80, 0.66, 4.21, 4.17, 2.06), {}),
    ("CIFAR-10", "inception-v3", "1", (0.61, 0.56, 2.17, 2.14, 2.65), {}),
    ("CIFAR-10", "inception-v3", "2", (0.61, 0.56, 2.53, 2.49, 2.28), {}),
    ("CIFAR-100", "resnet152", "1", (0.80, 0.61, 1.66, 1.64, 13.77), {}),
    ("CIFAR-100", "resnet152", "2", (0.86, 0.81, 5.33, 5.26, 4.29), {}),
    ("CIFAR-100", "densenet201", "1", (0.80, 0.61, 2.55, 2.53, 3.39), {}),
    ("CIFAR-100", "densenet201", "2", (0.82, 0.68, 4.21, 4.17, 2.06), {}),
    ("CIFAR-100", "inception-v3", "1", (0.63, 0.63, 2.17, 2.14, 2.66), {"dim": 36, "heads": 8}),
    ("CIFAR-100", "inception-v3", "2", (0.63, 0.63, 2.53, 2.50, 2.28), {"dim": 36, "heads": 8}),
    ("Speech Commands", "resnet152", "1", (0.78, 0.59, 1.66, 1.64, 13.77), {}),
    ("Speech Commands", "resnet152", "2", (0.84, 0.84, 5.33, 5.26, 4.29), {"heads": 24}),
    ("Speech Commands", "densenet201", "1", (0.78, 0.59, 2.55, 2.53, 3.39), {}),
    ("Speech Commands", "densenet201", "2", (0.80, 0.66, 4.21, 4.17, 2.06), {}),
    ("Speech Commands", "inception-v3", "1", (0.61, 0.56, 2.17, 2.14, 2.65), {}),
    ("Speech Commands", "inception-v3", "2", (0.61, 0.56, 2.53, 2.49, 2.28), {}),
    ("GTZAN", "resnet152", "1", (0.78, 0.59, 1.66, 1.64, 13.77), {}),
    ("GTZAN", "resnet152", "2", (0.83, 0.83, 5.33, 5.26, 4.29), {"heads": 24, "last_residual": False}),
    ("GTZAN", "densenet201", "1", (0.78, 0.59, 2.55, 2.53, 3.39), {}),
    ("GTZAN", "densenet201", "2", (0.80, 0.66, 4.21, 4.17, 2.06), {}),
    ("GTZAN", "inception-v3", "1", (0.61, 0.56, 2.17, 2.14, 2.65), {}),
    ("GTZAN", "inception-v3", "2", (0.61, 0.56, 2.53, 2.49, 2.28), {}),
    ("DISCO", "audio-csrnet", "V1", (2.50, 2.35, 329.77, 328.72, 1.49), {}),
    ("DISCO", "audio-csrnet", "AV1", (2.52, 2.36, 331.37, 330.31, 1.48), {}),
    ("DISCO", "audio-csrnet", "AV2", (2.50, 2.35, 374.86, 373.81, 1.31), {}),
]
#: variants on ResNet152's first branch, CIFAR-10: exit, options, the paper's million parameters and billion
#: operations
ABLATION: list[tuple[str, str, dict[str, Any], float, float]] = [
    *[
        (f"SL-ViT, {heads} heads", "sl-vit", {"heads": heads}, millions, 1.64)
        for heads, millions in ((1, 0.55), (2, 0.55), (4, 0.56), (8, 0.58), (12, 0.59), (16, 0.61))
    ],
    ("SL-ViT, 2 layers", "sl-vit", {"layers": 2}, 0.65, 1.64),
    ("CNN-EE, 3x3", "cnn-ee", {}, 0.78, 1.66),
    ("CNN-EE, 11x11", "cnn-ee", {"kernel": 11, "filters": 12, "padding": 4}, 0.78, 1.88),
    ("CNN-EE, 15x15", "cnn-ee", {"kernel": 15, "filters": 10, "padding": 6}, 0.79, 2.02),
    ("CNN-EE, dilation 2", "cnn-ee", {"dilation": 2, "padding": 1}, 0.78, 1.66),
    ("CNN-EE, dilation 3", "cnn-ee", {"dilation": 3, "padding": 2}, 0.78, 1.66),
    ("CNN-EE, 2 convolutions", "cnn-ee", {"convolutions": 2}, 0.78, 1.66),
]
#: exits behind layer 6 of ViT-B/16 at 384x384: the paper's billion operations
VIT = {
    "mlp-ee": 28.04,
    "cnn-ignore-ee": 28.10,
    "cnn-add-ee": 28.10,
    "cnn-project-ee": 28.16,
    "vit-ee": 32.65,
    "mlp-mixer-ee": 31.11,
    "resmlp-ee": 31.02,
}


@dataclass(frozen=True)
class Cell:
    """One number of a paper's table.

    Args:
        table: which.
        row: of the table.
        column: of the table.
        printed: what the paper has there, in ``unit``.
        measured: the same, counted here, not rounded.
        unit: what 1 stands for: a million, a billion, or 1.
    """

    table: str
    row: str
    column: str
    printed: float
    measured: float
    unit: float = 1.0

    @property
    def agrees(self) -> bool:
        """Whether the measured number rounds to the printed one."""
        return round(self.measured / self.unit + 1e-12, 2) == self.printed

    @property
    def ratio(self) -> float:
        return self.measured / self.unit / self.printed


def meta(name: str, **options: Any) -> Staged:
    """A network on the meta device: shapes, and nothing else."""
    with torch.device("meta"):
        return create_network(name, **options).eval()


def example(net: Staged) -> Any:
    tensors = {name: torch.empty(1, *shape, device="meta") for name, shape in net.input_shapes.items()}
    return tensors if len(tensors) > 1 else tensors["main"]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@cache
def backbone(name: str) -> tuple[Staged, dict[str, int], dict[str, dict[str, tuple[int, ...]]]]:
    """A backbone, the operations up to and with each stage, and its shapes."""
    net = meta(name, classes=1 if name == "audio-csrnet" else 10, **BACKBONES[name])
    by_stage = count(net, example(net), rule="tf-2021")
    total, up_to = 0, {}
    for stage in net.stage_names:
        total += by_stage.of(f"stages.{stage_key(stage)}")
        up_to[stage] = total
    return net, up_to, net.boundary_shapes(example(net))


def billions(work: int) -> float:
    """As the paper prints it."""
    return round(work / 1e9, 2)


def whole(name: str, classes: int) -> int:
    """Operations of a whole backbone; classifiers end in a softmax, which the rule counts."""
    net, up_to, shapes = backbone(name)
    if classes == 1:
        return up_to["head"]
    before = net.stage_names[-2]
    channels, *sides = shapes[before]["main"]
    with torch.device("meta"):
        head = nn.Sequential(PooledLinear(channels, classes, hidden=256), nn.Softmax(-1))
    work = count(head, torch.empty(1, channels, *sides, device="meta"), rule="tf-2021").total
    return up_to[before] + work


def branch_costs(name: str, place: str, kind: str, classes: int, options: dict[str, Any]) -> tuple[int, int]:
    """An exit's parameters, and the operations up to and with it."""
    return _branch_costs(name, place, kind, classes, tuple(options.items()))


@cache
def _branch_costs(
    name: str, place: str, kind: str, classes: int, options: tuple[tuple[str, Any], ...]
) -> tuple[int, int]:
    module, inputs = branch(name, place, kind, classes, dict(options))
    softmax = 5 * classes if classes > 1 else 0  # at the end of the papers' classifiers
    work = count(module, tuple(inputs), rule="tf-2021").total + softmax
    return parameters(module), backbone(name)[1][TAPS[name, place]] + work


def branch(
    name: str, place: str, kind: str, classes: int, options: dict[str, Any]
) -> tuple[nn.Module, list[Tensor]]:
    """An exit at a tap, and what it reads there."""
    _, _, shapes = backbone(name)
    found = shapes[TAPS[name, place]]
    tensors = ["main", "audio"] if place == "AV1" else ["main"]
    read = tuple(found[tensor] for tensor in tensors)
    if name == "audio-csrnet" and kind == "cnn-ee":
        options = {"padding": 1, "pool": 4, **options}
    kind = "av-sl-vit" if place == "AV1" and kind == "sl-vit" else kind
    with torch.device("meta"):
        module = registry.build("exit", kind, read, classes, **options)
    return module, [torch.empty(1, *shape, device="meta") for shape in read]


def sl_vit_cells() -> Iterator[Cell]:
    for data, name, place, printed, options in SL_VIT:
        table, row, classes = f"SL-ViT, {data}", f"{name} {place}", CLASSES[data]
        cnn = branch_costs(name, place, "cnn-ee", classes, {})
        vit = branch_costs(name, place, "sl-vit", classes, options)
        yield Cell(table, row, "CNN-EE parameters", printed[0], cnn[0], 1e6)
        yield Cell(table, row, "SL-ViT parameters", printed[1], vit[0], 1e6)
        yield Cell(table, row, "CNN-EE operations", printed[2], cnn[1], 1e9)
        yield Cell(table, row, "SL-ViT operations", printed[3], vit[1], 1e9)
        # The paper divides what it prints.
        yield Cell(table, row, "speed-up", printed[4], billions(whole(name, classes)) / billions(vit[1]))


def ablation_cells() -> Iterator[Cell]:
    for row, kind, options, millions, printed in ABLATION:
        numbers, work = branch_costs("resnet152", "1", kind, 10, options)
        yield Cell("SL-ViT, ablation", row, "parameters", millions, numbers, 1e6)
        yield Cell("SL-ViT, ablation", row, "operations", printed, work, 1e9)


def anytime_cells() -> Iterator[Cell]:
    """A random budget takes each of DenseNet201's three exits for a third of the pictures."""
    for kind, column, printed in (("cnn-ee", "CNN-EE", 5.11), ("sl-vit", "SL-ViT", 5.09)):
        exits = [branch_costs("densenet201", place, kind, 10, {})[1] for place in ("1", "2")]
        # The paper averages what it prints.
        mean = sum(billions(work) for work in (*exits, whole("densenet201", 10))) / 3
        yield Cell("SL-ViT, anytime", "densenet201", f"mean with {column}", printed, mean * 1e9, 1e9)


@cache
def vit_body() -> int:
    """Operations of ViT-B/16 up to and with its sixth layer."""
    body = meta("vit-b16", classes=10).before("block6")
    return count(body, torch.empty(1, 3, 384, 384, device="meta"), rule="elementwise").total


def vit_cells() -> Iterator[Cell]:
    tokens = torch.empty(1, 577, 768, device="meta")
    for kind, printed in VIT.items():
        with torch.device("meta"):
            module = registry.build("exit", kind, ((577, 768),), 10)
        work = vit_body() + count(module, tokens, rule="elementwise").total
        yield Cell("Multi-exit ViT", kind, "operations", printed, work, 1e9)


def cells() -> list[Cell]:
    """Every cell of cost of the papers."""
    return [*sl_vit_cells(), *ablation_cells(), *anytime_cells(), *vit_cells()]


def markdown(found: list[Cell]) -> str:
    """Tables: each cell as measured, with the paper's number behind it where they differ."""
    lines: list[str] = []
    for table in dict.fromkeys(cell.table for cell in found):
        chosen = [cell for cell in found if cell.table == table]
        columns = list(dict.fromkeys(cell.column for cell in chosen))
        lines += [f"### {table}", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for row in dict.fromkeys(cell.row for cell in chosen):
            by_column = {cell.column: cell for cell in chosen if cell.row == row}
            lines.append(f"| {row} | {' | '.join(_text(by_column[column]) for column in columns)} |")
        lines.append("")
    same = sum(cell.agrees for cell in found)
    lines.append(f"{same} of {len(found)} cells are the paper's to the last printed digit.")
    for cell in found:
        if not cell.agrees:
            lines.append(
                f"Not so: {cell.table}, {cell.row}, {cell.column}: measured {_plain(cell)}, the paper prints "
                f"{cell.printed:.2f}, ratio {cell.ratio:.4f}."
            )
    return "\n".join(lines)


def _plain(cell: Cell) -> str:
    return f"{cell.measured:,.0f}" if cell.unit > 1 else f"{cell.measured:.4f}"


def _text(cell: Cell) -> str:
    printed = f"{cell.printed:.2f}"
    return f"{_plain(cell)} ({printed})" if cell.agrees else f"**{_plain(cell)} ({printed})**"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="as tables for the documentation")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    found = cells()
    if options.markdown:
        print(markdown(found))
    else:
        for cell in found:
            verdict = "same" if cell.agrees else "DIFFERS"
            print(
                f"{cell.table:25} {cell.row:22} {cell.column:18} {_plain(cell):>15} "
                f"paper {cell.printed:7.2f}  ratio {cell.ratio:.4f}  {verdict}"
            )
        print(f"{sum(cell.agrees for cell in found)} of {len(found)} cells agree to the last printed digit")
    if options.json:
        rows = [asdict(cell) | {"ratio": cell.ratio, "agrees": cell.agrees} for cell in found]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
