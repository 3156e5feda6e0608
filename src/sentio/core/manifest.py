"""What ``sentio.json`` says, as checked values.

A manifest may come from anywhere, so everything that later code relies on is checked here: fields and types,
the format's version, and that stages, exits, graphs, costs and files fit each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sentio.core.anytime import FINAL, MAIN
from sentio.core.errors import ArtifactError
from sentio.core.stepping import QUEUE, STEPS, own_key

#: raised by one when old code cannot read a change of the format. 2: weights may be stored as float16;
#: 3: steps of streams, and the front end as a graph; 4: the shapes that graphs give
SCHEMA = 4
MANIFEST = "sentio.json"
#: keys of the graphs
STAGE, EXIT = "stage:", "exit:"

#: ``/`` between parts; a part is letters, digits, ``_`` and ``-`` with single dots inside
_SAFE_NAME = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*(/[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*)*")

#: halves of characters, which cannot be written anywhere
_NO_CHARACTER = re.compile("[\ud800-\udfff]")
#: these, and what rules a terminal or turns the direction of a line
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: values that a state may have: a quarter of a GiB for each stream
MAX_STATE = 1 << 26

Name = Annotated[str, Field(min_length=1, max_length=200)]
Size = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileFacts(_Strict):
    bytes: int = Field(ge=0, le=1 << 40)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ExitFacts(_Strict):
    """An exit: what it reads, and how to build its branch again; ``on`` is whether it is switched on."""

    name: Name
    kind: Name
    after: Name
    reads: list[tuple[str, str]] = Field(min_length=1)
    outputs: Size
    options: dict[str, Any] = {}
    shapes: list[list[Size]] = []
    on: bool = True


class NetworkFacts(_Strict):
    """The row of stages, and how to build it again where it is a registered network."""

    name: Name | None = None
    options: dict[str, Any] = {}
    stages: list[Name] = Field(min_length=1)
    input_shapes: dict[str, list[Size]] = Field(min_length=1)


class GraphFacts(_Strict):
    """One ONNX file: the tensors it takes and gives, in its own order.

    A stage names tensors of its boundaries, an exit names what it reads as ``boundary/tensor``. Shapes are
    those of the outputs, without the batch; where they are not said, the graph knows them.
    """

    file: Name
    inputs: list[str] = Field(min_length=1)
    outputs: list[str] = Field(min_length=1)
    shapes: list[list[Size]] | None = None


class StateFacts(_Strict):
    """A tensor of a stream's state: its shape without the batch, and the value that it begins with."""

    shape: list[Size]
    dtype: Literal["float32", "int64"] = "float32"
    begins_with: float | Literal["-inf"] = 0.0


class StepFacts(_Strict):
    """One step of a part of a network on streams: the stages from one exit to the next, and that exit.

    Args:
        exit: that answers behind the part.
        file: its graph. It takes ``x``, ``steps`` (that the stream has taken, where it needs them) and
            ``state.NAME``, and gives ``output``, ``behind`` (what the next part takes) and ``next.NAME``.
        takes: shape of ``x``, without the batch.
        axis: of time in ``x``, the batch being 0.
        state: what the part keeps, by name.
        warm_up: steps before the exit's first valid answer.
        delay: input units that must have come after the one an answer is about.
        queue: past steps of ``x`` that are kept to be caught up.
        macs: of one step of one stream.
    """

    exit: Name
    file: Name
    takes: list[Size] = Field(min_length=1)
    axis: Size
    state: list[Name]
    warm_up: int = Field(ge=0)
    delay: int = Field(ge=0)
    queue: int = Field(ge=0)
    macs: int = Field(ge=0)


class StreamFacts(_Strict):
    """A network on streams, part by part.

    Args:
        hop: units of time that a step takes, on the first part's axis.
        catch_up: what becomes of the steps that left early (`sentio.streaming`).
        parts: in order; the last exit is ``final``.
        state: every tensor of the state, those that the loop keeps included.
    """

    hop: Size
    catch_up: Literal["exact", "hold"]
    parts: list[StepFacts] = Field(min_length=1)
    state: dict[Name, StateFacts]


class CostFacts(_Strict):
    names: list[str]
    macs: list[Annotated[float, Field(ge=0)]]
    ms: list[Annotated[float, Field(ge=0)]] | None = None


class NamedFacts(_Strict):
    """Something from a registry, with the settings it is built from."""

    name: Name
    settings: dict[str, Any] = {}


