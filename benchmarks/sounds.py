"""Clips per second of the audio networks for small machines against CNN10, in the same run, one thread.

    python benchmarks/sounds.py                                  # all, batches of 1 and 16, some minutes
    python benchmarks/sounds.py --networks cp-mobile bc-resnet   # some of them
    python benchmarks/sounds.py --repeats 3 --batches 1          # to see that it runs

Each network takes inputs of its own published size, which last from one second to ten; so a second ratio
counts seconds of sound instead of clips. Weights are random, since time does not depend on them. Milliseconds
are the processor's. Runs are compared in pairs, in alternating order; a pair during which the system put the
process aside for another is left out where enough others remain ("calm").
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from timing import compare, machine, plain_text
from torch import Tensor

from sentio.core import registry
from sentio.core.counting import count
from sentio.core.staged import Staged, create_network

PEER = "cnn10"
#: Audio networks that small machines run, and the seconds of sound that their published input holds.
NETWORKS: dict[str, float] = {
    "bc-resnet": 1.0,
    "cnn10": 1.0,
    "cnn6": 1.0,
    "cp-mobile": 1.0,
    "crnn": 10.24,
    "crnn-desed": 10.24,
    "dcase2024-baseline": 1.0,
    "phinet": 4.0,
    "phinet-1d": 4.0,
    "phinet-icassp": 4.0,
    "phinet-teacher": 4.0,
    "sound-resnet": 2.0,
    "sp4asc": 10.0,
    "tiny-cnn": 1.0,
    "vit-medium": 1.0,
    "vit-small": 1.0,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--repeats", type=int, default=40, help="pairs for each network and batch")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    torch.manual_seed(0)
    peer = create_network(PEER).eval()
    rows = []
    for name in options.networks:
        net = create_network(name).eval()
        rows += [measure(name, net, peer, batch, options.repeats) for batch in options.batches]
    print(report(rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1))
    return 0


def measure(name: str, net: Staged, peer: Staged, batch: int, repeats: int) -> dict[str, Any]:
    """One network and one batch size, next to the peer on its own input and as large a batch."""
    inputs, theirs = net.example(batch), peer.example(batch)

    def mine(_: None) -> Tensor:
        with torch.inference_mode():
            return net(inputs)

    def reference(_: None) -> Tensor:
        with torch.inference_mode():
            return peer(theirs)

    found = compare(mine, reference, [None], repeats, processor=True)
    ratio = 1 / found.ratio
    return {
        "network": name,
        "input": "x".join(map(str, net.input_shapes["main"])),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "macs": count(net, net.example()).total,
        "batch": batch,
        "ms": found.ms,
        "clips_per_second": 1000 * batch / found.ms,
        "ratio": ratio,
        "ratio_of_sound": ratio * NETWORKS[name] / NETWORKS[PEER],
        "calm": found.calm,
    }


def report(rows: list[dict[str, Any]]) -> str:
    table = Table(box=None, pad_edge=False, header_style="")
    titles = (
        "network",
        "input",
        "parameters",
        "MACs",
        "batch",
        "ms",
        "clips/s",
        f"x {PEER}",
        "sound",
        "calm",
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "network" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["network"],
            row["input"],
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            str(row["batch"]),
            f"{row['ms']:.2f}",
            f"{row['clips_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_of_sound']:.2f}",
            f"{row['calm']:.0%}",
        )
    note = (
        f"x {PEER}: clips per second over {PEER}'s, whose clips last 1 s; sound: the same in seconds of sound"
    )
    return f"{plain_text(table)}\n{note}"


def check_names() -> None:
    unknown = set(NETWORKS) - set(registry.names("network"))
    if unknown:
        raise SystemExit(f"Not registered any more: {', '.join(sorted(unknown))}")


if __name__ == "__main__":
    check_names()
    raise SystemExit(main())
