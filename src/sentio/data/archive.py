"""Unpacks a zip of data into a temporary folder, and refuses one that could do harm."""

from __future__ import annotations

import calendar
import lzma
import os
import shutil
import stat
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from sentio.core.errors import InputError
from sentio.data.media import PACKED, ignored_note, is_hidden, is_media, relative_path

MAX_FILES = 500_000
MAX_BYTES = 50 * 2**30
#: unpacked bytes per packed byte; asked only of archives that unpack to more than RATIO_FREE_BYTES,
#: since a few clips of digital silence reach any ratio
MAX_RATIO = 100
RATIO_FREE_BYTES = 256 * 2**20

#: tables without columns, as Speech Commands has
LISTS = frozenset({"testing_list.txt", "validation_list.txt"})

Member = tuple[zipfile.ZipInfo, PurePosixPath]
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class Unpacked:
    """A temporary folder that is removed together with this object, at the latest when Python ends.

    Args:
        folder: where the files lie.
        notes: what was left out, one sentence each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: tuple[str, ...] = ()
        weakref.finalize(self, _remove, folder, os.getpid())


def unpack(path: Path, shown: Path) -> Unpacked:
    """The media files and tables of a zip, on disk.

    Args:
        path: the archive.
        shown: what messages call it.

    Raises:
        InputError: it is damaged, encrypted, holds a path that leads outside, a link or one name twice,
            unpacks to more than MAX_FILES or MAX_BYTES or to MAX_RATIO times its size, or does not fit
            on the disk.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members, others = _members(archive, shown)
            _check_size([info for info, _ in members], path, shown)
            unpacked = Unpacked(Path(tempfile.mkdtemp(prefix="sentio-")))
            for member in members:
                _extract(archive, member, unpacked.folder, shown)
    except DAMAGE as error:
        raise InputError(
            f"{shown} is damaged or not a zip file ({error}); download or make it again"
        ) from error
    unpacked.notes = tuple(ignored_note(others))
    return unpacked


def _members(archive: zipfile.ZipFile, shown: Path) -> tuple[list[Member], list[str]]:
    """What to unpack, and the names of the other files."""
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    others: list[str] = []
    for info in archive.infolist():
        path = relative_path(info.filename)
        if path is None:
            raise InputError(
                f"{shown} holds the path {info.filename!r}, which leads outside it; make it again without"
            )
        if info.is_dir() or any(is_hidden(part) for part in path.parts):
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{shown} holds the link {info.filename!r}; make it again with the file itself")
        table = path.suffix.lower() == ".csv" or path.name in LISTS
        if not (is_media(path.name) or table or PACKED.fullmatch(path.name)):
            others.append(path.name)
            continue
        if info.flag_bits & 1:
            raise InputError(f"{shown} is protected with a password; unpack it and give the folder")
        if path in members:
            raise InputError(f"{shown} holds {str(path)!r} twice; make it again with each file once")
        members[path] = info
    if not members:
        raise InputError(f"{shown} holds no sound, image or CSV file; it should hold a folder per class")
    return [(info, path) for path, info in members.items()], sorted(others)


def _check_size(infos: list[zipfile.ZipInfo], path: Path, shown: Path) -> None:
    total = sum(info.file_size for info in infos)
    if len(infos) > MAX_FILES:
        raise InputError(f"{shown} holds {len(infos)} files, more than the {MAX_FILES} that are unpacked")
    if total > MAX_BYTES:
        raise InputError(
            f"{shown} would unpack to {_gib(total)}, more than the {_gib(MAX_BYTES)} allowed; "
            "unpack it and give the folder"
        )
    # Against the size of the file itself: entries may overlap, and each then claims the same packed bytes.
    if total > RATIO_FREE_BYTES and total > MAX_RATIO * path.stat().st_size:
        raise InputError(
            f"{shown} would unpack to {_gib(total)}, over {MAX_RATIO} times its size, as a zip bomb does; "
            "if you trust it, unpack it and give the folder"
        )
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if total > free:
        raise InputError(
            f"{shown} needs {_gib(total)} unpacked but {place} has {_gib(free)} free; make room or set TMPDIR"
        )


def _extract(archive: zipfile.ZipFile, member: Member, folder: Path, shown: Path) -> None:
    info, path = member
    target = folder.joinpath(*path.parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        os.utime(target, (_seconds(info), _seconds(info)))
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{shown} holds two files that take the same place on this disk, one of them {str(path)!r}; "
            "rename one"
        ) from error
    except OSError as error:
        raise InputError(f"Cannot unpack {str(path)!r} of {shown}: {error.strerror or error}") from error


def _seconds(info: zipfile.ZipInfo) -> int:
    """The time stamp inside the archive, so that caches keyed by file times survive unpacking again."""
    year, month, day, hour, minute, second = info.date_time
    return calendar.timegm((year, min(max(month, 1), 12), max(day, 1), hour, minute, second))


def _remove(folder: Path, owner: int) -> None:
    # A forked child (a data loader's worker) inherits this call but not the folder.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
