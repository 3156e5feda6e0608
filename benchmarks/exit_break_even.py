"""Where exits pay in time: how many images have to leave before exits cost nothing, by size and batch.

    python benchmarks/exit_break_even.py                     # a minute
    python benchmarks/exit_break_even.py --widths 16 --batches 1 64 --repeats 50 --json figures.json

The network is glance-resnet with the exits of cifar10-anytime, in several widths; the peer is its backbone as
PyTorch alone runs it, on the same images. Weights are random, since time does not depend on them, and
everybody leaves at one exit after all exits before it were computed and asked. Each ratio is the median of
pairs that run right after each other, in the processor's time and one thread, so that a busy machine changes
it little.

What is left of a gain in MACs is time: a decision takes a part of a millisecond whatever the size of the
network. If a share p of the images leaves at an exit and all others go to the end, the exits cost
p * exit + (1 - p) * end; the break-even share makes that the backbone's time. All of a batch leave together
here, so its figure holds where shares of a batch are computed as fast per image as the whole.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from timing import compare, machine, plain_text
from torch import Tensor, nn

import sentio
from sentio.core.anytime import FINAL

AT = ("glance1", "glance2", "look1")


def plain(net: nn.Module, x: Tensor) -> Tensor:
    """The backbone's answers as PyTorch alone gives them."""
    with torch.inference_mode():
        answers: Tensor = net(x).argmax(1)
    return answers


def measure(width: int, batch: int, repeats: int) -> dict[str, Any]:
    """MACs and time to each exit, in shares of the backbone's."""
    torch.manual_seed(0)
    backbone = sentio.create_network("glance-resnet", classes=10, width=width)
    net = sentio.add_exits(backbone, "pooled-linear", at=AT, classes=10, hidden=128).eval()
    alone = nn.Sequential(*backbone.stages.values()).eval()
    macs, all_macs = (
        sentio.profile(net, measure=False).exit_macs(),
        sentio.profile(backbone, measure=False).macs,
    )
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    row: dict[str, Any] = {"width": width, "batch": batch, "macs": all_macs, "exits": {}}
    for name in net.exit_names:
        # The exits before it are asked and let everybody pass.
        policy = sentio.Confidence({name: 0.0})
        found = compare(
            partial(net.predict, policy=policy), partial(plain, alone), [x], repeats, processor=True
        )
        row["exits"][name] = {"macs": macs[name] / all_macs, "time": found.ratio, "ms": found.ms}
        row["ms"] = found.reference_ms
    for name in AT:
        row["exits"][name]["break_even"] = break_even(row["exits"], name)
    return row


def break_even(exits: dict[str, dict[str, float]], name: str) -> float | None:
    """The share that has to leave at an exit so that exits cost no time; None where even all are too few."""
    last, here = exits[FINAL]["time"], exits[name]["time"]
    return None if here >= 1 else 0.0 if last <= 1 else (last - 1) / (last - here)


def report(rows: list[dict[str, Any]]) -> str:
    """Shares of the backbone's MACs and time to each exit, and the shares that have to leave there."""
    costs = table(
        ["width, batch", "M MACs", "backbone ms", *(f"{name}: MACs, time" for name in (*AT, FINAL))]
    )
    needed = table(["must leave there", *AT])
    for row in rows:
        label, exits = f"{row['width']}, {row['batch']}", row["exits"]
        shares = [f"{found['macs']:.2f}, {found['time']:.2f}" for found in exits.values()]
        costs.add_row(label, f"{row['macs'] / 1e6:.1f}", f"{row['ms']:.2f}", *shares)
        wanted = [exits[name]["break_even"] for name in AT]
        needed.add_row(label, *("never pays" if share is None else f"{share:.0%}" for share in wanted))
    return f"{plain_text(costs)}\n\n{plain_text(needed)}"


def table(titles: list[str]) -> Table:
    found = Table(box=None, pad_edge=False, header_style="")
    for place, title in enumerate(titles):
        found.add_column(title, justify="right" if place else "left", no_wrap=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32], help="(8 16 32)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="images at once (1 64)")
    parser.add_argument("--repeats", type=int, default=40, help="timed pairs (40)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = machine()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()) + "\n")
    rows = [measure(width, batch, options.repeats) for width in options.widths for batch in options.batches]
    print(report(rows))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
