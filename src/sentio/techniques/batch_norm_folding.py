"""Folding batch norm into the convolutions before it: the same network with fewer numbers and operations."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from sentio.core.anytime import Boundary
from sentio.core.calling import read_example
from sentio.core.errors import StageError
from sentio.core.graph import Captured, capture
from sentio.core.multi_exit import MultiExit
from sentio.core.staged import Staged, copied
from sentio.nn.normalisation import ChannelAffine

Net = TypeVar("Net", bound=nn.Module)
_Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear

aten = torch.ops.aten
#: Types are compared exactly: a subclass may compute something else with the same weights.
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = {
    aten.conv1d.default: nn.Conv1d,
    aten.conv1d.padding: nn.Conv1d,
    aten.conv2d.default: nn.Conv2d,
    aten.conv2d.padding: nn.Conv2d,
    aten.conv3d.default: nn.Conv3d,
    aten.conv3d.padding: nn.Conv3d,
    aten.linear.default: nn.Linear,
}


def fold_batch_norm(net: Net, example: Any = None) -> Net:
    """The network that computes in one step what convolution and batch norm compute in two, in eval mode.

    With ``s = weight / sqrt(running_var + eps)``, a convolution's weights are multiplied by ``s`` and its
    bias becomes ``bias + s * (b - running_mean)``, where ``b`` was its bias. Batch norm behind a sum of
    convolutions is folded into all of them, its bias into one; behind a linear layer, where that gives one
    vector a sample, likewise. Anywhere else (before the first layer, behind an activation, where another
    layer, a boundary or an exit also reads the convolution) a `ChannelAffine` with two numbers a channel
    takes its place, so that no running statistics remain.

    Which layer feeds which is read from the network's graph, so it does not matter how the modules are
    nested or named. Every boundary and exit keeps its value, up to rounding; factors are computed in double
    precision.

    Args:
        net: a `Staged`, a `MultiExit` or any module; it is not changed.
        example: an input, batch first, where the network does not know its own input shape.

    Returns:
        A copy in eval mode, for inference: to train, go on with ``net``. It can be exported and profiled; as
        it is no longer what its constructor builds, a registered network's ``spec`` is None.

    Raises:
        StageError: a batch norm keeps no running statistics, or is not computed by a plain ``BatchNorm``
            layer of PyTorch's; or no graph of the network can be made.
    """
    # The graph is made through this wrapper, so names of modules in it begin with "net.".
    whole = _Readable(copied(net)).eval()
    captured = _captured(whole, example)
    replaced: dict[nn.Module, nn.Module] = {}
    for node in _operations(captured):
        if "batch_norm" in str(node.target):
            norm = _norm(whole, captured, node)
            layers = _layers_before(whole, captured, node, norm)
            if layers is None:
                replaced[norm] = _affine(norm)
            else:
                replaced |= _folded(layers, norm)
                replaced[norm] = nn.Identity()
    for parent in list(whole.modules()):
        for name, child in parent._modules.items():  # a layer under two names is replaced under both
            if child in replaced:
                setattr(parent, name, replaced[child])
    backbone = _backbone(whole.net)
    if backbone is not None:
        backbone.spec = None
    return cast(Net, whole.net)


class _Readable(nn.Module):
    """A network that gives everything of its own that others may read: boundaries, exits or outputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *positional: Any, **named: Any) -> Any:
        backbone = _backbone(self.net)
        if backbone is None:
            return self.net(*positional, **named)
        tensors: Boundary = {}
        for name, boundary in backbone.boundaries(named or positional[0]):
            tensors |= {f"{name}/{key}": tensor for key, tensor in boundary.items()}
        if isinstance(self.net, MultiExit):
            for spec in self.net.specs:
                reads = [tensors[f"{name}/{key}"] for name, key in spec.reads]
                tensors[f"exit {spec.name}"] = self.net.branch(spec.name)(*reads)
        return tensors


def _backbone(net: nn.Module) -> Staged | None:
    if isinstance(net, MultiExit):
        return net.backbone
    return net if isinstance(net, Staged) else None


def _captured(whole: _Readable, example: Any) -> Captured:
    net, backbone = whole.net, _backbone(whole.net)
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    if example is None:
        if backbone is None:
            raise StageError("Folding batch norm in a plain module takes an example input; pass example=")
        example = pytree.tree_map(lambda x: x.to(like) if x.is_floating_point() else x, backbone.example(2))
    call, inputs = read_example(net, example, None)
    inputs = {name: tensor.to(like.device) for name, tensor in inputs.items()}
    try:
        return capture(whole, [], call, inputs)
    except StageError as error:
        reason = str(error).partition(" cannot be cut: ")[2]
        raise StageError(f"Batch norm in {type(net).__name__} cannot be folded: {reason}") from error


def _operations(captured: Captured) -> Iterator[fx.Node]:
    graph = next(iter(captured.outputs.values())).graph
    graph.eliminate_dead_code()  # what nothing reads is no reader
    yield from graph.nodes


