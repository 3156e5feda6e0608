"""The artifact on disk: one format for the shelf and for the box.

A folder, or the same as an uncompressed zip, that holds ``sentio.json`` (`Manifest`), and

- ``weights.safetensors``: the network's parameters, for PyTorch;
- ``stages/*.onnx``: each stage and each exit as a graph of its own, for running without PyTorch;
- ``task/*.npy``: arrays that the task needs.

Every file is listed in the manifest with its length and SHA-256, and is checked before it is used. Nothing
here is ever unpickled, so opening a stranger's artifact cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from sentio.core.errors import ArtifactError, ConfigError
from sentio.core.manifest import (
    MANIFEST,
    SCHEMA,
    CostFacts,
    ExitFacts,
    FileFacts,
    GraphFacts,
    Manifest,
    NamedFacts,
    NetworkFacts,
    read_manifest,
)

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "WEIGHTS",
    "ArtifactFiles",
    "CostFacts",
    "ExitFacts",
    "FileFacts",
    "GraphFacts",
    "Manifest",
    "NamedFacts",
    "NetworkFacts",
    "check_target",
    "read_manifest",
    "write_artifact",
]

WEIGHTS = "weights.safetensors"
#: larger manifests are refused unread
MAX_MANIFEST_BYTES = 8 << 20
#: a member of a zip that unpacks to more than this, and to so many times its packed size, is refused
MAX_GROWTH, GROWTH_FROM_BYTES = 100, 64 << 20

#: what desktops put into folders
_DESKTOP_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
#: what `zipfile` raises on damaged, encrypted or foreign archives
_ZIP_ERRORS = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
)


class ArtifactFiles:
    """The files of an artifact, checked as they are read.

    Args:
        path: a folder or a zip file.

    Raises:
        ArtifactError: no artifact there, or one that is damaged, foreign or newer than this library.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._folder = self.path.is_dir()
            exists = self.path.exists()
            foreign = self._folder and not (self.path / MANIFEST).exists()
        except OSError as error:
            raise ArtifactError(f"No artifact can be read at {self.path}: {error.strerror}") from error
        if not exists:
            raise ArtifactError(f"No artifact at {self.path}: there is no such file or folder")
        if foreign:
            raise ArtifactError(f"{self.path} is not a Sentio artifact: it has no {MANIFEST}")
        self._prefix = "" if self._folder else self._find_prefix()
        self.manifest = self._read_manifest()

    def has(self, name: str) -> bool:
        """Whether the manifest lists a file."""
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """One file's bytes, once length and checksum agree with the manifest.

        Raises:
            ArtifactError: they do not, or the file is missing or leads outside.
        """
        if name not in self.manifest.files:
            raise ArtifactError(f"Artifact {self.path} does not hold {name!r}; export it again")
        facts = self.manifest.files[name]
        data = self._bytes(name, limit=facts.bytes)
        if len(data) != facts.bytes or _sha256(data) != facts.sha256:
            raise ArtifactError(
                f"Artifact {self.path} is damaged: {name!r} does not match its checksum; "
                "copy or export it again"
            )
        return data

    def _find_prefix(self) -> str:
        """The one folder that may wrap everything in a zip, as when a user packs a folder anew."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
        except _ZIP_ERRORS as error:
            raise ArtifactError(
                f"{self.path} is not a Sentio artifact, or is cut off: it is neither a folder "
                "nor a readable zip"
            ) from error
        if MANIFEST in names:
            return ""
        found = {name for name in names if name.count("/") == 1 and name.endswith("/" + MANIFEST)}
        if len(found) != 1:
            raise ArtifactError(
                f"{self.path} is not a Sentio artifact: the zip holds {len(found) or 'no'} {MANIFEST}, "
                "where one is expected"
            )
        return found.pop().removesuffix(MANIFEST)

    def _bytes(self, name: str, *, limit: int) -> bytes:
        """At most ``limit`` bytes of a file."""
        try:
            return self._from_folder(name, limit) if self._folder else self._from_zip(name, limit)
        except (KeyError, FileNotFoundError) as error:
            raise ArtifactError(
                f"Artifact {self.path} is incomplete: {name!r} is missing; copy or export it again"
            ) from error
        except _ZIP_ERRORS as error:
            raise ArtifactError(f"Artifact {self.path} cannot be read at {name!r}: {error}") from error

    def _from_folder(self, name: str, limit: int) -> bytes:
        root = self.path.resolve()
        file = (root / name).resolve()
        if not file.is_relative_to(root):
            raise ArtifactError(
                f"Artifact {self.path} is refused: {name!r} is a link that leads outside of it"
            )
        if not file.is_file():
            raise FileNotFoundError(name)
        if file.stat().st_size > limit:
            self._too_large(name)
        return file.read_bytes()

    def _from_zip(self, name: str, limit: int) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            facts = archive.getinfo(self._prefix + name)
            packed = max(facts.compress_size, 1)
            bomb = facts.file_size > GROWTH_FROM_BYTES and facts.file_size > MAX_GROWTH * packed
            if facts.file_size > limit or bomb:
                self._too_large(name)
            with archive.open(facts) as member:
                return member.read(limit + 1)

    def _too_large(self, name: str) -> NoReturn:
        raise ArtifactError(
            f"Artifact {self.path} is damaged: {name!r} is larger than it can be; copy or export it again"
        )

    def _read_manifest(self) -> Manifest:
        data = self._bytes(MANIFEST, limit=MAX_MANIFEST_BYTES)
        try:
            values = json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"Artifact {self.path} is damaged: its {MANIFEST} is not valid JSON; copy or export it again"
            ) from error
        return read_manifest(values, str(self.path))


def write_artifact(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write an artifact whole or not at all; an artifact that is there already is replaced.

    Args:
        path: a folder, or a file whose name ends in ``.zip`` or ``.sentio``.
        manifest: its ``files`` are filled in here.
        files: name -> content.

    Raises:
        ArtifactError: something else is at that place, or it cannot be written; what was there stays.
    """
    target = Path(path)
    check_target(target)
    text = _as_text(manifest, files)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            fresh = Path(scratch) / "new"
            (_write_zip if _is_packed(target) else _write_folder)(fresh, {MANIFEST: text, **files})
            _swap(fresh, target, Path(scratch) / "old")
    except OSError as error:
        raise ArtifactError(f"Artifact {target} could not be written: {error.strerror or error}") from error
    return target


