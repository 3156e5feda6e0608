"""The ``sentio`` command: parses, calls the library, prints."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence


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
        app(args=None if arguments is None else list(arguments), prog_name="sentio")
    except SentioError as error:
        print(f"sentio: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
