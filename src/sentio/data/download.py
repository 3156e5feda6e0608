"""Downloads a public data set, verified, and unpacks it."""

from __future__ import annotations

import gzip
import json
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO

from sentio.core.errors import CancelledError, InputError
from sentio.data.archive import DAMAGE, MAX_BYTES
from sentio.data.fetching import Report, cannot_write, fetch
from sentio.data.media import relative_path
from sentio.data.public_sets import PublicSet, RemoteFile, public_set

#: what has been unpacked here: archive -> the checksum it had, or that it was not verified
RECORD = ".sentio-download.json"
DAMAGED = (*DAMAGE, tarfile.TarError, gzip.BadGzipFile)
UNVERIFIED = "unverified"
#: a member of an archive: its name, its size, whether it is a link, and how to read it
Member = tuple[str, int, bool, Callable[[], IO[bytes] | None]]


def download(
    name: str,
    folder: str | PathLike[str],
    *,
    verify: bool = True,
    keep_archives: bool = False,
    progress: Report | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """Fetch, verify and unpack a public data set; what an earlier call has done is not done again.

    Args:
        name: one of `sentio.data.public_sets.PUBLIC_SETS`.
        folder: where it goes, made if it is not there.
        verify: compare every file with its published size and checksum.
        keep_archives: keep the archives beside what was in them.
        progress: told what is being done: ``fetch`` and ``verify`` in bytes over all files, ``unpack`` in
            archives.
        cancel: asked often; true stops, and what has come is kept.

    Returns:
        The folder to give to `sentio.open_data`.

    Raises:
        UnknownNameError: there is no such data set here.
        ConfigError, InputError, CancelledError: as `sentio.data.fetching.fetch`; also if an archive is
            damaged, holds a link or a path that leads outside, or does not fit on the disk.
    """
    found = public_set(name)
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place} cannot be made: {error.strerror or error}") from error
    target = place / found.folder
    done = _record(place)
    good = {UNVERIFIED} if not verify else set()
    missing = [
        file
        for file in found.files
        if not target.is_dir() or done.get(file.name) not in good | {_known_as(file)}
    ]
    for number, file in enumerate(missing):
        report = None if progress is None else _overall(progress, found, missing, number)
        archive = place / file.name
        fetch(file, archive, verify=verify, progress=report, cancel=cancel)
        unpack_into(archive, target if found.bare else place, cancel=cancel)
        done[file.name] = _known_as(file) if verify else UNVERIFIED
        _write_record(place, done)
        if not keep_archives:
            archive.unlink()
        if progress is not None:
            progress("unpack", number + 1, len(missing))
    if not target.is_dir():
        raise InputError(
            f"{found.title} is unpacked to {place}, without the folder {found.folder!r} that belongs in it; "
            "its layout has changed at the source"
        )
    return target


def unpack_into(archive: Path, folder: Path, *, cancel: Callable[[], bool] | None = None) -> int:
    """Write the files of a zip or a tar to a folder; those that are there with the right size are left.

    Each file is written under another name and renamed when it is whole.

    Args:
        archive: the zip or tar, compressed or not.
        folder: where to; made if it is not there.
        cancel: asked before each file.

    Returns:
        How many files the archive holds.

    Raises:
        InputError: it is damaged, holds a link or a path that leads outside, more than 50 GiB, or does not
            fit on the disk.
        CancelledError: ``cancel`` said so.
    """
    count = total = 0
    try:
        for name, size, is_link, read in _members(archive):
            if cancel is not None and cancel():
                raise CancelledError(f"Unpacking {archive} was stopped on request; the same command goes on")
            path = relative_path(name)
            if path is None:
                raise InputError(f"{archive} holds the path {name!r}, which leads outside it; not unpacked")
            if is_link:
                raise InputError(f"{archive} holds the link {name!r}; not unpacked")
            total += size
            if total > MAX_BYTES:
                raise InputError(f"{archive} unpacks to more than {MAX_BYTES >> 30} GiB; unpack it by hand")
            count += 1
            target = folder.joinpath(*path.parts)
            if not (target.is_file() and target.stat().st_size == size):
                _extract(read, target)
    except DAMAGED as error:
        raise InputError(f"{archive} is damaged ({error}); remove it and download it again") from error
    return count


def _members(archive: Path) -> Iterator[Member]:
    """The files and links of an archive, in its order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    link = stat.S_ISLNK(info.external_attr >> 16)
                    yield info.filename, info.file_size, link, lambda info=info: packed.open(info)
        return
    with tarfile.open(archive) as tape:
        for member in tape:
            if member.name in (".", "./") or member.isdir():
                continue
            special = not member.isfile()
            yield member.name, member.size, special, lambda member=member: tape.extractfile(member)


def _extract(read: Callable[[], IO[bytes] | None], target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    source = read()
    if source is None:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        part.replace(target)
    except DAMAGED:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(target, error) from error


def _overall(progress: Report, found: PublicSet, missing: list[RemoteFile], number: int) -> Report:
    """Progress over all files instead of one."""
    before = sum(file.size or 0 for file in missing[:number])
    whole = sum(file.size or 0 for file in missing) if found.size is not None else None
    return lambda job, done, total: progress(job, before + done, before + total if whole is None else whole)


def _known_as(file: RemoteFile) -> str:
    return file.checksum or file.url


def _record(folder: Path) -> dict[str, str]:
    """What earlier calls unpacked; a damaged record counts as none."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_record(folder: Path, done: dict[str, str]) -> None:
    part = folder / f"{RECORD}.part"
    try:
        part.write_text(json.dumps(done, indent=1), encoding="utf-8")
        part.replace(folder / RECORD)
    except OSError as error:
        raise cannot_write(folder / RECORD, error) from error
