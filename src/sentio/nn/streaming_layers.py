"""Layers on a stream that keep time apart, and recurrent ones, which carry it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentio.nn.streaming import Flow, Form, Moment, PerFrame, Plan, refuses, streams

streams(
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Softplus,
    nn.Softsign,
    nn.Threshold,
)(PerFrame)


@streams(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def _batch_norm(module: Any) -> Form:
    dims = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}.get(type(module))
    tracked = module.running_mean is not None
    reason = "without running statistics it normalises by the whole clip; set track_running_stats=True"

    def check(flow: Flow) -> str | None:
        return _not_channels(flow) if tracked else reason

    return PerFrame(module, check=check, ndim=dims)


@streams(nn.PReLU)
def _prelu(module: nn.PReLU) -> Form:
    return PerFrame(module, check=_not_channels if module.num_parameters > 1 else None)


@streams(nn.Linear)
def _linear(module: nn.Linear) -> Form:
    return PerFrame(module, check=lambda flow: _not_last(flow, 1, "it mixes the last axis"))


@streams(nn.LayerNorm, nn.RMSNorm)
def _layer_norm(module: Any) -> Form:
    count = len(module.normalized_shape)
    return PerFrame(
        module, check=lambda flow: _not_last(flow, count, "its statistics are over the last axes")
    )


@streams(nn.Softmax, nn.LogSoftmax, nn.GLU)
def _along(module: Any) -> Form:
    def check(flow: Flow) -> str | None:
        if module.dim is None or (module.dim < 0 and flow.ndim is None):
            return "which axis it goes along is not known here; give it dim= counted from the first"
        dim = module.dim if module.dim >= 0 else module.dim + flow.ndim
        return f"it goes along axis {dim}, which is time" if dim == flow.axis else None

    return PerFrame(module, check=check)


@streams(nn.Softmax2d)
def _softmax_2d(module: nn.Softmax2d) -> Form:
    return PerFrame(module, check=_not_channels, ndim=4)


@streams(nn.Flatten)
class _Flatten(Form):
    def __init__(self, module: nn.Flatten) -> None:
        self.module = module

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.ndim is None or flow.axis is None:
            raise plan.refusal("the number of axes is not known here; pass an example=")
        first, last = (dim % flow.ndim for dim in (self.module.start_dim, self.module.end_dim))
        if first <= flow.axis <= last and first != last:
            raise plan.refusal("it flattens time into other axes; pool over time first")
        lost = last - first
        return replace(flow, ndim=flow.ndim - lost, axis=flow.axis - lost if last < flow.axis else flow.axis)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return self.module(x)

    def clip(self, x: Tensor) -> Tensor:
        return self.module(x)


class Squeeze(Form):
    """Squeeze and excitation on a stream: the mean is over the axes behind time, and over the last frames.

    Of one frame, or of as many as the clip has here; of what there is where a stream is younger. Not what the
    clip network computes, whose mean is over frames to come too; so it has to be asked for.

    Args:
        gate: channels' means ``(batch, channel)`` to their gates.
    """

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        self.gate = gate

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if plan.squeeze is None:
            raise plan.refusal(
                "squeeze and excitation averages over the whole clip; pass squeeze='frame' to average over "
                "each frame alone, or squeeze='window' over the last frames, which give other answers"
            )
        if flow.axis != 2:
            raise plan.refusal(f"it takes (batch, channel, time, ...), and time is axis {flow.axis}")
        self.frames = 1
        if plan.squeeze == "window":
            if flow.frames is None:
                raise plan.refusal("it averages over the last frames; say how many with window=")
            self.frames = flow.frames
        if self.frames == 1:
            return flow
        keep = self.frames - 1
        self.units, self.delay, self.key = plan.units(flow), flow.delay, plan.key("means")
        plan.blanks(replace(flow, delay=flow.delay + keep))
        return replace(flow, before=flow.before + keep * flow.stride, past=flow.past + keep * flow.stride)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        if self.frames == 1:
            return by_frame(self.gate, x)
        means = moment.blank(_means(x), 2, self.units, self.delay)
        window = moment.window(self.key, means, 2, self.frames - 1)
        count: Tensor | int = self.frames
        if not moment.warm:
            first = moment.steps * self.units - self.delay
            place = first[:, None] + torch.arange(1, x.shape[2] + 1, device=x.device)
            count = place.clamp(1, self.frames).unsqueeze(1)
        return gated(self.gate, window.unfold(2, self.frames, 1).sum(-1) / count, x)

    def clip(self, x: Tensor) -> Tensor:
        if self.frames == 1:
            return by_frame(self.gate, x)
        windows = F.pad(_means(x), (self.frames - 1, 0)).unfold(2, self.frames, 1)
        count = torch.arange(1, x.shape[2] + 1, device=x.device).clamp(max=self.frames)
        return gated(self.gate, windows.sum(-1) / count, x)


def by_frame(gate: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Each channel of each frame times its gate: ``(batch, channel, time, ...)`` to the same.

    Args:
        gate: channels' means ``(batch, channel)`` to their gates.
    """
    return gated(gate, _means(x), x)


