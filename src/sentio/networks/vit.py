"""Vision transformers of images and spectrograms: ViT, DeiT, AST and PaSST."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.attention import EncoderLayer
from sentio.nn.init import truncated_normal_init
from sentio.nn.patch_tokens import PatchTokens, patch_grid
from sentio.nn.positions import DisentangledPositions, JointPositions
from sentio.nn.token_heads import ClassTokenHead, DistilledHead, MeanTokenHead

#: DeiT's sizes, as options of ``deit``
DEIT_SIZES = {
    "tiny": {"dim": 192, "heads": 3},
    "small": {"dim": 384, "heads": 6},
    "base": {"dim": 768, "heads": 12},
}


def vit(
    *,
    classes: int = 10,
    in_channels: int = 1,
    size: tuple[int, int] = (100, 128),
    patch: int = 16,
    stride: int = 10,
    dim: int = 256,
    layers: int = 8,
    heads: int = 8,
    ratio: float = 4,
    positions: Literal["joint", "disentangled"] = "joint",
    head: Literal["class", "deit", "ast", "passt"] = "class",
    patchout: tuple[int, int] = (0, 0),
    patchout_tokens: int = 0,
    dropout: float = 0.0,
    eps: float = 1e-6,
) -> Staged:
    """A vision transformer: ``(batch, channel, time, frequency)`` to logits ``(batch, classes)``.

    Every boundary but the last is ``(batch, token, dim)``: the class token, with all heads but ``class`` the
    distillation token, then the patches in raster order. Stage ``patches`` also takes the patches to keep
    (`sentio.nn.patch_tokens.PatchTokens`).

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        size: (time, frequency) of the input. Disentangled positions take shorter inputs too.
        patch: side of a patch.
        stride: from one patch to the next; below ``patch`` they overlap.
        dim: width of a token.
        layers: encoder layers, each a stage.
        heads: of each attention; must divide ``dim``.
        ratio: width of an encoder's MLP, in ``dim``.
        positions: a learned vector for each patch, or one for each time plus one for each frequency.
        head: what answers. ``class``: the class token; ``deit``: class and distillation token, the mean of
            their softmaxes; ``ast``: the mean of both tokens through one layer; ``passt``: the same, with a
            layer for training on the distillation token beside it.
        patchout: (time, frequency) positions of the grid dropped in training.
        patchout_tokens: single patches dropped in training.
        dropout: rate in the encoders' MLPs.
        eps: of every layer norm.

    Raises:
        ConfigError: an option out of range, or options that do not fit together.
    """
    size, patchout = _pair("size", size), _pair("patchout", patchout)
    numbers = {"classes": classes, "patch": patch, "stride": stride, "dim": dim, "layers": layers}
    for name, value in (numbers | {"heads": heads, "in_channels": in_channels}).items():
        if not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"Option {name!r} of a vision transformer is a whole number from 1 up, got {value!r}"
            )
    if dim % heads:
        raise ConfigError(f"{heads} heads do not divide tokens of width {dim}; choose a divisor")
    if round(ratio * dim) < 1:
        raise ConfigError(f"Option 'ratio' of a vision transformer must be above 0, got {ratio!r}")
    if min(size) < patch:
        raise ConfigError(
            f"A patch of {patch}x{patch} does not fit into size {size[0]}x{size[1]}; make it smaller"
        )
    if positions not in _POSITIONS:
        raise ConfigError(f"Option 'positions' is one of {', '.join(_POSITIONS)}, got {positions!r}")
    if head not in _HEADS:
        raise ConfigError(f"Option 'head' is one of {', '.join(_HEADS)}, got {head!r}")
    special = 1 if head == "class" else 2
    tokens = PatchTokens(
        in_channels,
        dim,
        patch=patch,
        stride=stride,
        special=special,
        positions=_POSITIONS[positions](patch_grid(size, patch, stride), special, dim),
        patchout=patchout,
        patchout_tokens=patchout_tokens,
    )
    stages: dict[str, nn.Module] = {"patches": tokens}
    for number in range(1, layers + 1):
        stages[f"block{number}"] = EncoderLayer(
            dim,
            heads,
            head_dim=dim // heads,
            hidden=round(ratio * dim),
            eps=eps,
            dropout=dropout,
            fused=True,
        )
    stages["head"] = _HEADS[head](dim, classes, eps=eps)
    for stage in stages.values():
        truncated_normal_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, *size)})


_POSITIONS = {"joint": JointPositions, "disentangled": DisentangledPositions}
_HEADS = {
    "class": ClassTokenHead,
    "deit": DistilledHead,
    "ast": MeanTokenHead,
    "passt": partial(MeanTokenHead, distillation=True),
}


def _pair(name: str, value: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(v, int) for v in value):
        raise ConfigError(f"Option {name!r} is two whole numbers (time, frequency), got {value!r}")
    return value[0], value[1]


_THESIS = (
    "F. Piovesan, Exploring Transformer Model for Acoustic Scene Classification, "
    "Master's thesis, Politecnico di Torino, 2024"
)
#: options and input of the contract tests: 4 x 3 patches that overlap
_SMALL = {
    "classes": 4,
    "in_channels": 1,
    "size": (26, 20),
    "patch": 8,
    "stride": 6,
    "dim": 16,
    "layers": 1,
    "heads": 2,
}
_SMALL_SHAPES = {"main": (1, 26, 20)}

register(
    "network",
    "vit-small",
    summary="Acoustic scenes on one-second log-mels in 103,150 parameters and 10.8 M MACs.",
    paper=_THESIS,
    input_shapes={"main": (1, 100, 128)},
    small=_SMALL,
    small_shapes=_SMALL_SHAPES,
)(partial(vit, dim=60, layers=4, heads=6, ratio=1, patch=12, stride=12))

register(
    "network",
    "vit-medium",
    summary="Acoustic scenes on one-second log-mels in 6,415,114 parameters: a student of vit-large.",
    paper=_THESIS,
    input_shapes={"main": (1, 100, 128)},
    small=_SMALL | {"head": "deit", "layers": 2},
    small_shapes=_SMALL_SHAPES,
)(partial(vit, dim=256, layers=8, heads=8, ratio=4))

register(
    "network",
    "vit-large",
    summary="Acoustic scenes on one-second log-mels in 85,345,546 parameters: ViT-B, with patchout.",
    paper=_THESIS,
    input_shapes={"main": (1, 100, 128)},
    small=_SMALL | {"patchout": (0, 1)},
    small_shapes=_SMALL_SHAPES,
)(partial(vit, dim=768, layers=12, heads=12, patchout=(0, 6)))

register(
    "network",
    "vit-b16",
    summary="Images of 384x384 in 86,859,496 parameters and 55.5 G MACs: ViT-B/16.",
    paper="A. Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021",
    input_shapes={"main": (3, 384, 384)},
    small=_SMALL | {"in_channels": 3},
    small_shapes={"main": (3, 26, 20)},
)(partial(vit, classes=1000, in_channels=3, size=(384, 384), stride=16, layers=12, **DEIT_SIZES["base"]))

register(
    "network",
    "ast",
    summary="Audio tagging on ten-second log-mels: the audio spectrogram transformer, 86,594,063 parameters.",
    paper="Y. Gong, Y.-A. Chung, J. Glass, AST: Audio Spectrogram Transformer, Interspeech 2021",
    input_shapes={"main": (1, 1024, 128)},
    small=_SMALL,
    small_shapes=_SMALL_SHAPES,
)(partial(vit, classes=527, size=(1024, 128), dim=768, layers=12, heads=12, head="ast"))

register(
    "network",
    "passt",
    summary="Audio tagging on log-mels up to ten seconds: PaSST-S, 86,153,758 parameters, with patchout.",
    paper="K. Koutini et al., Efficient Training of Audio Transformers with Patchout, Interspeech 2022",
    input_shapes={"main": (1, 998, 128)},
    # Its own head has a layer that only training with a teacher uses.
    small=_SMALL | {"positions": "disentangled", "head": "ast", "patchout": (1, 1)},
    small_shapes=_SMALL_SHAPES,
)(
    partial(
        vit,
        classes=527,
        size=(998, 128),
        dim=768,
        layers=12,
        heads=12,
        positions="disentangled",
        head="passt",
        patchout=(40, 4),
    )
)

register(
    "network",
    "deit",
    summary="Images in 5,910,800 parameters: DeiT-Ti with a distillation token.",
    paper="H. Touvron et al., Training Data-Efficient Image Transformers & Distillation through Attention, "
    "ICML 2021",
    input_shapes={"main": (3, 224, 224)},
    small=_SMALL | {"in_channels": 3, "head": "deit"},
    small_shapes={"main": (3, 26, 20)},
)(
    partial(
        vit,
        classes=1000,
        in_channels=3,
        size=(224, 224),
        stride=16,
        layers=12,
        head="deit",
        **DEIT_SIZES["tiny"],
    )
)
