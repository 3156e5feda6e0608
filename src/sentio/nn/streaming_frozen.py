"""Planned forms made fast: weights of their own, batch norms folded, activations where the output lies.

A small step costs as much around its operations as in them, so there should be few. What a frozen form gives
is what the form gave, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sentio.nn.streaming import Form, Moment, PerFrame, Planned
from sentio.nn.streaming_joins import Concat, Join, Product, Sum
from sentio.nn.streaming_windows import Conv

#: input positions up to which a convolution with all channels in one group takes columns
FEW_POSITIONS = 96
#: units of a sample up to which a batch is put into one product
FEW_UNITS = 256
#: numbers in the columns of a depthwise convolution up to which it takes them
FEW_NUMBERS = 65536

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
#: what does nothing in eval mode
_NOTHING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
#: activations that may overwrite what they are given
_IN_PLACE: dict[type, Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.ReLU6: lambda x: F.hardtanh_(x, 0.0, 6.0),
    nn.SiLU: lambda x: F.silu(x, inplace=True),
    nn.Hardswish: lambda x: F.hardswish(x, inplace=True),
    nn.Sigmoid: torch.sigmoid_,
    nn.Tanh: torch.tanh_,
}
#: class of a module that treats each unit of time by itself -> the same with folded weights
FROZEN: dict[type, Callable[[Any], nn.Module]] = {}


def freezes(*kinds: type) -> Callable[[Callable[[Any], nn.Module]], Callable[[Any], nn.Module]]:
    """Decorator: in a frozen stream, what the function gives runs in place of a module of these classes.

    For modules that run frame by frame and have batch norms inside.
    """

    def add(make: Callable[[Any], nn.Module]) -> Callable[[Any], nn.Module]:
        FROZEN.update(dict.fromkeys(kinds, make))
        return make

    return add


def freeze(form: Form) -> tuple[Form, nn.ModuleList]:
    """A planned form as a stream steps it in eval mode, and the modules that hold its new weights."""
    held = nn.ModuleList()
    row: list[Form] = []
    for part in _flat(form):
        last = row[-1] if row else None
        if type(part).step is not PerFrame.step:
            row.append(_frozen(part, held))
            continue
        module: Any = part.run  # type: ignore[attr-defined]
        kind = type(module)
        if kind in _NOTHING:
            continue
        if kind in _NORMS:
            scale, shift = scale_and_shift(module)
            if isinstance(last, _FrozenConv):
                fold(last.module, scale, shift)
            else:
                row.append(_held(_Affine(scale, shift, module.running_mean), held))
        elif kind in _IN_PLACE and last is not None and _gives_its_own(last):
            row[-1] = _Activated(last, _IN_PLACE[kind])
        elif kind in FROZEN:
            row.append(_held(FROZEN[kind](module), held))
        else:
            row.append(part)
    return (row[0] if len(row) == 1 else Planned(*row)), held.requires_grad_(False)


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode as ``scale * x + shift``, in double precision."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
        return scale, shift * scale + norm.bias.detach().double()
    return scale, shift * scale


def fold(layer: Any, scale: Tensor, shift: Tensor) -> None:
    """Let a convolution, in place, compute ``scale * y + shift`` of its output channels."""
    weight = layer.weight.detach()
    scaled = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    bias = shift if layer.bias is None else shift + scale * layer.bias.detach().double()
    layer.weight = nn.Parameter(scaled.to(weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight), requires_grad=False)


def times(weight: Tensor, bias: Tensor | None, maps: Tensor) -> Tensor:
    """A linear map of channels, as a 1×1 convolution computes it: ``(batch, channel, unit)`` to the same.

    PyTorch spends more around so small a convolution than in it.
    """
    if len(maps) == 1:
        product = weight @ maps[0] if bias is None else torch.addmm(bias[:, None], weight, maps[0])
        return product.unsqueeze(0)
    batch, channels, units = maps.shape
    if units <= FEW_UNITS:  # all samples in one product, so that the weights are read once
        joint = maps.transpose(0, 1).reshape(channels, batch * units)
        product = weight @ joint if bias is None else torch.addmm(bias[:, None], weight, joint)
        return product.view(-1, batch, units).transpose(0, 1)
    stacked = weight.expand(batch, *weight.shape)
    return torch.bmm(stacked, maps) if bias is None else torch.baddbmm(bias[:, None], stacked, maps)


def columns(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """What each position of a convolution without padding reads: ``(batch, channel, tap, position)``, a copy.

    Args:
        x: ``(batch, channel, ...)`` with as many axes more as ``kernel`` has entries.
    """
    sizes, steps = _positions(x.shape[2:], kernel, stride, dilation), x.stride()
    view = x.as_strided(
        (*x.shape[:2], *kernel, *sizes),
        (
            *steps[:2],
            *(step * d for step, d in zip(steps[2:], dilation, strict=True)),
            *(step * s for step, s in zip(steps[2:], stride, strict=True)),
        ),
    )
    return view.reshape(*x.shape[:2], prod(kernel), prod(sizes))


def _positions(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    axes = zip(sizes, kernel, stride, dilation, strict=True)
    return [(size - d * (k - 1) - 1) // s + 1 for size, k, s, d in axes]


class _FrozenConv(Conv):
    """A convolution whose module is a copy, and a matrix product where that is faster.

    1×1 in all but time, its input is the matrix. With few positions, what each of them reads is copied side
    by side: for large kernels, since PyTorch's convolution puts the weights into another order each time,
    and for depthwise ones, since it spends more around a small convolution than in it.
    """

    def __init__(self, planned: Conv) -> None:
        self.__dict__.update(vars(planned))
        self.module = copy.deepcopy(planned.module)
        m = self.module
        others = [d for d in range(self.dims) if self.per_frame or d != self.dim]
        thin = all(
            m.kernel_size[d] == 1 and m.stride[d] == 1 and (isinstance(m.padding, str) or not m.padding[d])
            for d in others
        )
        self.product = thin and m.groups == 1 and (self.per_frame or (self.folds and self.dims > 1))
        self.depthwise = m.groups == m.in_channels == m.out_channels > 1

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        if torch.compiler.is_exporting() or not self.per_frame:
            return super().step(x, moment)
        if not self.product:
            return self._few(x, self.module.padding) if self._pays(x) else self.module(x)
        m = self.module
        return times(m.weight.flatten(1), m.bias, x.flatten(2)).view(len(x), -1, *x.shape[2:])

    def run(self, window: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or not self.even or (self.folds and window.shape[2] == self.span):
            return super().run(window)
        return self._few(window, self.padding) if self._pays(window) else super().run(window)

    def _one(self, window: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or not (self.product or self._pays(window)):
            return super()._one(window)
        if not self.product:
            return self._few(window, self.padding)
        if self.dilation > 1:
            window = window[:, :, :: self.dilation]
        m = self.module
        y = times(m.weight.flatten(1), m.bias, window.flatten(1, 2).flatten(2))
        return y.view(len(y), -1, 1, *window.shape[3:])

    def _pays(self, x: Tensor) -> bool:
        """Whether columns are faster than PyTorch's convolution of this input, by its size."""
        m = self.module
        if isinstance(m.padding, str):
            return False
        taps = m.weight[0, 0].numel()
        positions = len(x) * x[0, 0].numel() // prod(m.stride)
        if self.depthwise:
            return taps > 1 and m.in_channels * taps * positions <= FEW_NUMBERS
        # Under so many numbers PyTorch itself takes columns, for one stream.
        large = len(x) > 1 or x.numel() > 20480 or max(m.kernel_size) > 3
        return large and m.groups == 1 and positions <= FEW_POSITIONS

    def _few(self, x: Tensor, padding: Sequence[int]) -> Tensor:
        m = self.module
        if any(padding):
            x = F.pad(x, [side for pad in reversed(padding) for side in (pad, pad)])
        sizes = _positions(x.shape[2:], m.kernel_size, m.stride, m.dilation)
        taps = columns(x, m.kernel_size, m.stride, m.dilation)
        if self.depthwise:
            y = torch.matmul(m.weight.flatten(1).unsqueeze(1), taps).squeeze(2)
            y = y if m.bias is None else y.add_(m.bias[:, None])
        else:
            y = times(m.weight.flatten(1), m.bias, taps.flatten(1, 2))
        return y.view(*y.shape[:2], *sizes)


