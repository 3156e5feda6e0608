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
import mmap
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import isfinite
from pathlib import Path
from stat import S_ISLNK
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
        if not self._folder and not self.path.is_file():  # reading a pipe or a device may never end
            raise ArtifactError(f"{self.path} is not a Sentio artifact: it is neither a folder nor a file")
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
        data = self._bytes(name, limit=self._facts(name).bytes)
        self._check(name, data)
        return data

    @contextmanager
    def mapped(self, name: str) -> Iterator[tuple[memoryview, Path | None]]:
        """One file's bytes where they lie, checked as by `read`, and its path where it is a file of its own.

        What is compressed in a zip is read into memory. The bytes are of use inside the ``with`` only.

        Raises:
            ArtifactError: as `read`.
        """
        with ExitStack() as stack:
            try:
                data, place = self._map(name, self._facts(name).bytes, stack)
            except (KeyError, FileNotFoundError) as error:
                raise self._missing(name) from error
            except _ZIP_ERRORS as error:
                raise self._unreadable(name, error) from error
            self._check(name, data)
            yield data, place

    def _facts(self, name: str) -> FileFacts:
        if name not in self.manifest.files:
            raise ArtifactError(f"Artifact {self.path} does not hold {name!r}; export it again")
        return self.manifest.files[name]

    def _check(self, name: str, data: bytes | memoryview) -> None:
        facts = self.manifest.files[name]
        if len(data) != facts.bytes or _sha256(data) != facts.sha256:
            raise ArtifactError(
                f"Artifact {self.path} is damaged: {name!r} does not match its checksum; "
                "copy or export it again"
            )

    def _map(self, name: str, limit: int, stack: ExitStack) -> tuple[memoryview, Path | None]:
        place, begin, size = None, 0, 0
        if self._folder:
            place = self._place(name, limit)
            size = place.stat().st_size
        else:
            with zipfile.ZipFile(self.path) as archive:
                facts = archive.getinfo(self._prefix + name)
                if facts.compress_type == zipfile.ZIP_STORED and not facts.flag_bits & 1:
                    begin, size = _begin(self.path, facts), min(facts.file_size, limit + 1)
        if not size:
            return memoryview(self._bytes(name, limit=limit)), place
        with (place or self.path).open("rb") as file:
            start = begin - begin % mmap.ALLOCATIONGRANULARITY
            whole = mmap.mmap(file.fileno(), begin - start + size, access=mmap.ACCESS_READ, offset=start)
        stack.callback(_close, whole)
        data = memoryview(whole)[begin - start :]
        stack.callback(data.release)
        return data, place

    def _find_prefix(self) -> str:
        """The one folder that may wrap everything in a zip, as when a user packs a folder anew."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
                entries = archive.infolist()
        except _ZIP_ERRORS as error:
            raise ArtifactError(
                f"{self.path} is not a Sentio artifact, or is cut off: it is neither a folder "
                "nor a readable zip"
            ) from error
        problem = _entries_problem(entries)
        if problem is not None:
            raise ArtifactError(
                f"Artifact {self.path} is refused: {problem}; trust no artifact that tries this"
            )
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
            raise self._missing(name) from error
        except _ZIP_ERRORS as error:
            raise self._unreadable(name, error) from error

    def _missing(self, name: str) -> ArtifactError:
        return ArtifactError(
            f"Artifact {self.path} is incomplete: {name!r} is missing; copy or export it again"
        )

    def _unreadable(self, name: str, error: Exception) -> ArtifactError:
        reason = str(error).split("\n")[0][:200]
        return ArtifactError(f"Artifact {self.path} cannot be read at {name!r}: {reason}")

    def _from_folder(self, name: str, limit: int) -> bytes:
        with self._place(name, limit).open("rb") as file:
            return file.read(limit + 1)

    def _place(self, name: str, limit: int) -> Path:
        """Where a file of a folder lies."""
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
        return file

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
            values = json.loads(
                data, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once
            )
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"Artifact {self.path} is damaged: its {MANIFEST} is not valid JSON; copy or export it again"
            ) from error
        return read_manifest(values, str(self.path))


def write_artifact(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write an artifact whole or not at all; an artifact that is there already is replaced.

    Args:
        path: a folder, or a file whose name ends in ``.zip`` or ``.sentio``; a link leads to either.
        manifest: its ``files`` are filled in here.
        files: name -> content.

    Raises:
        ArtifactError: something else is at that place, or it cannot be written; what was there stays.
    """
    target = check_target(path)
    text = _as_text(manifest, files)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            fresh = Path(scratch) / "new"
            (_write_zip if _is_packed(Path(path)) else _write_folder)(fresh, {MANIFEST: text, **files})
            _swap(fresh, target, Path(scratch) / "old")
    except OSError as error:
        raise ArtifactError(f"Artifact {path} could not be written: {error.strerror or error}") from error
    return Path(path)


def check_target(path: str | Path) -> Path:
    """An artifact may be written here: there is nothing, an empty folder, or an artifact and nothing else.

    For callers with long work ahead of the writing.

    Returns:
        where it goes, links followed.

    Raises:
        ArtifactError: something else is there, which would be lost.
    """
    try:
        target = Path(path).resolve()
        _check_target(Path(path), _is_packed(Path(path)))
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"Artifact {path} could not be written: {reason}") from error
    return target


def _check_target(target: Path, packed: bool) -> None:
    if not target.exists():
        return
    if Path.cwd().is_relative_to(target.resolve()):
        raise ArtifactError(
            f"{target} is the folder that this runs in, which cannot be replaced; name a folder in it"
        )
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


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it has a key twice: readers would differ on what it says."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _entries_problem(entries: Sequence[zipfile.ZipInfo]) -> str | None:
    """What no honest packer puts into a zip."""
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        if name.startswith("/") or "\\" in name or name[1:2] == ":" or ".." in name.split("/"):
            return f"it holds the path {name[:200]!r}, which leads outside"
        if S_ISLNK(entry.external_attr >> 16):
            return f"it holds the link {name[:200]!r}"
        if name.casefold() in seen:
            return f"it holds {name[:200]!r} twice"
        seen.add(name.casefold())
    return None


def _begin(path: Path, facts: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed member begin.

    Raises:
        zipfile.BadZipFile: they do not stand where the directory says.
    """
    with path.open("rb") as file:
        file.seek(facts.header_offset)
        header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("the member's header is damaged")
    name, extra = struct.unpack("<HH", header[26:30])
    begin: int = facts.header_offset + 30 + name + extra
    if begin + facts.file_size > path.stat().st_size:
        raise zipfile.BadZipFile("the member goes beyond the end of the file")
    return begin


def _close(whole: mmap.mmap) -> None:
    with suppress(BufferError):  # an error on its way still refers to the bytes; they are closed with it
        whole.close()


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
