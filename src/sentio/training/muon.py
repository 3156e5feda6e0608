"""Muon: steps along the orthogonal part of a matrix's momentum, and AdamW for all that is no matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

#: of the quintic iteration, Jordan et al. 2024: steep at zero, so that five rounds suffice
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
#: a step's root mean square that AdamW's usually has (Liu et al. 2025, equation 4), so that its rates serve
ROOT_MEAN_SQUARE = 0.2


class Muon(torch.optim.AdamW):
    """Momentum orthogonalised by Newton-Schulz iterations (Jordan et al., Muon, 2024).

    Weights of linear layers and of convolutions without groups are matrices here, a row for each output; a
    step gives all their directions about the same length, where gradient descent follows the few strong ones.
    It is scaled as Liu et al. (Muon is Scalable for LLM Training, arXiv:2502.16982) do, to the length of an
    AdamW step, so that one learning rate and one decay serve all. Biases, norms, depthwise and recurrent
    weights and whatever else there is are trained by AdamW.

    Args:
        modules: what is trained.
        lr: learning rate of both, as for AdamW; 0.01 suits small convolutional networks.
        momentum: of the matrices, with Nesterov's look ahead.
        weight_decay: decoupled, of both.

    Raises:
        ValueError: the modules have no parameters.
    """

    def __init__(
        self, modules: Iterable[nn.Module], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        modules = list(modules)
        trained = {p: None for module in modules for p in module.parameters() if p.requires_grad}
        matrices = {weight: None for module in modules for weight in _matrices(module) if weight in trained}
        others = [p for p in trained if p not in matrices]
        groups: list[dict[str, Any]] = [{"params": list(matrices), "momentum": momentum}, {"params": others}]
        super().__init__([g for g in groups if g["params"]], lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` computes the loss anew, as for every PyTorch optimiser."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            if "momentum" not in group:
                continue
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                held.append((weight, weight.grad))
                self._step_matrix(weight, weight.grad, group)
                weight.grad = None  # AdamW passes over it
        super().step()
        for weight, gradient in held:
            weight.grad = gradient
        return loss

    def _step_matrix(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())  # which AdamW looks for where a state is loaded
            state["momentum"] = torch.zeros_like(weight)
        state["step"] += 1
        buffer = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(buffer, group["momentum"]).flatten(1)
        length = ROOT_MEAN_SQUARE * max(ahead.shape) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonal(ahead).view(weight.shape), alpha=-group["lr"] * length)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are all one; they come out between 0.7 and 1.2.

    Args:
        matrix: ``(rows, columns)``, float32 or float64. Of zeros, zeros come out.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp_min(1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is matrix else x.T


def _matrices(module: nn.Module) -> Iterable[Tensor]:
    for part in module.modules():
        if isinstance(part, nn.Linear) or (isinstance(part, _ConvNd) and part.groups == 1):
            yield part.weight
