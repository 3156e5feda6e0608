"""Fetches one file over https: goes on where an earlier try stopped, keeps nothing but what is published.

While it comes a file is called ``NAME.part``; it gets its name when its size and checksum are right.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from sentio.core.errors import CancelledError, ConfigError, InputError
from sentio.data.public_sets import RemoteFile

SCHEMES: tuple[str, ...] = ("https",)
#: seconds without a byte after which a connection counts as lost
TIMEOUT = 60.0
BLOCK = 1 << 20
CHECKSUMS = ("md5", "sha256")

#: what is being done (``fetch``, ``verify``), bytes done, bytes in all
Report = Callable[[str, int, int], None]
AGAIN = "the same command goes on where it stopped"


def fetch(
    remote: RemoteFile,
    target: Path,
    *,
    verify: bool = True,
    progress: Report | None = None,
    cancel: Callable[[], bool] | None = None,
) -> None:
    """Get a file, unless it is there as published.

    Args:
        remote: what to fetch.
        target: where it goes; its folder exists.
        verify: compare size and checksum with what is published.
        progress: told of every block.
        cancel: asked before every block; true stops, and what has come is kept.

    Raises:
        ConfigError: it is to be verified and no checksum is published, or the address is not https.
        InputError: it is not there, cannot be reached, stops early, is not as published or finds no room.
        CancelledError: ``cancel`` said so.
    """
    if verify and remote.checksum is None:
        raise ConfigError(
            f"checksum unknown: none is published for {remote.name}, so it cannot be verified; "
            "--no-verify (verify=False) fetches it all the same"
        )
    _check_scheme(remote.url)
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        # Left by a run that ended before unpacking; it is judged anew.
        target.replace(part)
    size = remote.size if verify else None
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have > size:
        part.unlink()
        have = 0
    if size is None or have < size:
        _transfer(remote, part, have, size, progress, cancel)
    if verify:
        _verify(remote, part, progress, cancel)
    part.replace(target)


def _transfer(
    remote: RemoteFile,
    part: Path,
    have: int,
    size: int | None,
    progress: Report | None,
    cancel: Callable[[], bool] | None,
) -> None:
    """Append what is missing, or begin anew where the server does not do parts."""
    headers = {"User-Agent": "sentio", **({"Range": f"bytes={have}-"} if have else {})}
    done = have
    try:
        with _opener().open(Request(remote.url, headers=headers), timeout=TIMEOUT) as answer:
            range_ = answer.headers.get("Content-Range", "")
            if not (answer.status == 206 and range_.startswith(f"bytes {have}-")):
                done = 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else done + int(length)
            if size is not None and total is not None and total != size:
                raise InputError(
                    f"{remote.url} has {total} bytes where {size} are published, so it is another file; "
                    "look at the data set's page for what has changed"
                )
            _check_room(remote, part, (total or size or 0) - done)
            with _opened(part, "ab" if done else "wb") as sink:
                while True:
                    if cancel is not None and cancel():
                        raise CancelledError(f"Fetching {remote.name} was stopped on request; {AGAIN}")
                    block = answer.read(BLOCK)
                    if not block:
                        break
                    _write(sink, block, part)
                    done += len(block)
                    if progress is not None:
                        progress("fetch", done, total or size or done)
    except HTTPError as error:
        _refused(remote, part, error, have)
        return
    except URLError as error:
        raise InputError(
            f"{remote.url} cannot be reached ({_reason(error.reason)}); check the network, then {AGAIN}"
        ) from error
    except (HTTPException, OSError) as error:
        raise InputError(f"{remote.name} stopped after {done} bytes ({_reason(error)}); {AGAIN}") from error
    if total is not None and done < total:
        raise InputError(f"{remote.name} stopped after {done} of {total} bytes; {AGAIN}")


def _refused(remote: RemoteFile, part: Path, error: HTTPError, have: int) -> None:
    """Say why, unless the server only says that nothing is missing."""
    error.close()
    if error.code == 416 and have:
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return
        part.unlink()
        raise InputError(
            f"The first {have} bytes of {remote.name} do not belong to what {remote.url} has now and are "
            "removed; the same command begins anew"
        ) from error
    if error.code in (404, 410):
        raise InputError(
            f"{remote.url} is not there any more (HTTP {error.code}); look at the data set's page for where "
            "it has gone"
        ) from error
    raise InputError(f"{remote.url} answers with HTTP {error.code}; try again later, {AGAIN}") from error


def _verify(
    remote: RemoteFile, part: Path, progress: Report | None, cancel: Callable[[], bool] | None
) -> None:
    size = part.stat().st_size
    if remote.size is not None and size < remote.size:
        raise InputError(f"{remote.name} stopped after {size} of {remote.size} bytes; {AGAIN}")
    kind, _, published = (remote.checksum or "").partition(":")
    if kind not in CHECKSUMS:
        raise ConfigError(f"{remote.name} has a checksum of kind {kind!r}; known are {', '.join(CHECKSUMS)}")
    digest = hashlib.new(kind)
    done = 0
    with part.open("rb") as file:
        while block := file.read(BLOCK):
            if cancel is not None and cancel():
                raise CancelledError(f"Verifying {remote.name} was stopped on request; {AGAIN}")
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress("verify", done, size)
    if digest.hexdigest() != published:
        part.unlink()
        raise InputError(
            f"{remote.name} has {kind} {digest.hexdigest()} where {published} is published, and is removed; "
            "fetch it again, and if that repeats the file at its source has changed (--no-verify takes it)"
        )


def _opened(part: Path, mode: str) -> IO[bytes]:
    try:
        return part.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise cannot_write(part, error) from error


def _write(sink: IO[bytes], block: bytes, part: Path) -> None:
    try:
        sink.write(block)
        sink.flush()
    except OSError as error:
        raise cannot_write(part, error) from error


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error to raise where a file could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"The disk is full while writing {path}; make room, then {AGAIN}")
    return InputError(f"{path} cannot be written: {error.strerror or error}")


def _check_room(remote: RemoteFile, part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise InputError(
            f"{remote.name} needs {needed / 2**30:.2f} GiB more and {part.parent} has {free / 2**30:.2f} GiB "
            f"free; make room, then {AGAIN}"
        )


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme not in SCHEMES:
        raise ConfigError(f"{url} is not {' or '.join(SCHEMES)}, so what comes from there cannot be trusted")


def _reason(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects that stay on https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    return build_opener(_Redirects)
