"""What a step of a stream costs beside running the clip network on each window, and beside its peer.

One stream, one thread. A lap is one hop: the stream takes it in one step, the sliding window runs the clip
network on the last window, and the peer, `continual-inference`, takes the same units by its own
``forward_steps`` on a network that it converted from the same modules with the same weights. Before anything
is timed, the peer has to give the same features. Pairs run right after each other in alternating order.

    pip install continual-inference
    python benchmarks/streaming.py
    python benchmarks/streaming.py --networks cnn6 --json streaming.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from timing import Run, compare, machine, plain_text
from torch import Tensor, nn

import sentio
from sentio.core.counting import count


@dataclass(frozen=True)
class Row:
    """A network to measure.

    Args:
        shape: of the window, without the batch; time is its second entry.
        build: the network, or its features, as our streams take it.
        options: of `sentio.stream`.
        peer: the same modules as an ``nn.Sequential`` that the peer's converter knows; None if it cannot.
    """

    name: str
    shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    options: dict[str, Any]
    peer: Callable[[nn.Module], nn.Sequential] | None = None


@dataclass(frozen=True)
class Result:
    """Milliseconds for a hop and MACs, ours and theirs; None where there is no peer."""

    name: str
    hop: int
    step_ms: float
    window_ms: float
    peer_ms: float | None
    window_over_step: float
    peer_over_step: float | None
    step_macs: int
    window_macs: int
    difference: float | None


def panns_features(name: str) -> Callable[[], nn.Module]:
    """The convolutional blocks of a PANN without norm of the bands and dropout, in a row."""

    def build() -> nn.Module:
        net = sentio.create_network(name).eval()
        layers: list[nn.Module] = []
        for stage in net.stage_names[:-1]:
            for child in net.stage(stage).children():
                layers += list(child) if isinstance(child, nn.Sequential) else [child]
        known = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AvgPool2d)
        return nn.Sequential(*(layer for layer in layers if isinstance(layer, known))).eval()

    return build


def itself(net: nn.Module) -> nn.Sequential:
    """What is a row of plain layers already."""
    assert isinstance(net, nn.Sequential)
    return net


def network(name: str) -> Callable[[], nn.Module]:
    return lambda: sentio.create_network(name).eval()


ROWS = (
    Row("cnn6 features", (1, 64, 64), panns_features("cnn6"), {}, peer=itself),
    Row("cnn10 features", (1, 64, 64), panns_features("cnn10"), {}, peer=itself),
    Row("cnn6", (1, 50, 64), network("cnn6"), {}),
    Row("cnn10", (1, 50, 64), network("cnn10"), {}),
    Row("sp4asc", (1, 431, 256), network("sp4asc"), {}),
    Row("dcase2024-baseline", (1, 65, 256), network("dcase2024-baseline"), {}),
    Row("tiny-cnn", (1, 98, 64), network("tiny-cnn"), {}),
    Row("phinet-1d", (1, 64_000), network("phinet-1d"), {"squeeze": "frame"}),
)


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=60, help="pairs of laps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = [measure(row, options.repeats) for row in ROWS if row.name in options.networks]
    facts = machine()
    print(", ".join(f"{key}: {value}" for key, value in facts.items()))
    print(plain_text(table(results)))
    if any(result.peer_ms is None for result in results):
        print("no peer: continual-inference does not convert the network's blocks, or is not installed")
    if options.json:
        text = {"machine": facts, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(text, indent=1))


def measure(row: Row, repeats: int) -> Result:
    """One network; raises if the peer's features are not ours."""
    net = row.build()
    example = torch.zeros(1, *row.shape)
    stream = sentio.stream(net, example=example, **row.options)
    chunks = [torch.randn(1, row.shape[0], stream.hop, *row.shape[2:]) for _ in range(8)]
    windows = [torch.randn(1, *row.shape) for _ in range(8)]
    # Laps take a number, so that each side finds its own input.
    turns: list[Any] = list(range(8))
    step, clip = stepping(stream, chunks), whole(net, windows)
    sliding = compare(step, clip, turns, repeats)
    peer_ms = ratio = difference = None
    peer = None if row.peer is None else peer_of(row.peer(net))
    if peer is not None:
        difference = differs(stream, peer, chunks)
        beside = compare(step, peer_steps(peer, chunks), turns, repeats)
        peer_ms, ratio = beside.reference_ms, 1 / beside.ratio
    return Result(
        row.name,
        stream.hop,
        sliding.ms,
        sliding.reference_ms,
        peer_ms,
        1 / sliding.ratio,
        ratio,
        stream.macs().total,
        count(net, example).total,
        difference,
    )


def stepping(stream: Any, chunks: list[Tensor]) -> Run:
    """Steps one stream on and on."""
    state = None

    def run(turn: int) -> Tensor:
        nonlocal state
        output, _, state = stream.step(chunks[turn], state)
        return output

    return run


def whole(net: nn.Module, windows: list[Tensor]) -> Run:
    def run(turn: int) -> Any:
        with torch.inference_mode():
            return net(windows[turn])

    return run


def peer_of(net: nn.Sequential) -> Any:
    """The peer's network, or None where it is not installed."""
    try:
        import continual
    except ImportError:
        return None
    return continual.continual(net).eval()


def peer_steps(peer: Any, chunks: list[Tensor]) -> Run:
    def run(turn: int) -> Any:
        with torch.inference_mode():
            return peer.forward_steps(chunks[turn])

    return run


def differs(stream: Any, peer: Any, chunks: list[Tensor]) -> float:
    """Largest difference of the features over the largest magnitude, on a stream of its own.

    Raises:
        RuntimeError: it is not rounding.
    """

    def theirs() -> Iterator[Tensor]:
        for chunk in [*chunks, *chunks]:
            for frame in chunk.unbind(2):
                output = peer.forward_step(frame)
                if isinstance(output, Tensor):
                    yield output

    state, ours = None, []
    for chunk in [*chunks, *chunks]:
        output, valid, state = stream.step(chunk, state)
        if valid.all():
            ours.append(output.squeeze(2))
    peer.clean_state()
    with torch.inference_mode():
        found = list(theirs())
    peer.clean_state()
    count = min(len(found), len(ours))
    largest = max(float(output.abs().max()) for output in ours)
    difference = max(float((a - b).abs().max()) for a, b in zip(found[:count], ours[:count], strict=True))
    if not count or difference > 1e-5 * largest:
        raise RuntimeError(f"the peer's features differ by {difference:.2g} of {largest:.2g}")
    return difference / largest


def table(results: list[Result]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="")
    headers = (
        "network",
        "hop",
        "step ms",
        "window ms",
        "peer ms",
        "window / step",
        "peer / step",
        "same in MACs",
    )
    for index, header in enumerate(headers):
        shown.add_column(header, justify="right" if index else "left")
    for r in results:
        shown.add_row(
            r.name,
            str(r.hop),
            f"{r.step_ms:.2f}",
            f"{r.window_ms:.2f}",
            "-" if r.peer_ms is None else f"{r.peer_ms:.2f}",
            f"{r.window_over_step:.2f}",
            "-" if r.peer_over_step is None else f"{r.peer_over_step:.2f}",
            f"{r.window_macs / r.step_macs:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
