"""The same work on many portions, in this process or in several; which does not matter to the result."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from sentio.core.errors import ConfigError

In = TypeVar("In")
Out = TypeVar("Out")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def importable() -> bool:
    """Whether a new process may import the program that runs, as multiprocessing does.

    A script that does not guard its work would do it all again there.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or getattr(main, "__spec__", None) is not None:
        return True
    try:
        return "__main__" in Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def in_processes(
    work: Callable[[Sequence[In]], list[Out]], jobs: Sequence[In], count: int, check: Callable[[int], None]
) -> Iterator[Out]:
    """What ``work`` makes of small portions of the jobs, in the order in which they are finished.

    Args:
        work: a function that another process can be sent, of some jobs.
        jobs: all of them, plain values.
        count: processes; 1 is this one.
        check: called with the number of finished jobs, again and again; it raises to stop.

    Raises:
        ConfigError: the processes end early, as those of a script do that does not guard its work.
    """
    if count == 1:
        for number, job in enumerate(jobs):
            check(number)
            yield from work([job])
        return
    # A forked child could inherit a lock that a thread of PyTorch's holds; these start afresh.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    # Small portions: cancelling is quick, and no process waits long for the last.
    portion = max(1, min(16, len(jobs) // (4 * count)))
    pool = ProcessPoolExecutor(
        count, multiprocessing.get_context(method), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        waiting: set[Future[list[Out]]] = {
            pool.submit(work, jobs[start : start + portion]) for start in range(0, len(jobs), portion)
        }
        finished = 0
        while waiting:
            check(finished)
            ready, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in ready:
                for one in future.result():
                    finished += 1
                    yield one
    except BrokenProcessPool as error:
        raise ConfigError(
            "The processes that share the work ended early; in a script, call this under "
            "if __name__ == '__main__':, or use one process"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
