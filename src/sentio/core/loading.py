"""From an artifact to a `Model`, in PyTorch where it is installed, else as exported stages."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sentio.core import registry
from sentio.core.artifact import WEIGHTS, ArtifactFiles, Manifest
from sentio.core.errors import ArtifactError, ConfigError, MissingExtraError, SentioError
from sentio.core.model import Model, RuntimeRow
from sentio.core.policy import ExitCosts, check_exits, policy_from_dict
from sentio.core.shelf import find_artifact

#: runtime -> module whose ``open_row(files, **options)`` gives its row
RUNTIMES = {"torch": "sentio.core.torch_artifact", "edge": "sentio.edge.onnx_row"}


def load(
    artifact: str | Path,
    *,
    runtime: Literal["torch", "edge"] | None = None,
    threads: int | None = None,
    network: Any = None,
) -> Model:
    """Open a model.

    Args:
        artifact: a folder, or a file made by `save` or `export`; or the name of a shipped model, as
            ``sentio models`` lists it, where nothing else has that path.
        runtime: ``torch`` or ``edge`` (exported stages in ONNX Runtime); by default PyTorch where it is
            installed and the artifact holds weights for it.
        threads: of the edge runtime; by default as many as the machine has cores.
        network: for weights of a network that is not in the registry: one of the same structure, cut at
            the same stages and with the same exits.

    Raises:
        ArtifactError: no artifact there and no shipped model of that name, or one that is damaged, foreign,
            newer, or without what the runtime needs.
        MissingExtraError: PyTorch is asked for and not installed.
        ConfigError: no such runtime, or a number of threads below one.
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
    options = {"threads": threads} if chosen == "edge" else {"network": network}
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
    except (SentioError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ArtifactError(f"Artifact {where} does not fit this version of Sentio: {error}") from error
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
