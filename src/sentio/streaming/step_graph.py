"""A stream's step as one ONNX graph: state in, state out, any number of streams."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.onnx_exporter import OPSET, check_exporter, clear_traces, quiet, reason
from sentio.streaming.conversion import Stream
from sentio.streaming.state import STEPS


def export_step(stream: Stream, path: str | Path, *, like: Tensor | None = None) -> Path:
    """Write a stream's step as ONNX, with a dynamic batch.

    Inputs are ``x`` and ``state.NAME`` for each tensor of the state, outputs ``output``, ``valid`` and
    ``next.NAME``. The file's metadata says under ``sentio.stream``, as JSON, the hop, the axis of time, the
    steps of warm-up and the value that each tensor of the state begins with.

    Args:
        stream: made by `sentio.stream` of a network without exits.
        path: of the file.
        like: an input of the streams' size and type; the network's own if None.

    Raises:
        MissingExtraError: the exporter is not installed.
        ConfigError: a layer cannot be exported, or the input's size is not known.
    """
    if not isinstance(stream, Stream):
        raise ConfigError(
            "A stream with exits decides as it goes, so it is no single graph; export the stream of "
            "its backbone"
        )
    check_exporter()
    state = stream.start(2, like=None if like is None else like[:1].expand(2, *like.shape[1:]))
    names = list(state)
    layout = stream.layout
    sizes = list(like.shape) if like is not None else [2, *(layout.shape or ())]
    sizes[0], sizes[stream.axis] = 2, stream.hop
    kind = next(iter(stream.net.parameters()), torch.empty(0)) if like is None else like
    batch = {0: torch.export.Dim.DYNAMIC}
    try:
        with quiet():
            program = torch.onnx.export(
                _Step(stream, names).eval(),
                (kind.new_zeros(sizes), *state.values()),
                dynamo=True,
                dynamic_shapes=(batch, tuple(batch for _ in names)),
                input_names=["x", *(f"state.{name}" for name in names)],
                output_names=["output", "valid", *(f"next.{name}" for name in names)],
                opset_version=OPSET,
                verbose=False,
            )
            clear_traces(program)
    except Exception as error:  # the exporter wraps whatever it met in types of its own
        raise ConfigError(f"The step cannot be exported to ONNX: {reason(error)}") from error
    facts = {
        "hop": stream.hop,
        "axis": stream.axis,
        "warm_up": stream.warm_up,
        "begins_with": {name: float(tensor.flatten()[0]) for name, tensor in state.items()},
    }
    program.model.metadata_props["sentio.stream"] = json.dumps(facts)
    program.save(str(path), external_data=False)
    return Path(path)


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
