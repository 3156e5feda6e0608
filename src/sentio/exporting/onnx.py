"""A model's stages and exits as ONNX graphs, one each, with a dynamic batch."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sentio.core.anytime import MAIN, Boundary
from sentio.core.artifact import check_target
from sentio.core.confidence import MAX_PROBABILITY, softmax
from sentio.core.errors import ConfigError
from sentio.core.features import finished
from sentio.core.manifest import EXIT, STAGE, GraphFacts
from sentio.core.model import Model
from sentio.core.multi_exit import MultiExit
from sentio.core.onnx_exporter import check_exporter, plain_name, reason, to_program
from sentio.core.policy import Fixed
from sentio.core.staged import as_boundary, as_value, evaluating
from sentio.core.torch_artifact import Storage, check_plain_weights, known_shapes, rounded, save
from sentio.exporting.front_end_graph import front_end_graph
from sentio.exporting.half_precision import store_as_float16
from sentio.exporting.int8_figures import POINT, Parts, difference, divide, figures, refitted, sensitivity
from sentio.exporting.quantisation import Int8, quantise_row, sums_overflow

#: said where accuracy drops
OVERFLOW = (
    "This processor has no VNNI, and without it sums of 8-bit products overflow; try --reduce-range "
    "(reduce_range=True)."
)

#: largest accepted difference of a class probability to PyTorch
TOLERANCE = 1e-3
FRONT_END = "front_end.onnx"


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Args:
        path: the artifact.
        bytes: of each graph, by ``stage:NAME``, ``exit:NAME`` and ``step:EXIT``, and of the ``front end``.
        difference: largest difference of a class probability to PyTorch on random features, before int8.
        rounding: of that, to the model before its weights were rounded to float16; None where they were not.
        int8: what int8 came to, plain values as in the card; None where it was not asked for.
    """

    path: Path
    bytes: dict[str, int]
    difference: float
    rounding: float | None = None
    int8: dict[str, Any] | None = None


def export(
    model: Model,
    path: str | Path,
    *,
    dtype: Storage = "float32",
    int8: Int8 | None = None,
    stream: Any = None,
    front_end: bool = False,
    weights: bool = True,
    cache: str | Path | None = None,
    skip_bad: bool = False,
) -> Exported:
    """Write a model for the box: the same artifact, with every stage and exit as an ONNX graph.

    Args:
        model: with a PyTorch network.
        path: a folder, or a file whose name ends in ``.zip`` or ``.sentio``.
        dtype: what weights are stored as, see `save`; both runtimes compute in float32 with the same weights.
        int8: quantise stages and exits; what that costs is measured and goes into the artifact's card. Such
            an artifact has no weights for PyTorch, which would answer otherwise, and no steps for streams.
        stream: made by `sentio.stream` of the model's network: its steps are written too, each part from one
            exit to the next as a graph with state in and state out, beside the stages.
        front_end: write the front end as a graph too, for `sentio.edge.front_end.with_front_end_graph`.
        weights: keep the weights for PyTorch; without them the artifact is smaller and runs on its graphs.
        cache: a folder that keeps the features of int8's data for the next time.
        skip_bad: leave out files of int8's data that cannot be read, with a note, instead of raising.

    Raises:
        MissingExtraError: the exporter is not installed.
        ConfigError: the network is in half or double precision, or makes weights of others while they are to
            be kept; a stage or step cannot be exported or quantised (names it), its graph disagrees with
            PyTorch, the input's shape is not known, a parameter is too large for float16, the front end has
            no graph, the stream is of another network, or int8 is asked for together with a stream.
        InputError: the data for int8 cannot be used.
        ArtifactError: it cannot be written there.
    """
    from sentio.core.loading import load

    check_target(path)
    shapes = known_shapes(model)
    _check_precision(model)
    if weights and int8 is None:
        check_plain_weights(model)
    if stream is not None and (not hasattr(stream, "graphs") or stream.net is not model.network):
        raise ConfigError(
            f"The stream is not of the network of model {model.name!r}; make it with "
            "sentio.stream(model.network)"
        )
    if stream is not None and int8 is not None:
        raise ConfigError(
            "Steps of streams stay in float, so an artifact in int8 has none; export twice, once without int8"
        )
    parts = None if int8 is None else divide(model, int8, cache=cache, skip_bad=skip_bad)
    rounding = None
    if dtype == "float16":
        whole, model = model, rounded(model)
        rounding = _difference(whole, model, shapes)
    graphs, files = export_graphs(model.network, shapes)
    own = GraphFacts(file=FRONT_END, inputs=["samples"], outputs=[MAIN]) if front_end else None
    beside = {FRONT_END: front_end_graph(model.frontend)} if front_end else {}
    store = store_as_float16 if dtype == "float16" else _as_it_is
    steps = None
    if stream is not None:
        with _holding(stream.net, model.network):
            steps, written = stream.graphs()
        files |= written
    with tempfile.TemporaryDirectory() as scratch:
        draft = save(model, Path(scratch) / "draft.zip", graphs=(graphs, files), stream=steps, weights=False)
        box = load(draft, runtime="edge", threads=1)
        gap = _difference(model, box, shapes)
        if stream is not None:
            with _holding(stream.net, model.network):
                gap = max(gap, _stream_difference(stream, box))
        if gap > TOLERANCE:
            raise ConfigError(
                f"The exported stages of model {model.name!r} differ from PyTorch by {gap:.2g} in "
                "probability, so nothing was written; please report this network"
            )
        report = None
        if int8 is not None and parts is not None:
            model, files, report = _in_int8(model, box, graphs, files, store, int8, parts, Path(scratch))
        else:
            files = {name: store(graph) for name, graph in files.items()}
    files = {**files, **beside}
    place = save(
        model,
        path,
        graphs=(graphs, files),
        stream=steps,
        front_end_graph=own,
        dtype=dtype,
        weights=weights and int8 is None,
    )
    sizes = {key: len(files[facts.file]) for key, facts in graphs.items()}
    if steps is not None:
        sizes |= {f"step:{part.exit}": len(files[part.file]) for part in steps.parts}
    if front_end:
        sizes["front end"] = len(files[FRONT_END])
    return Exported(place, sizes, gap, rounding, report)


