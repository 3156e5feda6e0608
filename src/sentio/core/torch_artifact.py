"""The PyTorch side of an artifact: weights in, weights out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sentio.core import registry
from sentio.core.artifact import (
    WEIGHTS,
    ArtifactFiles,
    CostFacts,
    ExitFacts,
    GraphFacts,
    Manifest,
    NamedFacts,
    NetworkFacts,
    write_artifact,
)
from sentio.core.errors import ArtifactError, ConfigError, SentioError, UnknownNameError
from sentio.core.manifest import StreamFacts
from sentio.core.model import Model
from sentio.core.multi_exit import ExitSpec, MultiExit
from sentio.core.policy import check_exits, policy_to_dict
from sentio.core.staged import Staged, copied, create_network
from sentio.core.torch_row import TorchRow

Storage = Literal["float32", "float16"]


def save(
    model: Model,
    path: str | Path,
    *,
    graphs: tuple[dict[str, Any], dict[str, bytes]] | None = None,
    stream: StreamFacts | None = None,
    front_end_graph: GraphFacts | None = None,
    dtype: Storage = "float32",
    weights: bool = True,
) -> Path:
    """Write a model as an artifact.

    Args:
        model: with a PyTorch network.
        path: a folder, or a file whose name ends in ``.zip`` or ``.sentio``.
        graphs: exported stages: their manifest entries and their files (`sentio.export` passes them).
        stream: what the manifest says of steps of streams, whose files are among those of ``graphs``.
        front_end_graph: the front end's entry, where one of those files is its graph.
        dtype: what parameters are stored as; they are float32 again when they are loaded. ``float16`` halves
            them and rounds each to three digits; running statistics and other buffers stay as they are.
        weights: without them the artifact is for the edge runtime alone, which runs the graphs.

    Returns:
        The path.

    Raises:
        ArtifactError: it cannot be written there.
        ConfigError: the model has no PyTorch network, or the network does not know its input shape, or it
            makes weights of others, as a pruned one does; a parameter is too large for float16; no such
            dtype.
    """
    if dtype not in get_args(Storage):
        raise ConfigError(f"Weights are stored as {' or '.join(get_args(Storage))}, got {dtype!r}")
    net: MultiExit = model.network
    if weights:
        check_plain_weights(model)
    entries, files = graphs or ({}, {})
    stored: dict[str, Any] = {"storage": dtype, "version": 2} if weights and dtype == "float16" else {}
    if stream is not None:
        stored |= {"stream": stream, "version": 3}
    if front_end_graph is not None:
        stored |= {"front_end_graph": front_end_graph, "version": 3}
    if any(facts.shapes is not None for facts in entries.values()):
        stored["version"] = 4
    manifest = describe(model).model_copy(update={"graphs": entries, **stored})
    if not weights:
        return write_artifact(path, manifest, files)
    # Copies, because safetensors refuses two names of one tensor.
    state = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in net.state_dict().items()}
    if dtype == "float16":
        state |= _halved(net)
    return write_artifact(path, manifest, {WEIGHTS: save_tensors(state), **files})


def check_plain_weights(model: Model) -> None:
    """Registered networks are built again with plain weights, into which others could not be loaded.

    Raises:
        ConfigError: a layer of such a network makes its weights of others at each call.
    """
    if not (model.network.backbone.spec or {}).get("network"):
        return
    for name, module in model.network.named_modules():
        made = {key for key, value in vars(module).items() if isinstance(value, Tensor)}
        olds = {key.rpartition("_")[0] for key in module._parameters}
        if made & olds or parametrize.is_parametrized(module):
            raise ConfigError(
                f"Layer {name!r} of model {model.name!r} makes its weights of others, as pruning does; make "
                "them its own first, with prune.remove or remove_parametrizations of torch.nn.utils, or save "
                "without weights for PyTorch (weights=False)"
            )


def rounded(model: Model) -> Model:
    """The model as it comes back from an artifact with ``dtype="float16"``; the given one is not changed.

    Raises:
        ConfigError: a parameter is too large for float16.
    """
    net: MultiExit = copied(model.network)
    net.load_state_dict(_halved(net), strict=False)
    twin = copy.copy(model)
    twin.row = TorchRow(net)
    return twin


def _halved(net: MultiExit) -> dict[str, Tensor]:
    """The parameters as float16, by name.

    Raises:
        ConfigError: one is too large.
    """
    found = {}
    for key, tensor in net.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
            half = tensor.detach().cpu().to(torch.float16).contiguous()
            if not torch.isfinite(half).all():
                raise ConfigError(
                    f"Parameter {key!r} reaches {tensor.abs().max():g}, and float16 holds up to 65,504; "
                    "store the model as float32"
                )
            found[key] = half
    return found


def describe(model: Model) -> Manifest:
    """A model's manifest, without its files.

    Raises:
        ConfigError: the network does not know its input shape, the policy is not one of this library's, or
            the policy, a temperature or a cost names no exit of the network.
    """
    from sentio import __version__

    net: MultiExit = model.network
    backbone = net.backbone
    spec = backbone.spec or {}
    frontend, costs = model.frontend, model.costs
    check_exits(model.policy, net.exit_names)
    for name in (*model.temperatures, *(() if costs is None else costs.names)):
        if name not in net.exit_names:
            raise UnknownNameError("exit", name, net.exit_names)
    return Manifest(
        sentio=__version__,
        name=model.name,
        network=NetworkFacts(
            name=spec.get("network"),
            options=spec.get("options", {}),
            stages=list(backbone.stage_names),
            input_shapes={name: list(shape) for name, shape in known_shapes(model).items()},
        ),
        exits=[
            ExitFacts(
                name=s.name,
                kind=s.kind,
                after=s.after,
                reads=list(s.reads),
                outputs=s.outputs,
                options=s.options,
                shapes=[list(shape) for shape in s.shapes],
                on=s.name not in net.switched_off,
            )
            for s in net.specs
        ],
        frontend=None if frontend is None else NamedFacts(name=frontend.name, settings=frontend.settings()),
        task=NamedFacts(name=model.task.name, settings=model.task.settings()),
        policy=policy_to_dict(model.policy),
        temperatures=model.temperatures,
        costs=None
        if costs is None
        else CostFacts(
            names=list(costs.names), macs=list(costs.macs), ms=None if costs.ms is None else list(costs.ms)
        ),
        card=model.card,
    )


def known_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shapes of the network's inputs, without the batch axis.

    Raises:
        ConfigError: neither the front end nor the network says.
    """
    if not model.input_shapes:
        raise ConfigError(
            f"The network of model {model.name!r} does not know its input shape; give Staged input_shapes="
        )
    return model.input_shapes


