"""What `streaming.py` measures, and its tables."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

#: share of what is saved in MACs that is to be saved in time
AIM = 0.5


@dataclass(frozen=True)
class Many:
    """Milliseconds for a hop of several streams, ours in one batch; and the peer over ours.

    Args:
        together_ms: the peer's batch of streams that began together.
        apart_ms: an instance of the peer for each stream.
    """

    step_ms: float
    together_ms: float
    apart_ms: float
    together_over_step: float
    apart_over_step: float


@dataclass(frozen=True)
class Wide:
    """Milliseconds for a hop of several streams in one batch, and for as many windows in one."""

    streams: int
    step_ms: float
    window_ms: float
    window_over_step: float


@dataclass(frozen=True)
class Longer:
    """Milliseconds for several hops in one step, and for a window after each such step."""

    hop: int
    step_ms: float
    window_ms: float
    window_over_step: float
    step_macs: int


@dataclass(frozen=True)
class Exported:
    """Milliseconds for a hop in ONNX Runtime, of the step and of the clip network, and their ratio."""

    step_ms: float
    window_ms: float
    window_over_step: float


@dataclass(frozen=True)
class Compiled:
    """Milliseconds for a hop of the step in C, and of the clip network in PyTorch and in ONNX Runtime."""

    step_ms: float
    window_ms: float
    graph_ms: float
    window_over_step: float
    graph_over_step: float


@dataclass(frozen=True)
class Result:
    """Milliseconds for a hop, MACs, and bytes kept for a stream, ours and theirs; None if there is no peer.

    Args:
        live_ms: of a stream that is not frozen, which shares the network's weights: so many times ``step_ms``
            as it takes beside steps.
        wide, longer: several streams beside several windows, and several hops in one step, where one stream
            and one hop save too little.
        difference: of the peer's features from ours, over the largest magnitude, in double precision.
    """

    name: str
    hop: int
    step_ms: float
    live_ms: float
    window_ms: float
    peer_ms: float | None
    window_over_step: float
    peer_over_step: float | None
    step_macs: int
    window_macs: int
    state_bytes: int
    peer_bytes: int | None
    difference: float | None
    many: Many | None
    wide: list[Wide]
    longer: list[Longer]
    exported: Exported | None
    compiled: Compiled | None


@dataclass(frozen=True)
class Reach:
    """A step of the network of `dilated`."""

    dilation: int
    receptive_field: float
    step_ms: float
    macs: int
    state_bytes: int


def table(results: list[Result]) -> Table:
    headers = (
        "network",
        "hop",
        "step ms",
        "not frozen",
        "window ms",
        "peer ms",
        "window / step",
        "same in MACs",
        "share",
        "peer / step",
        "state kB",
        "peer's kB",
    )
    rows = []
    for r in results:
        macs = r.window_macs / r.step_macs
        rows.append(
            (
                r.name,
                str(r.hop),
                f"{r.step_ms:.2f}",
                f"{r.live_ms:.2f}",
                f"{r.window_ms:.2f}",
                "-" if r.peer_ms is None else f"{r.peer_ms:.2f}",
                f"{r.window_over_step:.2f}",
                f"{macs:.2f}",
                f"{r.window_over_step / macs:.2f}",
                "-" if r.peer_over_step is None else f"{r.peer_over_step:.2f}",
                f"{r.state_bytes / 1000:.0f}",
                "-" if r.peer_bytes is None else f"{r.peer_bytes / 1000:.0f}",
            )
        )
    return _table(headers, rows)


def many_table(results: list[Result]) -> Table:
    headers = ("network", "step ms", "together ms", "apart ms", "together / step", "apart / step")
    rows = [
        (
            r.name,
            *(f"{ms:.2f}" for ms in (r.many.step_ms, r.many.together_ms, r.many.apart_ms)),
            f"{r.many.together_over_step:.2f}",
            f"{r.many.apart_over_step:.2f}",
        )
        for r in results
        if r.many is not None
    ]
    return _table(headers, rows)


def wide_table(results: list[Result]) -> Table:
    headers = ("network", "streams", "step ms", "windows ms", "window / step", "same in MACs", "share")
    rows = []
    for r in results:
        macs = r.window_macs / r.step_macs
        for found in r.wide:
            ratio = found.window_over_step
            cells = (found.step_ms, found.window_ms, ratio, macs, ratio / macs)
            rows.append((r.name, str(found.streams), *(f"{cell:.2f}" for cell in cells)))
    return _table(headers, rows)


def longer_table(results: list[Result]) -> Table:
    headers = ("network", "hop", "step ms", "window ms", "window / step", "same in MACs", "share")
    rows = []
    for r in results:
        for found in r.longer:
            macs, ratio = r.window_macs / found.step_macs, found.window_over_step
            cells = (found.step_ms, found.window_ms, ratio, macs, ratio / macs)
            rows.append((r.name, str(found.hop), *(f"{cell:.2f}" for cell in cells)))
    return _table(headers, rows)


def exported_table(results: list[Result]) -> Table:
    headers = ("network", "step ms", "window ms", "window / step", "same in MACs", "share")
    rows = []
    for r in results:
        macs, found = r.window_macs / r.step_macs, r.exported
        if found is None:
            continue
        ratio = found.window_over_step
        cells = (found.step_ms, found.window_ms, ratio, macs, ratio / macs)
        rows.append((r.name, *(f"{cell:.2f}" for cell in cells)))
    return _table(headers, rows)


def compiled_table(results: list[Result]) -> Table:
    headers = (
        "network",
        "step ms",
        "window ms",
        "as graph ms",
        "window / step",
        "graph / step",
        "same in MACs",
        "share",
        "of graph",
    )
    rows = []
    for r in results:
        macs, found = r.window_macs / r.step_macs, r.compiled
        if found is None:
            continue
        ratios = found.window_over_step, found.graph_over_step
        cells = (found.window_ms, found.graph_ms, *ratios, macs, *(ratio / macs for ratio in ratios))
        rows.append((r.name, f"{found.step_ms:.3f}", *(f"{cell:.2f}" for cell in cells)))
    return _table(headers, rows)


def verdicts(results: list[Result]) -> list[str]:
    """On how many networks at least `AIM` of what is saved in MACs is saved in time, and which have less."""
    names = ("one stream", "in ONNX Runtime", "in C", "in C beside ONNX Runtime", "in a batch")
    ways: dict[str, list[tuple[str, float]]] = {name: [] for name in names}
    for r in results:
        macs = r.window_macs / r.step_macs
        alone = r.window_over_step / macs
        ways["one stream"].append((r.name, alone))
        if r.exported is not None:
            ways["in ONNX Runtime"].append((r.name, r.exported.window_over_step / macs))
        if r.compiled is not None:
            ways["in C"].append((r.name, r.compiled.window_over_step / macs))
            ways["in C beside ONNX Runtime"].append((r.name, r.compiled.graph_over_step / macs))
        # Batches are measured where one stream saves too little.
        shared = max((wide.window_over_step / macs for wide in r.wide), default=alone)
        ways["in a batch"].append((r.name, shared))
    lines = []
    for way, shares in ways.items():
        short = [f"{name} {share:.2f}" for name, share in shares if share < AIM]
        if shares:
            enough = f"{len(shares) - len(short)} of {len(shares)}"
            lines.append(
                f"share of at least {AIM:g}, {way}: {enough}" + f"; less: {', '.join(short)}" * bool(short)
            )
    return lines


def reach_table(found: list[Reach]) -> Table:
    headers = ("dilation", "receptive field", "step ms", "MACs", "state kB")
    rows = [
        (
            str(f.dilation),
            f"{f.receptive_field:.0f}",
            f"{f.step_ms:.3f}",
            f"{f.macs:,}",
            f"{f.state_bytes / 1000:.0f}",
        )
        for f in found
    ]
    return _table(headers, rows)


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="")
    for index, header in enumerate(headers):
        shown.add_column(header, justify="right" if index else "left")
    for row in rows:
        shown.add_row(*row)
    return shown
