"""What exits save on a stream, and what catching up costs, beside windows with the same exits.

A stream leaves at the first exit for most hops and goes on for some, in runs, as a street is quiet for a
while and then is not: the share that leaves is given, and which hops do is drawn with a seed. By default
(``catch_up="exact"``) what was skipped is computed when a step goes on, so every answer is that of a stream
that never left; ``hold`` never computes it. Beside both stand the stream that always goes to the end and, as
the peer, the clip network with the same exits, run on the last window at each hop with the same decisions.
Before anything is timed, answers that went on have to be those of the stream that never leaves.

    python benchmarks/streaming_exits.py
    python benchmarks/streaming_exits.py --networks tiny-cnn --hops 40 --json exits.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from timing import machine, plain_text
from torch import Tensor

import sentio
from sentio.core.multi_exit import MultiExit

#: network -> where its first exit sits
EXITS = {"cnn10": "block2", "dcase2024-baseline": "block2", "tiny-cnn": "block2"}
SHARES = (0.5, 0.8, 0.95)
CLASSES = 10
#: hops for which a stream stays with one decision, on average
STAY = 8


class Drawn:
    """Leaves at the first exit at the hops that were drawn."""

    measure = None

    def __init__(self, leaves: NDArray[np.bool_]) -> None:
        self.leaves, self.hop = leaves, 0

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self, confidence: Any, prediction: Any, exit: str, costs: Any, elapsed: float, memory: Any
    ) -> tuple[NDArray[np.bool_], Any]:
        return np.asarray(exit == "final" or self.leaves[self.hop]), memory


@dataclass(frozen=True)
class Result:
    """Milliseconds of a hop, medians over passes; MACs of a hop, mean.

    Args:
        left: share of the hops that were drawn to leave at the first exit. A new stream does not until that
            exit has warmed up, which the windows need not.
        exact_ms, hold_ms: the stream with exits, both ways to catch up.
        full_ms: the stream that goes to the last exit each time.
        window_ms: the clip network with exits on each window, with the same decisions.
    """

    network: str
    hop: int
    left: float
    exact_ms: float
    hold_ms: float
    full_ms: float
    window_ms: float
    exact_macs: float
    hold_macs: float
    full_macs: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=list(EXITS), default=list(EXITS), metavar="NAME")
    parser.add_argument("--hops", type=int, default=200, help="of a pass")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [
        measure(name, share, options.hops, options.passes) for name in options.networks for share in SHARES
    ]
    facts = machine()
    print(", ".join(f"{key}: {value}" for key, value in facts.items()))
    print(plain_text(table(results)))
    if options.json:
        text = {"machine": facts, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(text, indent=1))


def measure(name: str, share: float, hops: int, passes: int) -> Result:
    """One network at one share; raises if catching up changes an answer."""
    torch.manual_seed(0)
    net = sentio.add_exits(
        sentio.create_network(name, classes=CLASSES), "pooled-linear", at=[EXITS[name]], classes=CLASSES
    ).eval()
    leaves = draw(share, hops)
    exact, hold = (sentio.stream(net, frozen=True, catch_up=way) for way in ("exact", "hold"))
    shape = list(net.backbone.input_shapes["main"])
    chunks = [torch.randn(1, shape[0], exact.hop, *shape[2:]) for _ in range(hops)]
    windows = [torch.randn(1, *shape) for _ in range(8)]
    check(exact, chunks, leaves)
    never = np.zeros(hops, dtype=bool)
    runs: dict[str, Callable[[], Any]] = {
        "exact": lambda: passed(exact, chunks, leaves),
        "hold": lambda: passed(hold, chunks, leaves),
        "full": lambda: passed(exact, chunks, never),
        "window": lambda: over_windows(net, windows, leaves),
    }
    macs: dict[str, Any] = {}
    took: dict[str, list[float]] = {way: [] for way in runs}
    for turn in range(-1, passes):
        for way, run in runs.items():
            begun = perf_counter()
            macs[way] = run()
            if turn >= 0:
                took[way].append((perf_counter() - begun) * 1000 / hops)
    ms = {way: median(laps) for way, laps in took.items()}
    return Result(
        name,
        exact.hop,
        float(leaves.mean()),
        *(ms[way] for way in ("exact", "hold", "full", "window")),
        *(macs[way] for way in ("exact", "hold", "full")),
    )


def draw(share: float, hops: int) -> NDArray[np.bool_]:
    """Which hops leave at the first exit: runs of both kinds, whose lengths are drawn."""
    generator = np.random.default_rng(0)
    runs: list[bool] = []
    leaving = True
    while len(runs) < hops:
        mean = 2 * STAY * (share if leaving else 1 - share)
        runs += [leaving] * int(generator.geometric(1 / max(1.0, mean)))
        leaving = not leaving
    return np.array(runs[:hops])


def passed(stream: Any, chunks: list[Tensor], leaves: NDArray[np.bool_]) -> float:
    """A new stream over all chunks; its MACs of a hop."""
    policy, state, macs = Drawn(leaves), None, 0.0
    for policy.hop, chunk in enumerate(chunks):
        result = stream.step(chunk, state, policy)
        state = result.state
        macs += float(result.macs[0])
    return macs / len(chunks)


def over_windows(net: MultiExit, windows: list[Tensor], leaves: NDArray[np.bool_]) -> None:
    policy = Drawn(leaves)
    for policy.hop in range(len(leaves)):
        net.predict(windows[policy.hop % len(windows)], policy)


def check(stream: Any, chunks: list[Tensor], leaves: NDArray[np.bool_]) -> None:
    """Raises a RuntimeError if a stream that left and went on answers otherwise than one that never left."""
    leaving, staying = Drawn(leaves), Drawn(np.zeros(len(leaves), dtype=bool))
    states: list[Any] = [None, None]
    compared = 0
    for leaving.hop, chunk in enumerate(chunks):
        found = [
            stream.step(chunk, state, way) for state, way in zip(states, (leaving, staying), strict=True)
        ]
        states = [result.state for result in found]
        if found[0].exit[0] != found[1].exit[0] or not found[1].valid.all():
            continue
        compared += 1
        ours, theirs = (result.output for result in found)
        if float((ours - theirs).abs().max()) > 1e-4 * float(theirs.abs().max()):
            raise RuntimeError(f"hop {leaving.hop}: the answer after catching up is another one")
    if not compared:
        raise RuntimeError("no hop went on to a valid answer, so nothing could be compared; take more --hops")


def table(results: list[Result]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="")
    titles = ("network", "hop", "left", "exact ms", "hold ms", "never left ms", "windows ms")
    for title in (*titles, "never / exact", "in MACs", "windows / exact"):
        shown.add_column(title, justify="left" if title == "network" else "right", no_wrap=True)
    for r in results:
        times = (r.exact_ms, r.hold_ms, r.full_ms, r.window_ms)
        ratios = (r.full_ms / r.exact_ms, r.full_macs / r.exact_macs, r.window_ms / r.exact_ms)
        shown.add_row(
            r.network, str(r.hop), f"{r.left:.0%}", *(f"{value:.2f}" for value in (*times, *ratios))
        )
    return shown


if __name__ == "__main__":
    main()
