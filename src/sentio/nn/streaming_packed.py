"""Large weights in the order in which oneDNN reads them, put into it once and not at each step.

A step has few positions, so a large convolution takes as long as reading its weights. PyTorch's own puts them
into another order each time, and a matrix product reads them in an order that suits larger products. oneDNN
takes less than either where the weights lie in its order already. ``torch.compile`` puts this operation in
place of convolutions too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from sentio.nn.following import is_forward_differentiated

#: numbers in the weights from which a convolution is better packed
LARGE = 2**17
#: sizes of input for which a layer keeps packed weights; most of them share one order
MOST = 16


class Packed:
    """The packed weights of one layer, made when they are first wanted and again when the weights change.

    A copy of it is empty, since what it holds can neither be copied nor stored.
    """

    def __init__(self) -> None:
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return vars(Packed())

    def forget(self) -> None:
        """Pack anew at the next call; to be called where weights change that inference mode has made."""
        #: the weights, their version, and what was packed of them, by the size of the input: in one, since
        #: several threads may step a stream
        self._made: tuple[Tensor | None, int | None, dict[torch.Size, Tensor]] = (None, None, {})

    def convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> Tensor | None:
        """A convolution without groups; None if it is better done otherwise, or cannot be done here."""
        if weight.numel() < LARGE or not _possible(x, weight):
            return None
        settings = (list(padding), list(stride), list(dilation), 1)
        packed = self._of(weight, x.shape, settings)
        run = torch.ops.mkldnn._convolution_pointwise.default
        found: Tensor = run(x, packed, bias, *settings, "none", [], "")
        return found

    def _of(self, weight: Tensor, size: torch.Size, settings: tuple[Any, ...]) -> Tensor:
        version = None if weight.is_inference() else weight._version
        made_of, its_version, kept = self._made
        if made_of is None or made_of.data_ptr() != weight.data_ptr() or its_version != version:
            kept = {}
            # Held, or others might come to lie where these lay; detached, or it would be those that come.
            self._made = (weight.detach(), version, kept)
        packed = kept.get(size)
        if packed is None:
            reorder = torch.ops.mkldnn._reorder_convolution_weight.default
            with _disable_current_modes():  # a record of the step begins with the packed weights
                # Without a size the order is one that some numbers of channels are put out of each time.
                packed = reorder(weight.contiguous(), *settings, list(size))
                order, others = _order(packed), list(kept.values())
                packed = next((other for other in others if torch.equal(_order(other), order)), packed)
            if len(kept) >= MOST:
                kept.popitem()
            kept[size] = packed
        return packed


def _order(packed: Tensor) -> Tensor:
    """In which packed weights lie, as oneDNN describes it."""
    described: Tensor = torch.ops.mkldnn._get_mkldnn_serialized_md.default(packed)
    return described


def _possible(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there, takes this type, and nobody who follows operations would be misled."""
    mode = _get_current_dispatch_mode()
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md")
        and not torch.is_grad_enabled()
        and not is_forward_differentiated()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and (mode is None or getattr(mode, "knows_packed", False))
    )
