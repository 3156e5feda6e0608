"""Patchout that student and teacher share: both see the same patches of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.nn.patchout import check_patchout, draw_patchout

#: the input that says which patches stay
KEEP = "keep"


class SharedPatchout:
    """Leaves out random time and frequency positions of the patches, the same for every network.

    A network whose patches can be chosen has a first stage with ``grid_of(image)`` that takes
    ``{"main": image, "keep": indices}`` (`sentio.nn.patch_tokens.PatchTokens`). Otherwise features could not
    be compared token by token, and logits would be about different inputs. K. Koutini et al., *Efficient
    Training of Audio Transformers with Patchout*, Interspeech 2022.

    Args:
        dropped: (time, frequency) positions.

    Raises:
        ConfigError: it is not two whole numbers from 0 up.
    """

    def __init__(self, dropped: Sequence[int]) -> None:
        pair = tuple(dropped) if isinstance(dropped, list | tuple) else ()
        if len(pair) != 2 or any(
            not isinstance(side, int) or isinstance(side, bool) or side < 0 for side in pair
        ):
            raise ConfigError(
                f"patchout takes two whole numbers (time, frequency) from 0 up, got {dropped!r}"
            )
        self.dropped: tuple[int, int] = (pair[0], pair[1])

    def check(self, student: MultiExit, teacher: MultiExit, name: str) -> None:
        """See that both have the same patches, and enough of them.

        Raises:
            ConfigError: they have not.
        """
        image = _image(student.backbone.example(1))
        found = []
        for who, net in (("The student", student), (f"Teacher {name!r}", teacher)):
            stage: Any = net.backbone.stage(net.stage_names[0])
            if not hasattr(stage, "grid_of"):
                raise ConfigError(
                    f"{who} has no patches to leave out; take patchout out, or let a transformer learn from "
                    "a transformer"
                )
            layer = stage.conv
            found.append((stage.grid_of(image), tuple(layer.kernel_size), tuple(layer.stride)))
        if found[0] != found[1]:
            facts = [
                f"a grid of {grid[0]}x{grid[1]} patches of {size[0]}x{size[1]} every {stride[0]}x{stride[1]}"
                for grid, size, stride in found
            ]
            raise ConfigError(
                f"The student has {facts[0]} (time x frequency) and teacher {name!r} {facts[1]}; build them "
                "with the same patches, or take patchout out"
            )
        check_patchout(found[0][0], self.dropped, 0)

    def draw(
        self, student: MultiExit, inputs: Any, generator: torch.Generator
    ) -> tuple[Any, tuple[int, int]]:
        """The inputs with the patches to keep, and the grid of those."""
        image = _image(inputs)
        stage: Any = student.backbone.stage(student.stage_names[0])
        time, frequency = stage.grid_of(image)
        keep = draw_patchout(
            (time, frequency),
            time=self.dropped[0],
            frequency=self.dropped[1],
            batch=len(image),
            generator=generator,
        )
        return {MAIN: image, KEEP: keep.to(image.device)}, (
            time - self.dropped[0],
            frequency - self.dropped[1],
        )


def _image(inputs: Any) -> Tensor:
    found: Tensor = inputs[MAIN] if isinstance(inputs, Mapping) else inputs
    return found