def check_target(path: str | Path) -> None:
    """An artifact may be written here: there is nothing, an empty folder, or an artifact and nothing else.

    For callers with long work ahead of the writing.

    Raises:
        ArtifactError: something else is there, which would be lost.
    """
    target = Path(path)
    try:
        _check_target(target, _is_packed(target))
    except OSError as error:
        raise ArtifactError(f"Artifact {target} could not be written: {error.strerror or error}") from error


def _check_target(target: Path, packed: bool) -> None:
    if not target.exists():
        return
    if target.is_dir() == packed:
        kinds = ("folder", "file") if packed else ("file", "folder")
        raise ArtifactError(f"{target} is a {kinds[0]}, not a {kinds[1]} to write to; choose another place")
    if target.is_dir() and not any(target.iterdir()):
        return
    try:
        there = ArtifactFiles(target).manifest
    except ArtifactError as error:
        raise ArtifactError(
            f"{target} exists and is not a readable Sentio artifact, so it is not replaced; "
            "choose another place"
        ) from error
    if target.is_dir():
        own = {target / name for name in (MANIFEST, *there.files)}
        for file in sorted(target.rglob("*")):
            if not file.is_dir() and file not in own and file.name not in _DESKTOP_FILES:
                raise ArtifactError(
                    f"{target} holds {file.relative_to(target)}, which is not the artifact's and would be "
                    "lost, so it is not replaced; move it, or choose another place"
                )


def _is_packed(target: Path) -> bool:
    return target.suffix in (".zip", ".sentio")


def _as_text(manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    facts = {name: FileFacts(bytes=len(data), sha256=_sha256(data)) for name, data in files.items()}
    try:
        values = manifest.model_copy(update={"files": facts}).values()
        text = json.dumps(values, indent=1, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"Model {manifest.name!r} cannot be saved, its card or settings hold what JSON cannot: {error}"
        ) from error
    read_manifest(json.loads(text), repr(manifest.name))
    return text.encode()


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put ``fresh`` in the place of ``target``; a folder cannot be replaced in one step, so it is moved."""
    if not target.is_dir():
        fresh.replace(target)
        return
    target.replace(old)
    try:
        fresh.replace(target)
    except BaseException:  # an interrupt as well: the old one is put back before its folder is cleared away
        old.replace(target)
        raise


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _write_zip(file: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            # A fixed date, so that the same artifact has the same bytes.
            facts = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            facts.external_attr = 0o644 << 16
            archive.writestr(facts, data)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
