"""What a step of a stream costs beside running the clip network on each window, and beside its peer.

Each side is run as it would be: eight hops in a row and then the other side's eight, so that it finds in the
caches what it left there. At a hop the stream, frozen, takes one step, the sliding window runs the clip
network on the last window, once in a row where that takes long, and the peer, `continual-inference`, takes
the same units by its own ``forward_step`` or ``forward_steps``, with the same weights. Before anything is
timed, the peer has to give the same features. Milliseconds are of one hop, and the order alternates.

Then eight streams (``--streams``): in one batch of the peer, which has one index a batch, so all of them
must have begun together; and as streams that began at different times, for which it needs an instance each.
Ours are one batch of any ages. Where a step of one stream saves less time than wanted, since it is rather
calls than work, or the reading of weights: 16, 64 and 256 streams in one batch and as many windows in one,
unless these take seconds; and steps of two, four and more hops, each beside one window. Then step and window
both as one ONNX graph in ONNX Runtime, which spends less around an operation than PyTorch does; and the step
in C, called from Python, beside both windows. And one network at several dilations, whose receptive field
grows and whose work does not.

    pip install continual-inference
    python benchmarks/streaming.py
    python benchmarks/streaming.py --networks cnn6 --threads 2 --json streaming.json
    python benchmarks/streaming.py --single
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import onnxruntime
import torch
from streaming_networks import ROWS, Row, dilated
from streaming_results import (
    Compiled,
    Exported,
    Longer,
    Many,
    Reach,
    Result,
    Wide,
    compiled_table,
    exported_table,
    longer_table,
    many_table,
    reach_table,
    table,
    verdicts,
    wide_table,
)
from timing import Ratio, Run, compare, machine, plain_text
from timing import timed as lap
from torch import Tensor, nn

import sentio
from sentio.core.counting import count
from sentio.core.onnx_exporter import to_program
from sentio.edge import CompiledStep, ExportedStep
from sentio.exporting.c import compile_c, write_c
from sentio.streaming.step_graph import export_step

#: streams that are measured in one batch where one alone saves too little, as long as their windows do not
#: take longer than this, and the pairs of laps of those that take more than a tenth of it
WIDE, LONGEST_MS, FEW = (16, 64, 256), 3000.0, 8
#: hops in a row, of what takes no longer than this
IN_A_ROW, SHORT_MS = 8, 10.0
#: wanted: what is saved in time over what is saved in MACs; a step that saves less is tried with more hops,
#: as long as the window takes this many times the MACs
SHARE, LEAST = 0.7, 1.5


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=60, help="pairs of laps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--streams", type=int, default=8, help="side by side, in the second table")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="count the processor's time and not the clock's, on a machine that does other things too",
    )
    parser.add_argument(
        "--no-onnx", action="store_true", help="leave the ONNX graphs out, whose export takes minutes"
    )
    parser.add_argument(
        "--single", action="store_true", help="one stream and one hop only, and without the peer"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results = [
        measure(row, min(options.repeats, row.most or options.repeats), options)
        for row in ROWS
        if row.name in options.networks
    ]
    reaches = [] if options.single else reach(options.repeats, options.processor)
    facts = machine()
    print(", ".join(f"{key}: {value}" for key, value in facts.items()))
    print(plain_text(table(results)))
    if any(result.peer_ms is None for result in results) and not options.single:
        print("no peer: continual-inference does not convert the network's blocks, or is not installed")
    if any(result.many is not None for result in results):
        print(f"\n{options.streams} streams")
        print(plain_text(many_table(results)))
    if any(result.wide for result in results):
        print("\nas many streams as windows, in one batch each")
        print(plain_text(wide_table(results)))
    if any(result.longer for result in results):
        print("\nmore hops in a step, and a window after each such step")
        print(plain_text(longer_table(results)))
    if not options.no_onnx:
        print("\nstep and window as ONNX graphs")
        print(plain_text(exported_table(results)))
        print("\nstep in C beside the window in PyTorch and in ONNX Runtime, on one thread")
        print(plain_text(compiled_table(results)))
    print()
    print("\n".join(verdicts(results)))
    if reaches:
        print("\nfour 3x3 convolutions of 32 channels on 64 bands, dilated in time")
        print(plain_text(reach_table(reaches)))
    if options.json:
        text = {
            "machine": facts,
            "results": [asdict(result) for result in results],
            "receptive_field": [asdict(found) for found in reaches],
        }
        options.json.write_text(json.dumps(text, indent=1))


def measure(row: Row, repeats: int, options: argparse.Namespace) -> Result:
    """One network; raises if the peer's features are not ours."""
    net = row.build()
    example = torch.zeros(1, *row.shape)
    live = sentio.stream(net, example=example, **row.options)
    stream = sentio.stream(net, example=example, frozen=True, **row.options)
    chunks = [torch.randn(1, row.shape[0], stream.hop, *row.shape[2:]) for _ in range(8)]
    windows = [torch.randn(1, *row.shape) for _ in range(8)]
    # Laps take a number, so that each side finds its own input.
    turns: list[Any] = list(range(8))

    def timed(run: Run, reference: Run, most: int | None = None) -> Ratio:
        return in_a_row(run, reference, turns, min(most or repeats, repeats), options.processor)

    step, clip = stepping(stream, chunks), whole(net, windows)
    sliding, beside_live = timed(step, clip), timed(stepping(live, chunks), step)
    window_ms = sliding.reference_ms
    peer_ms = ratio = difference = peer_bytes = None
    many = None
    if row.peer is not None and installed() and not options.single:
        peers = partial(row.peer, net)  # built anew each time, since what the peer has built cannot be copied
        difference = differs(net, row)
        theirs = peers()
        beside = timed(step, peer_steps(theirs, chunks))
        peer_ms, ratio = beside.reference_ms, 1 / beside.ratio
        peer_bytes = kept_by(theirs)
        many = measure_many(stream, peers, chunks, options.streams, timed)
    step_macs, window_macs = live.macs().total, count(net, example).total
    share = step_macs / window_macs / sliding.ratio
    return Result(
        row.name,
        stream.hop,
        sliding.ms,
        sliding.ms * beside_live.ratio,
        window_ms,
        peer_ms,
        1 / sliding.ratio,
        ratio,
        step_macs,
        window_macs,
        sum(size(tensor) for tensor in stream.start(like=chunks[0]).values()),
        peer_bytes,
        difference,
        many,
        [] if options.single or share >= SHARE else wide(net, stream, chunks, windows, timed, window_ms),
        [] if options.single else longer(net, row, stream.hop, share, windows, timed),
        *((None, None) if options.no_onnx else exported(net, stream, chunks, windows, timed)),
    )


