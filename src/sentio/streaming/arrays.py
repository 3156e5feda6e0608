"""PyTorch's tensors as the loop of streams sees arrays (`sentio.core.arrays`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sentio.core.arrays import Rows


class TorchArrays:
    """Tensors, on any device; those it makes can be written to outside of inference mode too."""

    kind = "tensor"

    def knows(self, array: Any) -> bool:
        return isinstance(array, Tensor)

    def take(self, array: Tensor, rows: Rows) -> Tensor:
        return array.index_select(0, torch.from_numpy(rows).to(array.device))

    def put(self, array: Tensor, rows: Rows, values: Tensor) -> None:
        array.index_copy_(0, torch.from_numpy(rows).to(array.device), values)

    def narrow(self, array: Tensor, axis: int, start: int, length: int) -> Tensor:
        return array.narrow(axis, start, length)

    def concatenate(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return torch.cat(tuple(arrays), axis)

    def copy(self, array: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return array.clone()

    def zeros(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        return like.new_zeros(shape)

    def to_numpy(self, array: Tensor) -> NDArray[Any]:
        # Half and bfloat16 have no policies of their own, and numpy has no bfloat16.
        narrow = array.is_floating_point() and array.dtype.itemsize < 4
        return (array.float() if narrow else array).numpy(force=True)

    def from_numpy(self, array: NDArray[Any], like: Tensor) -> Tensor:
        return torch.from_numpy(array).to(like.device)
