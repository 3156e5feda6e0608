"""How much arithmetic a module does, by named rules.

Operations are counted as they are dispatched, so functional calls, attention and recurrent layers count
whatever module they are written in. Nothing is computed where the module runs on the meta device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from sentio.core.calling import separate_operations
from sentio.core.errors import UnknownNameError
from sentio.core.staged import evaluating


@dataclass(frozen=True)
class Count:
    """Work for one sample.

    Args:
        rule: the rule it was counted by.
        by_module: qualified module name -> what that module did itself, without its children; ``""`` is the
            counted module. Modules that did nothing are left out.
    """

    rule: str
    by_module: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.by_module.values())

    def of(self, name: str) -> int:
        """What a module and everything inside it did."""
        return sum(
            work
            for key, work in self.by_module.items()
            if not name or key == name or key.startswith(name + ".")
        )


@dataclass(frozen=True)
class Work:
    """What one operation did, before a rule has weighed it.

    Args:
        macs: multiply-accumulates of convolutions and matrix products.
        bias: output elements to which a bias was added.
        pooled: elements looked at by a pooling window, summed over its outputs.
        softmax: elements of a softmax.
        products: elements of an elementwise product.
        norm_channels: channels of a batch norm.
        norm_elements: elements of a batch norm's output.
        rectified: elements of a ReLU's output.
        gelu: elements of a GELU's output.
        added: elements of a sum of two tensors.
        layer_normed: elements of a layer norm's output.
        pool_inputs: elements of a pooling's input, or of what a mean over axes is taken of.
        attention: the operation is attention as such.
    """

    macs: int = 0
    bias: int = 0
    pooled: int = 0
    softmax: int = 0
    products: int = 0
    norm_channels: int = 0
    norm_elements: int = 0
    rectified: int = 0
    gelu: int = 0
    added: int = 0
    layer_normed: int = 0
    pool_inputs: int = 0
    attention: bool = False


def _macs(work: Work, in_attention: bool) -> int:
    return work.macs


def _dcase(work: Work, in_attention: bool) -> int:
    return work.macs + 2 * work.norm_channels


def _ptflops(work: Work, in_attention: bool) -> int:
    return work.macs + work.bias + 2 * work.norm_elements + work.rectified + work.pool_inputs


def _tf_2021(work: Work, in_attention: bool) -> int:
    # The profiler saw Keras's attention as einsums, which it did not know, and one softmax.
    if in_attention or work.attention:
        return 5 * work.softmax
    return 2 * work.macs + work.bias + work.pooled + 5 * work.softmax + work.products


def _elementwise(work: Work, in_attention: bool) -> int:
    # Scaling the scores of attention is part of its products, whichever kernel does it.
    scaled = 0 if in_attention else work.products
    activated = work.rectified + work.gelu
    return (
        work.macs
        + work.bias
        + 3 * work.softmax
        + activated
        + 2 * work.layer_normed
        + work.added
        + scaled
        + work.pooled
    )


#: rule name -> weight of an operation, given whether it ran inside an attention module
RULES: dict[str, Callable[[Work, bool], int]] = {
    "macs": _macs,
    "tf-2021": _tf_2021,
    "dcase": _dcase,
    "ptflops": _ptflops,
    "elementwise": _elementwise,
}


def count(module: nn.Module, inputs: Any, *, rule: str = "macs") -> Count:
    """Count the work that ``module(inputs)`` does for one sample, in eval mode.

    Args:
        module: any module; its mode is restored afterwards.
        inputs: a tensor or named tensors, batch first, or a tuple of arguments; only the first sample is
            looked at.
        rule: ``macs``, every multiply-accumulate of convolutions, linear layers, matrix products, attention
            and recurrent gates; ``dcase``, the same plus two per batch-norm channel; ``tf-2021``, floating
            point operations as TensorFlow's profiler counted Keras models in 2021; ``ptflops``, as papers
            on video networks count with the tool of that name, multiply-accumulates plus biases, two per
            element of a batch norm, one per element of a ReLU and one per element that a pooling is given;
            ``elementwise``, multiply-accumulates plus the element-wise work of transformers, as the figures
            of the multi-exit ViT paper have it: one per bias, sum, product, ReLU, GELU and element of a
            pooling's windows, two per element of a layer norm and three per element of a softmax.

    Raises:
        UnknownNameError: no such rule.
    """
    return counted(module, inputs, rule=rule)[0]


def counted(module: nn.Module, inputs: Any, *, rule: str = "macs") -> tuple[Count, Any]:
    """The `Count`, and what the module gave for the first sample (on the meta device where it ran there)."""
    check_rule(rule)
    sample = _map_tensors(inputs, lambda tensor: tensor[:1])
    with torch.inference_mode(), evaluating(module), separate_operations():
        try:
            state = {
                name: torch.empty_like(tensor, device="meta")
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]
            }
            arguments = _arguments(_map_tensors(sample, lambda tensor: tensor.to("meta")))
            with _Counting(rule) as mode, mode.following(module):
                output = torch.func.functional_call(module, state, arguments)
        except (NotImplementedError, RuntimeError):
            # Something needs values: a constant on the CPU, or an operation without a meta kernel.
            device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
            arguments = _arguments(_map_tensors(sample, lambda tensor: _realise(tensor, device)))
            with _Counting(rule) as mode, mode.following(module):
                output = module(*arguments)
    return Count(rule, dict(mode.work)), output


def check_rule(rule: str) -> None:
    """Raise `UnknownNameError` unless there is a rule of that name."""
    if rule not in RULES:
        raise UnknownNameError("counting rule", rule, tuple(RULES))


_DispatchMode: Any = TorchDispatchMode  # untyped in PyTorch


class _Counting(_DispatchMode):  # type: ignore[misc]
    """While active, every operation is weighed and written down for the module that is running.

    Belongs inside ``torch.inference_mode()``, where operations arrive as they were called, not yet split
    into what the device at hand runs; so the counts do not depend on the device.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.work: Counter[str] = Counter()
        self._weigh = RULES[rule]
        self._running: list[tuple[str, bool]] = [("", False)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        measure = _OPERATIONS.get(func)
        if measure is None:
            with self:
                output = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if output is NotImplemented else output
        output = func(*args, **kwargs)
        name, in_attention = self._running[-1]
        work = self._weigh(measure(output, *args), in_attention)
        if work:
            self.work[name] += work
        return output

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Within this context the work is written down by the modules inside ``module``."""
        hooks: list[RemovableHandle] = []
        try:
            for name, child in module.named_modules():
                hooks.append(child.register_forward_pre_hook(self._start_of(name)))
                hooks.append(child.register_forward_hook(self._end, always_call=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _start_of(self, name: str) -> Callable[[nn.Module, Any], None]:
        def start(module: nn.Module, arguments: Any) -> None:
            inside = self._running[-1][1] or isinstance(module, nn.MultiheadAttention)
            self._running.append((name, inside or getattr(module, "is_attention", False)))

        return start

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._running.pop()


# What each operation does, given its output and its arguments


def _linear(output: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Work:
    return Work(macs=x.numel() * weight.shape[0], bias=0 if bias is None else output.numel())


def _product(output: Tensor, left: Tensor, right: Tensor) -> Work:
    return Work(macs=output.numel() * left.shape[-1])


def _biased_product(output: Tensor, bias: Tensor, left: Tensor, right: Tensor) -> Work:
    return Work(macs=output.numel() * left.shape[-1], bias=output.numel())


def _convolution(
    output: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *_: Any,
) -> Work:
    # Each weight is used once per position of the smaller side: of the output, or of what is spread out.
    counted_side = x if transposed else output
    positions = counted_side.shape[0] * prod(counted_side.shape[2:])
    return Work(macs=positions * weight.numel(), bias=0 if bias is None else output.numel())


def _attention(output: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Work:
    scores = prod(query.shape[:-1]) * key.shape[-2]
    return Work(macs=scores * (query.shape[-1] + value.shape[-1]), softmax=scores, attention=True)


def _recurrent(output: Any, x: Tensor, state: Any, weights: Any, *_: Any) -> Work:
    steps = prod(x.shape[:-1])
    return Work(macs=steps * sum(weight.numel() for weight in weights if weight.dim() == 2))


def _packed_recurrent(output: Any, x: Tensor, sizes: Tensor, state: Any, weights: Any, *_: Any) -> Work:
    return _recurrent(output, x, state, weights)


def _pool(output: Any, x: Tensor, kernel: Any, *_: Any) -> Work:
    pooled: Tensor = output[0] if isinstance(output, tuple) else output
    axes = pooled.dim() - 2
    window = prod(kernel) if len(kernel) == axes else kernel[0] ** axes
    return Work(pooled=pooled.numel() * window, pool_inputs=x.numel())


def _average(output: Tensor, x: Tensor, *_: Any) -> Work:
    return Work(pool_inputs=x.numel())


def _relu(output: Tensor, *_: Any) -> Work:
    return Work(rectified=output.numel())


def _gelu(output: Tensor, *_: Any) -> Work:
    return Work(gelu=output.numel())


def _sum(output: Tensor, left: Tensor, right: Any, *_: Any) -> Work:
    return Work(added=output.numel())


def _layer_norm(output: Any, x: Tensor, *_: Any) -> Work:
    return Work(layer_normed=x.numel())


def _softmax(output: Tensor, *_: Any) -> Work:
    return Work(softmax=output.numel())


def _elementwise_product(output: Tensor, *_: Any) -> Work:
    return Work(products=output.numel())


def _batch_norm(output: Any, x: Tensor, *_: Any) -> Work:
    return Work(norm_channels=x.shape[1], norm_elements=x.numel())


_ATEN = torch.ops.aten
#: Everything else counts nothing, or is taken apart into these.
_OPERATIONS: dict[Any, Callable[..., Work]] = {
    _ATEN.linear.default: _linear,
    _ATEN.mm.default: _product,
    _ATEN.bmm.default: _product,
    _ATEN.mv.default: _product,
    _ATEN.dot.default: _product,
    _ATEN.addmm.default: _biased_product,
    _ATEN.baddbmm.default: _biased_product,
    _ATEN.addmv.default: _biased_product,
    _ATEN.convolution.default: _convolution,
    _ATEN._convolution.default: _convolution,
    _ATEN.scaled_dot_product_attention.default: _attention,
    _ATEN.lstm.input: _recurrent,
    _ATEN.gru.input: _recurrent,
    _ATEN.rnn_tanh.input: _recurrent,
    _ATEN.rnn_relu.input: _recurrent,
    _ATEN.lstm.data: _packed_recurrent,
    _ATEN.gru.data: _packed_recurrent,
    _ATEN.rnn_tanh.data: _packed_recurrent,
    _ATEN.rnn_relu.data: _packed_recurrent,
    _ATEN.max_pool1d.default: _pool,
    _ATEN.max_pool2d.default: _pool,
    _ATEN.max_pool3d.default: _pool,
    _ATEN.max_pool2d_with_indices.default: _pool,
    _ATEN.max_pool3d_with_indices.default: _pool,
    _ATEN.avg_pool1d.default: _pool,
    _ATEN.avg_pool2d.default: _pool,
    _ATEN.avg_pool3d.default: _pool,
    _ATEN._adaptive_avg_pool2d.default: _average,
    _ATEN._adaptive_avg_pool3d.default: _average,
    _ATEN.mean.dim: _average,
    _ATEN.relu.default: _relu,
    _ATEN.gelu.default: _gelu,
    _ATEN.add.Tensor: _sum,
    _ATEN.layer_norm.default: _layer_norm,
    _ATEN.native_layer_norm.default: _layer_norm,
    _ATEN.softmax.int: _softmax,
    _ATEN._softmax.default: _softmax,
    _ATEN.mul.Tensor: _elementwise_product,
    _ATEN.mul.Scalar: _elementwise_product,
    _ATEN.batch_norm.default: _batch_norm,
    _ATEN.native_batch_norm.default: _batch_norm,
}


# Inputs


def _arguments(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``change`` applied to every tensor in a tensor, a mapping or a sequence."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_tensors(entry, change) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_map_tensors(entry, change) for entry in value)
    return value


def _realise(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; zeros where it holds no values."""
    return (
        torch.zeros(tensor.shape, dtype=tensor.dtype, device=device) if tensor.is_meta else tensor.to(device)
    )
