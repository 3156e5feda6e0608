"""An ONNX step as a program of few kinds of operations, for one stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sentio.core.stepping import STEPS
from sentio.exporting.c.lowering import KINDS
from sentio.exporting.c.operations import Operations, attributes
from sentio.exporting.c.program import CLAMP, Kind, Program, Value

#: elementwise operations in C; R is the type of real numbers, and so are the functions of the prelude
_TEXTS = {
    "Relu": CLAMP,
    "Sigmoid": "sigmoid_({0})",
    "Tanh": "tanh_({0})",
    "Exp": "exp_({0})",
    "Log": "log_({0})",
    "Sqrt": "sqrt_({0})",
    "Erf": "erf_({0})",
    "Softplus": "softplus_({0})",
    "Mish": "({0} * tanh_(softplus_({0})))",
    "Softsign": "({0} / (1 + ({0} < 0 ? -{0} : {0})))",
    "Abs": "({0} < 0 ? -{0} : {0})",
    "Neg": "(-{0})",
    "Reciprocal": "(1 / {0})",
    "HardSwish": "({0} * clip_({0} / 6 + (R)0.5, 0, 1))",
    "Not": "(!{0})",
    "Identity": "{0}",
    "Add": "({0} + {1})",
    "Sub": "({0} - {1})",
    "Mul": "({0} * {1})",
    "Div": "({0} / {1})",
    "Pow": "pow_({0}, {1})",
    "PRelu": "({0} < 0 ? {0} * {1} : {0})",
    "And": "({0} && {1})",
    "Or": "({0} || {1})",
    "GreaterOrEqual": "({0} >= {1})",
    "Greater": "({0} > {1})",
    "LessOrEqual": "({0} <= {1})",
    "Less": "({0} < {1})",
    "Equal": "({0} == {1})",
    "Where": "({0} ? {1} : {2})",
}
_TRUTHS = {"GreaterOrEqual", "Greater", "LessOrEqual", "Less", "Equal", "And", "Or", "Not"}
_REDUCTIONS = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min"}


def read_program(model: onnx.ModelProto, what: str) -> Program:
    """The program of a step as `sentio.streaming.step_graph.export_step` wrote it.

    Args:
        model: of the file.
        what: the file, for messages.

    Raises:
        ConfigError: an operation has no form in C, or numbers are of another type than 32 or 64 bits.
    """
    return _Reader(model, what).program()


class _Reader(Operations):
    def program(self) -> Program:
        graph = self.model.graph
        inputs = {entry.name: self._input(entry) for entry in graph.input if entry.name not in self.values}
        self.values.update(inputs)
        for node in graph.node:
            self.node = node
            given = [self.values[name] if name else None for name in node.input]
            if node.op_type == "Shape":
                self._shape(node, given[0])
            elif all(value is None or value.constant is not None for value in given):
                self._fold(node, given)
            else:
                self._lower(node, given)
        out = [self.values[entry.name] for entry in graph.output]
        names = [name.removeprefix("state.") for name in inputs if name.startswith("state.")]
        after = {
            entry.name.removeprefix("next."): value for entry, value in zip(graph.output, out, strict=True)
        }
        odd = [name for name in names if name != STEPS and inputs[f"state.{name}"].kind != "real"]
        if odd:
            raise self.refused(f"its state {odd[0]!r} is not of real numbers")
        return Program(
            self.ops,
            inputs["x"],
            inputs[f"state.{STEPS}"],
            {name: inputs[f"state.{name}"] for name in names if name != STEPS},
            after["output"],
            after["valid"],
            {name: after[name] for name in names if name != STEPS},
            self.real,
        )

    def _input(self, entry: onnx.ValueInfoProto) -> Value:
        kind = entry.type.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if entry.name == "x":
            self.real = dtype
            if dtype not in (np.float32, np.float64):
                raise self.refused(f"it takes {dtype}, and C is written for float32 and float64")
        sizes = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in kind.shape.dim]
        return Value(entry.name, tuple(sizes), KINDS[dtype.kind])

    def _shape(self, node: onnx.NodeProto, value: Value | None) -> None:
        assert value is not None
        facts = attributes(node)
        sizes = value.shape[facts.get("start", 0) : facts.get("end")]
        self.hold(node.output[0], np.array(sizes, np.int64))

    def _fold(self, node: onnx.NodeProto, given: Sequence[Value | None]) -> None:
        names = {name: value.constant for name, value in zip(node.input, given, strict=True) if value}
        graph = helper.make_graph(
            [node],
            "constant",
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names],
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        for name, array in zip(node.output, ReferenceEvaluator(model).run(None, names), strict=True):
            self.hold(name, np.asarray(array))

    def _lower(self, node: onnx.NodeProto, given: list[Value | None]) -> None:
        inputs = [value for value in given if value is not None]
        facts = attributes(node)
        if node.op_type in _TEXTS:
            kind: Kind | None = "bool" if node.op_type in _TRUTHS else None
            if node.op_type == "Where":
                kind = inputs[1].kind
            result: Value | list[Value] = self.each(_TEXTS[node.op_type], *inputs, kind=kind)
        elif node.op_type in _REDUCTIONS:
            result = self.reduce(inputs, facts, _REDUCTIONS[node.op_type])
        else:
            method = getattr(self, f"_{node.op_type.lower()}", None)
            if method is None:
                raise self.refused(f"the operation {node.op_type!r} of {node.name!r} has no form in C")
            takes_gaps = node.op_type in ("GRU", "LSTM", "Clip", "Conv")
            result = method(given if takes_gaps else inputs, facts)
        for name, value in zip(node.output, result if isinstance(result, list) else [result], strict=False):
            if name:
                self.values[name] = value
