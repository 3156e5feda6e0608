"""The models that ship inside the package, found by their bare names."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from sentio.core.artifact import MANIFEST, ArtifactFiles
from sentio.core.errors import ArtifactError, ConfigError

#: holds ``NAME.sentio`` for each name; the package is installed as files, not run from a zip
FOLDER = Path(str(files("sentio.shelf")))
SUFFIX = ".sentio"
#: what a shipped model's card says about it under ``shelf``, beside the measured figures
TEXTS = ("purpose", "data", "tested_on", "licence", "credits", "command")


def shipped() -> dict[str, Path]:
    """Each shipped model's name and file, by name."""
    return {file.stem: file for file in sorted(FOLDER.glob(f"*{SUFFIX}"))}


def facts(file: str | Path) -> dict[str, Any]:
    """What the card of an artifact says about it; None for each thing it does not say.

    Returns:
        ``name``, ``bytes``, ``accuracy`` and ``recordings`` of the test, ``mean_macs`` under the model's
        policy, ``macs`` of the whole network, ``int8`` where it was quantised (accuracy before and after, and
        of how many recordings), and texts: ``purpose``, ``data``, ``tested_on``, ``licence``,
        ``credits`` and the ``command`` that makes the artifact again.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = Path(file)
    manifest = ArtifactFiles(path).manifest
    test, texts = manifest.card.get("test") or {}, manifest.card.get("shelf") or {}
    return {
        "name": path.stem,
        "bytes": path.stat().st_size,
        "accuracy": test.get("accuracy"),
        "recordings": test.get("recordings"),
        "mean_macs": test.get("mean_macs"),
        "macs": None if manifest.costs is None else manifest.costs.macs[-1],
        "int8": _int8(manifest.card.get("int8")),
        **{key: texts.get(key) for key in TEXTS},
    }


def _int8(found: Any) -> dict[str, Any] | None:
    if not isinstance(found, dict):
        return None
    before, after = found.get("before") or {}, found.get("after") or {}
    return {
        "before": before.get("accuracy"),
        "after": after.get("accuracy"),
        "recordings": (found.get("measured") or {}).get("recordings"),
    }


def find_artifact(artifact: str | Path) -> Path:
    """The path of an artifact that is given as a path or as the bare name of a shipped model.

    What exists at that path wins over a shipped model of the same name.

    Args:
        artifact: a path, or a name without any folder in front.

    Raises:
        ArtifactError: a bare name that is neither there nor shipped, or a folder of a shipped model's name
            that is not an artifact.
        ConfigError: it is neither a path nor a name.
    """
    if not isinstance(artifact, (str, PathLike)):
        raise ConfigError(f"An artifact is given as a path or a shipped model's name, got {artifact!r}")
    path = Path(artifact)
    known = shipped()
    if not known or len(path.parts) != 1 or path.is_absolute():
        return path
    name = str(path)
    if _exists(path):
        if name in known and path.is_dir() and not (path / MANIFEST).exists():
            raise ArtifactError(
                f"{name} here is a folder that is not a Sentio artifact, and hides the shipped model of that "
                "name; rename the folder, or work in another one"
            )
        return path
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are: {', '.join(known)}"
    raise ArtifactError(
        f"No artifact at {name}: there is no such file or folder, and no shipped model of that name; {hint}"
    )


def _exists(path: Path) -> bool:
    """Whether something is there; what the system refuses to look up is not, such as a name too long."""
    try:
        return path.exists()
    except OSError:
        return False
