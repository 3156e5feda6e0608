"""A row of graphs in int8, each calibrated on what the quantised stages before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError
from sentio.core.manifest import EXIT, STAGE, GraphFacts
from sentio.exporting.quantised_graph import (
    LAYERS,
    Batch,
    Method,
    float_weights,
    quantise_graph,
    weight_bytes,
)

#: windows given to a graph at once
BATCH = 16
#: bytes that a boundary may take in memory while the next stage is calibrated on it
LARGEST = 256 << 20


def sums_overflow(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether this processor may overflow where it adds two products of 8 bits: x86 without VNNI.

    False where nothing is known of it.
    """
    try:
        text = Path(cpuinfo).read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next(
        (line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), []
    )
    return "avx2" in flags and not any("vnni" in flag for flag in flags)


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How an export is quantised: weights and activations in 8 bits, ranges from calibration data.

    Args:
        calibration: a data set, its path, its features (`FeatureSet`), or plain features as `Model.answer`
            takes them. It is divided by its protocol: ranges come from the validation part and accuracies
            from the test part, so that no recording is in both.
        measured: labelled data for the accuracies; all of ``calibration`` is then used for the ranges.
        split: which split of the protocol divides ``calibration``, from 0.
        method: range of an activation: "minmax", all that was seen; "percentile", 99.999 % of it; "entropy",
            where the divergence of the rounded values is least.
        symmetric: ranges of activations are symmetric about zero (int8, which ARM processors prefer) and
            not as they are (uint8).
        reduce_range: weights take 7 bits and not 8: the sums of two products of 8 bits overflow on x86
            processors without VNNI.
        keep: stages and exits that stay in float32: ``stage:NAME``, ``exit:NAME``, or a name for both.
        float_layers: ONNX names of layers that stay in float32 everywhere.
        windows: how many windows the ranges are taken from, drawn evenly from the calibration data.
        refit: fit temperatures and thresholds anew, on the calibration part, for the goal of the training.
        sensitivity: measure what each stage and exit costs by itself; by default where accuracy drops by
            more than a point.
        seed: of the division and the draw.

    Raises:
        ConfigError: a setting is not possible.
    """

    calibration: Any
    measured: Any = None
    split: int = 0
    method: Method = "minmax"
    symmetric: bool = False
    reduce_range: bool = False
    keep: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = (
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Softmax",
        "Sigmoid",
    )
    windows: int = 256
    refit: bool = False
    sensitivity: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise ConfigError(f"Ranges are found by one of: {known}; got {self.method!r}")
        if self.windows < 1:
            raise ConfigError(f"Calibration needs at least one window, got {self.windows}")
        if self.seed < 0:
            raise ConfigError(f"A seed is a whole number from 0, got {self.seed}")
        unknown = [layer for layer in self.float_layers if layer not in LAYERS]
        if unknown:
            raise ConfigError(
                f"float_layers names {unknown[0]!r}; layers that would be quantised are: {', '.join(LAYERS)}"
            )


@dataclass(frozen=True)
class QuantisedRow:
    """Graphs after quantisation.

    Args:
        files: all graphs by file name, those in float among them.
        bytes, weight_bytes: of each graph before and after, by ``stage:NAME`` and ``exit:NAME``; of the
            files and of the values in them.
        quantised: the graphs that are in int8.
        notes: what stayed in float and why, one sentence each.
        windows: how many windows the ranges come from.
    """

    files: dict[str, bytes]
    bytes: dict[str, tuple[int, int]]
    weight_bytes: dict[str, tuple[int, int]]
    quantised: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    windows: int = 0

    @property
    def ratio(self) -> float:
        """Bytes of all weights over those of the float graphs."""
        before, after = (sum(pair[place] for pair in self.weight_bytes.values()) for place in (0, 1))
        return after / before if before else 1.0

    def facts(self, settings: Int8) -> dict[str, Any]:
        """Plain values for the card: how it was made, and bytes before and after."""
        names = ("method", "symmetric", "reduce_range", "split", "seed")
        return {
            **{name: getattr(settings, name) for name in names},
            "windows": self.windows,
            "quantised": list(self.quantised),
            "bytes": {key: list(pair) for key, pair in self.bytes.items()},
            "weight_bytes": {key: list(pair) for key, pair in self.weight_bytes.items()},
            "ratio": self.ratio,
        }


def kept_graphs(keep: Iterable[str], graphs: Iterable[str]) -> set[str]:
    """The keys of the graphs that stay in float.

    Raises:
        ConfigError: a name is neither a stage nor an exit.
    """
    known, found = list(graphs), set()
    for name in keep:
        keys = {name, STAGE + name, EXIT + name} & set(known)
        if not keys:
            raise ConfigError(
                f"There is no stage or exit {name!r} to keep in float; there are: {', '.join(known)}"
            )
        found |= keys
    return found


def quantise_row(
    graphs: Mapping[str, GraphFacts],
    files: Mapping[str, bytes],
    features: Mapping[str, NDArray[Any]],
    settings: Int8,
    *,
    store: Callable[[bytes], bytes] | None = None,
    finish: Callable[[Any], Any] | None = None,
) -> QuantisedRow:
    """Quantise each stage and exit in the order of the row.

    A graph is calibrated on what reaches it on the box: the outputs of the stages before it, which are
    quantised already. All windows go through all stages, since a policy may be changed later. A graph that
    int8 would not make smaller stays as it is.

    Args:
        graphs, files: float stages and exits, as `export_graphs` gives them.
        features: calibration windows by the names of the network's inputs, batch first.
        settings: how.
        store: how graphs are stored that stay in float, e.g. `store_as_float16`; as they are if None.
        finish: makes of the windows that were drawn what the network takes, e.g. of pixels; nothing if None.

    Raises:
        ConfigError: ONNX Runtime cannot quantise a graph (names it), or ``keep`` names none.
    """
    keep = kept_graphs(settings.keep, graphs)
    boundary = _drawn(features, settings.windows, settings.seed)
    if finish is not None:
        made = finish(boundary[MAIN] if boundary.keys() == {MAIN} else boundary)
        boundary = dict(made) if isinstance(made, Mapping) else {MAIN: made}
    boundary = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in boundary.items()}
    windows = len(next(iter(boundary.values())))
    affordable = _affordable(graphs, files, boundary)
    if affordable < windows:
        boundary, windows = {name: array[:affordable] for name, array in boundary.items()}, affordable
    last = [key for key in graphs if key.startswith(STAGE)][-1]
    reads = {read for key, facts in graphs.items() if key.startswith(EXIT) for read in facts.inputs}
    found, sizes, weights = dict(files), {}, {}
    done, notes, kept = [], [], {}
    for key, facts in graphs.items():
        exit = key.startswith(EXIT)
        given = [(kept if exit else boundary)[name] for name in facts.inputs]
        whole = files[facts.file]
        as_float = smaller = whole if store is None else store(whole)
        if key not in keep:
            smaller = _quantised(key, whole, given, settings, answers=exit or key == last)
            left = float_weights(smaller)
            missed = sorted({layer for layer in left if layer not in settings.float_layers})
            if missed:
                notes.append(
                    f"{key}: what ONNX Runtime does not quantise stays in float: {', '.join(missed)}."
                )
            if len(smaller) >= len(as_float) or len(left) == len(float_weights(whole)):
                smaller = as_float
                if not missed:
                    notes.append(f"{key} stays in float, since int8 would not make it smaller.")
        if smaller is not as_float:
            done.append(key)
        found[facts.file] = smaller
        sizes[key] = (len(whole), len(smaller))
        weights[key] = (weight_bytes(whole), weight_bytes(smaller))
        if not exit:
            boundary = dict(zip(facts.outputs, _outputs(smaller, given), strict=True))
            name = key.removeprefix(STAGE)
            kept |= {f"{name}/{t}": array for t, array in boundary.items() if f"{name}/{t}" in reads}
    return QuantisedRow(found, sizes, weights, tuple(done), tuple(notes), windows)


def _quantised(key: str, graph: bytes, given: list[NDArray[Any]], settings: Int8, *, answers: bool) -> bytes:
    try:
        return quantise_graph(
            graph,
            _batches(given),
            method=settings.method,
            symmetric=settings.symmetric,
            reduce_range=settings.reduce_range,
            float_layers=settings.float_layers,
            answers=answers,
        )
    except ConfigError as error:
        what, name = key.split(":", 1)
        raise ConfigError(
            f"{what.capitalize()} {name!r} cannot be quantised: {error}; keep it in float with "
            f"keep=[{key!r}] (--keep {key})"
        ) from error


def _batches(given: list[NDArray[Any]]) -> list[Batch]:
    return [
        {f"in_{index}": array[start : start + BATCH] for index, array in enumerate(given)}
        for start in range(0, len(given[0]), BATCH)
    ]


def _outputs(graph: bytes, given: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """What a graph gives for all windows, one array for each output."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    parts = [session.run(None, batch) for batch in _batches(given)]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _drawn(features: Mapping[str, NDArray[Any]], windows: int, seed: int) -> dict[str, NDArray[Any]]:
    """At most so many windows, without replacement; all in their order where there are no more."""
    count = len(next(iter(features.values())))
    if not count:
        raise ConfigError("Calibration needs at least one window; the data hold none with a signal")
    rows = np.arange(count)
    if count > windows:
        rows = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(count)[:windows])
    return {name: array[rows] for name, array in features.items()}


def _affordable(
    graphs: Mapping[str, GraphFacts], files: Mapping[str, bytes], features: Mapping[str, NDArray[Any]]
) -> int:
    """How many windows fit into memory at the widest boundary; at least one batch."""
    boundary = {name: array[:1] for name, array in features.items()}
    widest = 1
    for key, facts in graphs.items():
        if key.startswith(STAGE):
            arrays = _outputs(files[facts.file], [boundary[name] for name in facts.inputs])
            boundary = dict(zip(facts.outputs, arrays, strict=True))
            widest = max(widest, sum(array.nbytes for array in arrays))
    return max(BATCH, LARGEST // widest)