def gated(gate: Callable[[Tensor], Tensor], means: Tensor, x: Tensor) -> Tensor:
    """Each channel of each frame times the gate that its means ``(batch, channel, time)`` open."""
    batch, channels, time = means.shape
    gates = gate(means.transpose(1, 2).reshape(batch * time, channels))
    gates = gates.reshape(batch, time, channels).transpose(1, 2)
    return x * gates.reshape(batch, channels, time, *[1] * (x.ndim - 3))


def _means(x: Tensor) -> Tensor:
    """``(batch, channel, time)``."""
    return x.mean(dim=tuple(range(3, x.ndim))) if x.ndim > 3 else x


@streams(nn.RNN, nn.GRU, nn.LSTM)
class Recurrent(Form):
    """A recurrent layer that carries its hidden state on; its output sequence alone goes further."""

    def __init__(self, module: nn.RNN | nn.GRU | nn.LSTM) -> None:
        self.module = module

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        m = self.module
        if m.bidirectional:
            raise plan.refusal("it is bidirectional, and its backward half begins at the end of the clip")
        if not m.batch_first:
            raise plan.refusal("states are batch first here; build it with batch_first=True")
        if flow.axis != 1 or flow.ndim not in (None, 3):
            raise plan.refusal(f"it takes (batch, time, channel), and time is axis {flow.axis}")
        self.units, self.delay = plan.units(flow), flow.delay
        cells = isinstance(m, nn.LSTM)
        sizes = {"hidden": m.proj_size or m.hidden_size} | ({"cell": m.hidden_size} if cells else {})
        self.keys = {plan.key(label): size for label, size in sizes.items()}
        plan.blanks(flow)
        return replace(flow, ndim=3, past=inf)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        layers = self.module.num_layers
        states = [
            moment.buffer(key, x, (len(x), layers, size)).transpose(0, 1).contiguous()
            for key, size in self.keys.items()
        ]
        if moment.warm or not self.delay:
            y, states = self._run(x, states)
        else:  # what lies before a stream's start leaves its state alone
            lived = moment.lived(x.shape[1], self.units, self.delay)
            outputs = []
            for unit in range(x.shape[1]):
                output, after = self._run(x[:, unit : unit + 1], states)
                keep = lived[:, unit].view(1, -1, 1)
                states = [torch.where(keep, new, old) for new, old in zip(after, states, strict=True)]
                outputs.append(output)
            y = torch.cat(outputs, 1)
        moment.new.update(zip(self.keys, (state.transpose(0, 1) for state in states), strict=True))
        return y

    def clip(self, x: Tensor) -> Tensor:
        return self.module(x)[0]

    def _run(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if len(states) == 2:
            y, after = self.module(x, tuple(states))
            return y, list(after)
        y, hidden = self.module(x, states[0])
        return y, [hidden]


refuses(
    "its statistics are over the whole clip; use batch norm, whose statistics are the training set's",
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
refuses(
    "every unit attends to units that have not come yet; use WindowAttention from sentio.nn.window_attention",
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerEncoder,
)
refuses(
    "its windows are drawn by chance or over neighbouring channels of time",
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)


def _not_channels(flow: Flow) -> str | None:
    return "its channels are axis 1, and that is time" if flow.axis == 1 else None


def _not_last(flow: Flow, count: int, what: str) -> str | None:
    if flow.ndim is None:
        return "the number of axes is not known here; pass an example="
    assert flow.axis is not None
    return f"{what}, and time is among them" if flow.axis >= flow.ndim - count else None
