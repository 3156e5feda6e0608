"""A step as C: PyTorch's answers from one file without dependencies, and refusals of the rest."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import sentio
from sentio import edge
from sentio.core import registry
from sentio.core.errors import ArtifactError, ConfigError, InputError, MissingProgramError
from sentio.nn.streaming import Form, streams
from sentio.nn.streaming_joins import Chain, Concat, Identity
from sentio.streaming.step_graph import export_step

torch.set_num_threads(1)
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
from sentio.exporting.c import compile_c, write_c  # noqa: E402 - of onnx

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
#: compiled fast; what is computed is the same up to rounding
QUICK = ("-O1", "-Wall", "-Wextra", "-Werror")


def compiled(stream, like, folder, bits=None, name="step"):
    file = export_step(stream, folder / f"{name}.onnx", like=like)
    source = write_c(file, folder / f"{name}.c", vector_bits=bits)
    return edge.CompiledStep(compile_c(source, flags=QUICK))


def differs(net, shape, folder, bits=None, dtype=torch.float64, **options):
    """How far two streams' answers and states are from PyTorch's, over the largest answer."""
    net = net.to(dtype).eval()
    stream = sentio.stream(net, example=torch.zeros(1, *shape, dtype=dtype), frozen=True, **options)
    sizes = list(shape)
    sizes[stream.axis - 1] = stream.hop
    step = compiled(stream, torch.zeros(1, *sizes, dtype=dtype), folder, bits)
    assert (step.hop, step.axis, step.warm_up) == (stream.hop, stream.axis, stream.warm_up)
    generator = torch.Generator().manual_seed(1)
    ours = theirs = None
    worst = largest = 0.0
    for _ in range(stream.warm_up + 3):
        x = torch.randn(2, *sizes, generator=generator, dtype=torch.float64).to(dtype)
        result = stream.step(x, theirs)
        output, valid, ours = step.step(x.numpy(), ours)
        theirs = result.state
        assert valid.tolist() == result.valid.tolist()
        if valid.all():
            worst = max(worst, np.abs(output - result.output.numpy()).max())
            largest = max(largest, np.abs(output).max())
    named = step.named(ours)
    for key, tensor in theirs.items():
        want = tensor.numpy()
        finite = np.isfinite(want)
        assert (named[key][~finite] == want[~finite]).all()
        assert np.abs(np.where(finite, named[key] - want, 0)).max(initial=0) <= 1e-4 * max(1, largest)
    return worst / (largest or 1)


def small(name):
    entry = registry.find("network", name)
    torch.manual_seed(0)
    net = sentio.create_network(name, **entry.small)
    with torch.no_grad():
        net.input_shapes = dict(entry.small_shapes)
        for seed in range(3):
            net.train()(net.example(8, seed=seed))
    return net, next(iter(net.input_shapes.values()))


SQUEEZING = {"phinet", "phinet-1d", "phinet-icassp", "phinet-teacher", "x3d-xs", "x3d-s", "x3d-m", "x3d-l"}
NETWORKS = ("crnn", "phinet-1d", "phinet-teacher", "st-gcn", "tiny-cnn")
SLOW = (
    *("aisfx", "cifar-mobilenet", "cnn6", "cnn10", "crnn-desed", "dcase2024-baseline", "mobilenet-v1"),
    *(
        "phinet",
        "phinet-icassp",
        "resnet8",
        "small-resnet",
        "slow",
        "sound-resnet",
        "sp4asc",
        "st-bln",
        "tap-cnn",
        "x3d-xs",
        "x3d-s",
        "x3d-m",
        "x3d-l",
    ),
)


@needs_compiler
@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_network_answers_as_in_pytorch(name, tmp_path):
    net, shape = small(name)
    options = {"squeeze": "frame"} if name in SQUEEZING else {}
    assert differs(net, shape, tmp_path, **options) < 1e-10


class Branched(nn.Module):
    """Branches that pad the same input with other values, wait for each other, and are joined."""

    def __init__(self):
        super().__init__()
        self.conv, self.apart = (
            nn.Conv2d(3, 5, (1, 3), padding=(0, 1)),
            nn.Conv2d(3, 3, 3, padding=1, groups=3),
        )
        self.pool, self.wide = nn.MaxPool2d(3, 1, padding=1), nn.Conv2d(3, 4, (5, 5), padding=(2, 2))

    def forward(self, x):
        return torch.cat([self.conv(x), self.pool(x), x, self.apart(x), self.wide(x)], 1)


@streams(Branched)
def _branched(block: Branched) -> Form:
    return Concat(block.conv, block.pool, Identity(), block.apart, block.wide)


class Recurrent(nn.Module):
    """A recurrent layer without its final state."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@streams(Recurrent)
