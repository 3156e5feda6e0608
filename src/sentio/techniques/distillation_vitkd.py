"""ViTKD: a student's features imitate a teacher's first blocks and regenerate its last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from sentio.core.anytime import MAIN, Read
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import MultiExit
from sentio.core.staged import evaluating
from sentio.techniques.distillation_objective import Comparison
from sentio.techniques.distillation_teacher import Ensemble
from sentio.techniques.objective import LabelLoss, Setting

#: rows and columns of the patches, or of a feature map
Grid = tuple[int, int]


class Generator(nn.Module):
    """What is masked, from what is around it: 3x3 convolution, ReLU, 3x3 convolution; keeps the size."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, tokens: Tensor, masked: Tensor, grid: Grid) -> Tensor:
        """All tokens anew.

        Args:
            tokens: ``(batch, token, dim)`` in raster order of the grid.
            masked: bool ``(batch, token)``, those that it does not see.
            grid: rows and columns.

        Returns:
            As ``tokens``.
        """
        seen = torch.where(masked.unsqueeze(2), self.mask_token.to(tokens.dtype), tokens)
        image = seen.transpose(1, 2).unflatten(2, grid)
        return self.second(self.first(image).relu()).flatten(2).transpose(1, 2)


def draw_mask(batch: int, tokens: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Exactly ``ceil(share * tokens)`` random tokens of each sample, bool ``(batch, tokens)`` on the CPU."""
    order = torch.rand(batch, tokens, generator=generator).argsort(1)
    # A share such as 0.28 of 25 would be counted as 8 for the rounding of its product.
    return order.argsort(1) < ceil(round(share * tokens, 9))


class FeatureLosses(nn.Module):
    """The two losses of ViTKD and what they need: an alignment for each pair of features, and a generator.

    ``mimicking`` is the sum of squared differences between the teacher's first features and the aligned
    student's, ``generation`` the same of the masked tokens of the last features, through the generator,
    divided by the share that is masked; both are divided by the batch size only. Z. Yang et al., *ViTKD:
    Practical Guidelines for ViT Feature Knowledge Distillation*, 2022.

    Args:
        mimic: (student, teacher) widths of the features that are mimicked.
        generate: (student, teacher) widths of those that are generated; None for no generation.
        mask: share of tokens that are masked, from 0 to 1.
        normalise: layer norm, without weights, on the teacher's features first.
    """

    def __init__(
        self,
        mimic: Sequence[tuple[int, int]],
        generate: tuple[int, int] | None,
        *,
        mask: float = 0.5,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.mask, self.normalise = mask, normalise
        self.align = nn.ModuleList(nn.Linear(ours, theirs) for ours, theirs in mimic)
        self.align_last = None if generate is None else nn.Linear(*generate)
        self.generator = None if generate is None else Generator(generate[1])

    def mimicking(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Over pairs of features ``(batch, token, dim)``."""
        pairs = zip(self.align, student, teacher, strict=True)
        each = [(self._target(theirs) - align(ours)).square().sum() for align, ours, theirs in pairs]
        return torch.stack(each).sum() / len(student[0])

    def generation(self, student: Tensor, teacher: Tensor, masked: Tensor, grid: Grid) -> Tensor:
        """Over one pair of features ``(batch, token, dim)``, on masked tokens only."""
        assert self.align_last is not None and self.generator is not None
        found = self.generator(self.align_last(student), masked, grid)
        error = (self._target(teacher) - found).square().sum(2)
        return (error * masked).sum() / len(student) / (self.mask or 1.0)

    def _target(self, teacher: Tensor) -> Tensor:
        return layer_norm(teacher, teacher.shape[-1:]) if self.normalise else teacher


class Place(NamedTuple):
    """A boundary's features on a grid.

    Args:
        read: the boundary and its tensor.
        grid: rows and columns.
        width: of a token.
        special: tokens in front that are no patches; 0 at a map.
    """

    read: Read
    grid: Grid
    width: int
    special: int = 0

    def tokens(self, features: Tensor) -> Tensor:
        """Those on the grid, ``(batch, token, width)`` in raster order, float32 or wider."""
        found = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features[:, self.special :]
        return found if found.dtype == torch.float64 else found.float()


class FeatureTerm(nn.Module):
    """ViTKD between boundaries of a student and of a teacher: tokens of the same grid, or maps of it.

    A boundary ``(batch, token, dim)`` holds special tokens, which are left out, then the patches in raster
    order; a boundary ``(batch, channel, row, column)`` a token at each place.

    Args:
        alpha, beta: weights of mimicking and generation; what has weight 0 is not computed.
        mask, normalise: see `FeatureLosses`.
        mimic, generate: the student's stages; by default the first two behind the first stage, and the one
            before the last stage.
        teacher_mimic, teacher_generate: the teacher's, likewise.

    Raises:
        ConfigError: a number out of range, nothing to compare, or lists of different lengths.
    """

    def __init__(
        self,
        *,
        alpha: float = 3e-5,
        beta: float = 3e-6,
        mask: float = 0.5,
        normalise: bool = True,
        mimic: Sequence[str] | None = None,
        generate: str | None = None,
        teacher_mimic: Sequence[str] | None = None,
        teacher_generate: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, most in (("alpha", alpha, None), ("beta", beta, None), ("mask", mask, 1)):
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            if not numeric or not 0 <= value < float("inf") or (most is not None and value > most):
                upto = "up" if most is None else f"to {most}"
                raise ConfigError(f"Option {name!r} of features takes a number from 0 {upto}, got {value!r}")
        if not alpha and not beta:
            raise ConfigError("With alpha and beta 0 no features are compared; take features out")
        self.alpha, self.beta, self.mask, self.normalise = alpha, beta, mask, normalise
        self.student = (mimic, generate)
        self.teacher = (teacher_mimic, teacher_generate)
        self.pairs: list[tuple[Place, Place]] = []
        self.losses: FeatureLosses | None = None

    def exits(self, losses: Mapping[str, float]) -> set[str]:
        return set()

    def asks(self, losses: Mapping[str, float]) -> bool:
        return False

    def taps(self, losses: Mapping[str, float]) -> set[Read]:
        return {ours.read for ours, _ in self.pairs}

    def teacher_taps(self, losses: Mapping[str, float]) -> set[Read]:
        return {theirs.read for _, theirs in self.pairs}

    def check(self, net: MultiExit, teachers: Ensemble | None, setting: Setting) -> None:
        if self.losses is not None:
            return
        if teachers is None or len(teachers.members) != 1:
            raise ConfigError(
                "Features are compared with those of one teacher; name one, or take features out"
            )
        teacher = teachers.members[0]
        names = self._stages(net, self.student), self._stages(teacher.net, self.teacher)
        if len(names[0]) != len(names[1]):
            raise ConfigError(
                f"{len(names[0])} stages of the student cannot be compared with {len(names[1])} of teacher "
                f"{teacher.name!r}; name as many in mimic as in teacher_mimic"
            )
        x = net.backbone.example(2)
        reads = [[(name, MAIN) for name in each] for each in names]
        with evaluating(net), torch.no_grad():
            ours = _places(net, "the student", x, net.tapped(x, (), reads[0])[1])
        theirs = _places(teacher.net, f"teacher {teacher.name!r}", x, teacher.run(x, reads[1])[1])
        pairs = [(ours[our], theirs[their]) for our, their in zip(*reads, strict=True)]
        for our, their in pairs:
            if our.grid != their.grid:
                raise ConfigError(
                    f"Features behind stage {our.read[0]!r} of the student lie on a grid of {our.grid} and "
                    f"those behind {their.read[0]!r} of teacher {teacher.name!r} on one of {their.grid}; "
                    "name stages of equal grids in mimic, generate, teacher_mimic and teacher_generate"
                )
        self.pairs = pairs
        widths = [(our.width, their.width) for our, their in pairs]
        first, last = (widths[:-1], widths[-1]) if self.beta else (widths, None)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(setting.seed)
            self.losses = FeatureLosses(first, last, mask=self.mask, normalise=self.normalise)

    def parts(self, seen: Comparison, label_loss: LabelLoss) -> dict[str, Tensor]:
        assert self.losses is not None, "check first"
        features = [
            (ours.tokens(seen.taps[ours.read]), theirs.tokens(seen.teacher_taps[theirs.read]))
            for ours, theirs in self.pairs
        ]
        for (ours, theirs), (place, _) in zip(features, self.pairs, strict=True):
            if ours.shape[1] != theirs.shape[1]:
                raise ConfigError(
                    f"The student has {ours.shape[1]} patches behind stage {place.read[0]!r} and the teacher "
                    f"{theirs.shape[1]}: one leaves patches out; give patchout to the technique and none to "
                    "the networks"
                )
        found = {}
        if self.alpha:
            mimicked = features[:-1] if self.beta else features
            found["mimicking"] = self.alpha * self.losses.mimicking(*zip(*mimicked, strict=True))
        if self.beta:
            ours, theirs = features[-1]
            masked = draw_mask(*ours.shape[:2], self.mask, seen.batch.generator).to(ours.device)
            grid = self.pairs[-1][0].grid if seen.grid is None else seen.grid
            found["generation"] = self.beta * self.losses.generation(ours, theirs, masked, grid)
        return found

    def _stages(self, net: MultiExit, given: tuple[Sequence[str] | None, str | None]) -> list[str]:
        """Those whose features are mimicked, then the one whose features are generated."""
        between = net.stage_names[1:-1] or net.stage_names[:1]
        mimic = list(between[:2]) if given[0] is None else given[0]
        generate = between[-1] if given[1] is None else given[1]
        if not isinstance(mimic, list | tuple) or not mimic or not isinstance(generate, str):
            raise ConfigError(
                f"mimic lists one stage or more and generate names one, got {mimic!r} and {generate!r}"
            )
        names = [*(mimic if self.alpha else ()), *([generate] if self.beta else ())]
        for name in names:
            if name not in net.stage_names:
                raise UnknownNameError("stage", str(name), net.stage_names)
        return names


def _places(net: MultiExit, who: str, x: Any, features: Mapping[Read, Tensor]) -> dict[Read, Place]:
    """Where features lie, from those of an example."""
    stage: Any = net.backbone.stage(net.stage_names[0])
    found = {}
    for read, tensor in features.items():
        shape = tuple(tensor.shape)
        if len(shape) == 4:
            found[read] = Place(read, (shape[2], shape[3]), shape[1])
            continue
        grid = stage.grid_of(x[MAIN] if isinstance(x, Mapping) else x) if hasattr(stage, "grid_of") else None
        if len(shape) != 3 or grid is None or shape[1] < prod(grid):
            raise ConfigError(
                f"Features behind stage {read[0]!r} of {who} have shape {shape[1:]}, which is neither a map "
                "(channel, row, column) nor tokens of a known grid of patches; name other stages"
            )
        found[read] = Place(read, grid, shape[2], shape[1] - prod(grid))
    return found
