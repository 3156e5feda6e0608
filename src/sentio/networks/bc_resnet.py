"""BC-ResNet: convolutions along time on the frequency average, broadcast back to the whole map."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from sentio.core.errors import ConfigError
from sentio.core.registry import register
from sentio.core.staged import Staged
from sentio.nn.init import he_init
from sentio.nn.normalisation import SubSpectralNorm

#: The paper's BC-ResNet-tau, by tau -> option ``width``.
BC_RESNET_WIDTHS: dict[str, int] = {"1": 8, "1.5": 12, "2": 16, "3": 24, "6": 48, "8": 64}

#: For each group of blocks: how many, their width over the network's, stride in frequency, dilation in time.
GROUPS = ((2, 1.0, 1, 1), (2, 1.5, 2, 2), (4, 2.0, 2, 4), (4, 2.5, 1, 8))


class BroadcastedBlock(nn.Module):
    """A convolution along frequency, and one along time on its frequency average, both added to the input.

    ``(batch, in_channels, time, frequency)`` to ``(batch, out_channels, time, frequency / stride)``. Where
    the widths differ a 1×1 convolution comes first and the input is not added.

    Args:
        bands: frequency axis of the input; the sub-bands that are normalised must divide what is left of it.
        stride: in frequency.
        dilation: in time.
        sub_bands: most frequency ranges that are normalised apart.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bands: int,
        stride: int = 1,
        dilation: int = 1,
        sub_bands: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.expand: nn.Module | None = None
        if in_channels != out_channels:
            self.expand = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
                    bn=nn.BatchNorm2d(out_channels),
                    act=nn.ReLU(),
                )
            )
        self.frequency = nn.Conv2d(
            out_channels,
            out_channels,
            (1, 3),
            stride=(1, stride),
            padding=(0, 1),
            groups=out_channels,
            bias=False,
        )
        self.norm = SubSpectralNorm(out_channels, _largest_divisor(-(-bands // stride), sub_bands))
        self.time = nn.Sequential(
            OrderedDict(
                depthwise=nn.Conv2d(
                    out_channels,
                    out_channels,
                    (3, 1),
                    padding=(dilation, 0),
                    dilation=(dilation, 1),
                    groups=out_channels,
                    bias=False,
                ),
                bn=nn.BatchNorm2d(out_channels),
                act=nn.SiLU(),
                pointwise=nn.Conv2d(out_channels, out_channels, 1, bias=False),
                drop=nn.Dropout2d(dropout),
            )
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.frequency(x if self.expand is None else self.expand(x)))
        y = y + self.time(y.mean(dim=3, keepdim=True))
        return self.act(y + x if self.expand is None else y)


class BroadcastedHead(nn.Module):
    """A separable 5×5 convolution, global average, and one linear layer: ``(batch, C, T, F)`` to logits.

    Args:
        bands: frequency axis of the input; a narrower one than five takes a narrower kernel.
    """

    def __init__(self, channels: int, hidden: int, classes: int, *, bands: int) -> None:
        super().__init__()
        kernel = (5, min(5, bands))
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=(2, 0), groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.act = nn.ReLU()
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.pointwise(self.depthwise(x))))
        return self.fc(y.mean(dim=(2, 3)))


@register(
    "network",
    "bc-resnet",
    paper="B. Kim et al., Broadcasted Residual Learning for Efficient Keyword Spotting, Interspeech 2021",
    input_shapes={"main": (1, 101, 40)},
    small={"classes": 4, "width": 4, "bands": 20},
    small_shapes={"main": (1, 24, 20)},
)
def bc_resnet(
    *,
    classes: int = 12,
    in_channels: int = 1,
    bands: int = 40,
    width: int = 8,
    sub_bands: int = 5,
    dropout: float = 0.1,
) -> Staged:
    """Keywords in 9,232 parameters: broadcasted residuals, BC-ResNet-1; a wider one is more accurate.

    Takes log-mel ``(batch, 1, time, bands)``, gives logits ``(batch, classes)``. Its own input is a second
    at 16 kHz: windows of 30 ms, hop 10 ms, 40 bands. The frequency axis is halved three times, time never.

    Args:
        classes: width of the output.
        in_channels: channels of the input.
        bands: frequency bands of the input.
        width: channels of the first blocks; `BC_RESNET_WIDTHS` holds those of the paper.
        sub_bands: most frequency ranges that are normalised apart; a map whose width is no multiple of it is
            divided into fewer.
        dropout: of whole channels, behind each convolution along time.

    Raises:
        ConfigError: ``sub_bands`` is not above 0.
    """
    if sub_bands < 1:
        raise ConfigError(f"Option 'sub_bands' of network 'bc-resnet' must be 1 or more, got {sub_bands!r}")
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, 2 * width, 5, stride=(1, 2), padding=2, bias=False),
                bn=nn.BatchNorm2d(2 * width),
                act=nn.ReLU(),
            )
        )
    }
    channels, left = 2 * width, -(-bands // 2)
    for number, (repeats, factor, stride, dilation) in enumerate(GROUPS, start=1):
        blocks = []
        for index in range(repeats):
            block = BroadcastedBlock(
                channels,
                int(factor * width),
                bands=left,
                stride=stride if index == 0 else 1,
                dilation=dilation,
                sub_bands=sub_bands,
                dropout=dropout,
            )
            blocks.append(block)
            channels = int(factor * width)
            if index == 0:
                left = -(-left // stride)
        stages[f"layer{number}"] = nn.Sequential(*blocks)
    stages["head"] = BroadcastedHead(channels, 4 * width, classes, bands=left)
    for stage in stages.values():
        he_init(stage)
    return Staged(stages, input_shapes={"main": (in_channels, 101, bands)})


def _largest_divisor(number: int, most: int) -> int:
    return next(divisor for divisor in range(min(most, number), 0, -1) if number % divisor == 0)