def _in_int8(
    model: Model,
    box: Model,
    graphs: dict[str, GraphFacts],
    files: dict[str, bytes],
    store: Callable[[bytes], bytes],
    settings: Int8,
    parts: Parts,
    scratch: Path,
) -> tuple[Model, dict[str, bytes], dict[str, Any]]:
    """The model with what int8 came to in its card, its graphs, and the same report."""
    from sentio.core.loading import load

    # Pixels reach the network standardised, and so must those that the ranges come from.
    finish = partial(finished, model.frontend)
    row = quantise_row(graphs, files, parts.ranges, settings, store=store, finish=finish)
    draft = save(model, scratch / "int8.zip", graphs=(graphs, row.files), weights=False)
    after = load(draft, runtime="edge", threads=1)
    moved = difference(box, after, parts)
    if settings.refit:
        after = refitted(after, parts, settings.seed)
    found = {"difference": moved, **figures(box, after, parts)}
    worst = max(found.get("drops", {}).values(), default=0.0)
    wanted = worst > POINT if settings.sensitivity is None else settings.sensitivity
    if wanted:
        found["sensitivity"] = sensitivity(box, after, row.quantised, parts)
    report = {**row.facts(settings), **parts.facts(), **found, "refit": settings.refit}
    report["notes"] = [*parts.notes, *row.notes]
    if worst > POINT and not settings.reduce_range and sums_overflow():
        report["notes"].append(OVERFLOW)
    written = copy.copy(model)
    written.policy, written.temperatures = after.policy, after.temperatures
    written.card = {**model.card, "int8": report}
    return written, row.files, report


def _as_it_is(graph: bytes) -> bytes:
    return graph


def _check_precision(model: Model) -> None:
    """Graphs compute in float32, and so must the network that they are compared with.

    Raises:
        ConfigError: it does not.
    """
    for name, parameter in model.network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError(
                f"Graphs compute in float32, and parameter {name!r} of model {model.name!r} is {kind}; call "
                "model.network.float() first, and export with dtype='float16' for a box of half the bytes"
            )


def export_graphs(
    net: MultiExit, input_shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, GraphFacts], dict[str, bytes]]:
    """Every stage and exit as ONNX.

    Graph inputs are called ``in_0``, ``in_1``, … and outputs ``out_0``, …; the facts say which tensor of the
    boundary each one is.

    Returns:
        facts by ``stage:NAME`` and ``exit:NAME``, and file contents by name.
    """
    check_exporter()
    generator = torch.Generator().manual_seed(0)
    boundary: Boundary = {
        name: torch.randn(2, *shape, generator=generator) for name, shape in input_shapes.items()
    }
    graphs: dict[str, GraphFacts] = {}
    files: dict[str, bytes] = {}
    kept: dict[tuple[str, str], Tensor] = {}

    def add(key: str, label: str, module: nn.Module, inputs: Boundary, packed: bool) -> Boundary:
        file = f"stages/{len(files):02d}-{plain_name(label)}.onnx"
        files[file], outputs = _to_onnx(key, module, inputs, packed)
        graphs[key] = GraphFacts(
            file=file,
            inputs=list(inputs),
            outputs=list(outputs),
            shapes=[list(tensor.shape[1:]) for tensor in outputs.values()],
        )
        return outputs

    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    net = net.cpu()
    try:
        with evaluating(net), torch.no_grad():
            for name in net.stage_names:
                boundary = add(STAGE + name, name, net.backbone.stage(name), boundary, True)
                kept |= {(name, tensor): value for tensor, value in boundary.items()}
                for spec in net.specs:
                    if spec.after == name:
                        reads = {f"{b}/{t}": kept[b, t] for b, t in spec.reads}
                        add(EXIT + spec.name, f"exit-{spec.name}", net.branch(spec.name), reads, False)
    finally:
        net.to(device)
    return graphs, files


