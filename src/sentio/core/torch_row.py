"""A PyTorch network as a row: what the anytime loop and a `Model` run where PyTorch is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sentio.core.anytime import FINAL, MAIN, Boundary, ExitPoint
from sentio.core.multi_exit import MultiExit
from sentio.core.staged import Shape, Staged


class TorchRow:
    """Runs a network in eval mode and without gradients; takes numpy arrays or tensors.

    Floats become what the network's weights are, so that one in half or double precision answers too.
    Safe to use from several threads: nothing is kept between calls.

    Args:
        net: is put in eval mode.
    """

    runtime = "torch"

    def __init__(self, net: MultiExit | Staged) -> None:
        self.net = (net if isinstance(net, MultiExit) else MultiExit(net)).eval()

    @property
    def stage_names(self) -> tuple[str, ...]:
        return self.net.stage_names

    @property
    def exit_names(self) -> tuple[str, ...]:
        return self.net.exit_names

    @property
    def exit_points(self) -> tuple[ExitPoint, ...]:
        return self.net.exit_points

    @property
    def input_shapes(self) -> dict[str, Shape]:
        return self.net.backbone.input_shapes

    def start(self, inputs: Any) -> Boundary:
        if self.net.training:  # it was trained on since
            self.net.eval()
        first = _first_parameter(self.net)
        device = torch.device("cpu") if first is None else first.device
        # A network whose first weights are whole numbers, as quantised ones are, still takes floats.
        dtype = first.dtype if first is not None and first.is_floating_point() else torch.float32
        if isinstance(inputs, Mapping):
            return {name: _tensor(value, device, dtype) for name, value in inputs.items()}
        return {MAIN: _tensor(inputs, device, dtype)}

    def run_stage(self, name: str, boundary: Boundary) -> Boundary:
        with torch.inference_mode():
            return self.net.run_stage(name, boundary)

    def run_stages(self, names: Sequence[str], boundary: Boundary) -> Boundary:
        with torch.inference_mode():
            return self.net.run_stages(names, boundary)

    def run_exit(self, name: str, tensors: list[Any]) -> Any:
        if name == FINAL:
            return tensors[0]
        with torch.inference_mode():
            return self.net.run_exit(name, tensors)

    def take(self, array: Any, rows: NDArray[np.intp]) -> Any:
        with torch.inference_mode():
            return self.net.take(array, rows)

    def to_numpy(self, array: Any) -> NDArray[Any]:
        return self.net.to_numpy(array)


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    # Asked at every call, for the network may have moved; net.parameters() takes several times as long.
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        found = None if child is None else _first_parameter(child)
        if found is not None:
            return found
    return None


def _tensor(value: Any, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A tensor beside the weights, and where it holds floats, of their type."""
    if not isinstance(value, torch.Tensor):
        # PyTorch takes no array that is read-only or runs backwards.
        value = torch.from_numpy(np.require(value, requirements=["C", "W"]))
    found: torch.Tensor = value.to(device, dtype) if value.is_floating_point() else value.to(device)
    return found