def _norm(whole: nn.Module, captured: Captured, node: fx.Node) -> _BatchNorm:
    """The layer that an operation belongs to, or why it cannot be replaced."""
    name = _path(node)
    module = whole.get_submodule(name)
    where = f"Batch norm at {name.removeprefix('net.')!r} cannot be folded"
    if node.target is not aten._native_batch_norm_legit_no_training.default:
        raise StageError(f"{where}: it keeps no running statistics; build it with track_running_stats=True")
    if (
        not isinstance(module, _BatchNorm)
        or type(module) not in _NORMS
        or _tensor(captured, node.args[3]) is not module.running_mean
        or _tensor(captured, node.args[4]) is not module.running_var
    ):
        raise StageError(
            f"{where}: it is computed by {type(module).__name__} and not by a BatchNorm layer of PyTorch's; "
            "use such a layer, and fold a module before it is cut into stages"
        )
    return module


def _layers_before(
    whole: nn.Module, captured: Captured, node: fx.Node, norm: _BatchNorm
) -> list[_Layer] | None:
    """The layers whose sum a batch norm takes; None where it takes anything else, or others read them too."""
    statistics, value = node.args[3], node.args[0]
    assert isinstance(statistics, fx.Node) and isinstance(value, fx.Node)
    if len(statistics.users) > 1:  # it runs at several places
        return None
    layers = []
    for term in _terms(value):
        layer = _layer(whole, captured, term)
        if layer is None or len(layer.weight) != norm.num_features:
            return None
        layers.append(layer)
    return layers if len(set(layers)) == len(layers) else None  # a sum with itself


def _terms(value: fx.Node) -> Iterator[fx.Node]:
    """What a value is the sum of, as far as nothing else reads the partial sums."""
    parts = [part for part in value.args if isinstance(part, fx.Node)]
    if value.target is aten.add.Tensor and not value.kwargs and len(value.users) == 1 and len(parts) == 2:
        for part in parts:
            yield from _terms(part)
    else:
        yield value


def _layer(whole: nn.Module, captured: Captured, node: fx.Node) -> _Layer | None:
    """The layer that computes a value, where it runs once and only one operation reads the value."""
    if node.target not in _LAYERS or len(node.users) > 1:
        return None
    module = whole.get_submodule(_path(node))
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    if (
        not isinstance(module, _Layer)
        or type(module) is not _LAYERS[node.target]
        or _tensor(captured, weight) is not module.weight
        or _tensor(captured, bias) is not module.bias
        or len(cast(fx.Node, weight).users) > 1
    ):
        return None
    # Batch norm's channels are axis 1, and a linear layer's outputs the last one.
    return None if isinstance(module, nn.Linear) and node.meta["val"].dim() != 2 else module


def _tensor(captured: Captured, node: Any) -> Tensor | None:
    return captured.state[node].tensor if node in captured.state else None


def _path(node: fx.Node) -> str:
    """The innermost submodule in which an operation stands."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = re.sub(r"@\d+", "", str(stack[-1][0])) if stack else ""
    return path.removeprefix("module").removeprefix(".")


def _affine(norm: _BatchNorm) -> ChannelAffine:
    scale, shift = _scale_and_shift(norm)
    layer = ChannelAffine(norm.num_features)
    like = cast(Tensor, norm.running_mean)
    layer.weight, layer.bias = _parameter(scale, like), _parameter(shift, like)
    return layer


def _folded(layers: list[_Layer], norm: _BatchNorm) -> dict[nn.Module, nn.Module]:
    """New layers for old, the last of which takes the batch norm's shift."""
    scale, shift = _scale_and_shift(norm)
    new: dict[nn.Module, nn.Module] = {}
    for layer in layers:
        twin = copy.deepcopy(layer)
        weight = _wide(layer.weight) * scale.view(-1, *[1] * (layer.weight.dim() - 1))
        twin.weight = _parameter(weight, layer.weight)
        bias = None if layer.bias is None else _wide(layer.bias) * scale
        if layer is layers[-1]:
            bias = shift if bias is None else bias + shift
        twin.bias = None if bias is None else _parameter(bias, layer.weight)
        new[layer] = twin
    return new


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """A batch norm as ``scale * x + shift``; eps counts, for a variance may be far below it."""
    scale = (_wide(norm.running_var) + norm.eps).rsqrt()
    shift = -_wide(norm.running_mean)
    if norm.affine:
        scale = scale * _wide(norm.weight)
        # Newer releases of PyTorch can leave the bias out.
        return scale, shift * scale if norm.bias is None else shift * scale + _wide(norm.bias)
    return scale, shift * scale


def _wide(tensor: Tensor | None) -> Tensor:
    """In double precision, on the CPU because not every device has it; without values there, without here."""
    assert tensor is not None
    tensor = tensor.detach()
    return tensor.double() if tensor.is_meta else tensor.cpu().double()


def _parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(like))
