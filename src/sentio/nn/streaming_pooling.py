"""What reads a whole clip, on the last window of a stream: global pooling, and any module over a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sentio.core.errors import InputError
from sentio.nn.streaming import Flow, Form, Moment, PerFrame, Plan, streams
from sentio.nn.streaming_windows import Sliding, dimension

Reduction = Literal["mean", "max"]


class OverClip(Sliding):
    """The last window as a clip, one value for each step; a window has as many units as the clip had here.

    Args:
        run: ``(batch, ...)`` with the window on the axis of time, to one value for each sample.
    """

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self.over = run

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        out = super().plan(flow, plan)
        return replace(out, axis=None, frames=1)

    def settings(self, flow: Flow, plan: Plan) -> None:
        if flow.frames is None:
            raise plan.refusal("it reads a whole clip; say how much of the stream that is with window=")
        self.span, self.stride = flow.frames, plan.units(flow)

    def out_stride(self, flow: Flow, plan: Plan) -> int:
        return plan.hop

    def clip(self, x: Tensor) -> Tensor:
        if x.shape[self.axis] < self.span:
            raise InputError(
                f"The clip leaves {x.shape[self.axis]} units where {self.span} are pooled; give a longer one"
            )
        return super().clip(x)

    def run(self, window: Tensor) -> Tensor:
        """Window after window, in the batch."""
        if window.shape[self.axis] != self.span:
            windows = window.unfold(self.axis, self.span, self.stride).movedim(self.axis, 1)
            window = windows.movedim(-1, self.axis + 1).flatten(0, 1)
        return self.over(window)


class OverWindow(OverClip):
    """A module that is run anew at each step on the last window of its input.

    Exact for what mixes a whole clip, such as attention over a map; what the window before had in common
    with this one is computed again.
    """

    def __init__(self, module: Callable[[Tensor], Tensor]) -> None:
        self.module = module

    def over(self, window: Tensor) -> Tensor:
        # Of its own: the module may begin with an activation in place, and the window is kept.
        return self.module(window.clone(memory_format=torch.contiguous_format))


class WindowPool(OverClip):
    """Means and maxima over the last window, and over the axes behind time.

    The axes behind time are pooled as each unit comes; one vector for each is kept.

    Args:
        times: over time; the sum of them where there are two.
        others: over the axes behind the channels that are not time; None to leave them.
        keep_axes: whether the pooled axes stay, with one entry.
    """

    def __init__(self, *times: Reduction, others: Reduction | None = "mean", keep_axes: bool = False) -> None:
        self.times, self.others, self.keep_axes = times, others, keep_axes

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        if flow.ndim is None:
            raise plan.refusal("the number of axes is not known here; pass an example=")
        first = 1 if flow.ndim == 3 and flow.axis == 1 else 2  # tokens (batch, time, channel) or maps
        others = [axis for axis in range(first, flow.ndim) if axis != flow.axis] if self.others else []
        if first == 1:
            others = []
        self.other_axes = others
        self.pooled_axes = tuple(sorted([*others, flow.axis]))
        return super().plan(flow, plan)

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return super().step(self._vectors(x), moment)

    def clip(self, x: Tensor) -> Tensor:
        return super().clip(self._vectors(x))

    def _vectors(self, x: Tensor) -> Tensor:
        return _reduce(x, self.others, self.other_axes) if self.others and self.other_axes else x

    def over(self, window: Tensor) -> Tensor:
        pooled = _reduce(window, self.times[0], [self.axis])
        for reduction in self.times[1:]:
            pooled = pooled + _reduce(window, reduction, [self.axis])
        return pooled if self.keep_axes else pooled.squeeze(self.pooled_axes)


def _reduce(x: Tensor, how: Reduction, axes: list[int]) -> Tensor:
    return x.mean(axes, keepdim=True) if how == "mean" else x.amax(axes, keepdim=True)


def _adaptive(module: Any, reduction: Reduction) -> Form:
    sizes = module.output_size
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    dims = {"1d": 1, "2d": 2, "3d": 3}[type(module).__name__[-2:]]
    sizes = sizes * dims if len(sizes) == 1 else sizes
    if set(sizes) == {1}:
        return _Adaptive(dims, reduction)
    return _KeepsTime(module, sizes)


class _Adaptive(WindowPool):
    """Adaptive pooling to one value, over the last ``dims`` axes."""

    def __init__(self, dims: int, reduction: Reduction) -> None:
        super().__init__(reduction, others=reduction, keep_axes=True)
        self.dims = dims

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        dimension(flow, plan, self.dims)
        return super().plan(replace(flow, ndim=self.dims + 2), plan)


class _KeepsTime(PerFrame):
    """Adaptive pooling over other axes than time."""

    def __init__(self, module: nn.Module, sizes: tuple[int | None, ...]) -> None:
        super().__init__(module)
        self.sizes = sizes

    def plan(self, flow: Flow, plan: Plan) -> Flow:
        dims = len(self.sizes)
        if flow.axis != 1 and self.sizes[dimension(flow, plan, dims)] is not None:
            raise plan.refusal(
                f"output_size {self.sizes} divides a clip into parts of its own length; give 1, or None for "
                "the axis of time"
            )
        return replace(flow, ndim=dims + 2)


streams(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)(lambda m: _adaptive(m, "mean"))
streams(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)(lambda m: _adaptive(m, "max"))