class Manifest(_Strict):
    """All of ``sentio.json``."""

    format: Literal["sentio-artifact"] = "sentio-artifact"
    #: the lowest that can say all of it, so that older versions of Sentio read what they understand
    version: int = 1
    sentio: str
    name: str
    storage: Literal["float32", "float16"] = "float32"
    network: NetworkFacts
    exits: list[ExitFacts] = []
    graphs: dict[str, GraphFacts] = {}
    stream: StreamFacts | None = None
    front_end_graph: GraphFacts | None = None
    frontend: NamedFacts | None = None
    task: NamedFacts
    policy: dict[str, Any]
    temperatures: dict[str, Annotated[float, Field(gt=0)]] = {}
    costs: CostFacts | None = None
    card: dict[str, Any] = {}
    files: dict[str, FileFacts] = {}

    def exit_names(self) -> tuple[str, ...]:
        """All exits in order of evaluation, ``final`` last."""
        order = sorted(self.exits, key=lambda e: self.network.stages.index(e.after))
        return (*(e.name for e in order), FINAL)

    def values(self) -> dict[str, Any]:
        """Plain values, without what its version of the format does not know."""
        since = {"storage": 2, "stream": 3, "front_end_graph": 3}
        unknown: dict[str, Any] = {name: True for name, version in since.items() if self.version < version}
        if self.version < 4:
            unknown = {"graphs": {"__all__": {"shapes"}}, "front_end_graph": {"shapes"}, **unknown}
        return self.model_dump(mode="json", exclude=unknown)


