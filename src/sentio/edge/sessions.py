"""Graphs of an artifact as sessions of ONNX Runtime: checked first, with chosen threads and provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from sentio.core.artifact import ArtifactFiles
from sentio.core.errors import ArtifactError, ConfigError
from sentio.edge.graph_check import examine
from sentio.edge.step_input import shown

#: of ONNX Runtime: only what is fatal is logged; everything else reaches the caller as an error
FATAL = 4
_PROVIDER = "ExecutionProvider"
_CPU = f"CPU{_PROVIDER}"


@dataclass(frozen=True)
class Settings:
    """How graphs are run.

    Args:
        threads: within one graph; None leaves the choice to ONNX Runtime.
        providers: execution providers in order of preference, by ONNX Runtime's names or short ones such as
            ``cuda``; None for the CPU.
        memory_map: check files where they lie and let ONNX Runtime read them from there.
        lean: leave weights as they are stored, where ONNX Runtime would lay them out anew for the processor.

    Raises:
        ConfigError: fewer threads than one; a provider that this ONNX Runtime does not have.
    """

    threads: int | None = None
    providers: str | Sequence[str] | None = None
    memory_map: bool = False
    lean: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and (isinstance(self.threads, bool) or self.threads < 1):
            raise ConfigError(f"The edge runtime needs at least one thread, got {self.threads}")
        object.__setattr__(self, "providers", _known(self.providers))

    def options(self) -> ort.SessionOptions:
        """What ONNX Runtime is told."""
        options = ort.SessionOptions()
        options.log_severity_level = FATAL
        # Each graph has threads of its own; spinning, those of one would take time from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Nothing but ONNX: what checks graphs reads no other format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if _memory_is_bounded():
            options.add_session_config_entry("session.use_env_allocators", "1")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self.lean:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        return options


class Session:
    """One graph, ready to run; safe to run from several threads.

    Args:
        files: the artifact.
        name: of the graph's file.
        settings: how it is run.
        inputs, outputs: what it has to take and give, by name, in its order; an input that ends in ``?`` may
            be left out.

    Raises:
        ArtifactError: the file is damaged or no graph, is refused, or takes and gives something else.
        ConfigError: the provider cannot be started.
    """

    def __init__(
        self,
        files: ArtifactFiles,
        name: str,
        settings: Settings,
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        self.file, self._where = name, str(files.path)
        self._session = _opened(files, name, settings)
        self.shapes = {entry.name: entry.shape for entry in self._session.get_inputs()}
        self.types = {entry.name: entry.type for entry in self._session.get_inputs()}
        self.given_shapes = {entry.name: entry.shape for entry in self._session.get_outputs()}
        self.given_types = {entry.name: entry.type for entry in self._session.get_outputs()}
        wanted = [name.rstrip("?") for name in inputs if not name.endswith("?") or name[:-1] in self.shapes]
        if sorted(wanted) != sorted(self.shapes) or list(outputs) != list(self.given_shapes):
            raise self.damaged(
                f"takes {', '.join(self.shapes)[:200] or 'nothing'} and gives "
                f"{', '.join(self.given_shapes)[:200]}, where {', '.join(inputs).replace('?', '')} and "
                f"{', '.join(outputs)} are expected"
            )
        for entry, shape in (*self.shapes.items(), *self.given_shapes.items()):
            if shape and isinstance(shape[0], int):
                raise self.damaged(f"has {entry!r} of shape {shown(shape)}, so it takes no batch of any size")

    def run(self, arrays: Mapping[str, Any]) -> list[Any]:
        """The outputs in order.

        Raises:
            ArtifactError: ONNX Runtime cannot compute them.
        """
        try:
            return self._session.run(None, {name: arrays[name] for name in self.shapes})
        except Exception as error:  # ONNX Runtime's types have no common base
            raise ArtifactError(
                f"Artifact {self._where}: {self.file!r} cannot be run: {first_line(error)}"
            ) from error

    def check(self, name: str, shape: Sequence[Any], kind: str | None = None) -> None:
        """An input takes what it is given, as far as sizes are fixed; the batch is left out of ``shape``.

        Raises:
            ArtifactError: it does not.
        """
        taken = self.shapes[name]
        if not fits(taken, shape):
            raise self.damaged(f"takes shape {shown(taken)} where it is given {shown([None, *shape])}")
        if kind is not None and self.types[name] != kind:
            raise self.damaged(f"takes {self.types[name]} where it is given {kind}")

    def damaged(self, what: str) -> ArtifactError:
        """The error that says so of this graph."""
        return ArtifactError(
            f"Artifact {self._where} is damaged: {self.file!r} {what}; copy or export it again"
        )


def fits(known: Sequence[Any], shape: Sequence[Any]) -> bool:
    """Whether a shape with a batch agrees with one without, where both are fixed; none at all is unknown."""
    fixed = zip(known[1:], shape, strict=False)
    return not known or (
        len(known) == len(shape) + 1
        and all(a == b for a, b in fixed if isinstance(a, int) and isinstance(b, int))
    )


def start_session(
    data: memoryview, settings: Settings, name: str, *, place: Path | None = None, where: str | None = None
) -> ort.InferenceSession:
    """A graph that may be opened, as a session.

    Args:
        data: the file.
        settings: how it is run.
        name: of the graph, for messages.
        place: where ONNX Runtime shall read it, in place of ``data``.
        where: the artifact that it is of, for messages.

    Raises:
        ArtifactError: it is no graph, or is refused.
        ConfigError: the provider cannot be started.
    """
    usable = f"{name} is" if where is None else f"{where}: {name} is"
    try:
        found = examine(data)
    except ValueError as error:
        raise ArtifactError(f"{usable} not a usable ONNX graph: {first_line(error)}") from error
    if found.refusal is not None:
        refused = f"{name} is refused: it" if where is None else f"{where} is refused: {name}"
        raise ArtifactError(f"{refused} {found.refusal}")
    try:
        session = ort.InferenceSession(
            str(place) if place is not None else _bytes(data),
            settings.options(),
            providers=list(settings.providers or ()),
            enable_fallback=0,
            disabled_optimizers=None if found.may_fold else ["ConstantFolding"],
        )
        # Names that are no text show only when they are asked for.
        for entry in (*session.get_inputs(), *session.get_outputs()):
            _ = entry.name, entry.type, entry.shape
        _ = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # ONNX Runtime's types have no common base
        raise ArtifactError(f"{usable} not a usable ONNX graph: {first_line(error)}") from error
    # ONNX Runtime has a copy of its own by now; its Python side would keep this one for as long.
    session._model_bytes = None
    first = (settings.providers or (_CPU,))[0]
    if session.get_providers()[0] != first:
        raise ConfigError(
            f"The execution provider {_short(first)!r} cannot be started on this machine; choose another, or "
            "install what it needs"
        )
    return session


def first_line(error: Exception) -> str:
    """What ONNX Runtime says of an error, as far as a sentence can hold it."""
    return str(error).strip().split("\n")[0][:200]


def _opened(files: ArtifactFiles, name: str, settings: Settings) -> ort.InferenceSession:
    with ExitStack() as stack:
        place: Path | None = None
        if settings.memory_map:
            data, place = stack.enter_context(files.mapped(name))
        else:
            data = memoryview(files.read(name))
        stack.callback(data.release)
        return start_session(data, settings, repr(name), place=place, where=f"Artifact {files.path}")


def _bytes(data: memoryview) -> bytes:
    return data.obj if isinstance(data.obj, bytes) else data.tobytes()


def _known(providers: str | Sequence[str] | None) -> tuple[str, ...]:
    """Execution providers by ONNX Runtime's names, the CPU last.

    Raises:
        ConfigError: one that this ONNX Runtime does not have.
    """
    wanted = [providers] if isinstance(providers, str) else list(providers or [])
    there = {_short(name): name for name in ort.get_available_providers()}
    for name in wanted:
        if not isinstance(name, str) or _short(name) not in there:
            raise ConfigError(
                f"There is no execution provider {name!r} in the ONNX Runtime that is installed; it has: "
                f"{', '.join(sorted(there))}; choose one of these, or install the build that brings it, such "
                "as onnxruntime-gpu"
            )
    found = [there[_short(name)] for name in wanted]
    return tuple(dict.fromkeys([*found, _CPU]))


def _short(provider: str) -> str:
    return provider.removesuffix(_PROVIDER).lower()


@cache
def _memory_is_bounded() -> bool:
    """Let ONNX Runtime take no more than the memory that is free now, so that a graph cannot use up all.

    All graphs then share one arena as well. It stands for the whole process, so it is asked for once.
    """
    free = _free_memory()
    if free is None:
        return False
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(place, ort.OrtArenaCfg({"max_mem": free}))
    except Exception:  # another part of the program has settled it already
        return False
    return True


def _free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
