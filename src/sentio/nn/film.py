"""Maps scaled and shifted by a vector from another sense."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureModulation(nn.Module):
    """``γ ⊙ x + β`` with one γ and β for each channel, ``[γ, β] = Linear(condition)``.

    Takes a map ``(batch, channels, H, W)`` and a vector ``(batch, condition)``; gives the map's shape. It
    starts around the identity: γ near 1, β near 0. E. Perez et al., *FiLM: Visual Reasoning with a General
    Conditioning Layer*, AAAI 2018.

    Args:
        condition: width of the vector.
        channels: of the map.
    """

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, 2 * channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights near 0 and biases that make γ 1 and β 0."""
        nn.init.normal_(self.linear.weight, std=0.01)
        gamma, beta = self.linear.bias.detach().chunk(2)
        nn.init.ones_(gamma)
        nn.init.zeros_(beta)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gamma, beta = self.linear(condition)[..., None, None].chunk(2, dim=1)
        return gamma * x + beta