def read_manifest(values: Any, where: str) -> Manifest:
    """Check a manifest's plain values.

    Raises:
        ArtifactError: foreign, newer, or not valid; names the first thing that is wrong.
    """
    if not isinstance(values, Mapping) or values.get("format") != "sentio-artifact":
        raise ArtifactError(f"{where} is not a Sentio artifact: its {MANIFEST} does not say so")
    version = values.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(
            f"Artifact {where} is damaged: its format version is {version!r}; copy or export it again"
        )
    if version > SCHEMA:
        raise ArtifactError(
            f"Artifact {where} has format version {version}, this Sentio reads up to {SCHEMA}; "
            "update with: pip install -U sentio"
        )
    odd = _odd_text({key: value for key, value in values.items() if key != "card"}, _CONTROL)
    odd = _odd_text(values, _NO_CHARACTER) if odd is None else odd
    if odd is not None:
        raise ArtifactError(
            f"Artifact {where} is refused: its {MANIFEST} holds the text {odd[:200]!r}, which cannot be "
            "shown; trust no artifact that tries this"
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        raise ArtifactError(
            f"Artifact {where} is damaged at {place!r} in {MANIFEST} ({first['msg'].lower()}); "
            "copy or export it again"
        ) from error
    named = [graph.file for graph in manifest.graphs.values()]
    named += [] if manifest.stream is None else [part.file for part in manifest.stream.parts]
    named += [] if manifest.front_end_graph is None else [manifest.front_end_graph.file]
    for name in [*manifest.files, *named]:
        if not _SAFE_NAME.fullmatch(name):
            raise ArtifactError(
                f"Artifact {where} is refused: {name!r} is not a plain relative file name; "
                "trust no artifact that tries this"
            )
    for problem in _problems(manifest):
        raise ArtifactError(f"Artifact {where} is damaged: {problem}; copy or export it again")
    return manifest


def _odd_text(values: Any, pattern: re.Pattern[str]) -> str | None:
    """The first text in nested plain values that holds what it should not."""
    pending = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and pattern.search(value):
            return value
        if isinstance(value, Mapping):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            pending += value
    return None


def _problems(manifest: Manifest) -> Iterator[str]:
    """What does not fit together, one clause each; later checks rely on earlier ones having passed."""
    stages, exits = manifest.network.stages, [e.name for e in manifest.exits]
    if manifest.version < 2 and manifest.storage != "float32":
        yield f"format version {manifest.version} does not know weights stored as {manifest.storage}"
    if len({name.casefold() for name in manifest.files}) < len(manifest.files):
        yield "two of its files differ in capitals only, which are one file on some systems"
    front_end = manifest.front_end_graph
    if front_end is not None:
        if manifest.version < 3:
            yield f"format version {manifest.version} does not know graphs of front ends"
        if front_end.file not in manifest.files:
            yield f"the front end's graph is in {front_end.file!r}, which is not among its files"
        if front_end.outputs != list(manifest.network.input_shapes) or len(front_end.inputs) != 1:
            yield "the front end's graph does not take samples and give the network's input"
    if len(set(stages)) < len(stages):
        yield f"stage names repeat in {', '.join(stages)}"
    if len({*exits, FINAL}) <= len(exits):
        yield f"exit names repeat in {', '.join([*exits, FINAL])}"
    for e in manifest.exits:
        if e.after not in stages:
            yield f"exit {e.name!r} sits after {e.after!r}, which is no stage"
        for boundary, _ in e.reads:
            if boundary not in stages or stages.index(boundary) > stages.index(e.after):
                yield f"exit {e.name!r} reads {boundary!r}, which is no stage up to its own"
    known = manifest.exit_names()
    for what, names in (("temperatures", manifest.temperatures), ("costs", _cost_names(manifest))):
        for name in names:
            if name not in known:
                yield f"{what} names {name!r}, which is no exit"
    costs = manifest.costs
    if costs is not None:
        counts = {len(costs.names), len(costs.macs), len(costs.ms if costs.ms is not None else costs.macs)}
        if len(counts) > 1 or len(set(costs.names)) < len(costs.names):
            yield "costs do not give one figure for each exit"
    if manifest.graphs:
        yield from _graph_problems(manifest)
    if manifest.stream is not None:
        yield from _stream_problems(manifest, manifest.stream)


def _graph_problems(manifest: Manifest) -> Iterator[str]:
    graphs = manifest.graphs
    wanted = [STAGE + name for name in manifest.network.stages] + [EXIT + e.name for e in manifest.exits]
    for key in wanted:
        if key not in graphs:
            yield f"graphs has no {key!r}"
    for key, graph in graphs.items():
        if graph.shapes is not None and manifest.version < 4:
            yield f"format version {manifest.version} does not know shapes of graphs"
        if graph.shapes is not None and len(graph.shapes) != len(graph.outputs):
            yield f"graph {key!r} gives {len(graph.outputs)} tensors of {len(graph.shapes)} shapes"
        if key not in wanted:
            yield f"graphs names {key!r}, which is neither a stage nor an exit"
        if graph.file not in manifest.files:
            yield f"graph {key!r} is in {graph.file!r}, which is not among its files"
    given = list(manifest.network.input_shapes)
    for name in manifest.network.stages:
        graph = graphs[STAGE + name]
        for tensor in graph.inputs:
            if tensor not in given:
                yield f"stage {name!r} takes {tensor!r}; the one before it gives {', '.join(given)}"
        if len(set(graph.outputs)) < len(graph.outputs):
            yield f"stage {name!r} gives a tensor twice: {', '.join(graph.outputs)}"
        given = graph.outputs
    if MAIN not in given:
        yield f"the last stage gives no {MAIN!r}"
    for e in manifest.exits:
        graph = graphs[EXIT + e.name]
        if graph.inputs != [f"{boundary}/{tensor}" for boundary, tensor in e.reads]:
            yield f"the graph of exit {e.name!r} does not take what the exit reads"
        if len(graph.outputs) != 1:
            yield f"the graph of exit {e.name!r} gives {len(graph.outputs)} tensors instead of one"
        for boundary, tensor in e.reads:
            if tensor not in graphs[STAGE + boundary].outputs:
                yield f"exit {e.name!r} reads {tensor!r} behind {boundary!r}, which does not give it"


def _stream_problems(manifest: Manifest, stream: StreamFacts) -> Iterator[str]:
    exits = [part.exit for part in stream.parts]
    known = manifest.exit_names()
    if manifest.version < 3:
        yield f"format version {manifest.version} does not know streams"
    if exits[-1] != FINAL or [name for name in known if name in exits] != exits:
        yield f"the stream has exits {', '.join(exits)}, and the network {', '.join(known)}"
    wanted: dict[str, list[int] | None] = {STEPS: []}
    for index, part in enumerate(stream.parts):
        if part.file not in manifest.files:
            yield f"the stream's part {part.exit!r} is in {part.file!r}, which is not among its files"
        if not part.axis <= len(part.takes):
            yield f"the stream's part {part.exit!r} has time on axis {part.axis} of {len(part.takes)}"
        if index:
            queue = list(part.takes)
            queue[part.axis - 1] *= part.queue + 1
            wanted |= {own_key(part.exit, STEPS): [], own_key(part.exit, QUEUE): queue}
        elif part.takes[part.axis - 1] != stream.hop:
            yield f"the stream takes {stream.hop} units and its first part {part.takes[part.axis - 1]}"
        for name in part.state:
            if name in wanted:
                yield f"the stream's state names {name!r} twice"
            wanted[name] = None
    if wanted.keys() != stream.state.keys():
        odd = sorted(wanted.keys() ^ stream.state.keys())[0]
        yield f"the stream's state and its parts do not agree on {odd!r}"
    for name, facts in stream.state.items():
        shape = wanted[name]
        counts = name in (STEPS, *(own_key(exit, STEPS) for exit in exits))
        if (shape is not None and facts.shape != shape) or counts != (facts.dtype == "int64"):
            yield f"the stream's state {name!r} is {facts.dtype} of shape {facts.shape}, which does not fit"
    size = sum(prod(facts.shape) for facts in stream.state.values())
    if size > MAX_STATE:
        yield f"a stream's state has {size:,} values, more than {MAX_STATE:,}"


def _cost_names(manifest: Manifest) -> list[str]:
    return [] if manifest.costs is None else manifest.costs.names
