import copy

import pytest

from sentio.core.errors import ArtifactError
from sentio.core.manifest import SCHEMA, read_manifest

FILE = {"bytes": 3, "sha256": "0" * 64}
VALID = {
    "format": "sentio-artifact",
    "version": SCHEMA,
    "sentio": "0.1.0",
    "name": "m",
    "network": {"name": "n", "stages": ["a", "b"], "input_shapes": {"main": [1, 8]}},
    "exits": [
        {"name": "e", "kind": "k", "after": "b", "reads": [["a", "skip"], ["b", "main"]], "outputs": 3},
    ],
    "graphs": {
        "stage:a": {"file": "stages/a.onnx", "inputs": ["main"], "outputs": ["main", "skip"]},
        "stage:b": {"file": "stages/b.onnx", "inputs": ["main"], "outputs": ["main"]},
        "exit:e": {"file": "stages/e.onnx", "inputs": ["a/skip", "b/main"], "outputs": ["main"]},
    },
    "task": {"name": "t"},
    "policy": {"name": "fixed", "exit": "final"},
    "temperatures": {"e": 1.5, "final": 2.0},
    "costs": {"names": ["e", "final"], "macs": [1.0, 2.0], "ms": [1.0, 2.0]},
    "files": dict.fromkeys(("stages/a.onnx", "stages/b.onnx", "stages/e.onnx"), FILE),
}


def changed(path, value):
    """The valid manifest with one place changed; a value of None removes it."""
    values = copy.deepcopy(VALID)
    *way, last = path
    place = values
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return values


def test_a_valid_manifest_is_read():
    manifest = read_manifest(VALID, "x")
    assert manifest.exit_names() == ("e", "final")
    assert manifest.exits[0].reads == [("a", "skip"), ("b", "main")]
    assert manifest.exits[0].on


def test_an_exit_after_the_last_stage_may_read_what_only_weights_know():
    values = changed(["graphs"], {})
    values["exits"][0]["reads"] = [["a", "anything"]]
    assert read_manifest(values, "x").graphs == {}


def test_shapes_of_graphs_are_of_version_4_and_none_before():
    values = changed(["graphs", "stage:a", "shapes"], [[4, 8], [8]])
    manifest = read_manifest(values, "x")
    assert manifest.values()["graphs"]["stage:a"]["shapes"] == [[4, 8], [8]]
    with pytest.raises(ArtifactError, match="graph 'stage:a' gives 2 tensors of 1 shapes"):
        read_manifest(changed(["graphs", "stage:a", "shapes"], [[4, 8]]), "x")
    with pytest.raises(ArtifactError, match="format version 3 does not know shapes of graphs"):
        read_manifest({**values, "version": 3}, "x")
    old = read_manifest({**VALID, "version": 3}, "x").values()
    assert all("shapes" not in graph for graph in old["graphs"].values())
    assert read_manifest(old, "x").exit_names() == manifest.exit_names()


@pytest.mark.parametrize(
    "values", [None, [], "x", {}, {"format": "other"}, {"name": "a model of another tool"}]
)
def test_foreign_json(values):
    with pytest.raises(ArtifactError, match=r"^x is not a Sentio artifact: its sentio.json does not say so$"):
        read_manifest(values, "x")


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, []])
def test_a_version_that_is_none(version):
    with pytest.raises(ArtifactError, match=r"^Artifact x is damaged: its format version is"):
        read_manifest(changed(["version"], version), "x")


