"""Anytime inference in a thread of its own: whoever needs an answer takes the newest that is finished.

No PyTorch here: any row runs this way, as modules or as exported stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Event, Thread, main_thread
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import Boundary, Row, Step, anytime


@dataclass(frozen=True)
class Finished:
    """What one exit answered.

    Args:
        exit: its name.
        output: its output, ``(batch, ...)``; read-only, and nothing writes to it any more.
        ms: milliseconds from the start of the computation until it was there.
    """

    exit: str
    output: NDArray[Any]
    ms: float


class Background:
    """An anytime computation that goes on while its caller does something else.

    Any thread may ask for the `newest` answer or `stop` the computation, at any moment: what it gets is
    finished, and nothing newer was. A computation that is stopped runs its present stage to the end and
    begins no other; so does one whose program ends. As a context it is stopped where the context ends.

    Args:
        row: the network.
        inputs: its input, which must not change while the computation runs.
        read: from a step of the row to its output in numpy; the row's own way by default.

    Attributes:
        error: what ended the computation early, None if nothing did.
    """

    def __init__(self, row: Row, inputs: Any, *, read: Callable[[Step], NDArray[Any]] | None = None) -> None:
        self.error: Exception | None = None
        self._row, self._inputs = row, inputs
        self._read = read or (lambda step: row.to_numpy(step.output))
        self._newest: Finished | None = None
        self._changed, self._stopped = Condition(), Event()
        self._running = True
        self._begun = perf_counter()
        # No daemon: Python would end beneath it, and PyTorch then takes the whole process down.
        self._thread = Thread(target=self._run, name="sentio background")
        self._thread.start()

    @property
    def newest(self) -> Finished | None:
        """The newest answer, None as long as there is none."""
        return self._newest

    @property
    def running(self) -> bool:
        """Whether an answer may still come."""
        return self._running

    def wait(self, seconds: float | None = None) -> Finished | None:
        """The last exit's answer, or the newest if the time is over before; the computation goes on.

        Args:
            seconds: at most; None for as long as it takes.

        Raises:
            SentioError: the computation failed before any exit had answered.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)
            return self._answer()

    def stop(self) -> Finished | None:
        """The newest answer; from now on it stays the newest. Does not wait for the present stage.

        Raises:
            SentioError: the computation failed before any exit had answered.
        """
        with self._changed:
            self._stopped.set()
            self._running = False
            self._changed.notify_all()
            return self._answer()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped.set()
            self._running = False
            self._changed.notify_all()

    def _answer(self) -> Finished | None:
        if self._newest is None and self.error is not None:
            raise self.error
        return self._newest

    def _run(self) -> None:
        try:
            for step in anytime(_Stoppable(self._row, self._stopped), self._inputs):
                # A copy: a later stage that works in place must not reach what somebody reads.
                output = np.array(self._read(step))
                output.flags.writeable = False
                found = Finished(step.exit, output, (perf_counter() - self._begun) * 1000.0)
                with self._changed:
                    if self._stopped.is_set():
                        return
                    self._newest = found
        except _StoppedError:
            pass
        except Exception as error:  # raised where somebody waits for the answer
            self.error = error
        finally:
            with self._changed:
                self._running = False
                self._changed.notify_all()


class _StoppedError(Exception):
    """Nobody wants the next stage."""


class _Stoppable:
    """A row that begins nothing once it is stopped, or once the program has come to its end."""

    def __init__(self, row: Row, stopped: Event) -> None:
        self._row, self._stopped = row, stopped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, name)

    def run_stages(self, names: Sequence[str], boundary: Boundary) -> Boundary:
        for name in names:
            boundary = self.run_stage(name, boundary)
        return boundary

    def run_stage(self, name: str, boundary: Boundary) -> Boundary:
        self._go_on()
        return self._row.run_stage(name, boundary)

    def run_exit(self, name: str, tensors: list[Any]) -> Any:
        self._go_on()
        return self._row.run_exit(name, tensors)

    def _go_on(self) -> None:
        if self._stopped.is_set() or not main_thread().is_alive():
            raise _StoppedError
