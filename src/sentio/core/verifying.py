"""Whether stages answer as the module they were cut from, and whether samples may leave between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sentio.core.anytime import MAIN, Boundary
from sentio.core.calling import Call, first_tensor
from sentio.core.errors import StageError
from sentio.core.pieces import Layout
from sentio.core.staged import Staged, as_boundary, as_value

_HALF = (torch.float16, torch.bfloat16)


def verify(
    net: Staged,
    module: nn.Module,
    call: Call,
    inputs: Boundary,
    mains: Mapping[str, tuple[str, Layout]],
) -> None:
    """Compare stages with their module, both in eval mode, on fresh inputs in batches of 3, 1 and 2.

    Args:
        net: the stages.
        module: what they were cut from.
        call: how it is called.
        inputs: of the example, by name.
        mains: stage -> the submodule whose output its boundary's ``main`` is, and how it crosses.

    Raises:
        StageError: an answer differs, or a sample's answer depends on the others in its batch.
    """
    label = type(module).__name__
    for batch in (3, 1, 2):
        given = fresh(inputs, batch, seed=batch)
        expected, answer = _run_hooked(module, call, given, mains)
        try:
            found = dict(net.boundaries(as_value(given)))
        except (RuntimeError, IndexError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StageError(f"{label}, cut in stages, fails on a batch of {batch}: {reason}") from error
        expected[net.stage_names[-1]] = answer
        for name, boundary in expected.items():
            if not same_answers({key: found[name][key] for key in boundary}, boundary):
                raise StageError(
                    f"{label} cannot be cut: on a fresh batch of {batch} its stages give something else than "
                    f"it does itself behind {name!r}, so what it computes depends on more than its input"
                )
        if batch == 3:
            _check_dropping(net, label, given)


def _run_hooked(
    module: nn.Module, call: Call, given: Boundary, mains: Mapping[str, tuple[str, Layout]]
) -> tuple[dict[str, Boundary], Boundary]:
    seen: dict[str, Boundary] = {}

    def keep(name: str, layout: Layout) -> Any:
        def hook(submodule: nn.Module, arguments: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                seen[name] = {MAIN: layout.pack(tensor).clone()}

        return hook

    hooks = [
        module.get_submodule(submodule).register_forward_hook(keep(name, layout))
        for name, (submodule, layout) in mains.items()
    ]
    try:
        return seen, call.run(module, given)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        size = len(next(iter(given.values())))
        reason = str(error).strip().splitlines()[0]
        raise StageError(f"{type(module).__name__} itself fails on a batch of {size}: {reason}") from error
    finally:
        for handle in hooks:
            handle.remove()


def _check_dropping(net: Staged, label: str, given: Boundary) -> None:
    boundary = given
    for name in net.stage_names:
        rows = [0, 2]
        fewer = as_boundary(net.stage(name)(as_value({key: t[rows] for key, t in boundary.items()})))
        boundary = as_boundary(net.stage(name)(as_value(boundary)))
        if not same_answers(fewer, {key: tensor[rows] for key, tensor in boundary.items()}):
            raise StageError(
                f"{label} cannot be cut: in stage {name!r} the answer for a sample depends on the other "
                "samples of its batch, so none can leave"
            )


def same_answers(found: Boundary, expected: Boundary) -> bool:
    """Equal up to rounding: relative 1e-3 with absolute 1e-4 of the largest value; 2e-2 in half precision."""
    return found.keys() == expected.keys() and all(_close(found[key], expected[key]) for key in expected)


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return bool(torch.equal(found, expected))
    relative, absolute = (2e-2, 2e-2) if expected.dtype in _HALF else (1e-3, 1e-4)
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(found, expected, rtol=relative, atol=absolute * scale, equal_nan=True)


def fresh(example: Boundary, batch: int, seed: int) -> Boundary:
    """Random inputs like an example's.

    Args:
        example: tensors by name, batch first.
        batch: how many samples.
        seed: of the generator.

    Returns:
        numbers from a normal distribution with the example's mean and deviation, within its range (standard
        normal where the example is constant); integers and booleans are the example's own, shuffled within
        each sample.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _fresh(tensor, batch, generator) for name, tensor in example.items()}


def _fresh(x: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    if not x.is_floating_point():
        rows = [x[i % len(x)].flatten() for i in range(batch)]
        shuffled = [row[torch.randperm(len(row), generator=generator).to(x.device)] for row in rows]
        return torch.stack(shuffled).reshape(batch, *x.shape[1:])
    noise = torch.randn(batch, *x.shape[1:], generator=generator).to(x.device)
    values = x.float()
    low, high = values.min(), values.max()
    if low < high:
        noise = (values.mean() + values.std() * noise).clamp(low, high)
    return noise.to(x.dtype)
