"""From a recipe and the facts of the data to a network with exits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sentio.core import registry
from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit, add_exits
from sentio.core.staged import Shape, as_value, create_network, evaluating, reset_classifier
from sentio.core.task import TargetMaker, Task
from sentio.training.sections import ExitSection, NamedSection

#: options of networks that the features decide, and the axis that says how, the batch not counted
SIZES = {"in_channels": 0, "edges": 2, "joints": 2, "persons": 3}
#: options of networks that are the (height, width) of an input, by the input's name
AREAS = {"size": MAIN, "audio_size": "audio"}


def build_network(section: NamedSection, outputs: int, shapes: Mapping[str, Shape]) -> MultiExit:
    """The network that a recipe names, without exits.

    Args:
        section: name and options.
        outputs: width of its output.
        shapes: of its inputs, as the front end gives them; its own where empty.
    """
    known = registry.find("network", section.name).options()
    given: dict[str, Any] = {"classes": outputs}
    if shapes:
        sizes = next(iter(shapes.values()))
        given |= {name: sizes[axis] for name, axis in SIZES.items() if name in known and axis < len(sizes)}
        given |= {
            option: tuple(shapes[name][1:])
            for option, name in AREAS.items()
            if option in known and isinstance(known[option].default, tuple) and len(shapes.get(name, ())) == 3
        }
    backbone = create_network(section.name, **{**given, **section.options})
    if shapes:
        backbone.input_shapes = dict(shapes)
    return MultiExit(backbone)


def attach(net: MultiExit, section: ExitSection, outputs: int, shapes: Mapping[str, Shape]) -> MultiExit:
    """The network with one kind of exit more."""
    return add_exits(
        net,
        section.kind,
        at=section.at,
        names=section.names,
        reads=section.tensors(),
        classes=outputs,
        example=random_features(shapes) if shapes else None,
        **section.options,
    )


def with_new_labels(net: MultiExit, outputs: int) -> MultiExit:
    """The same network for another number of classes: a new last stage and new exits, all else kept."""
    fresh = MultiExit(reset_classifier(net.backbone, outputs))
    for spec in net.specs:
        fresh = add_exits(
            fresh,
            spec.kind,
            at=[spec.after],
            names=[spec.name],
            reads=[spec.reads],
            classes=outputs,
            **spec.options,
        )
    return fresh


def check_fit(net: MultiExit, task: Task, shapes: Mapping[str, Shape]) -> None:
    """See that a network takes the features and answers as the task needs it.

    Raises:
        ConfigError: it does not; says what it takes or gives.
    """
    try:
        with evaluating(net), torch.no_grad():
            found = net(random_features(shapes))
    # A network of the user's own may raise anything on features it was not made for.
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(
            f"The network does not take the front end's features {listed_shapes(shapes)}: {reason}; "
            "give frontend options that fit it"
        ) from error
    for name, output in found.items():
        width = tuple(output.shape[1:])
        if isinstance(task, TargetMaker):
            problem = task.fits(width, shapes)
            if problem is not None:
                raise ConfigError(f"Exit {name!r} of the network gives {width} for each sample: {problem}")
        elif width != (task.outputs,):
            raise ConfigError(
                f"Exit {name!r} of the network gives {width} for each sample and the data has "
                f"{task.outputs} classes; build the network with classes={task.outputs}"
            )


def random_features(shapes: Mapping[str, Shape], batch: int = 2) -> Any:
    """Samples of features of these shapes, standard normal."""
    # On the CPU also where a network is built on the meta device to see whether it can be.
    generator = torch.Generator("cpu").manual_seed(0)
    return as_value(
        {
            name: torch.randn(batch, *shape, generator=generator, device="cpu")
            for name, shape in shapes.items()
        }
    )


def listed_shapes(shapes: Mapping[str, Shape]) -> str:
    """Shapes of features as messages give them."""
    return ", ".join(f"(batch, {', '.join(map(str, shape))})" for shape in shapes.values())