def _recurrent(block: Recurrent) -> Form:
    return Chain(block.layer)


LAYERS = {
    "branches": (
        nn.Sequential(nn.Conv2d(2, 3, 1), Branched(), nn.ReLU(), nn.Conv2d(18, 4, 3, padding=1)),
        (2, 16, 9),
    ),
    "activations": (
        nn.Sequential(
            *(nn.Conv1d(3, 4, 3), nn.PReLU(4), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid()),
            *(nn.Conv1d(4, 4, 1), nn.ELU(), nn.SELU(), nn.CELU(0.5), nn.Softplus(), nn.Mish(), nn.Tanh()),
            *(nn.Conv1d(4, 6, 1), nn.GLU(1), nn.GELU("tanh"), nn.Softsign(), nn.LogSigmoid(), nn.ReLU6()),
            *(nn.Conv1d(3, 3, 1), nn.LeakyReLU(), nn.Hardtanh(), nn.Softmax(1)),
        ),
        (3, 16),
    ),
    "features": (
        nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.RMSNorm(8), nn.Linear(8, 3)),
        (16, 6),
    ),
    "recurrent": (
        nn.Sequential(
            *(nn.Linear(6, 5), Recurrent(nn.GRU(5, 7, 2, batch_first=True)), nn.Linear(7, 5)),
            *(Recurrent(nn.LSTM(5, 4, batch_first=True)), nn.Linear(4, 3)),
        ),
        (16, 6),
    ),
    "pooling": (
        nn.Sequential(
            *(nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(3, 2, padding=1), nn.ZeroPad2d((1, 2, 0, 0))),
            *(nn.Conv2d(3, 5, (3, 1), padding=(1, 0)), nn.AvgPool2d((2, 3), 2, padding=(0, 1))),
            *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
        ),
        (2, 24, 9),
    ),
    "groups": (
        nn.Sequential(
            *(nn.Conv2d(4, 6, 3, groups=2, padding=(1, 2), dilation=(1, 2)), nn.ReLU()),
            *(nn.Conv2d(6, 6, 3, groups=6, stride=(2, 2), padding=1), nn.Conv2d(6, 12, 3, groups=6)),
        ),
        (4, 16, 9),
    ),
    "volumes": (
        nn.Sequential(
            *(nn.Conv3d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 3, (5, 3, 3), groups=3)),
            *(nn.MaxPool3d((1, 2, 2)), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2)),
        ),
        (2, 8, 7, 8),
    ),
    "wide": (
        nn.Sequential(
            nn.Conv1d(40, 70, 5, padding=2), nn.ReLU(), nn.Conv1d(70, 33, 1), nn.Conv1d(33, 200, 3)
        ),
        (40, 16),
    ),
    "long kernels": (
        nn.Sequential(nn.Conv1d(8, 8, 51, groups=8, padding=25), nn.MaxPool1d(40, 1), nn.AvgPool1d(40, 1)),
        (8, 200),
    ),
}


