"""A stream's step as one file of C, and as a library compiled from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from sentio.core.errors import ArtifactError, ConfigError, InputError, MissingProgramError
from sentio.core.stepping import STEPS
from sentio.edge.compiled_step import c_name
from sentio.edge.stepped import STREAM
from sentio.exporting.c.kernels import Vectors
from sentio.exporting.c.planning import plan_program
from sentio.exporting.c.reading import read_program
from sentio.exporting.c.writing import write_source

#: widths of vectors in bits that are written for, and how many registers have them
_REGISTERS = {128: 16, 256: 16, 512: 32}
FLAGS = ("-O3", "-march=native", "-fno-math-errno")


def write_c(
    step: str | Path, path: str | Path, *, name: str | None = None, vector_bits: int | None = None
) -> Path:
    """Write a stream's step, as ``export_step`` wrote it, as one file of C.

    The file needs the C library and a compiler that knows GCC's vectors, GCC or Clang. It allocates nothing:
    weights are constants in it, and input, state, memory for work and output are given to it. Its first
    lines say how it is called. A stream has a batch of its own there: one step of it is a call, and many
    streams are as many, so weights are read for each.

    Args:
        step: the ``.onnx`` file.
        path: of the file of C.
        name: what its functions begin with; as the file is called if None.
        vector_bits: 128, 256 or 512, what the processor that will run it computes at once; as this machine's
            does if None. Wrong widths cost time and change nothing else.

    Raises:
        ArtifactError: no such file, or no step of a stream.
        ConfigError: an operation has no form in C, or a width is none of those.
        InputError: the file cannot be written.
    """
    what = f"The step {str(step)!r}"
    try:
        model = onnx.load_model_from_string(Path(step).read_bytes())
    except OSError as error:
        raise ArtifactError(f"{what} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of protobuf, whose types are its own
        raise ArtifactError(f"{what} is no ONNX file") from error
    text = {entry.key: entry.value for entry in model.metadata_props}.get(STREAM)
    if text is None:
        raise ArtifactError(
            f"{what} is a graph without {STREAM!r} in its metadata, so it is no step of a stream; write one "
            "with export_step"
        )
    bits = _own_bits() if vector_bits is None else vector_bits
    if bits not in _REGISTERS:
        raise ConfigError(f"Vectors have 128, 256 or 512 bits, not {vector_bits!r}")
    own = c_name(Path(path).stem) if name is None else name
    if c_name(own) != own:
        raise ConfigError(f"{name!r} is no name that C knows; use letters, digits and underscores")
    facts = _facts(text, model, what)
    program = read_program(model, what)
    machine = Vectors(bits // 8 // program.real.itemsize, _REGISTERS[bits])
    title = f"One step of a stream, from {Path(step).name}."
    source = write_source(program, plan_program(program), facts, own, machine, title)
    try:
        Path(path).write_text(source)
    except OSError as error:
        raise InputError(f"The step cannot be written to {str(path)!r}: {error.strerror or error}") from error
    return Path(path)


def compile_c(
    source: str | Path,
    path: str | Path | None = None,
    *,
    compiler: str | None = None,
    flags: Sequence[str] = FLAGS,
) -> Path:
    """Compile a step for this machine, as `sentio.edge.CompiledStep` opens it.

    Args:
        source: the file of C.
        path: of the library; beside the source, with the ending ``.so``, if None.
        compiler: GCC or Clang; what the environment calls ``CC``, or ``cc``, if None.
        flags: of the compiler.

    Raises:
        MissingProgramError: there is no such compiler.
        ArtifactError: it refuses the file.
    """
    library = Path(source).with_suffix(".so") if path is None else Path(path)
    command = compiler or os.environ.get("CC") or "cc"
    call = [*command.split(), *flags, "-shared", "-fPIC", "-o", str(library), str(source), "-lm"]
    try:
        done = subprocess.run(call, capture_output=True, text=True)
    except OSError as error:
        raise MissingProgramError(
            f"There is no C compiler {command!r}: {error.strerror or error}; install GCC or Clang"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        reason = lines[0].strip() if lines else f"exit code {done.returncode}"
        raise ArtifactError(f"{command!r} cannot compile {str(source)!r}: {reason}")
    return library


def _facts(text: str, model: onnx.ModelProto, what: str) -> dict[str, Any]:
    """What a file's metadata say, if its graph takes and gives that."""
    inputs = {entry.name for entry in model.graph.input}
    outputs = [entry.name for entry in model.graph.output]
    try:
        facts: dict[str, Any] = json.loads(text)
        begins = {name: float(value) for name, value in facts["begins_with"].items()}
        numbers = all(isinstance(facts[key], int) for key in ("hop", "axis", "warm_up"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{what} is damaged: its metadata {STREAM!r} cannot be read") from error
    taken, given = (f"state.{name}" for name in begins), (f"next.{name}" for name in begins)
    wanted = {"x", *taken}, ["output", "valid", *given]
    if not numbers or STEPS not in begins or (inputs, outputs) != wanted:
        raise ArtifactError(f"{what} is damaged: it does not take and give what its metadata say")
    return facts


def _own_bits() -> int:
    """How wide this processor's vectors are."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    if "avx512f" in flags:
        return 512
    return 256 if platform.machine().lower() in ("x86_64", "amd64") else 128
