"""A small transformer with a distillation token, as the networks in `sentio.networks.vit` have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small_vit() -> Callable[..., Any]:
    """``small_vit(seed=0, dim=8, blocks=2, stride=2, patchout=0)``: 3 classes, inputs of (1, 8, 6)."""
    torch = pytest.importorskip("torch")
    from torch import nn

    from sentio.core.multi_exit import MultiExit
    from sentio.core.staged import Staged

    class Patches(nn.Module):
        def __init__(self, dim: int, stride: int, patchout: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, dim, 2, stride=stride)
            self.special = nn.Parameter(torch.randn(2, dim))
            self.positions = nn.Parameter(torch.randn(35, dim))
            self.patchout = patchout

        def grid_of(self, image: Any) -> tuple[int, int]:
            size, stride = self.conv.kernel_size[0], self.conv.stride[0]
            return (image.shape[2] - size) // stride + 1, (image.shape[3] - size) // stride + 1

        def forward(self, x: Any) -> Any:
            image, keep = (x["main"], x["keep"]) if isinstance(x, dict) else (x, None)
            patches = self.conv(image).flatten(2).transpose(1, 2)
            patches = patches + self.positions[: patches.shape[1]]
            if keep is not None:
                patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
            elif self.training and self.patchout:
                patches = patches[:, self.patchout :]
            return torch.cat([self.special.expand(len(image), -1, -1), patches], 1)

    class Block(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim)
            self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

        def forward(self, x: Any) -> Any:
            # PyTorch's own attention rounds otherwise where no gradient is wanted.
            query, key, value = self.attention(self.norm(x)).chunk(3, 2)
            x = x + (query @ key.transpose(1, 2)).softmax(2) @ value
            return x + self.mlp(x)

    class Head(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.fc, self.distillation = nn.Linear(dim, 3), nn.Linear(dim, 3)

        def separate(self, x: Any) -> Any:
            return {"class": self.fc(x[:, 0]), "distillation": self.distillation(x[:, 1])}

        def forward(self, x: Any) -> Any:
            both = torch.stack([logits.softmax(1) for logits in self.separate(x).values()])
            return both.mean(0).log()

    def make(seed: int = 0, dim: int = 8, blocks: int = 2, stride: int = 2, patchout: int = 0) -> Any:
        torch.manual_seed(seed)
        stages: dict[str, nn.Module] = {"patches": Patches(dim, stride, patchout)}
        stages |= {f"block{number}": Block(dim) for number in range(1, blocks + 1)}
        return MultiExit(Staged({**stages, "head": Head(dim)}, input_shapes=(1, 8, 6))).eval()

    return make