def measure_many(
    stream: Any,
    peers: Callable[[], Any],
    chunks: list[Tensor],
    streams: int,
    timed: Callable[..., Ratio],
) -> Many:
    """Several streams at once; ours may be of any ages, since each row has its own."""
    batches = [chunk.expand(streams, *chunk.shape[1:]).contiguous() for chunk in chunks]
    step = stepping(stream, batches)
    instances = [peer_steps(peers(), chunks) for _ in range(streams)]

    def each(turn: int) -> None:
        for instance in instances:
            instance(turn)

    together = timed(step, peer_steps(peers(), batches))
    apart = timed(step, each)
    return Many(together.ms, together.reference_ms, apart.reference_ms, 1 / together.ratio, 1 / apart.ratio)


def wide(
    net: nn.Module,
    stream: Any,
    chunks: list[Tensor],
    windows: list[Tensor],
    timed: Callable[..., Ratio],
    window_ms: float,
) -> list[Wide]:
    """Streams in one batch beside windows in one batch."""
    found = []
    for streams in WIDE:
        if streams * window_ms > LONGEST_MS:
            break
        many_chunks, many_windows = (
            [one.expand(streams, *one.shape[1:]).contiguous() for one in each] for each in (chunks, windows)
        )
        most = FEW if streams * window_ms > LONGEST_MS / 10 else None
        ratio = timed(stepping(stream, many_chunks), whole(net, many_windows), most)
        found.append(Wide(streams, ratio.ms, ratio.reference_ms, 1 / ratio.ratio))
    return found