def test_a_newer_version_says_how_to_update():
    with pytest.raises(
        ArtifactError,
        match=f"has format version {SCHEMA + 1}, this Sentio reads up to {SCHEMA}; update with: pip",
    ):
        read_manifest(changed(["version"], SCHEMA + 1) | {"something": "new"}, "x")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (["surprise"], 1, "surprise"),
        (["network", "surprise"], 1, "network.surprise"),
        (["task"], None, "task"),
        (["network", "stages"], [], "network.stages"),
        (["network", "stages"], ["a", ""], "network.stages.1"),
        (["network", "stages"], "ab", "network.stages"),
        (["network", "input_shapes"], {}, "network.input_shapes"),
        (["network", "input_shapes"], {"main": [1, 0]}, "network.input_shapes.main.1"),
        (["exits", 0, "reads"], [], "exits.0.reads"),
        (["exits", 0, "reads"], [["a"]], "exits.0.reads.0.1"),
        (["exits", 0, "outputs"], -3, "exits.0.outputs"),
        (["temperatures", "e"], 0.0, "temperatures.e"),
        (["temperatures", "e"], float("nan"), "temperatures.e"),
        (["costs", "macs"], [1.0, float("inf")], "costs.macs.1"),
        (["files", "stages/a.onnx", "bytes"], -1, "files.stages/a.onnx.bytes"),
        (["files", "stages/a.onnx", "sha256"], "z" * 64, "files.stages/a.onnx.sha256"),
        (["graphs", "stage:a", "outputs"], [], "graphs.stage:a.outputs"),
        (["policy"], "fixed", "policy"),
    ],
)
def test_fields_that_are_wrong_are_named(path, value, place):
    with pytest.raises(ArtifactError, match=r"^Artifact x is damaged at ") as caught:
        read_manifest(changed(path, value), "x")
    assert f"at {place!r} in sentio.json (" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["network", "stages"], ["a", "b", "b"], "stage names repeat in a, b, b"),
        (["exits"], VALID["exits"] * 2, "exit names repeat in e, e, final"),
        (["exits", 0, "name"], "final", "exit names repeat in final, final"),
        (["exits", 0, "after"], "c", "exit 'e' sits after 'c', which is no stage"),
        (["exits", 0, "reads"], [["c", "main"]], "exit 'e' reads 'c', which is no stage up to its own"),
        (["exits", 0, "after"], "a", "exit 'e' reads 'b', which is no stage up to its own"),
        (["temperatures"], {"f": 1.0}, "temperatures names 'f', which is no exit"),
        (["costs", "names"], ["f", "final"], "costs names 'f', which is no exit"),
        (["costs", "names"], ["e", "e"], "costs do not give one figure for each exit"),
        (["costs", "macs"], [1.0], "costs do not give one figure for each exit"),
        (["costs", "ms"], [1.0], "costs do not give one figure for each exit"),
        (["graphs", "stage:b"], None, "graphs has no 'stage:b'"),
        (["graphs", "exit:e"], None, "graphs has no 'exit:e'"),
        (["graphs", "stage:c"], VALID["graphs"]["stage:a"], "graphs names 'stage:c', which is neither"),
        (["graphs", "stage:a", "file"], "stages/z.onnx", "in 'stages/z.onnx', which is not among its files"),
        (["graphs", "stage:b", "inputs"], ["audio"], "stage 'b' takes 'audio'; the one before it gives main"),
        (["graphs", "stage:a", "inputs"], ["x"], "stage 'a' takes 'x'; the one before it gives main"),
        (["graphs", "stage:a", "outputs"], ["main", "main"], "stage 'a' gives a tensor twice"),
        (["graphs", "stage:b", "outputs"], ["skip"], "the last stage gives no 'main'"),
        (
            ["graphs", "exit:e", "inputs"],
            ["b/main"],
            "the graph of exit 'e' does not take what the exit reads",
        ),
        (["graphs", "exit:e", "outputs"], ["main", "x"], "exit 'e' gives 2 tensors instead of one"),
        (["graphs", "stage:a", "outputs"], ["main"], "exit 'e' reads 'skip' behind 'a', which does not give"),
    ],
)
def test_parts_that_do_not_fit_each_other(path, value, message):
    with pytest.raises(ArtifactError, match=r"^Artifact x is damaged: ") as caught:
        read_manifest(changed(path, value), "x")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; copy or export it again")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        ".hidden",
        "a/.",
        "C:\\x",
        "a\\b",
        "",
        "a b",
        "ä",
        "a/",
    ],
)
def test_names_of_files_that_could_lead_elsewhere(name):
    for values in (changed(["files", name], FILE), changed(["graphs", "stage:a", "file"], name or "/")):
        with pytest.raises(ArtifactError, match=r"is refused: .* is not a plain relative file name"):
            read_manifest(values, "x")


@pytest.mark.parametrize("text", ["x\n", "\x1b[2J", "\x9b2J", "a\u202eb", "\ud800"])
def test_text_that_cannot_be_shown(text):
    for values in (changed(["files", text], FILE), changed(["name"], text), changed(["task", "name"], text)):
        with pytest.raises(ArtifactError, match="which cannot be shown") as caught:
            read_manifest(values, "x")
        assert str(caught.value).isprintable()


def test_other_languages_and_lines_of_a_card_are_no_such_text():
    values = changed(["name"], "l\u2019ete\u00a0\u0915\u094d\u200d\u0937")
    assert read_manifest(values | {"card": {"notes": "two\nlines"}}, "x").card["notes"] == "two\nlines"
    with pytest.raises(ArtifactError, match="which cannot be shown"):
        read_manifest(values | {"card": {"notes": "\udc00"}}, "x")