@needs_compiler
@pytest.mark.parametrize("hop", [None, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_answer_as_in_pytorch(name, hop, tmp_path):
    net, shape = LAYERS[name]
    torch.manual_seed(0)
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    time = {"axis": 1} if name in ("features", "recurrent") else {}
    assert differs(net, shape, tmp_path, hop=hop, **time) < 1e-10


@needs_compiler
@pytest.mark.parametrize("bits", [128, 256])
def test_vectors_of_all_widths_give_the_same(bits, tmp_path):
    """Up to rounding, in both precisions, and a processor needs none of that width."""
    net, shape = small("tiny-cnn")
    assert differs(net, shape, tmp_path, bits, torch.float32) < 1e-5
    assert differs(net, shape, tmp_path, bits, torch.float64, hop=32) < 1e-10


@needs_compiler
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_convolutions_of_any_size(data, tmp_path_factory):
    draw = data.draw
    layers, channels, bands = [], draw(st.integers(1, 9), "channels"), draw(st.integers(3, 20), "bands")
    first = channels, bands
    for _ in range(draw(st.integers(1, 3), "layers")):
        groups = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]), "groups")
        out = groups * draw(st.integers(1, 40 // groups), "out")
        kernel = draw(st.integers(1, 4), "time"), draw(st.integers(1, min(5, bands)), "kernel")
        apart = draw(st.integers(1, 2)), draw(st.integers(1, max(1, (bands - 1) // max(1, kernel[1] - 1))))
        stride = draw(st.integers(1, 2)), draw(st.integers(1, 3))
        pad = draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, 3))
        layers += [nn.Conv2d(channels, out, kernel, stride, pad, apart, groups, bias=draw(st.booleans()))]
        layers += [nn.ReLU()] if draw(st.booleans(), "ReLU") else []
        channels, bands = out, (bands + 2 * pad[1] - apart[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        assume(bands >= 1)
    torch.manual_seed(0)
    shape = (first[0], 32, first[1])
    folder = tmp_path_factory.mktemp("any")
    net = nn.Sequential(nn.Conv2d(first[0], first[0], 1), *layers)
    assert differs(net, shape, folder, draw(st.sampled_from([128, 256, 512]), "bits")) < 1e-10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("c")


@pytest.fixture(scope="module")
def stream():
    """Padding behind a bias, a maximum that begins at minus infinity and a window of means."""
    torch.manual_seed(0)
    net = sentio.create_network("tiny-cnn", classes=3, width=4).eval()
    layers = [net.stage("block1"), nn.MaxPool2d(3, 2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return sentio.stream(nn.Sequential(*layers, nn.Linear(4, 3)), window=24, example=torch.zeros(1, 1, 24, 8))


@pytest.fixture(scope="module")
def step(stream, folder):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    return compiled(stream, None, folder)


def chunks(count, batch=1, seed=0):
    return np.random.default_rng(seed).standard_normal((count, batch, 1, 4, 8)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3])
def test_in_place_the_answers_are_the_same(step, batch):
    given, state = chunks(step.warm_up + 5, batch=batch), None
    own = step.in_place(batch)
    kept = []
    for x in given:
        before = None if state is None else {name: value.copy() for name, value in state.items()}
        result = step.step(x, state)
        assert before is None or all((state[name] == value).all() for name, value in before.items())
        state = result.state
        kept.append((own.step(x), result))
    for (output, valid), result in kept:
        assert valid.tolist() == result.valid.tolist()
        np.testing.assert_array_equal(output[valid], result.output[valid])
    for name, value in own.state.items():
        np.testing.assert_array_equal(value, state[name])


def test_a_stream_goes_on_from_onnx_runtime_and_back(step, folder, tmp_path):
    other = edge.ExportedStep(folder / "step.onnx", threads=1)
    given, theirs = chunks(step.warm_up + 6), None
    for x in given[:-3]:
        theirs = other.step(x, theirs).state
    ours = step.from_named(theirs)
    edge.save_state(tmp_path / "state.npz", ours)
    ours = edge.load_state(tmp_path / "state.npz")
    assert all((step.named(ours)[name] == value).all() for name, value in theirs.items())
    for x in given[-3:]:
        output, valid, ours = step.step(x, ours)
        expected = other.step(x, theirs)
        theirs = expected.state
        assert valid.all()
        np.testing.assert_allclose(output, expected.output, rtol=1e-5, atol=1e-6)
    back = other.step(given[0], step.named(ours)).output
    np.testing.assert_allclose(back, step.step(given[0], ours).output, rtol=1e-5, atol=1e-6)


def test_in_company_a_stream_is_bit_for_bit_what_it_is_alone(step):
    given = chunks(step.warm_up + 6)[:, 0]
    alone = edge.SingleStream(step)
    expected = [answer.output for x in given for answer in alone.push(x)]
    batch = edge.StreamBatch(step)
    batch.join("early")
    for index, x in enumerate(given):
        if index == 2:
            batch.join("late")
            batch.push("late", given[0])
        batch.push("early", x)
        found = batch.run()["early"].output
        if isinstance(found, edge.Warming):
            assert found == expected[index]
        else:
            np.testing.assert_array_equal(found, expected[index])
    assert not isinstance(found, edge.Warming)


def test_several_threads_may_step(step):
    given = chunks(step.warm_up + 20)

    def run(_):
        state = None
        for x in given:
            output, _, state = step.step(x, state)
        return output

    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(run, range(8)))
    assert all((output == outputs[0]).all() for output in outputs)


def test_bad_units_and_states_are_said_and_lose_nothing(step):
    own = step.in_place(2)
    with pytest.raises(InputError, match=r"takes 4 units of each stream.*\(2, 1, 3, 8\)"):
        own.step(np.zeros((2, 1, 3, 8), np.float32))
    with pytest.raises(InputError, match="NaN or infinite"):
        own.step(np.full((2, 1, 4, 8), np.nan, np.float32))
    with pytest.raises(InputError, match="There are 2 streams here; got units of 1"):
        own.step(chunks(1)[0])
    assert own.state["steps"].tolist() == [0, 0]
    with pytest.raises(InputError, match="At least one stream can be stepped, not 0"):
        step.in_place(0)
    with pytest.raises(InputError, match="The state is of another network: it lacks 'kept'"):
        step.step(chunks(1)[0], {"steps": np.zeros(1, np.int64)})
    with pytest.raises(InputError, match=r"'kept' has shape \(1, 3\)"):
        step.in_place(state={"steps": np.zeros(1, np.int64), "kept": np.zeros((1, 3), np.float32)})
    with pytest.raises(InputError, match="A state is a dict of arrays"):
        step.named(None)
    with pytest.raises(InputError, match="A state is a dict of arrays"):
        step.from_named(3)
    with pytest.raises(InputError, match="another network"):
        step.from_named({"steps": np.zeros(1, np.int64)})


@needs_compiler
def test_the_file_is_all_that_a_program_in_c_needs(step, folder, tmp_path):
    main = """
#include "step.c"
#include <stdio.h>
static R kept[step_KEPT], work[step_WORK], x[4 * 8], output[3];
int main(void) {
  int64_t steps;
  step_start(&steps, kept);
  for (int n = 0; n < %d; n++) {
    for (int i = 0; i < 32; i++) x[i] = (R)((i * 7 + n * 5) %% 11) - 5;
    if (step_step(x, &steps, kept, work, output))
      printf("%%.9g %%.9g %%.9g\\n", output[0], output[1], output[2]);
  }
}
"""
    count = step.warm_up + 3
    (tmp_path / "main.c").write_text(main % count)
    call = [
        "cc",
        "-std=c11",
        *QUICK,
        "-I",
        str(folder),
        "-o",
        str(tmp_path / "main"),
        str(tmp_path / "main.c"),
    ]
    subprocess.run([*call, "-lm"], check=True)
    printed = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout
    state, expected = None, []
    for n in range(count):
        x = ((np.arange(32) * 7 + n * 5) % 11 - 5).reshape(1, 1, 4, 8).astype(np.float32)
        output, valid, state = step.step(x, state)
        expected += [output[0]] if valid[0] else []
    found = [[float(number) for number in line.split()] for line in printed.splitlines()]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_has_no_form_in_c_is_said(stream, tmp_path):
    file = export_step(stream, tmp_path / "step.onnx")
    model = onnx.load(file)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Einsum"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ConfigError, match=r"odd\.onnx' cannot be written as C: the operation 'Einsum' of"):
        write_c(tmp_path / "odd.onnx", tmp_path / "odd.c")
    half = nn.Sequential(nn.Conv1d(2, 3, 3)).half().eval()
    example = torch.zeros(1, 2, 8, dtype=torch.float16)
    export_step(sentio.stream(half, example=example), tmp_path / "half.onnx", like=example[:, :, :1])
    with pytest.raises(ConfigError, match="float16"):
        write_c(tmp_path / "half.onnx", tmp_path / "half.c")
    assert not list(tmp_path.glob("*.c"))


def test_what_cannot_be_read_or_written_is_said(stream, tmp_path):
    file = export_step(stream, tmp_path / "step.onnx")
    with pytest.raises(ArtifactError, match=r"'none\.onnx' cannot be read: No such file"):
        write_c("none.onnx", tmp_path / "step.c")
    (tmp_path / "text.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"text\.onnx' is no ONNX file"):
        write_c(tmp_path / "text.onnx", tmp_path / "step.c")
    model = onnx.load(file)
    other = '{"hop": 4, "axis": 2, "warm_up": 3, "begins_with": {"steps": 0}}'
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(ArtifactError, match="no step of a stream; write one with export_step"):
        write_c(tmp_path / "plain.onnx", tmp_path / "step.c")
    for text, said in (
        ("{", "cannot be read"),
        ('{"hop": 4}', "cannot be read"),
        (other, "does not take and give"),
    ):
        model.metadata_props.add(key="sentio.stream", value=text)
        onnx.save(model, tmp_path / "odd.onnx")
        del model.metadata_props[:]
        with pytest.raises(ArtifactError, match=rf"odd\.onnx' is damaged: it.* {said}"):
            write_c(tmp_path / "odd.onnx", tmp_path / "step.c")
    with pytest.raises(InputError, match=r"cannot be written to .*: No such file"):
        write_c(file, tmp_path / "nowhere" / "step.c")
    with pytest.raises(ConfigError, match="Vectors have 128, 256 or 512 bits, not 64"):
        write_c(file, tmp_path / "step.c", vector_bits=64)
    with pytest.raises(ConfigError, match="'3 d' is no name that C knows"):
        write_c(file, tmp_path / "step.c", name="3 d")


def test_what_cannot_be_compiled_or_opened_is_said(stream, tmp_path):
    source = write_c(export_step(stream, tmp_path / "step.onnx"), tmp_path / "3-d.c")
    assert "int _3_d_step(" in source.read_text()
    with pytest.raises(MissingProgramError, match=r"no C compiler 'no-such-cc'.*install GCC or Clang"):
        compile_c(source, compiler="no-such-cc")
    with pytest.raises(ArtifactError, match=r"none\.so' cannot be opened: No such file"):
        edge.CompiledStep(tmp_path / "none.so")
    with pytest.raises(ArtifactError, match=r"3-d\.c' cannot be opened: "):
        edge.CompiledStep(source)


def test_a_missing_onnx_is_named_with_its_extra():
    code = """
import sys
sys.modules["onnx"] = None
try:
    from sentio.exporting.c import write_c
except Exception as error:
    print(type(error).__name__, error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "MissingExtraError onnx, which sentio.exporting.c needs" in run.stdout
    assert "pip install 'sentio[export]'" in run.stdout


def test_a_compiled_step_brings_no_runtime():
    heavy = {"torch", "onnxruntime", "onnx"}
    code = f"import sys; from sentio.edge import CompiledStep; print({heavy} & {{*sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@needs_compiler
def test_a_library_of_something_else_is_said(step, folder, tmp_path):
    (tmp_path / "bad.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(ArtifactError, match=r"'cc' cannot compile .*bad\.c': .*'x' undeclared|undeclared"):
        compile_c(tmp_path / "bad.c")
    (tmp_path / "other.c").write_text("int other(void) { return 3; }\n")
    with pytest.raises(ArtifactError, match=r"other\.so' holds no step called 'other'"):
        edge.CompiledStep(compile_c(tmp_path / "other.c"))
    moved = shutil.copy(folder / "step.so", tmp_path / "moved.so")
    with pytest.raises(ArtifactError, match=r"holds no step called 'moved'.* say its name"):
        edge.CompiledStep(moved)
    assert edge.CompiledStep(moved, name="step").shape == step.shape
