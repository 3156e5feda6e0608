"""A stream's step as ONNX graphs: state in, state out, any number of streams.

Without exits it is one graph. With exits it is one for each part, and the policy decides between them.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.manifest import StateFacts, StepFacts, StreamFacts
from sentio.core.onnx_exporter import check_exporter, plain_name, reason, to_program
from sentio.core.stepping import STEPS
from sentio.nn.streaming import Moment
from sentio.streaming.conversion import Stream
from sentio.streaming.exits_in_time import ExitStream, Part, first_chunk


def export_step(stream: Stream, path: str | Path, *, like: Tensor | None = None) -> Path:
    """Write a stream's step as ONNX, with a dynamic batch.

    Inputs are ``x`` and ``state.NAME`` for each tensor of the state, outputs ``output``, ``valid`` and
    ``next.NAME``. The file's metadata says under ``sentio.stream``, as JSON, the hop, the axis of time, the
    steps of warm-up and the value that each tensor of the state begins with, a number or ``"-inf"``.

    Args:
        stream: made by `sentio.stream` of a network without exits.
        path: of the file.
        like: an input of the streams' size and type; the network's own if None.

    Raises:
        MissingExtraError: the exporter is not installed.
        ConfigError: a layer cannot be exported, or the input's size is not known.
        InputError: the file cannot be written.
    """
    if not isinstance(stream, Stream | ExitStream):
        raise ConfigError(
            f"export_step() takes a stream, as sentio.stream makes it, got {type(stream).__name__}"
        )
    if not isinstance(stream, Stream):
        raise ConfigError(
            "A stream with exits decides as it goes, so it is no single graph; export the stream of "
            "its backbone"
        )
    state = stream.start(2, like=None if like is None else like[:1].expand(2, *like.shape[1:]))
    names = list(state)
    layout = stream.layout
    sizes = list(like.shape) if like is not None else [2, *(layout.shape or ())]
    sizes[0], sizes[stream.axis] = 2, stream.hop
    kind = next(iter(stream.net.parameters()), torch.empty(0)) if like is None else like
    program = _program(
        _Step(stream, names),
        {"x": kind.new_zeros(sizes), **{f"state.{name}": tensor for name, tensor in state.items()}},
        ["output", "valid", *(f"next.{name}" for name in names)],
        "The step",
    )
    facts = {
        "hop": stream.hop,
        "axis": stream.axis,
        "warm_up": stream.warm_up,
        "begins_with": {name: _begins_with(tensor) for name, tensor in state.items()},
    }
    program.model.metadata_props["sentio.stream"] = json.dumps(facts)
    try:
        program.save(str(path), external_data=False)
    except OSError as error:
        raise InputError(f"The step cannot be written to {str(path)!r}: {error.strerror or error}") from error
    return Path(path)


def export_parts(stream: ExitStream) -> tuple[StreamFacts, dict[str, bytes]]:
    """Each part of a stream with exits as an ONNX graph, with a dynamic batch.

    Returns:
        what a manifest says of them (`sentio.core.manifest.StepFacts` names their inputs and outputs), and
        file contents by name.

    Raises:
        MissingExtraError: the exporter is not installed.
        ConfigError: a layer cannot be exported, or the input's size is not known.
    """
    device = next((p.device for p in stream.net.parameters()), torch.device("cpu"))
    stream.net.cpu()
    try:
        state = stream.start(2)
        x = first_chunk(stream.net, 2, None, stream.shape, stream.axis, stream.hop)
        facts, files = [], {}
        for index, part in enumerate(stream.parts):
            keys = [name for name in state if name in part.keys]
            last = index + 1 == len(stream.parts)
            program = _program(
                _PartStep(stream.net, part, keys, last),
                {"x": x, STEPS: state[STEPS], **{f"state.{key}": state[key] for key in keys}},
                ["output", *([] if last else ["behind"]), *(f"next.{key}" for key in keys)],
                f"The step up to exit {part.name!r}",
            )
            file = f"steps/{index:02d}-{plain_name(part.name)}.onnx"
            buffer = io.BytesIO()
            program.save(buffer, external_data=False)
            files[file] = buffer.getvalue()
            facts.append(
                StepFacts(
                    exit=part.name,
                    file=file,
                    takes=list(x.shape[1:]),
                    axis=part.axis,
                    state=keys,
                    warm_up=part.warm_up,
                    delay=part.delay,
                    queue=part.queue if index else 0,
                    macs=stream.part_macs(index, x, 1),
                )
            )
            with torch.no_grad():
                x = part.form.step(x, Moment(None, state[STEPS], False))
        return StreamFacts(
            hop=stream.hop,
            catch_up=stream.catch_up,
            parts=facts,
            state={name: _state_facts(tensor) for name, tensor in state.items()},
        ), files
    finally:
        stream.net.to(device)


def _state_facts(tensor: Tensor) -> StateFacts:
    return StateFacts(
        shape=list(tensor.shape[1:]),
        dtype="float32" if tensor.is_floating_point() else "int64",
        begins_with=_begins_with(tensor),
    )


def _begins_with(tensor: Tensor) -> float | Literal["-inf"]:
    """The one number that a tensor of a new state holds; JSON has none for what padded maxima begin with."""
    value = float(tensor.flatten()[0]) if tensor.numel() else 0.0
    return "-inf" if value == float("-inf") else value


def _program(step: nn.Module, inputs: dict[str, Tensor], outputs: list[str], what: str) -> Any:
    """A step as an ONNX program of the exporter, with named inputs and outputs."""
    check_exporter()
    batch = {0: torch.export.Dim.DYNAMIC}
    try:
        return to_program(
            step.eval(), inputs, outputs, dynamic_shapes=(batch, tuple(batch for _ in list(inputs)[1:]))
        )
    except Exception as error:  # the exporter wraps whatever it met in types of its own
        raise ConfigError(f"{what} cannot be exported to ONNX: {reason(error)}") from error


class _PartStep(nn.Module):
    """A step of a part with its state as positional tensors."""

    def __init__(self, net: nn.Module, part: Part, names: list[str], last: bool) -> None:
        super().__init__()
        self.net = net  # a form's layers are no attributes of a module, so their weights are found here
        self.part, self.names, self.last = part, names, last

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        steps, kept = state[0], dict(zip(self.names, state[1:], strict=True))
        moment = Moment(kept, steps, False)
        behind = self.part.form.step(x, moment)
        answer = behind if self.part.branch is None else self.part.branch.step(behind, moment)
        after = [moment.new[name] for name in self.names]
        # An output that is another one as it is, or an input, needs a node of its own to bear its name.
        seen: set[int] = {id(x), *(id(tensor) for tensor in state)}
        given = []
        for tensor in (answer, *([] if self.last else [behind]), *after):
            given.append(tensor.clone() if id(tensor) in seen else tensor)
            seen.add(id(tensor))
        return tuple(given)


class _Step(nn.Module):
    """A step with the state as positional tensors."""

    def __init__(self, stream: Stream, names: list[str]) -> None:
        super().__init__()
        self.stream, self.names = stream, names

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        result = self.stream.step(x, dict(zip(self.names, state, strict=True)))
        steps = result.state[STEPS]
        after = [steps if name == STEPS else result.state[name] for name in self.names]
        return result.output, result.valid, *after
