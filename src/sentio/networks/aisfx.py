"""aiSFX: a convolutional network that knows libraries of sound effects, to teach others from."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sentio.core.errors import ConfigError, InputError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.conv import conv_bn_act
from sentio.nn.init import he_init
from sentio.nn.pooling import MeanMaxHead

#: where the package of its authors keeps the weights
CHECKPOINT = "aisfx/models/checkpoint.pth"
#: its spectrograms, as options of the front end ``log-mel``: ``log10(1e4 power + 1) / 9.4578``, from 0 to 1
FRONT_END: dict[str, Any] = {
    "rate": 44_100,
    "n_fft": 2048,
    "hop_length": 1024,
    "n_mels": 96,
    "mel_scale": "htk",
    "triangles": "mel",
    "norm": "sum",
    "symmetric": True,
    "log": "ln",
    "offset": 1e-4,
    "mean": float(np.log(1e-4)),
    "std": float(9.457798957824707 * np.log(10)),
}


@register(
    "network",
    "aisfx",
    paper="A. B. Ma and A. Lerch, Representation Learning for the Automatic Indexing of Sound Effects "
    "Libraries, ISMIR 2022",
    input_shapes={"main": (1, 100, 96)},
    small={"classes": 4, "width": 8},
    small_shapes={"main": (1, 32, 32)},
)
def aisfx(*, classes: int = 512, in_channels: int = 1, width: int = 64) -> Staged:
    """Sound to embeddings of 512: four pairs of 3×3 convolutions, 4,686,144 parameters before the last layer.

    Takes log-mel ``(batch, 1, time, frequency)`` of `FRONT_END`, at least 8 frames of 8 bands; its own input
    is about 2.3 seconds. An embedding is the mean over frequency and then the maximum over time.

    Args:
        classes: width of the linear layer behind the embedding. As wide as that it begins as the identity,
            so that the answer is the embedding.
        in_channels: channels of the input.
        width: channels of the first block; each block has twice as many as the one before.
    """
    stages: dict[str, nn.Module] = {}
    channels = in_channels
    for number in range(1, 5):
        out_channels = width * 2 ** (number - 1)
        layers: list[tuple[str, nn.Module]] = []
        for index in (1, 2):
            layers.append((f"conv{index}", conv_bn_act(channels, out_channels)))
            channels = out_channels
        if number < 4:
            layers.append(("pool", nn.MaxPool2d(2)))
        stages[f"block{number}"] = nn.Sequential(OrderedDict(layers))
        he_init(stages[f"block{number}"])
    stages["head"] = MeanMaxHead(channels, classes)
    return Staged(stages, input_shapes={"main": (in_channels, 100, 96)})


def load_aisfx(net: Staged, source: str | Path) -> None:
    """Fill ``aisfx`` with its authors' weights, which are under CC BY 4.0.

    They come in their package, `aisfx` on PyPI, 25 MB: ``pip download --no-deps aisfx==0.1.2``. They were
    learned from commercial libraries of sound effects (Pro Sound Effects, Soundly and others). Nothing of it
    is run, and nothing is unpickled but tensors and numbers.

    Args:
        net: as `aisfx` builds it; a linear layer behind the embedding is left as it is.
        source: the package's wheel, the folder it is installed in, or the checkpoint.

    Raises:
        InputError: there is no such file, or it is none of these.
        ConfigError: the network is another one, or of another width.
    """
    found = _checkpoint(Path(source))
    own = {name: tensor for name, tensor in net.state_dict().items() if name.startswith("stages.block")}
    if {name: value.shape for name, value in found.items()} != {n: value.shape for n, value in own.items()}:
        raise ConfigError("The weights of aiSFX fit network 'aisfx' of width 64, and this is another one")
    net.load_state_dict(found, strict=False)


_PREFIX = "embedding_net.conv_block"


def _name(key: str) -> str:
    """``embedding_net.conv_block1.bn2.weight`` -> ``stages.block1.conv2.bn.weight``."""
    block, layer, rest = key.removeprefix(_PREFIX).split(".", 2)
    return f"stages.block{block}.conv{layer[-1]}.{layer[:-1]}.{rest}"


def _checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of the embedding network, under our names."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                data: Any = BytesIO(wheel.read(CHECKPOINT))
        else:
            inside = next(
                (p for p in (path / CHECKPOINT, path / "models/checkpoint.pth") if p.is_file()), path
            )
            data = BytesIO(inside.read_bytes())
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"The weights of aiSFX cannot be read from {path} ({type(error).__name__}); give the wheel that "
            "'pip download --no-deps aisfx==0.1.2' fetches, or its file checkpoint.pth"
        ) from error
    scalar = np.int64(0).__reduce__()[0]  # the numbers of classes beside the weights are numpy's
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    allowed: list[Any] = [*((scalar, name) for name in names), np.dtype, type(np.dtype(np.int64))]
    try:
        with torch.serialization.safe_globals(allowed):
            weights, _ = torch.load(data, map_location="cpu", weights_only=True)
        found = {_name(key): value for key, value in weights.items() if key.startswith(_PREFIX)}
        if not all(isinstance(value, Tensor) for value in found.values()):
            raise TypeError("other values than tensors")
        return found
    # torch.load raises whatever a damaged file leads it to.
    except Exception as error:
        raise InputError(
            f"{path} holds no checkpoint of aiSFX; take the one of the package aisfx 0.1.2"
        ) from error
