"""Boxes that mean harm, or came to it: each is refused in one sentence, and nothing outside is read.

Each builder gets a namespace: ``box``, a sound box as a folder; ``outside``, a folder beside it with a file
``secret`` that nobody may open; ``put`` and ``edit`` to change files and the manifest; ``graphs`` to make
ONNX with. It returns the path to open, or None for the box.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from sentio.core.errors import ArtifactError

pytest.importorskip("onnx")

HEAD = "stages/head.onnx"
OPENED: list[str] = []
WATCHING = False


def _watch(event, arguments):
    if WATCHING and event == "open" and isinstance(arguments[0], str | bytes):
        OPENED.append(os.fsdecode(arguments[0]))


sys.addaudithook(_watch)

#: (id, builder, words that the sentence holds, opened as)
TABLE = []


def hostile(words, opened="predict"):
    def add(build):
        TABLE.append(pytest.param(build, words, opened, id=build.__name__))
        return build

    return add


@pytest.fixture
def place(own_box, tmp_path, put, graphs, tamper):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(bytes(4096))
    soundfile.write(tmp_path / "clip.wav", 0.3 * np.sin(np.arange(2400) / 5), 8000)
    return SimpleNamespace(
        box=own_box,
        outside=outside,
        folder=tmp_path,
        put=lambda name, data: put(own_box, name, data),
        edit=lambda change: tamper(own_box, change),
        graphs=graphs,
        packed=lambda **options: packed(own_box, tmp_path / "box.zip", **options),
    )


def packed(folder, file, more=(), method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
        for name, data in more:
            archive.writestr(name, data)
    return file


def command(path, clip, capfd):
    from sentio.cli import main

    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["predict", str(path), str(clip), "--runtime", "edge", "--threads", "1"])
    found = capfd.readouterr()
    return left.value.code, found.out, found.err


def test_the_box_itself_is_sound(own_box, place, capfd):
    code, out, err = command(own_box, place.folder / "clip.wav", capfd)
    assert (code or 0, err) == (0, "")
    assert re.search(r"(cat|dog|owl) .* exit (e|final)", out)


# files


@hostile("'stages/head.onnx' does not match its checksum; copy or export it again")
def a_graph_cut_off(p):
    (p.box / HEAD).write_bytes((p.box / HEAD).read_bytes()[:-40])


@hostile("does not match its checksum")
def a_graph_with_one_bit_changed(p):
    data = bytearray((p.box / HEAD).read_bytes())
    data[60] ^= 4
    (p.box / HEAD).write_bytes(data)


@hostile("'stages/head.onnx' is missing")
def a_graph_missing(p):
    (p.box / HEAD).unlink()


@hostile("is missing")
def a_folder_for_a_graph(p):
    (p.box / HEAD).unlink()
    (p.box / HEAD).mkdir()


@hostile("is missing")
def a_pipe_for_a_graph(p):
    (p.box / HEAD).unlink()
    os.mkfifo(p.box / HEAD)


@hostile("is refused: 'stages/head.onnx' is a link that leads outside")
def a_device_for_a_graph(p):
    (p.box / HEAD).unlink()
    (p.box / HEAD).symlink_to("/dev/zero")


@hostile("is a link that leads outside")
def a_link_for_a_graph(p):
    (p.box / HEAD).unlink()
    (p.box / HEAD).symlink_to(p.outside / "secret")


@hostile("is a link that leads outside")
def a_link_for_the_folder_of_graphs(p):
    (p.box / "stages").rename(p.outside / "stages")
    (p.box / "stages").symlink_to(p.outside / "stages")


@hostile("is larger than it can be")
def a_graph_that_grew(p):
    with (p.box / HEAD).open("ab") as file:
        file.write(bytes(100))


@hostile("does not match its checksum|larger than it can be")
def graphs_whose_bytes_are_swapped(p):
    one, other = p.box / HEAD, p.box / "stages/a.onnx"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@hostile("'sentio.json' is missing")
def a_pipe_for_the_manifest(p):
    (p.box / "sentio.json").unlink()
    os.mkfifo(p.box / "sentio.json")


@hostile("is not a Sentio artifact: it is neither a folder nor a file")
def a_pipe_for_a_box(p):
    os.mkfifo(p.folder / "pipe")
    return p.folder / "pipe"


@hostile("is not a Sentio artifact: it is neither a folder nor a file")
def a_device_for_a_box(p):
    (p.folder / "zero").symlink_to("/dev/zero")
    return p.folder / "zero"


# the manifest


@hostile("sentio.json is not valid JSON")
def a_manifest_that_is_not_unicode(p):
    (p.box / "sentio.json").write_bytes(b'{"format": "\xff\xfe"}')


@hostile("sentio.json is not valid JSON")
def a_manifest_nested_too_deep(p):
    p.edit(lambda values: values["card"].update(deep=0) if "card" in values else None)
    text = (p.box / "sentio.json").read_text()
    (p.box / "sentio.json").write_text(text[:-1] + ', "deep": ' + "[" * 10**5 + "]" * 10**5 + "}")


@hostile("sentio.json is not valid JSON")
def a_number_that_is_none(p):
    p.edit(lambda values: values["temperatures"].update(final=float("nan")))


@hostile("sentio.json is not valid JSON")
def a_number_too_large(p):
    text = (p.box / "sentio.json").read_text()
    (p.box / "sentio.json").write_text(re.sub(r'"final": 2.0', '"final": 1e999', text))


@hostile("sentio.json is not valid JSON")
def a_key_that_stands_twice(p):
    text = (p.box / "sentio.json").read_text()
    (p.box / "sentio.json").write_text(text[:-1] + ', "name": "another"}')


@hostile("'sentio.json' is larger than it can be")
def a_huge_manifest(p):
    with (p.box / "sentio.json").open("ab") as file:
        file.write(b" " * (9 << 20))


@hostile("is damaged at 'network.stages'")
def stages_of_a_wrong_type(p):
    p.edit(lambda values: values["network"].update(stages="a"))


@hostile("is damaged at 'files.stages/head.onnx.bytes'")
def a_length_of_a_wrong_type(p):
    p.edit(lambda values: values["files"][HEAD].update(bytes="many"))


@hostile("is damaged at 'files.stages/head.onnx.bytes'")
def a_length_beyond_all_disks(p):
    p.edit(lambda values: values["files"][HEAD].update(bytes=10**30))


@hostile("has format version 99, this Sentio reads up to")
def an_unknown_version(p):
    p.edit(lambda values: values.update(version=99))


@hostile("its format version is '3'")
def a_version_of_a_wrong_type(p):
    p.edit(lambda values: values.update(version="3"))


@hostile("graphs has no 'stage:head'")
def a_stage_without_a_graph(p):
    p.edit(lambda values: values["graphs"].pop("stage:head"))


@hostile("stage names repeat in a, a")
def a_stage_twice(p):
    p.edit(lambda values: values["network"].update(stages=["a", "a"]))


@hostile("is damaged: 'stages/(a|head).onnx' takes shape|'stages/head.onnx' gives shape")
def stages_swapped_in_the_manifest(p):
    def swap(values):
        graphs = values["graphs"]
        one, other = graphs["stage:a"], graphs["stage:head"]
        one["file"], other["file"] = other["file"], one["file"]

    p.edit(swap)


def _named(p, name):
    facts = {"bytes": 4096, "sha256": hashlib.sha256(bytes(4096)).hexdigest()}

    def change(values):
        values["files"][name] = facts
        values["graphs"]["stage:head"]["file"] = name

    p.edit(change)


@hostile(r"is refused: '\.\./outside/secret' is not a plain relative file name")
def a_name_that_climbs_out(p):
    _named(p, "../outside/secret")


@hostile("is not a plain relative file name")
def a_name_from_the_root(p):
    _named(p, str(p.outside / "secret"))


@hostile("is not a plain relative file name")
def a_name_with_a_drive(p):
    _named(p, "C:\\outside\\secret")


@hostile("is not a plain relative file name|is damaged at 'graphs.stage:head.file'")
def a_name_with_a_zero_byte(p):
    _named(p, "stages/head.onnx\0.txt".replace("\0", "%00"))


@hostile("differ in capitals only")
def names_that_differ_in_capitals(p):
    p.edit(lambda values: values["files"].update({"Stages/A.onnx": values["files"]["stages/a.onnx"]}))


@hostile(r"holds the text '\\ud800', which cannot be shown")
def a_label_that_is_no_text(p):
    p.edit(lambda values: values["task"]["settings"].update(labels=["\ud800", "dog", "owl"]))


@hostile(r"holds the text '\\x1b\[2Jcat', which cannot be shown")
def a_label_that_rules_the_terminal(p):
    p.edit(lambda values: values["task"]["settings"].update(labels=["\x1b[2Jcat", "dog", "owl"]))


@hostile("which cannot be shown")
def a_stage_name_of_two_lines(p):
    p.edit(lambda values: values["network"].update(stages=["a\nTraceback", "head"]))


@hostile("is damaged at 'network.stages.0'")
def a_name_without_end(p):
    p.edit(lambda values: values["network"].update(stages=["a" * 10**6, "head"]))


@hostile("does not fit this version of Sentio: Unknown task 'os.system'")
def a_task_that_is_a_function(p):
    p.edit(lambda values: values["task"].update(name="os.system"))


@hostile("Unknown frontend|Unknown front end")
def a_front_end_that_is_a_path(p):
    p.edit(lambda values: values["frontend"].update(name="../../secret"))


@hostile("has no option '__class__'")
def an_option_that_nobody_takes(p):
    p.edit(lambda values: values["frontend"]["settings"].update(__class__="x"))


@hostile(r"where it is given \(batch, 1, 1000000, 1000000\)")
def an_input_without_end(p):
    p.edit(lambda values: values["network"]["input_shapes"].update(main=[1, 10**6, 10**6]))


@hostile("its input 'main' has 3,906,250,016 values, more than")
def an_input_without_end_and_a_front_end_that_gives_it(p):
    def change(values):
        values["network"]["input_shapes"].update(main=[1, 488281252, 8])
        values["frontend"]["settings"].update(window=62500000128 / 8000)

    p.edit(change)
    graph = p.graphs.body()
    graph.inputs = {"in_0": (1, ("batch", "channel", "time", 8))}
    graph.outputs = {"out_0": (1, ("batch", "channel", "time", 8))}
    p.put("stages/a.onnx", graph.bytes())


@hostile("does not fit this version of Sentio: Log-mel settings: n_fft must be at most")
def a_transform_without_end(p):
    p.edit(lambda values: values["frontend"]["settings"].update(n_fft=2**40, window=1e9))


@hostile("gives shape .batch, 3., where 4 values for each sample are expected")
def more_labels_than_outputs(p):
    p.edit(lambda values: values["task"]["settings"].update(labels=["a", "b", "c", "d"]))


@hostile("is damaged at 'temperatures.final'")
def a_temperature_below_zero(p):
    p.edit(lambda values: values["temperatures"].update(final=-1.0))


@hostile("does not fit this version of Sentio: Unknown exit 'nowhere'|names 'nowhere'")
def a_policy_about_no_exit(p):
    p.edit(lambda values: values.update(policy={"name": "fixed", "exit": "nowhere"}))


@hostile("gives 'out_0' of shape .batch, 1, 19, 8., where the manifest says .batch, 1, 19, 9.")
def a_shape_that_the_graph_does_not_give(p):
    def change(values):
        values["version"] = 4
        values["graphs"]["stage:a"]["shapes"] = [[1, 19, 9]]

    p.edit(change)


# graphs; the manifest agrees with each


@hostile("is not a usable ONNX graph")
def a_pickle_for_a_graph(p):
    p.put(HEAD, f"cposix\nsystem\n(S'touch {p.outside}/ran'\ntR.".encode())


@hostile("is not a usable ONNX graph|holds no graphs")
def nothing_for_a_graph(p):
    p.put(HEAD, b"")


@hostile("is not a usable ONNX graph")
def another_format_for_a_graph(p):
    p.put(HEAD, b"\x18\x00\x00\x00ORTM" + bytes(200))


@hostile("keeps tensors in other files, which a Sentio artifact does not do")
def tensors_outside(p):
    p.put(HEAD, _outside(p).bytes())


def _outside(p):
    from onnx import TensorProto

    tensor = TensorProto(name="w", data_type=1, dims=[8, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=str(p.outside / "secret"))
    graph = p.graphs.last(2)
    graph.tensors["w"] = tensor
    return graph


@hostile("is not a usable ONNX graph: a protobuf tag is too large")
def tensors_outside_under_a_tag_that_is_cut(p):
    from onnx import load_from_string

    # ONNX Runtime reads 32 bits of a tag, so this one is TensorProto.external_data to it.
    def field(tag, data):
        return tag + bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data

    entry = load_from_string(_outside(p).bytes()).graph.initializer[1].external_data[0].SerializeToString()
    graph = p.graphs.last(2)
    del graph.tensors["w"]
    model = load_from_string(graph.bytes())
    tensor = b"\x08\x08\x08\x03\x10\x01\x42\x01w\x70\x00" + field(b"\xea\x80\x80\x80\x10", entry)
    inside = model.graph.SerializeToString() + field(b"\x2a", tensor)
    model.ClearField("graph")
    p.put(HEAD, model.SerializeToString() + field(b"\x3a", inside))


@hostile("holds a graph inside its graph")
def a_loop_without_end(p):
    from onnx import helper

    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "i",
        [value("i", 7, []), value("go", 9, [])],
        [value("on", 9, [])],
    )
    graph = p.graphs.last(2)
    graph.nodes = [("Loop", ["", "yes"], [], {"body": inner}), *graph.nodes]
    graph.tensors["yes"] = np.array(True)
    p.put(HEAD, graph.bytes())


@hostile("holds a function inside its graph")
def a_function_of_its_own(p):
    from onnx import helper

    node = helper.make_node("Identity", ["x"], ["y"])
    function = helper.make_function("", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 18)])
    p.put(HEAD, p.graphs.last(2).bytes(functions=[function]))


@hostile("has operators of 'evil', which are not of ONNX")
def an_operator_of_a_stranger(p):
    graph = p.graphs.last(2)
    graph.nodes.append(("Shell", ["out_0"], ["x"], {"domain": "evil"}))
    p.put(HEAD, graph.bytes())


@hostile("has operators of 'evil'")
def operators_of_a_stranger_to_come(p):
    from onnx import helper

    p.put(
        HEAD,
        p.graphs.last(2).bytes(opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]),
    )


@hostile("holds a compiled network of another program")
def a_compiled_network_in_a_file(p):
    graph = p.graphs.last(2)
    options = {"domain": "com.microsoft", "embed_mode": 0, "ep_cache_context": str(p.outside / "secret")}
    graph.nodes.append(("EPContext", ["out_0"], ["x"], options))
    p.put(HEAD, graph.bytes())


@hostile(r"computes any number of values of constants alone \(ConstantOfShape\)")
def a_constant_without_end(p):
    graph = p.graphs.last(2)
    graph.nodes += [("ConstantOfShape", ["many"], ["big"]), ("ReduceMax", ["big"], ["x"])]
    graph.tensors["many"] = np.array([10**12])
    p.put(HEAD, graph.bytes())


@hostile("'stages/head.onnx' cannot be run: ")
def a_constant_of_the_inputs_shape(p):
    # Known while the graph is opened, since the shape is: it is not computed then.
    graph = p.graphs.last(2)
    graph.nodes += [
        ("Shape", ["in_0"], ["shape"], {"start": 1}),
        ("Mul", ["shape", "many"], ["more"]),
        ("Expand", ["one", "more"], ["big"]),
        ("ReduceSum", ["big"], ["sum"], {"keepdims": 0}),
        ("Add", ["mean", "sum"], ["x"]),
    ]
    graph.nodes[1:2] = []
    graph.nodes.append(("MatMul", ["x", "w"], ["out_0"]))
    graph.tensors |= {"many": np.array([10**6]), "one": np.ones(1, np.float32)}
    p.put(HEAD, graph.bytes())


@hostile(r"computes up to 1,000,000,000,000 values of constants alone \(MatMul\)")
def a_product_of_constants_without_end(p):
    graph = p.graphs.last(2)
    graph.nodes += [("MatMul", ["tall", "wide"], ["big"])]
    graph.tensors |= {"tall": np.zeros((10**6, 1), np.int8), "wide": np.zeros((1, 10**6), np.int8)}
    p.put(HEAD, graph.bytes())


@hostile("'stages/head.onnx' cannot be run: ")
def memory_without_end_at_run_time(p):
    graph = p.graphs.last(2)
    graph.nodes = [
        ("NonZero", ["in_0"], ["places"]),
        ("Shape", ["places"], ["count"], {"start": 1}),
        ("ReduceMax", ["places"], ["most"], {"keepdims": 0}),
        ("Add", ["most", "count"], ["some"]),
        ("Mul", ["some", "many"], ["more"]),
        ("ConstantOfShape", ["more"], ["big"]),
        ("ReduceSum", ["big"], ["x"], {"keepdims": 0}),
        ("Add", ["in_0", "x"], ["y"]),
        *p.graphs.pooled("y"),
    ]
    graph.tensors["many"] = np.array([10**11])
    p.put(HEAD, graph.bytes())


@hostile("is not a usable ONNX graph: its nodes do not stand in order")
def constants_in_disorder(p):
    graph = p.graphs.last(2)
    graph.nodes = [
        ("ConstantOfShape", ["some"], ["big"]),
        ("Mul", ["many", "many"], ["some"]),
        ("ReduceMax", ["big"], ["x"]),
        *graph.nodes,
    ]
    graph.tensors["many"] = np.array([10**6])
    p.put(HEAD, graph.bytes())


@hostile("holds a sparse tensor, which may be of any size once it is opened")
def a_sparse_tensor_without_end(p):
    from onnx import helper, load_from_string

    model = load_from_string(p.graphs.last(2).bytes())
    one, place = helper.make_tensor("s", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(one, place, [10**6, 10**6]))
    p.put(HEAD, model.SerializeToString())


@hostile("takes other and gives out_0, where in_0 and out_0 are expected")
def an_input_renamed(p):
    graph = p.graphs.last(2)
    graph.inputs = {"other": graph.inputs["in_0"]}
    graph.nodes = p.graphs.pooled("other")
    p.put(HEAD, graph.bytes())


@hostile("takes in_0 and gives other, where in_0 and out_0 are expected")
def an_output_renamed(p):
    graph = p.graphs.last(2)
    graph.outputs = {"other": graph.outputs["out_0"]}
    graph.nodes = p.graphs.pooled("in_0", out="other")
    p.put(HEAD, graph.bytes())


@hostile("takes in_0, in_1 and gives out_0")
def one_input_more(p):
    graph = p.graphs.last(2)
    graph.inputs["in_1"] = (1, ("batch", 3))
    p.put(HEAD, graph.bytes())


@hostile(r"takes tensor\(double\) where it is given tensor\(float\)")
def an_input_of_another_type(p):
    graph = p.graphs.last(2)
    graph.inputs["in_0"] = (11, p.graphs.SHAPE)
    graph.nodes = [("Cast", ["in_0"], ["x"], {"to": 1}), *p.graphs.pooled("x")]
    p.put(HEAD, graph.bytes())


@hostile(r"gives tensor\(int64\) where tensor\(float\) is expected")
def an_output_of_another_type(p):
    graph = p.graphs.last(2)
    graph.nodes = [*p.graphs.pooled("in_0", out="y"), ("Cast", ["y"], ["out_0"], {"to": 7})]
    graph.outputs = {"out_0": (7, ("batch", 3))}
    p.put(HEAD, graph.bytes())


@hostile(r"takes shape \(batch, 1, 20, 8\) where it is given \(batch, 1, 19, 8\)")
def an_input_of_another_shape(p):
    graph = p.graphs.last(2)
    graph.inputs["in_0"] = (1, ("batch", 1, 20, 8))
    p.put(HEAD, graph.bytes())


@hostile(r"takes shape \(batch, 19, 8\)")
def an_input_of_fewer_axes(p):
    graph = p.graphs.last(2)
    graph.inputs["in_0"] = (1, ("batch", 19, 8))
    graph.tensors["axes"] = np.array([1])
    p.put(HEAD, graph.bytes())


@hostile("so it takes no batch of any size")
def a_batch_that_is_fixed(p):
    graph = p.graphs.last(2)
    graph.inputs["in_0"] = (1, (1, *p.graphs.SHAPE[1:]))
    p.put(HEAD, graph.bytes())


@hostile(r"gives shape \(batch, 4\), and exit 'e' has 3 outputs")
def an_exit_with_other_outputs(p):
    p.put("stages/e.onnx", p.graphs.last(1, classes=4).bytes())


@hostile("holds 2 graphs, where one is expected")
def two_graphs_in_one_file(p):
    p.put(HEAD, p.graphs.last(2).bytes() + p.graphs.body().bytes())


@hostile("is not a usable ONNX graph")
def a_tensor_that_lies_about_its_size(p):
    from onnx import TensorProto

    graph = p.graphs.last(2)
    graph.tensors["w"] = TensorProto(name="w", data_type=1, dims=[8, 10**9], raw_data=bytes(96))
    p.put(HEAD, graph.bytes())


@hostile("is not a usable ONNX graph")
def a_tensor_of_a_negative_size(p):
    from onnx import TensorProto

    graph = p.graphs.last(2)
    graph.tensors["w"] = TensorProto(name="w", data_type=1, dims=[-8, 3], raw_data=bytes(96))
    p.put(HEAD, graph.bytes())


@hostile("is not a usable ONNX graph")
def operators_of_the_future(p):
    from onnx import helper

    p.put(HEAD, p.graphs.last(2).bytes(opset_imports=[helper.make_opsetid("", 9999)]))


@hostile("is not a usable ONNX graph")
def a_graph_that_goes_in_circles(p):
    graph = p.graphs.last(2)
    graph.nodes = [("Add", ["b", "in_0"], ["a"]), ("Add", ["a", "in_0"], ["b"]), *p.graphs.pooled("b")]
    p.put(HEAD, graph.bytes())


# zips


@hostile(r"it holds the path '\.\./outside/new', which leads outside; trust no artifact")
def a_zip_that_climbs_out(p):
    return p.packed(more=[("../outside/new", b"x")])


@hostile("it holds the path '/tmp/new', which leads outside")
def a_zip_from_the_root(p):
    return p.packed(more=[("/tmp/new", b"x")])


@hostile("which leads outside")
def a_zip_with_a_drive(p):
    return p.packed(more=[("C:\\new", b"x")])


@hostile("it holds 'sentio.json' twice")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def a_zip_with_two_manifests(p):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return p.packed(more=[("sentio.json", b"{}")])


@hostile("it holds 'SENTIO.JSON' twice")
def a_zip_with_names_that_differ_in_capitals(p):
    return p.packed(more=[("SENTIO.JSON", b"{}")])


@hostile("it holds the link 'stages/link'")
def a_zip_with_a_link(p):
    entry = zipfile.ZipInfo("stages/link")
    entry.external_attr = 0o120777 << 16
    return p.packed(more=[(entry, str(p.outside / "secret"))])


@hostile("cannot be read at 'sentio.json': .*encrypted")
def an_encrypted_zip(p):
    data = bytearray(p.packed().read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(signature), bytes(data)):
            data[found.start() + offset] |= 1
    (p.folder / "box.zip").write_bytes(data)
    return p.folder / "box.zip"


@hostile("is cut off")
def a_zip_cut_in_the_middle(p):
    file = p.packed()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


@hostile("is cut off")
def a_zip_that_lost_its_end(p):
    file = p.packed()
    file.write_bytes(file.read_bytes()[:-10])
    return file


@hostile("is larger than it can be|cannot be read at")
def a_zip_that_promises_more_than_it_holds(p):
    file = p.packed()
    data = bytearray(file.read_bytes())
    for found in re.finditer(re.escape(b"PK\x01\x02"), bytes(data)):
        if data[found.start() + 46 :].startswith(b"stages/head.onnx"):
            data[found.start() + 20 : found.start() + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    file.write_bytes(data)
    return file


@hostile("is larger than it can be")
def a_zip_whose_manifest_unpacks_without_end(p):
    (p.box / "sentio.json").write_bytes(b" " * (9 << 20))
    return p.packed(method=zipfile.ZIP_DEFLATED)


@hostile("the zip holds 2 sentio.json")
def a_zip_of_two_boxes(p):
    file = p.folder / "two.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/sentio.json", "{}")
        archive.writestr("b/sentio.json", "{}")
    return file


# steps of streams


def _stream(p, change):
    p.edit(lambda values: change(values["stream"]))


@hostile("'steps/final.onnx' is missing", "stream")
def a_step_missing(p):
    (p.box / "steps/final.onnx").unlink()


@hostile("takes x, steps and gives output, behind, where", "stream")
def steps_that_are_swapped(p):
    p.put("steps/final.onnx", p.graphs.first_step().bytes())


@hostile(r"'steps/final.onnx' takes shape \(batch, 4\) where it is given \(batch, 3\)", "stream")
def a_step_with_another_state(p):
    graph = p.graphs.last_step()
    graph.inputs["state.kept"] = (1, ("batch", 4))
    graph.nodes[-1] = ("Add", ["next.kept", "next.kept"], ["output"])
    p.put("steps/final.onnx", graph.bytes())


@hostile("gives 'next.kept' of shape", "stream")
def a_step_that_gives_another_state(p):
    graph = p.graphs.last_step()
    graph.outputs["next.kept"] = (7, ("batch", 3))
    graph.nodes = [
        ("ReduceMean", ["x", "axes"], ["mean"], {"keepdims": 0}),
        ("MatMul", ["mean", "w"], ["y"]),
        ("Cast", ["y"], ["next.kept"], {"to": 7}),
        ("Add", ["y", "state.kept"], ["output"]),
    ]
    p.put("steps/final.onnx", graph.bytes())


@hostile("keeps tensors in other files", "stream")
def a_step_with_tensors_outside(p):
    graph = p.graphs.first_step()
    graph.tensors["w"] = _outside(p).tensors["w"]
    p.put("steps/e.onnx", graph.bytes())


@hostile("a stream's state has .* values, more than")
def a_state_without_end(p):
    def change(stream):
        stream["parts"][1]["queue"] = 10**9
        stream["state"]["final.queue"]["shape"][1] = 2 * (10**9 + 1)

    _stream(p, change)


@hostile("'kept' is int64 of shape .3., which does not fit")
def a_state_of_another_type(p):
    _stream(p, lambda stream: stream["state"]["kept"].update(dtype="int64"))


@hostile("the stream's state 'final.queue' is float32 of shape")
def a_queue_of_another_length(p):
    _stream(p, lambda stream: stream["parts"][1].update(queue=3))


@hostile("the stream has exits x, final, and the network e, final")
def steps_of_an_unknown_exit(p):
    _stream(p, lambda stream: stream["parts"][0].update(exit="x"))


@hostile("the stream's state and its parts do not agree on 'kept'")
def a_state_that_is_not_listed(p):
    _stream(p, lambda stream: stream["state"].pop("kept"))


@hostile("has time on axis 9 of 3")
def time_on_an_axis_that_is_not_there(p):
    _stream(p, lambda stream: stream["parts"][1].update(axis=9))


@hostile("format version 2 does not know streams")
def steps_in_an_older_box(p):
    p.edit(lambda values: values.update(version=2))


@hostile("is not a plain relative file name")
def a_step_named_outside(p):
    def change(values):
        values["stream"]["parts"][0]["file"] = "../outside/secret"
        values["files"]["../outside/secret"] = values["files"]["steps/e.onnx"]

    p.edit(change)


# what is asked of each


@pytest.mark.parametrize(("build", "words", "opened"), TABLE)
def test_it_is_refused_in_one_sentence(build, words, opened, place, capfd):
    global WATCHING
    path = build(place) or place.box
    OPENED.clear()
    WATCHING = True
    try:
        if opened == "predict":
            code, out, err = command(path, place.folder / "clip.wav", capfd)
            assert code == 4, err
            assert out == ""
        else:
            from sentio import edge

            model = edge.load(path, threads=1)
            with pytest.raises(ArtifactError) as caught:
                model.stream()
            err = f"sentio: {caught.value}\n"
    finally:
        WATCHING = False
    assert re.fullmatch(r"sentio: [^\n\x1b]+\n", err), err
    assert re.search(words, err), err
    assert len(err) < 1200
    assert not [name for name in OPENED if Path(name).is_relative_to(place.outside)]


def test_there_are_enough_of_them():
    assert len(TABLE) >= 60


def test_a_mark_of_another_format_changes_nothing(own_box, place, capfd):
    """A field in front whose bytes stand where ONNX Runtime's own format has its mark."""
    answers = []
    for front in (b"", b"\x12\x0a\x00\x00ORTM" + bytes(4)):
        place.put(HEAD, front + place.graphs.last(2).bytes())
        code, out, err = command(own_box, place.folder / "clip.wav", capfd)
        assert (code or 0, err) == (0, "")
        answers.append(out.rpartition("exit")[0])
    assert answers[0] == answers[1]


def test_the_manifest_is_read_as_it_is_written(own_box):
    from sentio.core.manifest import read_manifest

    values = json.loads((own_box / "sentio.json").read_text())
    assert json.loads(json.dumps(read_manifest(values, "x").values())) == values