def open_row(files: ArtifactFiles, *, network: Any = None) -> TorchRow:
    """The network of an artifact, with its weights.

    Args:
        files: of the artifact.
        network: a `MultiExit` or `Staged` to load the weights into, for one that is not in the registry.

    Raises:
        ArtifactError: no weights, or weights that do not fit.
    """
    if not files.has(WEIGHTS):
        raise ArtifactError(
            f"Artifact {files.path} holds no weights for PyTorch; load it with runtime='edge' "
            "(--runtime edge), and train or export the model that it was made of"
        )
    net = _rebuild(files) if network is None else network
    if isinstance(net, Staged):
        net = MultiExit(net)
    if not net.backbone.input_shapes:
        net.backbone.input_shapes = _input_shapes(files.manifest)
    try:
        net.load_state_dict(load_tensors(files.read(WEIGHTS)), strict=True)
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError) as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ArtifactError(f"Artifact {files.path}: its weights do not fit its network: {reason}") from error
    return TorchRow(net)


def _rebuild(files: ArtifactFiles) -> MultiExit:
    manifest = files.manifest
    facts = manifest.network
    if facts.name is None:
        edge = ", or load it with runtime='edge'" if manifest.graphs else ""
        raise ArtifactError(
            f"Artifact {files.path} holds a network that is not in the registry; "
            f"pass network= of the same structure{edge}"
        )
    try:
        backbone = create_network(facts.name, **facts.options)
        backbone.input_shapes = _input_shapes(manifest)
        if list(backbone.stage_names) != facts.stages:
            raise ConfigError(
                f"it has stages {', '.join(facts.stages)}, and network {facts.name!r} here has "
                f"{', '.join(backbone.stage_names)}"
            )
        specs = [
            ExitSpec(
                e.name, e.kind, e.after, tuple(e.reads), e.outputs, e.options, tuple(map(tuple, e.shapes))
            )
            for e in manifest.exits
        ]
        branches = {s.name: registry.build("exit", s.kind, s.shapes, s.outputs, **s.options) for s in specs}
        net = MultiExit(backbone, branches, specs)
    except (
        SentioError,
        RuntimeError,
        MemoryError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        raise ArtifactError(f"Artifact {files.path} does not fit this version of Sentio: {error}") from error
    off = [e.name for e in manifest.exits if not e.on]
    if off:
        net.switch(*off, on=False)
    return net


def _input_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in manifest.network.input_shapes.items()}
