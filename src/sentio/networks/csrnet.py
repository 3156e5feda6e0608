"""CSRNet counts crowds in pictures; AudioCSRNet listens as well."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.networks.vgg import VGG16, VGGISH, conv_block
from sentio.nn.density_heads import Answer, DensityHead
from sentio.nn.film import FeatureModulation
from sentio.nn.init import he_init

#: the tensor of a boundary that sound travels in, first as a spectrogram, then as maps, then as a vector
AUDIO = "audio"
#: channels of the layers behind the front end, each dilated by 2
BACK_END = (512, 512, 512, 256, 128, 64)
_SHRINK = 8


class Beside(nn.Module):
    """A module on one tensor of a boundary; the others pass."""

    def __init__(self, tensor: str, module: nn.Module) -> None:
        super().__init__()
        self.tensor = tensor
        self.module = module

    def forward(self, boundary: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**boundary, self.tensor: self.module(boundary[self.tensor])}


class MeanOverMap(nn.Module):
    """``(batch, C, T, F)`` to ``(batch, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class FusionBlock(nn.Module):
    """Dilated 3×3 convolution and batch norm, scaled and shifted by what is heard, ReLU.

    Takes ``main`` ``(batch, C, H, W)`` and ``audio`` ``(batch, A)``; ``γ ⊙ BN(conv(main)) + β`` with
    ``[γ, β] = Linear(audio)``. D. Hu et al., *Ambient Sound Helps*, 2020.

    Args:
        in_channels, out_channels: of ``main``.
        audio: A.
        affine: whether the batch norm has weights of its own beside γ and β.
        last: nothing behind this block listens, so only ``main`` goes on.
    """

    def __init__(self, in_channels: int, out_channels: int, audio: int, *, affine: bool, last: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=2, dilation=2)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)
        self.film = FeatureModulation(audio, out_channels)
        self.act = nn.ReLU()
        self.last = last

    def forward(self, boundary: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        heard = boundary[AUDIO]
        y = self.act(self.film(self.bn(self.conv(boundary[MAIN])), heard))
        return y if self.last else {MAIN: y, AUDIO: heard}


def _front_end(in_channels: int, width: int) -> tuple[list[nn.Sequential], int]:
    """VGG-16 up to its tenth convolution: maps at an eighth of the picture's sides."""
    blocks, channels = [], in_channels
    for widths in VGG16[:4]:
        scaled = [wide * width // 64 for wide in widths]
        blocks.append(conv_block(channels, scaled, pool=len(blocks) < 3))
        channels = scaled[-1]
    return blocks, channels


def _checked(name: str, size: tuple[int, int]) -> tuple[int, int]:
    height, columns = size
    if min(size) < _SHRINK or height % _SHRINK or columns % _SHRINK:
        raise ConfigError(
            f"Network {name!r} takes pictures whose sides are multiples of {_SHRINK}, got {height}x{columns}"
        )
    return height, columns


def _small_density(head: nn.Module) -> None:
    """Few persons per pixel to start with: a count is the sum over thousands of pixels."""
    assert isinstance(head, DensityHead)
    nn.init.normal_(head.conv.weight, std=0.01)
    nn.init.zeros_(head.conv.bias)


@register(
    "network",
    "csrnet",
    paper="Y. Li, X. Zhang, D. Chen, CSRNet: Dilated Convolutional Neural Networks for Understanding the "
    "Highly Congested Scenes, CVPR 2018",
    input_shapes={"main": (3, 576, 1024)},
    small={"classes": 4, "width": 4},
    small_shapes={"main": (3, 32, 32)},
)
def csrnet(
    *,
    classes: int = 1,
    in_channels: int = 3,
    size: tuple[int, int] = (576, 1024),
    answer: Answer = "count",
    upsampling: Literal["nearest", "bilinear"] = "bilinear",
    norm: bool = False,
    width: int = 64,
) -> Staged:
    """Counts people in pictures of any size by their density: 16,263,489 parameters.

    Args:
        classes: kinds of things that are counted, each with a density of its own.
        in_channels: channels of the picture.
        size: (height, width) of the picture, multiples of 8; only ``answer="regression"`` is tied to it.
        answer: what the last stage gives: ``count`` and ``regression`` ``(batch, classes)``, ``density``
            ``(batch, classes, height, width)``; see `sentio.nn.density_heads.DensityHead`.
        upsampling: how the density is enlarged.
        norm: whether batch norms follow the dilated convolutions; the paper has none.
        width: channels of the first layer; 64 in the paper.

    Raises:
        ConfigError: a size that 8 does not divide, or another answer.
    """
    size = _checked("csrnet", tuple(size))
    blocks, channels = _front_end(in_channels, width)
    stages: dict[str, nn.Module] = {f"visual{n}": block for n, block in enumerate(blocks, start=1)}
    for number, wide in enumerate(BACK_END, start=1):
        out = wide * width // 64
        layers: list[tuple[str, nn.Module]] = [("conv", nn.Conv2d(channels, out, 3, padding=2, dilation=2))]
        layers += [("bn", nn.BatchNorm2d(out))] if norm else []
        stages[f"dilated{number}"] = nn.Sequential(OrderedDict([*layers, ("act", nn.ReLU())]))
        channels = out
    for stage in stages.values():
        he_init(stage)
    map_size = (size[0] // _SHRINK, size[1] // _SHRINK)
    stages["head"] = DensityHead(channels, classes, answer, size=map_size, factor=_SHRINK, mode=upsampling)
    _small_density(stages["head"])
    return Staged(stages, input_shapes={"main": (in_channels, *size)})


@register(
    "network",
    "audio-csrnet",
    paper="D. Hu et al., Ambient Sound Helps: Audiovisual Crowd Counting in Extreme Conditions, 2020; with "
    "the regression of A. Bakhtiarnia et al., Single-Layer Vision Transformers, Neural Networks 2022",
    input_shapes={"main": (3, 576, 1024), AUDIO: (1, 96, 64)},
    small={"classes": 4, "width": 4, "size": (32, 32), "answer": "regression"},
    small_shapes={"main": (3, 32, 32), AUDIO: (1, 32, 16)},
)
def audio_csrnet(
    *,
    classes: int = 1,
    in_channels: int = 3,
    size: tuple[int, int] = (576, 1024),
    audio_size: tuple[int, int] = (96, 64),
    answer: Answer = "regression",
    upsampling: Literal["nearest", "bilinear"] = "bilinear",
    affine: bool = False,
    width: int = 64,
) -> Staged:
    """Counts people by a picture and a second of its sound: 22,798,785 parameters before the regression.

    Takes ``{"main": picture, "audio": log-mels}``. First the picture goes through VGG-16's front end, then
    the sound through VGGish's, then six blocks fuse them; so an exit behind ``visual4`` has cost no sound.
    ``main`` is the visual path at every boundary, ``audio`` the sound's.

    Args:
        classes: kinds of things that are counted, each with a density of its own.
        in_channels: channels of the picture.
        size: (height, width) of the picture, multiples of 8.
        audio_size: (time, frequency) of the log-mels, at least 16×16; others may be given later.
        answer: what the last stage gives: ``count`` and ``regression`` ``(batch, classes)``, ``density``
            ``(batch, classes, height, width)``; see `sentio.nn.density_heads.DensityHead`. The regression's
            weights belong to the map before it is enlarged.
        upsampling: how the density is enlarged.
        affine: whether batch norms have weights of their own beside the sound's γ and β.
        width: channels of the first layer of both front ends; 64 in the paper.

    Raises:
        ConfigError: a size that 8 does not divide, log-mels that are too small, or another answer.
    """
    size, audio_size = _checked("audio-csrnet", tuple(size)), tuple(audio_size)
    if min(audio_size) < 2 ** len(VGGISH):
        raise ConfigError(
            f"Network 'audio-csrnet' takes log-mels from {2 ** len(VGGISH)}x{2 ** len(VGGISH)} up, got "
            f"{audio_size[0]}x{audio_size[1]}"
        )
    blocks, channels = _front_end(in_channels, width)
    stages: dict[str, nn.Module] = {
        f"visual{number}": Beside(MAIN, block) for number, block in enumerate(blocks, start=1)
    }
    heard = 1
    for number, widths in enumerate(VGGISH, start=1):
        scaled = [wide * width // 64 for wide in widths]
        block = conv_block(heard, scaled)
        if number == len(VGGISH):
            block.append(MeanOverMap())
        stages[f"audio{number}"] = Beside(AUDIO, block)
        heard = scaled[-1]
    for number, wide in enumerate(BACK_END, start=1):
        out = wide * width // 64
        last = number == len(BACK_END)
        stages[f"fusion{number}"] = FusionBlock(channels, out, heard, affine=affine, last=last)
        channels = out
    for stage in stages.values():
        he_init(stage)
        if isinstance(stage, FusionBlock):
            stage.film.reset_parameters()
    map_size = (size[0] // _SHRINK, size[1] // _SHRINK)
    stages["head"] = DensityHead(channels, classes, answer, size=map_size, factor=_SHRINK, mode=upsampling)
    _small_density(stages["head"])
    return Staged(stages, input_shapes={MAIN: (in_channels, *size), AUDIO: (1, *audio_size)})