def longer(
    net: nn.Module,
    row: Row,
    hop: int,
    share: float,
    windows: list[Tensor],
    timed: Callable[..., Ratio],
) -> list[Longer]:
    """Steps of more and more hops, until one saves the share that is wanted or there is little left to save.

    Args:
        hop: of one step so far.
        share: what that saves in time over what it saves in MACs.
    """
    found: list[Longer] = []
    window_macs = count(net, windows[0]).total
    while share < SHARE:
        hop *= 2
        stream = sentio.stream(net, example=windows[0], frozen=True, **{**row.options, "hop": hop})
        macs = stream.macs().total
        if window_macs < LEAST * macs:
            break
        chunks = [torch.randn(1, row.shape[0], hop, *row.shape[2:]) for _ in range(8)]
        ratio = timed(stepping(stream, chunks), whole(net, windows))
        found.append(Longer(hop, ratio.ms, ratio.reference_ms, 1 / ratio.ratio, macs))
        share = macs / window_macs / ratio.ratio
    return found


def exported(
    net: nn.Module,
    stream: Any,
    chunks: list[Tensor],
    windows: list[Tensor],
    timed: Callable[..., Ratio],
) -> tuple[Exported, Compiled | None]:
    """Step and clip network as ONNX graphs, on as many threads as PyTorch has, and the step in C."""
    inputs = [chunk.numpy() for chunk in chunks]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "window.onnx"
        to_program(net, {"x": windows[0]}, ["y"], dynamic_shapes=None).save(str(path), external_data=False)
        graph = session(path)
        file = export_step(stream, Path(folder) / "step.onnx")
        step = ExportedStep(file, threads=torch.get_num_threads()).in_place()
        own = None
        if which("cc"):
            own = CompiledStep(compile_c(write_c(file, Path(folder) / "step.c"))).in_place()

    def graph_window(turn: int) -> Any:
        return graph.run(None, {"x": windows[turn].numpy()})

    for turn in range(stream.warm_up + 1):
        given = step.step(inputs[turn % len(inputs)])
        if own is not None:
            found = own.step(inputs[turn % len(inputs)])
            if not (found[1] == given[1]).all():
                raise RuntimeError("the step in C answers at another time than the graph")
    ratio = timed(lambda turn: step.step(inputs[turn]), graph_window)
    as_graph = Exported(ratio.ms, ratio.reference_ms, 1 / ratio.ratio)
    if own is None:
        return as_graph, None
    beside_window = timed(lambda turn: own.step(inputs[turn]), whole(net, windows))
    beside_graph = timed(lambda turn: own.step(inputs[turn]), graph_window)
    return as_graph, Compiled(
        beside_window.ms,
        beside_window.reference_ms,
        beside_graph.reference_ms,
        1 / beside_window.ratio,
        1 / beside_graph.ratio,
    )


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def reach(repeats: int, processor: bool) -> list[Reach]:
    """The same work at growing dilations, each beside the first."""
    chunks = [torch.randn(1, 32, 1, 64) for _ in range(8)]
    streams = {
        dilation: sentio.stream(dilated(dilation), example=torch.zeros(1, 32, 8 * 33, 64), frozen=True)
        for dilation in (1, 2, 4, 8, 16, 32)
    }
    first = stepping(streams[1], chunks)
    turns: list[Any] = list(range(8))
    found = []
    for dilation, stream in streams.items():
        ratio = in_a_row(stepping(stream, chunks), first, turns, repeats, processor)
        kept = sum(size(tensor) for tensor in stream.start().values())
        found.append(Reach(dilation, stream.receptive_field, ratio.ms, stream.macs().total, kept))
    return found


