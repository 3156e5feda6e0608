"""Convolutions as a frozen stream runs them: channels last in memory, matrix products where these are faster.

A step has few positions and many channels. With channels last, what a position reads lies side by side: a 1×1
convolution is one product of its input as it is, so is a kernel over time alone on a window whose units lie
behind each other, and PyTorch's own convolutions put fewer numbers into another order. Large weights lie as
oneDNN reads them (`sentio.nn.streaming_packed`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from sentio.nn.streaming import Moment
from sentio.nn.streaming_buffers import order
from sentio.nn.streaming_packed import Packed
from sentio.nn.streaming_windows import Conv

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
#: output positions up to which a convolution of two or three axes takes columns
FEW_POSITIONS = 40
#: numbers in the columns up to which a convolution over one axis takes them, and a depthwise one over several
FEW_NUMBERS, FEW_NUMBERS_DEPTHWISE = 65536, 4096
#: times a chunk's units from which what is kept of the last ones is not copied
SHORT = 5


class FrozenConv(Conv):
    """A convolution whose module is a copy, its weights with channels last, as is what it gives.

    Large ones are packed. With few positions, what each of them reads is copied side by side: for large
    kernels that are not, since PyTorch's convolution puts the weights into another order each time, and for
    small ones over one axis or channel by channel, since it spends more around them than in them.
    """

    def __init__(self, planned: Conv) -> None:
        self.__dict__.update(vars(planned))
        self.module = m = _plain(planned.module)
        self.packed = Packed()
        self.lay()
        others = [d for d in range(self.dims) if self.per_frame or d != self.dim]
        thin = all(m.kernel_size[d] == 1 and (isinstance(m.padding, str) or not m.padding[d]) for d in others)
        strided = any(m.stride[d] > 1 for d in others)
        self.product = thin and m.groups == 1 and (self.per_frame or not strided)
        skips = [slice(None, None, step) for step in m.stride]
        self.skips = (slice(None), slice(None), *skips) if strided else None
        if not self.per_frame:
            # One output of a kernel over time alone: its taps are channels more.
            self.taps = self.product and self.units == self.stride
            axes = [d + 2 for d in others]
            inner = (*axes, self.axis) if self.taps else (self.axis, *axes)
            self.lies = order(0, *inner, 1, axis=self.axis)
            # Over time alone, channel by channel: the other axes are one.
            self.lines = thin and not strided and self.dims == 3 and self.dim == 0 and not self.product
            self.every = (*[slice(None)] * self.axis, slice(None, None, self.dilation))
            self.near = tuple(1 if d == self.dim else m.dilation[d] for d in range(self.dims))

    def lay(self) -> None:
        """Put the weights' channels last in memory."""
        weight = self.module.weight.detach().movedim(1, -1).contiguous().movedim(-1, 1)
        self.module.weight = nn.Parameter(weight, requires_grad=False)

    def gaps(self, x: Tensor) -> bool:
        # A short window is better copied than in new memory every few steps.
        short = self.keep < SHORT * x.shape[self.axis]
        return not short and (len(x) == 1 or self.taps or super().gaps(x))

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        m = self.module
        if torch.compiler.is_exporting() or not self.per_frame:
            return super().step(x, moment)
        if self.product:
            return times(flat(m.weight), m.bias, x[self.skips] if self.skips else x)
        if isinstance(m.padding, str):
            return m(x)
        if self.dims == 3 and m.kernel_size[0] == m.stride[0] == 1 and not m.padding[0]:
            maps = _joined(x.transpose(1, 2), 0)  # frames are pictures of the batch
            y = self._convolved(maps, m.weight[:, :, 0], m.stride[1:], m.padding[1:], m.dilation[1:])
            return y.unflatten(0, (len(x), -1)).transpose(1, 2)
        return self._convolved(x, m.weight, m.stride, m.padding, m.dilation)

    def run(self, window: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or not self.even:
            return super().run(window)
        m, dilation = self.module, self.module.dilation
        if self.dilation > 1 and window.shape[self.axis] == self.span:
            window, dilation = window[self.every], self.near
        if self.product and window.shape[self.axis] == m.kernel_size[self.dim]:
            return self._product(window)
        if self.lines:
            maps, weight = _joined(window, 3), m.weight.flatten(3)
            y = self._convolved(maps, weight, (self.stride, 1), (0, 0), (dilation[0], 1))
            return y.unflatten(3, window.shape[3:])
        return self._convolved(window, m.weight, m.stride, self.padding, dilation)

    def _product(self, window: Tensor) -> Tensor:
        """The one output of a window that has as many units as the kernel has taps."""
        m, axes = self.module, self.lies.axes
        if not self.taps:
            axes = (0, *(axis for axis in axes[1:-1] if axis != self.axis), self.axis, 1)
        maps = window.permute(axes)
        y = product(flat(m.weight), m.bias, maps.reshape(-1, maps.shape[-2] * maps.shape[-1]))
        return y.view(*maps.shape[:-2], -1).movedim(-1, 1).unsqueeze(self.axis)

    def _convolved(
        self,
        x: Tensor,
        weight: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> Tensor:
        m, kernel = self.module, weight.shape[2:]
        if m.groups == 1 and len(kernel) > 1:
            y = self.packed.convolution(x, weight, m.bias, stride, padding, dilation)
            if y is not None:
                return y
        room = [size + 2 * pad for size, pad in zip(x.shape[2:], padding, strict=True)]
        if not self._pays(x, kernel, len(x) * prod(_positions(room, kernel, stride, dilation))):
            return _CONV[len(kernel)](x, weight, m.bias, stride, padding, dilation, m.groups)
        if any(padding):
            x = F.pad(x, [side for pad in reversed(padding) for side in (pad, pad)])
        taps = columns(x, kernel, stride, dilation)
        sizes = taps.shape[: len(kernel) + 1]
        if m.groups > 1:  # channel by channel
            own, reads = (
                weight.flatten(1).unsqueeze(2),
                taps.movedim(-1, 0).reshape(len(weight), prod(sizes), -1),
            )
            y = torch.bmm(reads, own) if m.bias is None else torch.baddbmm(m.bias[:, None, None], reads, own)
            return y.view(-1, *sizes).transpose(0, 1)
        y = product(flat(weight), m.bias, taps.reshape(prod(sizes), -1))
        return y.view(*sizes, -1).movedim(-1, 1)

    def _pays(self, x: Tensor, kernel: Sequence[int], positions: int) -> bool:
        """Whether columns are faster than PyTorch's convolution of this input, by its size."""
        m = self.module
        numbers = m.in_channels * prod(kernel) * positions
        if m.groups == m.in_channels == m.out_channels > 1:
            return numbers <= (FEW_NUMBERS if len(kernel) == 1 else FEW_NUMBERS_DEPTHWISE)
        if m.groups == len(kernel) == 1:
            return numbers <= FEW_NUMBERS
        # Under so many numbers PyTorch itself takes columns, for one stream.
        large = len(x) > 1 or x.numel() > 20480 or max(kernel) > 3
        return large and m.groups == 1 and positions <= FEW_POSITIONS


def _plain(module: Any) -> Any:
    """A copy of a convolution with weights that can be set.

    A parametrised one would make others of them, and taking that from a copy takes it from the original too,
    since they share a class. So would the hooks of ``torch.nn.utils.prune`` and the older ``weight_norm``,
    which keep a weight that is no parameter; they are asked for it once.
    """
    m, kind = module, type(module)
    if parametrize.is_parametrized(module):
        kind = kind.__bases__[0]
    elif {"weight", "bias"} <= module._parameters.keys():
        return copy.deepcopy(module)
    else:
        for hook in module._forward_pre_hooks.values():
            hook(module, ())
    options = (m.stride, m.padding, m.dilation, m.groups, m.bias is not None, m.padding_mode)
    plain = kind(m.in_channels, m.out_channels, m.kernel_size, *options)
    plain.weight = nn.Parameter(m.weight.detach().clone(), requires_grad=False)
    if m.bias is not None:
        plain.bias = nn.Parameter(m.bias.detach().clone(), requires_grad=False)
    return plain.train(m.training)


def flat(weight: Tensor) -> Tensor:
    """A convolution's weights as a matrix ``(out, tap * in)``; a view where their channels lie last."""
    return weight.movedim(1, -1).flatten(1)


def product(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    """``(row, in)`` times ``(out, in)``, to ``(row, out)``.

    The positions are rows: the libraries behind PyTorch take many times as long for a product whose second
    matrix has two to twelve columns.
    """
    return rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())


def times(weight: Tensor, bias: Tensor | None, maps: Tensor) -> Tensor:
    """A linear map of channels, as a 1×1 convolution computes it: ``(batch, channel, ...)`` to the same.

    All positions of all samples are in one product, so that the weights are read once.
    """
    last = maps.movedim(1, -1)
    rows = last.reshape(-1, last.shape[-1])
    return product(weight, bias, rows).view(*last.shape[:-1], -1).movedim(-1, 1)


def columns(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """What positions of a convolution without padding read, as a view: ``(batch, ..., *kernel, channel)``.

    Args:
        x: ``(batch, channel, ...)`` with as many axes more as ``kernel`` has entries.
    """
    sizes = _positions(x.shape[2:], kernel, stride, dilation)
    batch, channel, *steps = x.stride()
    return x.as_strided(
        (len(x), *sizes, *kernel, x.shape[1]),
        (
            batch,
            *(step * s for step, s in zip(steps, stride, strict=True)),
            *(step * d for step, d in zip(steps, dilation, strict=True)),
            channel,
        ),
        x.storage_offset(),
    )


def _joined(x: Tensor, axis: int) -> Tensor:
    """``x.flatten(axis, axis + 1)``, of two axes that lie behind each other where either has several entries.

    Axes of one entry have steps of any size in memory, and PyTorch takes the order of the channels from them.
    """
    sizes, steps = list(x.shape), list(x.stride())
    if sizes[axis] > 1 and sizes[axis + 1] > 1 and steps[axis] != sizes[axis + 1] * steps[axis + 1]:
        return x.flatten(axis, axis + 1)
    step = steps[axis + 1] if sizes[axis + 1] > 1 or sizes[axis] == 1 else steps[axis]
    sizes[axis : axis + 2], steps[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]], [step]
    return x.as_strided(sizes, steps, x.storage_offset())


def _positions(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    axes = zip(sizes, kernel, stride, dilation, strict=True)
    return [(size - d * (k - 1) - 1) // s + 1 for size, k, s, d in axes]
