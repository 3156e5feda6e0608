"""From an artifact to a `Model`, in PyTorch where it is installed, else as exported stages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Literal

from sentio.core import registry
from sentio.core.artifact import WEIGHTS, ArtifactFiles, Manifest
from sentio.core.errors import ArtifactError, ConfigError, MissingExtraError, SentioError
from sentio.core.model import Model, RuntimeRow
from sentio.core.policy import ExitCosts, check_exits, policy_from_dict
from sentio.core.shelf import find_artifact

#: values that one sample's input may have: half a GiB
MAX_INPUT = 1 << 27
#: runtime -> module whose ``open_row(files, **options)`` gives its row
RUNTIMES = {"torch": "sentio.core.torch_artifact", "edge": "sentio.edge.onnx_row"}


def load(
    artifact: str | Path,
    *,
    runtime: Literal["torch", "edge"] | None = None,
    threads: int | None = None,
    provider: str | Sequence[str] | None = None,
    memory_map: bool = False,
    lean: bool = False,
    network: Any = None,
) -> Model:
    """Open a model.

    Args:
        artifact: a folder, or a file made by `save` or `export`; or the name of a shipped model, as
            ``sentio models`` lists it, where nothing else has that path.
        runtime: ``torch`` or ``edge`` (exported stages in ONNX Runtime); by default PyTorch where it is
            installed and the artifact holds weights for it.
        threads: of the edge runtime; by default as many as the machine has cores.
        provider: of the edge runtime: ONNX Runtime's execution provider, such as ``cuda``, or several in
            order of preference; the CPU by default, and for what the others cannot do.
        memory_map: of the edge runtime: check files where they lie and let ONNX Runtime read them from
            there, so that the largest graph is not held in memory twice while it is opened.
        lean: of the edge runtime: leave weights as they are stored. ONNX Runtime else lays out those of
            convolutions once more for the processor, which is quicker and takes their memory again.
        network: for weights of a network that is not in the registry: one of the same structure, cut at
            the same stages and with the same exits.

    Raises:
        ArtifactError: no artifact there and no shipped model of that name, or one that is damaged, foreign,
            newer, or without what the runtime needs.
        MissingExtraError: PyTorch is asked for and not installed.
        ConfigError: no such runtime or provider, a number of threads below one, or options of the edge
            runtime for PyTorch.
    """
    files = ArtifactFiles(find_artifact(artifact))
    manifest = files.manifest
    chosen = runtime or _default_runtime(files, network)
    if chosen not in RUNTIMES:
        raise ConfigError(f"There is no runtime {chosen!r}; choose one of: {', '.join(RUNTIMES)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"The edge runtime needs at least one thread, got {threads}")
    if chosen == "torch" and not _has_torch():
        raise MissingExtraError("PyTorch", "torch")
    if chosen == "torch" and (provider is not None or memory_map or lean):
        raise ConfigError(
            "A provider, memory_map and lean are of the edge runtime; ask for it with runtime='edge' "
            "(--runtime edge)"
        )
    options: dict[str, Any] = {"network": network}
    if chosen == "edge":
        options = {"threads": threads, "provider": provider, "memory_map": memory_map, "lean": lean}
    row: RuntimeRow = import_module(RUNTIMES[chosen]).open_row(files, **options)
    return _model(row, manifest, str(files.path))


def _default_runtime(files: ArtifactFiles, network: Any) -> str:
    graphs = bool(files.manifest.graphs)
    rebuildable = files.manifest.network.name is not None or network is not None
    if _has_torch():
        return "torch" if files.has(WEIGHTS) and (rebuildable or not graphs) else "edge"
    if not graphs:
        raise MissingExtraError(
            f"Artifact {files.path} holds no exported stages (sentio export writes them), and PyTorch",
            "torch",
        )
    return "edge"


def _has_torch() -> bool:
    return find_spec("torch") is not None and find_spec("safetensors") is not None


def _model(row: RuntimeRow, manifest: Manifest, where: str) -> Model:
    try:
        task = registry.build("task", manifest.task.name, **manifest.task.settings)
        frontend = None
        if manifest.frontend is not None:
            frontend = registry.build("frontend", manifest.frontend.name, **manifest.frontend.settings)
        policy = policy_from_dict(manifest.policy)
        check_exits(policy, manifest.exit_names())
    except MissingExtraError:
        raise
    except (
        SentioError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ArtifactError(f"Artifact {where} does not fit this version of Sentio: {reason}") from error
    _check_shapes(row, task, frontend, where)
    costs = manifest.costs
    return Model(
        row,
        task,
        frontend=frontend,
        policy=policy,
        temperatures=manifest.temperatures,
        costs=None
        if costs is None
        else ExitCosts(tuple(costs.names), tuple(costs.macs), None if costs.ms is None else tuple(costs.ms)),
        card=manifest.card,
        name=manifest.name,
    )


def _check_shapes(row: RuntimeRow, task: Any, frontend: Any, where: str) -> None:
    """Front end, network and task take what the one before gives, as far as that is known.

    Raises:
        ArtifactError: they do not.
    """
    if frontend is not None:
        given, taken = dict(frontend.input_shapes), dict(row.input_shapes)
        if taken and {k: tuple(v) for k, v in given.items()} != {k: tuple(v) for k, v in taken.items()}:
            raise ArtifactError(
                f"Artifact {where} is damaged: its front end gives {given}, and its network takes {taken}; "
                "copy or export it again"
            )
    for name, shape in row.input_shapes.items():
        if prod(shape) > MAX_INPUT:
            raise ArtifactError(
                f"Artifact {where} is refused: its input {name!r} has {prod(shape):,} values, more than "
                f"{MAX_INPUT:,}"
            )
    check = getattr(row, "check_outputs", None)
    if check is not None:
        check(task.outputs)
