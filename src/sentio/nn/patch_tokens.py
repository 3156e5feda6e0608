"""The first stage of a vision transformer: an image becomes tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sentio.core.anytime import MAIN
from sentio.core.errors import InputError
from sentio.nn.patchout import check_patchout, draw_patchout
from sentio.nn.positions import DisentangledPositions, JointPositions

#: the boundary's tensor of the patches to keep, where a caller chooses them
KEEP = "keep"


def patch_grid(size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """How many patches there are along (time, frequency) of an image of that size."""
    return (size[0] - patch) // stride + 1, (size[1] - patch) // stride + 1


class PatchTokens(nn.Module):
    """Overlapping patches through one convolution, positions added, special tokens in front, patchout.

    ``(batch, C, time, frequency)`` to ``(batch, special + patch, dim)``, patches in raster order:
    number ``t * grid[1] + f``. In training ``patchout`` draws once for a batch which patches stay. A caller
    who chooses them gives ``{"main": image, "keep": indices}``, indices ``(batch, kept)`` int64, which holds
    in eval mode too and takes the draw's place; see `sentio.nn.patchout.draw_patchout`. Special tokens are
    never dropped.

    Args:
        in_channels: C.
        dim: width of a token.
        patch: side of a patch.
        stride: from one patch to the next; below ``patch`` they overlap.
        special: learned tokens in front, the class token first.
        positions: of the patches and special tokens.
        patchout: (time, frequency) positions to drop in training.
        patchout_tokens: single patches to drop in training.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        patch: int,
        stride: int,
        special: int,
        positions: JointPositions | DisentangledPositions,
        patchout: tuple[int, int] = (0, 0),
        patchout_tokens: int = 0,
    ) -> None:
        super().__init__()
        check_patchout(positions.size, patchout, patchout_tokens)
        self.conv = nn.Conv2d(in_channels, dim, patch, stride=stride)
        self.special = nn.Parameter(torch.empty(special, dim))
        nn.init.trunc_normal_(self.special, std=0.02)
        self.positions = positions
        self.patchout = patchout
        self.patchout_tokens = patchout_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (time, frequency) of the input that the positions were made for."""
        return self.positions.size

    def grid_of(self, image: Tensor) -> tuple[int, int]:
        """Patches along (time, frequency) of an image ``(batch, C, time, frequency)``.

        Raises:
            InputError: it is smaller than a patch.
        """
        (patch, _), (stride, _), (time, frequency) = self.conv.kernel_size, self.conv.stride, image.shape[2:]
        if time < patch or frequency < patch:
            raise InputError(
                f"An input of {time}x{frequency} (time x frequency) is smaller than a patch of "
                f"{patch}x{patch}; give the network a larger one"
            )
        return patch_grid((time, frequency), patch, stride)

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> Tensor:
        image, keep = (x[MAIN], x.get(KEEP)) if isinstance(x, Mapping) else (x, None)
        grid = self.grid_of(image)
        patches = self.conv(image).flatten(2).transpose(1, 2) + self.positions(grid)
        if keep is None and self.training and (any(self.patchout) or self.patchout_tokens):
            keep = draw_patchout(
                grid,
                time=self.patchout[0],
                frequency=self.patchout[1],
                tokens=self.patchout_tokens,
                batch=len(image),
            )
        if keep is not None:
            index = keep.to(patches.device).unsqueeze(-1).expand(-1, -1, patches.shape[-1])
            patches = patches.gather(1, index)
        special = (self.special + self.positions.special).expand(image.shape[0], -1, -1)
        return torch.cat([special, patches], dim=1)
