"""Public weights of `transformers` for the networks here that have the same layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import Staged
from sentio.networks.mobilevit import MobileViTBlock
from sentio.nn.patch_tokens import PatchTokens
from sentio.nn.positions import JointPositions, resize_grid


@dataclass(frozen=True)
class Loaded:
    """What `load_transformers` took; ``print`` it for one sentence.

    Args:
        taken: tensors of the network that were filled.
        changed: what had to be changed to fit, such as positions of another grid.
        left: tensors of the source that were not taken, under their own names.
        missing: tensors of the network that were not filled and are as they were.
    """

    taken: int
    changed: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.taken} tensors were taken", *self.changed]
        if self.left:
            parts.append(f"not taken: {', '.join(self.left)}")
        if self.missing:
            parts.append(f"not filled: {', '.join(self.missing)}")
        return "; ".join(parts)


def load_transformers(net: Staged, source: Any, *, strict: bool = True) -> Loaded:
    """Fill a network with the weights of `transformers`' AST or MobileViT, as far as shapes agree.

    ``ast`` takes ``ASTForAudioClassification``, ``mobilevit`` takes ``MobileViTForImageClassification``,
    with the names of releases 4 and 5. AST's kernels and positions, frequency first there, are transposed; a
    grid of positions of another size is cut around its middle or interpolated
    (`sentio.nn.positions.resize_grid`). A table of positions does not tell its own sides: they are those of
    the model's ``config``, or of ``config.json`` beside a file; else the network's own if those make as many,
    else as published, 12 along frequency, if that divides them. Where the network has one input channel and
    the weights three, the first kernels are summed over them. Layer norms have the ``eps`` that the network
    was built with; AST published there has 1e-12.

    Args:
        net: as made by `sentio.core.staged.create_network`, of the same width and depth.
        source: a model, its state dict, a ``.safetensors`` file, or a folder with ``model.safetensors``.
            Nothing is unpickled.
        strict: refuse weights that do not all fit. Otherwise what fits is taken and the rest is as it was,
            such as the head for one's own classes.

    Raises:
        ConfigError: another kind of network, nothing fits, or with ``strict`` not all; the network is then
            as it was.
        InputError: the file is not there or not safetensors.
    """
    first = net.stage(net.stage_names[0])
    own = net.state_dict()
    given = {name: tensor.detach() for name, tensor in _tensors(source).items()}
    if isinstance(first, PatchTokens) and isinstance(first.positions, JointPositions):
        renamed = {name: _ast_name(name) for name in given}
        found = _rename(given, renamed)
        changed = _to_time_first(found, first, _told_grid(source))
        kernel = f"{_PATCHES}.conv.weight"
    elif any(isinstance(module, MobileViTBlock) for module in net.modules()):
        renamed = {name: _mobilevit_name(name) for name in given}
        found, changed, kernel = _rename(given, renamed), [], "stages.stem.conv.weight"
    else:
        raise ConfigError("Weights of transformers fit networks 'ast' and 'mobilevit', and this is neither")
    if kernel in found and found[kernel].shape[1] == 3 and own[kernel].shape[1] == 1:
        found[kernel] = found[kernel].sum(dim=1, keepdim=True)
        changed.append("the first kernels' three input channels summed to one")
    fits = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    loaded = Loaded(
        taken=len(fits),
        changed=tuple(changed),
        left=tuple(name for name, ours in renamed.items() if not _came(ours, fits)),
        missing=tuple(name for name in own if name not in fits),
    )
    if not fits:
        raise ConfigError(f"None of the weights fit: {loaded}")
    if strict and (loaded.left or loaded.missing):
        raise ConfigError(f"Not all weights fit ({loaded}); pass strict=False to take those that do")
    net.load_state_dict(fits, strict=False)
    return loaded


#: patches along the 128 bands of published AST
PUBLISHED_FREQUENCIES = 12
_PATCHES = "stages.patches"
_GRID = f"{_PATCHES}.positions.grid"
#: what position_embeddings and the two tokens are renamed to before `_to_time_first` sorts them
_JOINED, _CLASS, _DISTILLATION = "positions", "class token", "distillation token"
#: endings of an encoder layer's tensors -> ours; release 4's names of AST and MobileViT, then release 5's
_ENCODER = {
    "attention.attention.query": "attention.query",
    "attention.attention.key": "attention.key",
    "attention.attention.value": "attention.value",
    "attention.output.dense": "attention.output",
    "intermediate.dense": "mlp.0",
    "output.dense": "mlp.3",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.q_proj": "attention.query",
    "attention.k_proj": "attention.key",
    "attention.v_proj": "attention.value",
    "attention.o_proj": "attention.output",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}
_AST = {
    "embeddings.cls_token": _CLASS,
    "embeddings.distillation_token": _DISTILLATION,
    "embeddings.position_embeddings": _JOINED,
    "embeddings.patch_embeddings.projection.weight": f"{_PATCHES}.conv.weight",
    "embeddings.patch_embeddings.projection.bias": f"{_PATCHES}.conv.bias",
    "layernorm.weight": "stages.head.norm.weight",
    "layernorm.bias": "stages.head.norm.bias",
    "classifier.layernorm.weight": "stages.head.head_norm.weight",
    "classifier.layernorm.bias": "stages.head.head_norm.bias",
    "classifier.dense.weight": "stages.head.fc.weight",
    "classifier.dense.bias": "stages.head.fc.bias",
}
_CONV = {"convolution": "conv", "normalization": "bn"}
_RESIDUAL = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}
_BLOCK = {"conv_kxk": "local", "conv_projection": "project", "fusion": "fusion"}


def _ast_name(name: str) -> str | None:
    name = name.removeprefix("audio_spectrogram_transformer.").removeprefix("encoder.")
    if name in _AST:
        return _AST[name]
    layer = re.fullmatch(r"layers?\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer is None or layer[2] not in _ENCODER:
        return None
    return f"stages.block{int(layer[1]) + 1}.{_ENCODER[layer[2]]}.{layer[3]}"


def _mobilevit_name(name: str) -> str | None:
    path, _, kind = name.removeprefix("mobilevit.").rpartition(".")
    if path == "classifier":
        return f"stages.head.fc.{kind}"
    outer, _, part = path.rpartition(".")
    part = _CONV.get(part, part)
    if outer in ("conv_stem", "conv_1x1_exp"):
        return f"stages.{'stem' if outer == 'conv_stem' else 'features'}.{part}.{kind}"
    found = re.fullmatch(r"encoder\.layer\.(\d)\.(.+)", path)
    if found is None:
        return None
    stage, rest = f"stages.layer{int(found[1]) + 1}", found[2]
    if inner := re.fullmatch(r"layer\.(\d)\.(\w+)\.\w+", rest):
        index = "" if found[1] == "0" else f".{inner[1]}"
        return f"{stage}{index}.{_RESIDUAL[inner[2]]}.{part}.{kind}" if inner[2] in _RESIDUAL else None
    if inner := re.fullmatch(r"downsampling_layer\.(\w+)\.\w+", rest):
        return f"{stage}.down.{_RESIDUAL[inner[1]]}.{part}.{kind}" if inner[1] in _RESIDUAL else None
    if inner := re.fullmatch(r"transformer\.layer\.(\d+)\.(.+)", rest):
        return (
            f"{stage}.block.encoder.{inner[1]}.{_ENCODER[inner[2]]}.{kind}" if inner[2] in _ENCODER else None
        )
    if rest == "layernorm":
        return f"{stage}.block.norm.{kind}"
    if rest == "conv_1x1.convolution":
        return f"{stage}.block.widen.{kind}"
    block = rest.partition(".")[0]
    return f"{stage}.block.{_BLOCK[block]}.{part}.{kind}" if block in _BLOCK else None


def _rename(given: Mapping[str, Tensor], renamed: Mapping[str, str | None]) -> dict[str, Tensor]:
    return {ours: given[name] for name, ours in renamed.items() if ours is not None}


def _to_time_first(found: dict[str, Tensor], patches: PatchTokens, told: tuple[int, int] | None) -> list[str]:
    """Sort AST's tokens and positions into ours, in place; says what had to be changed."""
    kernel = f"{_PATCHES}.conv.weight"
    if kernel in found:
        found[kernel] = found[kernel].transpose(2, 3)
    tokens = [found[name][0] for name in (_CLASS, _DISTILLATION) if name in found]
    if tokens:
        found[f"{_PATCHES}.special"] = torch.cat(tokens)[: len(patches.special)]
    if _JOINED not in found:
        return []
    table, grid = found[_JOINED][0], patches.grid
    found[f"{_PATCHES}.positions.special"] = table[:2][: len(patches.special)]
    old = _old_grid(len(table) - 2, grid, told)
    if old is None:
        return []
    found[_GRID] = resize_grid(table[2:].unflatten(0, (old[1], old[0])).transpose(0, 1), grid)
    if old == grid:
        return []
    sizes = " to ".join(f"{time}x{frequency}" for time, frequency in (old, grid))
    return [f"positions were resized from {sizes} (time x frequency)"]