class _Activated(Form):
    """An activation over the output of what was planned before it."""

    def __init__(self, form: Form, act: Callable[[Tensor], Tensor]) -> None:
        self.form, self.act = form, act

    def step(self, x: Tensor, moment: Moment) -> Tensor:
        return self.act(self.form.step(x, moment))

    def clip(self, x: Tensor) -> Tensor:
        return self.act(self.form.clip(x))


class _Affine(nn.Module):
    """What is left of a batch norm that nothing before it can take."""

    def __init__(self, scale: Tensor, shift: Tensor, like: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(part.to(like), requires_grad=False) for part in (scale, shift))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


def _flat(form: Form) -> Iterator[Form]:
    if isinstance(form, Planned):
        for part in form.forms:
            yield from _flat(part)
    else:
        yield form


def _frozen(form: Form, held: nn.ModuleList) -> Form:
    if type(form) is Conv:
        conv = _FrozenConv(form)
        held.append(conv.module)
        return conv
    if isinstance(form, Join):
        join = copy.copy(form)
        join.forms = []
        for branch in form.forms:
            frozen, modules = freeze(branch)
            join.forms.append(frozen)
            held.extend(modules)
        return join
    return form


def _held(module: nn.Module, held: nn.ModuleList) -> Form:
    held.append(module)
    return PerFrame(module)


def _gives_its_own(form: Form) -> bool:
    """Whether nothing else may see what a form gives: no input, no state."""
    return isinstance(form, _FrozenConv) or (type(form) in (Sum, Product, Concat) and len(form.forms) > 1)