class _Flat(nn.Module):
    """A stage with its named tensors as positional arguments and outputs, as an ONNX graph has them."""

    def __init__(self, module: nn.Module, inputs: list[str], outputs: list[str], packed: bool) -> None:
        super().__init__()
        self.module, self.inputs, self.outputs, self.packed = module, inputs, outputs, packed

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.packed:
            value = self.module(as_value(dict(zip(self.inputs, tensors, strict=True))))
        else:
            value = self.module(*tensors)
        boundary = as_boundary(value)
        # An output that is an input as it came needs a node of its own to bear its name.
        given = {id(tensor) for tensor in tensors}
        return tuple(
            boundary[name].clone() if id(boundary[name]) in given else boundary[name] for name in self.outputs
        )


def _to_onnx(key: str, module: nn.Module, inputs: Boundary, packed: bool) -> tuple[bytes, Boundary]:
    """One module as ONNX, and what it gives for these inputs."""
    try:
        outputs = as_boundary(module(as_value(inputs)) if packed else module(*inputs.values()))
        program = to_program(
            _Flat(module, list(inputs), list(outputs), packed).eval(),
            {f"in_{i}": tensor.contiguous() for i, tensor in enumerate(inputs.values())},
            [f"out_{i}" for i in range(len(outputs))],
            dynamic_shapes=(tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),),
        )
    except Exception as error:  # the exporter wraps whatever the network raised in types of its own
        what, name = key.split(":", 1)
        raise ConfigError(
            f"{what.capitalize()} {name!r} cannot be exported to ONNX: {reason(error)}"
        ) from error
    buffer = io.BytesIO()
    program.save(buffer, external_data=False)
    return buffer.getvalue(), outputs


def _difference(model: Model, exported: Model, shapes: dict[str, tuple[int, ...]]) -> float:
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.standard_normal((3, *shape)).astype(np.float32) for name, shape in shapes.items()
    }
    features: Any = as_value(arrays)
    ours, theirs = model.outputs(features), exported.outputs(features)
    return max(_gap(model, ours[name], theirs[name]) for name in ours)


def _gap(model: Model, ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Largest difference of a probability; of answers that are none, as a share of the largest of them."""
    if model.task.confidence(ours, MAX_PROBABILITY) is None:
        return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max())))
    return float(np.abs(softmax(ours) - softmax(theirs)).max())


@contextmanager
def _holding(net: nn.Module, other: nn.Module) -> Iterator[None]:
    """The weights of another network of the same structure in this one, for a while."""
    if net is other:
        yield
        return
    own = {key: value.clone() for key, value in net.state_dict().items()}
    net.load_state_dict(other.state_dict())
    try:
        yield
    finally:
        net.load_state_dict(own)


def _stream_difference(stream: Any, exported: Model) -> float:
    """Largest difference of a class probability between both runtimes' steps, whichever exit answers."""
    from sentio.core.confidence import softmax

    theirs = exported.stream()
    generator = torch.Generator().manual_seed(0)
    names = stream.exit_names
    ours = box = None
    worst = 0.0
    # Each exit once it is warm; going on late has the parts behind catch up.
    for turn in range(max(stream.warm_up.values()) + 2 * len(names) + 1):
        x = torch.randn(2, *theirs.shape, generator=generator)
        policy = Fixed(names[-1 - turn % len(names)])
        one = stream.step(x, ours, policy, temperatures=exported.temperatures)
        other = theirs.step(x.numpy(), box, policy)
        ours, box = one.state, other.state
        if one.exit.tolist() != other.exit.tolist() or one.valid.tolist() != other.valid.tolist():
            return float("inf")
        gap = np.abs(softmax(one.output.numpy()) - softmax(other.output))[other.valid]
        worst = max(worst, float(gap.max(initial=0.0)))
    return worst