def in_a_row(run: Run, reference: Run, turns: list[int], repeats: int, processor: bool) -> Ratio:
    """Milliseconds of one hop of each side, of as many in a row as do not take long, and their ratio."""
    counts = []
    for side in (run, reference):
        side(0)
        counts.append(IN_A_ROW if lap(side, 1).ms < SHORT_MS else 1)
    ours, theirs = counts

    def several(side: Run, count: int) -> Run:
        def laps(turn: int) -> None:
            for more in range(count):
                side((turn + more) % len(turns))

        return laps

    found = compare(several(run, ours), several(reference, theirs), turns, repeats, processor=processor)
    scale = theirs / ours
    return replace(
        found,
        ms=found.ms / ours,
        reference_ms=found.reference_ms / theirs,
        ratio=found.ratio * scale,
        p95=found.p95 * scale,
    )


def stepping(stream: Any, chunks: list[Tensor]) -> Run:
    """Steps streams on and on, from where nothing lies before their start any more."""
    state = None
    for turn in range(stream.warm_up + stream.layout.plan.settled):
        state = stream.step(chunks[turn % len(chunks)], state).state

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


def installed() -> bool:
    """Whether the peer is."""
    return find_spec("continual") is not None


def peer_steps(peer: Any, chunks: list[Tensor]) -> Run:
    """By whichever of its two ways of taking units fits the hop."""

    def run(turn: int) -> Any:
        chunk = chunks[turn]
        with torch.inference_mode():
            return peer.forward_step(chunk[:, :, 0]) if chunk.shape[2] == 1 else peer.forward_steps(chunk)

    for turn in range(peer.receptive_field // chunks[0].shape[2] + 2):
        found = run(turn % len(chunks))
    if not isinstance(found, Tensor):  # layers behind one that is silent would not have run
        raise RuntimeError("the peer still gives no features after its receptive field")
    return run


def kept_by(peer: Any) -> int:
    """Bytes that the peer keeps from step to step."""
    return sum(size(buffer) for name, buffer in peer.named_buffers() if name.endswith("state_buffer"))


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def differs(net: nn.Module, row: Row) -> float:
    """Largest difference of the features over the largest magnitude, on a stream of its own.

    In double precision, since deep networks of random weights make much of single precision's rounding.

    Raises:
        RuntimeError: it is not rounding.
    """
    assert row.peer is not None
    net = deepcopy(net).double()
    example = torch.zeros(1, *row.shape, dtype=torch.float64)
    stream: Any = sentio.stream(net, example=example, frozen=True, **row.options)
    peer = row.peer(net).double()  # what it makes of a layer is in single precision at first
    # The peer is silent for as many units as its features are delayed, and so are we.
    state, ours, theirs = None, [], []
    for _ in range(stream.warm_up + 3):
        chunk = torch.randn(1, row.shape[0], stream.hop, *row.shape[2:], dtype=torch.float64)
        output, valid, state = stream.step(chunk, state)
        if valid.all():
            ours.append(output.squeeze(2))
        with torch.inference_mode():
            for frame in chunk.unbind(2):
                found = peer.forward_step(frame)
                if isinstance(found, Tensor):
                    theirs.append(found)
    counted = min(len(theirs), len(ours))
    if not counted:
        raise RuntimeError(f"the peer gave {len(theirs)} features of {row.name} and we {len(ours)}")
    largest = max(float(output.abs().max()) for output in ours)
    pairs = zip(theirs[:counted], ours[:counted], strict=True)
    difference = max(float((a - b).abs().max()) for a, b in pairs) / largest
    if difference > 1e-9:
        raise RuntimeError(f"the peer's features of {row.name} differ by {difference:.2g} of the largest")
    return difference


if __name__ == "__main__":
    main()