def _old_grid(patches: int, ours: tuple[int, int], told: tuple[int, int] | None) -> tuple[int, int] | None:
    """(time, frequency) of a table: what the source tells, else ours, the published one's, or a square."""
    for grid in (told, ours):
        if grid is not None and grid[0] * grid[1] == patches:
            return grid
    for frequency in (PUBLISHED_FREQUENCIES, ours[1]):
        if patches % frequency == 0:
            return patches // frequency, frequency
    side = isqrt(patches)
    return (side, side) if side * side == patches else None


def _told_grid(source: Any) -> tuple[int, int] | None:
    """(time, frequency) of the patches by the settings of a model, or those that lie beside its weights."""
    facts: Any = getattr(source, "config", None)
    if isinstance(source, str | Path):
        path = Path(source)
        path = (path if path.is_dir() else path.parent) / "config.json"
        try:
            facts = SimpleNamespace(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
    try:
        return (
            (facts.max_length - facts.patch_size) // facts.time_stride + 1,
            (facts.num_mel_bins - facts.patch_size) // facts.frequency_stride + 1,
        )
    except (AttributeError, TypeError, ZeroDivisionError):
        return None


def _came(ours: str | None, fits: Mapping[str, Tensor]) -> bool:
    if ours in (_CLASS, _DISTILLATION):
        special = fits.get(f"{_PATCHES}.special")
        return special is not None and len(special) > (ours == _DISTILLATION)
    return (_GRID if ours == _JOINED else ours) in fits


def _tensors(source: Any) -> Mapping[str, Tensor]:
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    tensors = source.state_dict() if isinstance(source, torch.nn.Module) else source
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ConfigError(
            f"Weights come from a model, a state dict or a .safetensors file, got {type(source).__name__}"
        )
    return tensors


def _from_file(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"There is no file {path}; give a .safetensors file, or a folder with model.safetensors"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a safetensors file, and no other kind is read, since opening it may run code; "
            "save the weights as safetensors"
        ) from error
