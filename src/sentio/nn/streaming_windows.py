"""Convolution, pooling and padding on a stream: each output reads a window of the last inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentio.nn.streaming import Flow, Form, Moment, PerFrame, Plan, refuses, streams
from sentio.nn.streaming_buffers import Order

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class Sliding(Form):
    """What slides a window over time: output ``t`` reads ``span`` units from ``t * stride - pad`` on.

    The last units that the next outputs need are kept and put in front of each chunk, and the layer itself
    runs on that without padding in time.
    """

    takes_lead = True
    #: whether its first outputs need not be given, since they are all the same
    gives_lead = False
    span = 1
    stride = 1
    dilation = 1
    pad = 0
    pad_end = 0
    #: whether it gives units that are padded on other axes, where its first outputs need not be given
    pads_others = False
    #: how its window lies in memory; as it comes if None
    lies: Order | None = None
    ceil_mode = False
    #: what stands before the stream's start, where the layer pads
    fill = 0.0

    def settings(self, flow: Flow, plan: Plan) -> None:
        """Read span, stride and padding off the module, now that the axis of time is known."""

    def gaps(self, x: Tensor) -> bool:
        """Whether the window of a chunk may have gaps in memory."""
        return self.dilation > 1

    def run(self, window: Tensor) -> Tensor:
        """The layer without padding in time."""
        raise NotImplementedError

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.axis is None:
            return flow
        self.axis = flow.axis
        self.settings(flow, plan)
        if flow.delay < 0 and (self.pad or self.pads_others) and flow.lead != self.fill:
            raise plan.refusal(f"it pads with {self.fill:g} what was padded with {flow.lead:g} before")
        # The newest output that a step can give is the last whose window has come whole.
        delay = ceil((flow.delay + self.span - self.pad) / self.stride) - 1
        delay = delay if self.gives_lead else max(0, delay)
        kept = delay * self.stride + self.pad - flow.delay
        self.keep, self.skip = max(0, kept), max(0, -kept)
        self.delay, self.units = flow.delay, plan.units(flow)
        self.key = plan.key("window") if self.keep else ""
        self.begin = flow.lead if flow.delay < 0 else self.fill
        if self.pad:
            plan.blanks(flow)
        out_stride = self.out_stride(flow, plan)
        return replace(
            flow,
            frames=self.out_frames(flow.frames, plan),
            stride=out_stride,
            delay=delay,
            lead=self.fill if self.pad else flow.lead,
            before=flow.before + self.pad * flow.stride,
            after=flow.after + (self.span - 1 - self.pad) * flow.stride,
            past=flow.past + self.keep * flow.stride,
        )

    def out_stride(self, flow: Flow, plan: Plan) -> int:
        return flow.stride * self.stride

    def out_frames(self, frames: int | None, plan: Plan) -> int | None:
        if frames is None:
            return None
        room = frames + self.pad + self.pad_end - self.span
        count = (ceil(room / self.stride) if self.ceil_mode else room // self.stride) + 1
        if self.ceil_mode and (count - 1) * self.stride >= frames + self.pad:
            count -= 1  # PyTorch begins no window behind the clip's last unit
        if count < 1:
            raise plan.refusal(f"a clip of its window has {frames} units here, fewer than it reads; widen it")
        return count

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        axis, units = self.axis, x.shape[self.axis]
        if self.pad:
            x = moment.blank(x, axis, self.units, self.delay, self.fill)
        window = moment.window(self.key, x, axis, self.keep, self.begin, sparse=self.gaps(x), lies=self.lies)
        wanted = (units // self.stride - 1) * self.stride + self.span
        if self.skip or window.shape[axis] != wanted:
            window = window.narrow(axis, self.skip, wanted)
        return self.run(window)

    def clip(self, x: Tensor) -> Tensor:
        if self.pad:
            pads = [0] * (2 * (x.ndim - 1 - self.axis)) + [self.pad, 0]
            x = F.pad(x, pads, value=self.fill)
        if self.ceil_mode and x.shape[self.axis] >= self.span:  # no window that the clip's end cuts short
            left = (x.shape[self.axis] - self.span) % self.stride
            x = x.narrow(self.axis, 0, x.shape[self.axis] - left)
        return self.run(x)


@streams(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Form:
    return Conv(module)


class Conv(Sliding):
    """A convolution, its weights in place.

    Where a step gives one output, the taps in time are channels more: a convolution of one dimension less,
    which PyTorch is quicker at.
    Grouped ones stay as they are, since PyTorch is slow at groups of a few channels; of a depthwise one over
    time alone a sum is left.
    """

    def __init__(self, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        self.module = module
        self.dims = len(module.kernel_size)

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        dim = dimension(flow, plan, self.dims)
        m = self.module
        if m._forward_hooks:
            raise plan.refusal("it has a forward hook, which a stream would not call; remove the hook")
        if m.padding_mode != "zeros" and any(any(_padding(m, d)) for d in range(self.dims)):
            reason = (
                "needs units that have not come yet; train with 'zeros'"
                if any(_padding(m, dim))
                else "is known as a layer of its own alone; put one before it, such as nn.ReflectionPad"
            )
            raise plan.refusal(f"padding_mode {m.padding_mode!r} {reason}")
        # What stands in units that are never given becomes something else here, so they are given.
        given = flow.delay >= 0
        if given and m.kernel_size[dim] == 1 and m.stride[dim] == 1 and not _padding(m, dim)[0]:
            self.per_frame = True
            return replace(flow, ndim=self.dims + 2)
        self.per_frame = False
        return super().plan(replace(flow, ndim=self.dims + 2), plan)

    def settings(self, flow: Flow, plan: Plan) -> None:
        m, dim = self.module, self.axis - 2
        self.dim = dim
        self.dilation = m.dilation[dim]
        self.span = self.dilation * (m.kernel_size[dim] - 1) + 1
        self.stride = m.stride[dim]
        self.pad, self.pad_end = _padding(m, dim)
        pads = [_padding(m, d) for d in range(self.dims)]
        pads[dim] = (0, 0)
        self.even = all(start == end for start, end in pads)
        self.padding = tuple(start for start, _ in pads)
        self.pads = [side for pair in reversed(pads) for side in pair]
        rest = [d for d in range(self.dims) if d != dim]
        self.rest = {
            "stride": tuple(m.stride[d] for d in rest),
            "padding": tuple(self.padding[d] for d in rest),
            "dilation": tuple(m.dilation[d] for d in rest),
        }
        self.pointwise = m.groups == m.in_channels == m.out_channels and all(
            m.kernel_size[d] == 1 and m.stride[d] == 1 and pads[d] == (0, 0) for d in rest
        )
        # PyTorch has fast kernels for other depthwise convolutions, and none for few channels to a group.
        self.folds = dim == 0 and self.even and (m.groups == 1 or self.pointwise)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return self.module(x) if self.per_frame else super().step(x, moment)

    def clip(self, x: Tensor) -> Tensor:
        return self.module(x) if self.per_frame else super().clip(x)

    def run(self, window: Tensor) -> Tensor:
        m = self.module
        self.weigh(window)
        # ONNX Runtime takes a convolution of two dimensions and its activation as one, and packs the weights.
        whole = self.dims == 2 and torch.compiler.is_exporting()
        if self.folds and not whole and window.shape[self.axis] == self.span:
            return self._one(window)
        if not self.even:
            window, padding = F.pad(window, self.pads), (0,) * self.dims
        else:
            padding = self.padding
        return _CONV[self.dims](window, m.weight, m.bias, m.stride, padding, m.dilation, m.groups)

    def weigh(self, x: Tensor) -> None:
        """Let hooks that make the weights anew at each call do so, since the module is not called here.

        Those of ``torch.nn.utils.prune`` and the older ``weight_norm`` keep a weight that is no parameter.
        """
        m = self.module
        if m._forward_pre_hooks and not {"weight", "bias"} <= m._parameters.keys():
            for hook in m._forward_pre_hooks.values():
                hook(m, (x,))

    def _one(self, window: Tensor) -> Tensor:
        """The one output of a window of ``span`` units."""
        m = self.module
        if self.dilation > 1:
            window = window[:, :, :: self.dilation]
        if self.pointwise:
            maps = window.reshape(*window.shape[:3], -1)
            y = torch.matmul(m.weight.flatten(2), maps).reshape(*window.shape[:2], 1, *window.shape[3:])
            return y if m.bias is None else y + m.bias.view(-1, *[1] * self.dims)
        taps, weight = window.flatten(1, 2), m.weight.flatten(1, 2)
        if self.dims > 1:
            y = _CONV[self.dims - 1](taps, weight, m.bias, **self.rest)
        else:
            y = F.linear(taps, weight, m.bias)
        return y.unsqueeze(2)


class Pool(Sliding):
    """An average or maximum over small windows, as in ``nn.AvgPool2d`` and ``nn.MaxPool2d``."""

    def __init__(self, module: Any, dims: int, maximum: bool) -> None:
        self.module, self.dims, self.maximum = module, dims, maximum

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        dimension(flow, plan, self.dims)
        return super().plan(replace(flow, ndim=self.dims + 2), plan)

    def settings(self, flow: Flow, plan: Plan) -> None:
        m, dim = self.module, self.axis - 2
        kernel, padding = _tuple(m.kernel_size, self.dims), _tuple(m.padding, self.dims)
        dilation = _tuple(m.dilation, self.dims) if self.maximum else (1,) * self.dims
        self.span = dilation[dim] * (kernel[dim] - 1) + 1
        self.stride = _tuple(m.stride, self.dims)[dim]
        self.pad = self.pad_end = padding[dim]
        self.ceil_mode = m.ceil_mode
        if self.maximum:
            self.fill = -inf if self.pad else 0.0
            if m.return_indices:
                raise plan.refusal("return_indices counts from the start of the clip")
        elif self.pad and not m.count_include_pad and getattr(m, "divisor_override", None) is None:
            raise plan.refusal(
                "count_include_pad=False divides its first outputs by less; use count_include_pad=True"
            )
        self.padding = tuple(0 if d == dim else p for d, p in enumerate(padding))

    def run(self, window: Tensor) -> Tensor:
        m = self.module
        if self.maximum:
            return _MAX[self.dims](window, m.kernel_size, m.stride, self.padding, m.dilation, m.ceil_mode)
        if self.dims == 1:
            return F.avg_pool1d(window, m.kernel_size, m.stride, self.padding, False, m.count_include_pad)
        return _AVG[self.dims](
            window,
            m.kernel_size,
            m.stride,
            self.padding,
            m.ceil_mode,
            m.count_include_pad,
            m.divisor_override,
        )


class Pad(Sliding):
    """Constant padding, as ``F.pad`` takes it; a negative number at the start skips the stream's first units.

    Args:
        padding: (start, end) of the last axis, then of the one before it, and so on.
        value: what is put there.
    """

    gives_lead = True

    def __init__(self, padding: Sequence[int], value: float = 0.0) -> None:
        self.padding, self.fill = tuple(padding), value

    def settings(self, flow: Flow, plan: Plan) -> None:
        if flow.ndim is None:
            raise plan.refusal("it counts axes from the last; pass an example=")
        pads = list(self.padding)
        place = 2 * (flow.ndim - 1 - self.axis)
        if place < len(pads):
            self.pad, self.pad_end = pads[place : place + 2]
            pads[place : place + 2] = [0, 0]
        self.pads, self.pads_others = pads, any(pads)

    def run(self, window: Tensor) -> Tensor:
        return F.pad(window, self.pads, value=self.fill) if any(self.pads) else window


for _dims, _average, _maximum in (
    (1, nn.AvgPool1d, nn.MaxPool1d),
    (2, nn.AvgPool2d, nn.MaxPool2d),
    (3, nn.AvgPool3d, nn.MaxPool3d),
):
    streams(_average)(lambda module, dims=_dims: Pool(module, dims, False))
    streams(_maximum)(lambda module, dims=_dims: Pool(module, dims, True))
streams(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)(lambda module: Pad(module.padding))
streams(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)(
    lambda module: Pad(module.padding, float(module.value))
)


def _filled(module: Any, dims: int) -> Form:
    """Padding out of what is there: unit by unit, where nothing is put before or behind in time."""

    def check(flow: Flow) -> str | None:
        place = 2 * (dims + 1 - (flow.axis or 0))
        in_time = any(module.padding[place : place + 2])
        return "it fills its padding from units that have not come yet; use zeros" if in_time else None

    return PerFrame(module, check=check, ndim=dims + 2)


for _dims, *_kinds in (
    (1, nn.ReflectionPad1d, nn.CircularPad1d, nn.ReplicationPad1d),
    (2, nn.ReflectionPad2d, nn.CircularPad2d, nn.ReplicationPad2d),
    (3, nn.ReflectionPad3d, nn.CircularPad3d, nn.ReplicationPad3d),
):
    streams(*_kinds)(lambda module, dims=_dims: _filled(module, dims))
refuses(
    "it gives more units than it takes, and a step gives one",
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Upsample,
    nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d,
    nn.PixelShuffle,
    nn.Fold,
    nn.Unfold,
)


def dimension(flow: Flow, plan: Plan, dims: int) -> int:
    """Which of a layer's ``dims`` dimensions is time."""
    if flow.ndim not in (None, dims + 2):
        raise plan.refusal(f"it takes {dims + 2} axes, and here are {flow.ndim}")
    if flow.axis is None or not 2 <= flow.axis < dims + 2:
        raise plan.refusal(f"time is axis {flow.axis}, over which it does not slide")
    return flow.axis - 2


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, dim: int) -> tuple[int, int]:
    """Zeros before and after, on one dimension."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":  # an even span has one zero more at the end
        total = module.dilation[dim] * (module.kernel_size[dim] - 1)
        return total // 2, total - total // 2
    side: Any = module.padding[dim]
    return side, side


def _tuple(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    sides = (value,) * dims if isinstance(value, int) else tuple(value)
    return sides * dims if len(sides) == 1 else sides
