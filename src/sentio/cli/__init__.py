"""The ``sentio`` command: parses, calls the library, prints."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: an error that a user can act on is one sentence and its exit code, not a traceback.

    Args:
        arguments: instead of the command line's.

    Raises:
        SystemExit: always; with the exit code.
    """
    # PyTorch's threads wait for each other by spinning. Where another program wants a core as well, training
    # becomes many times slower for it; spinning for less time bounds that, and costs little on an idle
    # machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from sentio.cli.app import app
    from sentio.core.errors import SentioError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A label that the terminal's encoding cannot show is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(args=None if arguments is None else list(arguments), prog_name="sentio")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # else what is held back would fail when the interpreter ends
    except SentioError as error:
        print(f"sentio: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        # What writes files says so itself; this is standard output, on a full disk or a pipe nobody reads.
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        _silence(sys.stdout)
        if error.errno == errno.EPIPE:
            sys.exit(1)
        print(
            f"sentio: What is printed could not be written: {error.strerror}; send it to where there is room",
            file=sys.stderr,
        )
        sys.exit(4)
    except KeyboardInterrupt:
        sys.exit(130)


def _silence(stream: object) -> None:
    """Let what a stream still holds go nowhere, so that it does not fail again when the interpreter ends."""
    if isinstance(stream, io.TextIOWrapper):
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
