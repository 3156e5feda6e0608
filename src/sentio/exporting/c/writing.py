"""A plan as one file of C that needs nothing but the C library."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.exporting.c.kernels import Vectors, call_lines
from sentio.exporting.c.loops import at, axes_of, merged, nest
from sentio.exporting.c.places import Call, Each, Place, Plan, literal
from sentio.exporting.c.program import Kind, Program

_TYPES: dict[Kind, str] = {"real": "R", "int": "int64_t", "bool": "int"}
#: weights in a line
_IN_A_LINE = 16

_PRELUDE = """
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef {real} R;
{vectors}
#if defined(__clang__)
#define IVDEP _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define IVDEP _Pragma("GCC ivdep")
#else
#error "vectors are those of GCC and Clang"
#endif

static inline void put(R *y, long stride, const R *x, long count) {{
  for (long i = 0; i < count; i++) y[i * stride] = x[i];
}}
static inline R clip_(R x, R least, R most) {{ return x < least ? least : x > most ? most : x; }}
{functions}
"""

_SINGLE = """
/* exp by a power of two and a polynomial of what remains, within two units in the last place */
static inline R exp_(R x) {
  const R y = clip_(x, -87.33654f, 88.72283f), n = (y * 1.44269504f + 12582912.0f) - 12582912.0f;
  const R r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  R p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  const int32_t half = (int32_t)n / 2;
  union { int32_t i; R r; } a = {(half + 127) << 23}, b = {((int32_t)n - half + 127) << 23};
  return x != x ? x : p * a.r * b.r;
}
static inline R sigmoid_(R x) { return 1 / (1 + exp_(-x)); }
static inline R tanh_(R x) {
  const R size = x < 0 ? -x : x, square = x * x;
  R p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const R large = 1 - 2 / (exp_(2 * size) + 1);
  return size < 0.625f ? x + x * square * p : x < 0 ? -large : large;
}
static inline R log_(R x) { return logf(x); }
static inline R sqrt_(R x) { return sqrtf(x); }
static inline R erf_(R x) { return erff(x); }
static inline R pow_(R x, R y) { return powf(x, y); }
static inline R softplus_(R x) { return (x > 0 ? x : 0) + log1pf(exp_(x > 0 ? -x : x)); }
"""

_DOUBLE = """
static inline R exp_(R x) { return exp(x); }
static inline R sigmoid_(R x) { return 1 / (1 + exp(-x)); }
static inline R tanh_(R x) { return tanh(x); }
static inline R log_(R x) { return log(x); }
static inline R sqrt_(R x) { return sqrt(x); }
static inline R erf_(R x) { return erf(x); }
static inline R pow_(R x, R y) { return pow(x, y); }
static inline R softplus_(R x) { return (x > 0 ? x : 0) + log1p(exp(x > 0 ? -x : x)); }
"""


def write_source(
    program: Program, plan: Plan, facts: dict[str, Any], name: str, machine: Vectors, title: str
) -> str:
    """The file's text.

    Args:
        facts: of the stream, which the file holds as JSON together with what it keeps.
        name: what its functions begin with.
        title: of the comment at its beginning.
    """
    return _Writer(program, plan, facts, name, machine, title).text()


class _Writer:
    def __init__(
        self,
        program: Program,
        plan: Plan,
        facts: dict[str, Any],
        name: str,
        machine: Vectors,
        title: str,
    ) -> None:
        self.program, self.plan, self.facts = program, plan, facts
        self.name, self.machine, self.title = name, machine, title
        self.digits = 9 if program.real == np.float32 else 17
        self.functions: list[str] = []
        self.constants: list[str] = []
        self.body: list[str] = []

    def text(self) -> str:
        used = {id(place.buffer): place.buffer for place in self._used()}
        for buffer in used.values():
            if buffer.constant is not None:
                self._constant(buffer.name, buffer.constant)
            elif buffer.is_work and buffer.kind != "real":
                self.body.append(f"{_TYPES[buffer.kind]} {buffer.name}[{buffer.cells.size}];")
        for index, part in enumerate(self.plan.parts):
            self._part(index, part)
        real, whole = ("float", "int32_t") if self.program.real == np.float32 else ("double", "int64_t")
        vectors = [
            f"typedef {kind} {letter}{lanes} __attribute__((vector_size({lanes} * sizeof(R)){more}));"
            for lanes in (self.machine.lanes >> shift for shift in range(self.machine.lanes.bit_length() - 1))
            for kind, letter, more in (("R", "V", ", aligned(sizeof(R))"), (whole, "I", ""))
        ]
        prelude = _PRELUDE.format(
            real=real, vectors="\n".join(vectors), functions=(_SINGLE if real == "float" else _DOUBLE).strip()
        )
        return "\n".join(
            [self._comment(), prelude.strip(), "", *self.constants, "", *self.functions, *self._given()]
        )

    def _used(self) -> list[Place]:
        places = [self.plan.valid]
        for part in self.plan.parts:
            places += [part.output, *part.inputs]
        return places

    def _part(self, index: int, part: Each | Call) -> None:
        name = f"{self.name}_part{index}"
        takes = [f"{_TYPES[part.output.buffer.kind]} *restrict y"]
        takes += [f"const {_TYPES[p.buffer.kind]} *restrict a{i}" for i, p in enumerate(part.inputs)]
        if isinstance(part, Each):
            lines = _each(part)
        else:
            lines, weights = call_lines(part, name, self.machine)
            for key, weight in weights.items():
                self._constant(key, weight)
        is_small = isinstance(part, Each) and part.output.cells.size == 1
        kind = "static inline" if is_small else "static __attribute__((noinline))"
        self.functions += [f"{kind} void {name}({', '.join(takes)}) {{", *("  " + x for x in lines), "}", ""]
        given = ", ".join(self._pointer(place) for place in (part.output, *part.inputs))
        self.body.append(f"{name}({given});")

    @staticmethod
    def _pointer(place: Place) -> str:
        buffer = place.buffer
        if buffer.is_work and buffer.kind == "real":
            return f"work + {buffer.offset + place.offset}"
        return f"{buffer.name} + {place.offset}" if place.offset else buffer.name

    def _constant(self, name: str, array: NDArray[Any]) -> None:
        values = np.asarray(array).reshape(-1)
        if values.dtype.kind == "f":
            kind = "R"
            form = f"%.{self.digits}g"
            texts = [form % value for value in values.astype(self.program.real).tolist()]
            texts = [_odd.get(text, text) for text in texts]
        else:
            kind = "int64_t"
            texts = [str(int(value)) for value in values.tolist()]
        rows = [",".join(texts[i : i + _IN_A_LINE]) for i in range(0, len(texts), _IN_A_LINE)]
        aligned = " __attribute__((aligned(64)))"
        self.constants.append(f"static const {kind} {name}[{len(texts)}]{aligned} = {{\n" + ",\n".join(rows))
        self.constants.append("};")

    def _comment(self) -> str:
        x, output = self.program.x.shape[1:], self.plan.output.shape[1:]
        return "\n".join(
            [
                f"/* {self.title}",
                "",
                f"   int valid = {self.name}_step(x, &steps, kept, work, output);",
                "",
                f"   x: {_shown(x)}; output: {_shown(output)}, of no use if valid is 0;",
                "   steps: how many steps the stream has had;",
                f"   kept: its state, {self.name}_KEPT numbers, which {self.name}_start sets to begin;",
                f"   work: {self.name}_WORK numbers that no other step uses meanwhile.",
                "   Written by Sentio; compile with -O3 -march=native -fno-math-errno. */",
            ]
        )

    def _given(self) -> list[str]:
        name, plan = self.name, self.plan
        x, output = int(np.prod(self.program.x.shape)), plan.output.cells.size
        begins = [
            (place.offset, place.cells.size, float(self.facts["begins_with"][key]))
            for key, place in plan.state.items()
        ]
        starts = [
            f"  for (long i = {offset}; i < {offset + size}; i++) kept[i] = {literal(value, 'real')};"
            for offset, size, value in begins
        ]
        facts = {
            "stream": self.facts,
            "type": str(self.program.real),
            "takes": list(self.program.x.shape[1:]),
            "gives": list(plan.output.shape[1:]),
            "kept": plan.kept,
            "work": plan.work,
            "state": {
                key: {"at": place.offset, "shape": list(place.shape[1:]), "strides": list(place.strides[1:])}
                for key, place in plan.state.items()
            },
        }
        text = json.dumps(json.dumps(facts))
        step = f"{name}_step(x + i * {x}, steps + i, kept + i * {plan.kept}, work, output + i * {output})"
        return [
            f"enum {{ {name}_KEPT = {plan.kept}, {name}_WORK = {plan.work} }};",
            f"const char {name}_facts[] = {text};",
            "",
            f"void {name}_start(int64_t *steps, R *kept) {{",
            "  (void)kept, *steps = 0;",
            *starts,
            "}",
            "",
            f"int {name}_step(const R *x, int64_t *steps, R *kept, R *work, R *output) {{",
            "  (void)kept, (void)work;",
            *("  " + line for line in self.body),
            "  *steps += 1;",
            f"  return {self._pointer(plan.valid)}[0];",
            "}",
            "",
            "/* one step of each of some streams, whose inputs, states and outputs lie one behind another */",
            f"void {name}_steps(long count, const R *x, int64_t *steps, R *kept, R *work, R *output,",
            "                  uint8_t *valid) {",
            f"  for (long i = 0; i < count; i++) valid[i] = (uint8_t){step};",
            "}",
            "",
        ]


_odd = {"nan": "NAN", "inf": "INFINITY", "-inf": "-INFINITY"}


def _shown(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _each(part: Each) -> list[str]:
    places = [part.output, *part.inputs]
    axes = merged(axes_of(part.output.shape, *(place.strides for place in places)))
    body = [
        f"const {_TYPES[place.buffer.kind]} a{index}_ = a{index}[{at(axes, index + 1)}];"
        for index, place in enumerate(part.inputs)
    ]
    lines = [(kind, _local(text)) for kind, text in part.lines]
    body += [f"const {_TYPES[kind]} t{i} = {text};" for i, (kind, text) in enumerate(lines[:-1])]
    body.append(f"y[{at(axes, 0)}] = {lines[-1][1]};")
    return nest(axes, body)


def _local(text: str) -> str:
    """Inputs as the loop has read them."""
    return re.sub(r"\ba(\d+)\b", r"a\1_", text)
