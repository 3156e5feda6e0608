"""Weights of transformers in the networks here: instances with random weights, nothing downloaded."""

import re

import pytest
import torch
from safetensors.torch import save_file

from sentio.core.errors import ConfigError, InputError
from sentio.core.staged import create_network
from sentio.networks.pretrained import load_transformers
from sentio.nn.positions import resize_grid

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

AST = {"patch": 8, "stride": 5, "dim": 24, "layers": 3, "heads": 4, "ratio": 2, "classes": 5}
SMALL_MOBILEVIT = {
    "channels": (8, 8, 16, 16, 24, 24, 32),
    "dims": (16, 24, 32),
    "layers": (2, 4, 3),
    "classes": 5,
}


def varied(model, seed=0):
    """Every weight and statistic away from its start, so that none can be forgotten unseen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 1.2) if tensor.dim() == 1 else tensor.normal_(std=0.15)
    return model.eval()


def their_ast(frames=48, bands=33):
    config = transformers.ASTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        patch_size=8,
        frequency_stride=5,
        time_stride=5,
        max_length=frames,
        num_mel_bins=bands,
        num_labels=5,
        layer_norm_eps=1e-6,
    )
    return varied(transformers.ASTForAudioClassification(config))


def their_mobilevit():
    config = transformers.MobileViTConfig(
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], num_labels=5
    )
    model = varied(transformers.MobileViTForImageClassification(config)).train()
    with torch.no_grad():  # statistics that fit, else what differs between two images fades away
        for _ in range(30):
            model(pixel_values=torch.randn(4, 3, 64, 64))
    return model.eval()


def our_ast(frames=48, bands=33, **options):
    return create_network("ast", **{**AST, "size": (frames, bands), **options}).eval()


def old_names(state):
    """The same weights under the names of transformers 4, as the published files have them."""
    changes = {
        r"\.layers\.(\d+)\.": r".encoder.layer.\1.",
        r"attention\.q_proj": "attention.attention.query",
        r"attention\.k_proj": "attention.attention.key",
        r"attention\.v_proj": "attention.attention.value",
        r"attention\.o_proj": "attention.output.dense",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
    }
    renamed = {}
    for name, tensor in state.items():
        for pattern, to in changes.items():
            name = re.sub(pattern, to, name)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("names", ["release 5", "release 4"])
def test_ast_agrees(names):
    theirs, ours = their_ast(), our_ast()
    state = theirs.state_dict() if names == "release 5" else old_names(theirs.state_dict())
    assert any("q_proj" in name for name in state) == (names == "release 5")
    loaded = load_transformers(ours, state)
    assert loaded.taken == len(ours.state_dict())
    assert (loaded.changed, loaded.left, loaded.missing) == ((), (), ())
    x = torch.randn(3, 1, 48, 33)
    with torch.no_grad():
        answer = ours(x)
        torch.testing.assert_close(answer, theirs(x[:, 0]).logits, rtol=0, atol=1e-5)
    assert answer.std() > 0.1  # not the same by saying nothing


@pytest.mark.parametrize(("height", "width"), [(64, 96), (72, 40)])
def test_mobilevit_agrees_on_even_and_odd_maps(height, width):
    theirs, ours = their_mobilevit(), create_network("mobilevit", **SMALL_MOBILEVIT).eval()
    loaded = load_transformers(ours, theirs)
    assert loaded.taken == len(ours.state_dict())
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        answer = ours(x)
        torch.testing.assert_close(answer, theirs(pixel_values=x).logits, rtol=0, atol=1e-5)
    assert (answer[0] - answer[1]).abs().max() > 0.01


def test_a_shorter_clip_takes_the_middle_of_the_positions():
    theirs, ours = their_ast(frames=48), our_ast(frames=28)
    loaded = load_transformers(ours, theirs)
    assert loaded.changed == ("positions were resized from 9x6 to 5x6 (time x frequency)",)
    table = theirs.state_dict()["audio_spectrogram_transformer.embeddings.position_embeddings"][0, 2:]
    expected = table.unflatten(0, (6, 9))[:, 2:7].transpose(0, 1)
    assert torch.equal(ours.stage("patches").positions.grid, expected)


def test_a_longer_clip_interpolates_the_positions():
    theirs, ours = their_ast(frames=28), our_ast(frames=48)
    loaded = load_transformers(ours, theirs)
    assert "from 5x6 to 9x6" in str(loaded)
    table = theirs.state_dict()["audio_spectrogram_transformer.embeddings.position_embeddings"][0, 2:]
    expected = resize_grid(table.unflatten(0, (6, 5)).transpose(0, 1), (9, 6))
    assert torch.equal(ours.stage("patches").positions.grid, expected)


@pytest.mark.parametrize("given", ["model", "folder", "file"])
def test_fewer_bands_take_the_middle_too(given, tmp_path):
    # 12 x 6 positions, which 18 x 4 are as well, and a table says only how many it has.
    theirs, ours = their_ast(frames=63), our_ast(frames=63, bands=23)
    if given != "model":
        theirs.save_pretrained(tmp_path)
    sources = {"model": theirs, "folder": tmp_path, "file": tmp_path / "model.safetensors"}
    loaded = load_transformers(ours, sources[given])
    assert loaded.changed == ("positions were resized from 12x6 to 12x4 (time x frequency)",)
    table = theirs.state_dict()["audio_spectrogram_transformer.embeddings.position_embeddings"][0, 2:]
    expected = table.unflatten(0, (6, 12))[1:5].transpose(0, 1)
    assert torch.equal(ours.stage("patches").positions.grid, expected)


def test_a_table_of_twelve_bands_is_known_without_its_settings():
    theirs, ours = their_ast(frames=68, bands=63), our_ast(frames=68, bands=33)
    loaded = load_transformers(ours, theirs.state_dict())
    assert loaded.changed == ("positions were resized from 13x12 to 13x6 (time x frequency)",)


def test_other_classes_are_refused_and_nothing_is_changed():
    ours = our_ast(classes=7)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(ConfigError, match=r"not taken: classifier\.dense\.weight.*strict=False") as error:
        load_transformers(ours, their_ast())
    assert ". " not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())


def test_other_classes_keep_their_own_head():
    ours, theirs = our_ast(classes=7), their_ast()
    head = ours.stage("head").fc.weight.clone()
    loaded = load_transformers(ours, theirs, strict=False)
    assert loaded.left == ("classifier.dense.weight", "classifier.dense.bias")
    assert loaded.missing == ("stages.head.fc.weight", "stages.head.fc.bias")
    assert str(loaded) == (
        "57 tensors were taken; not taken: classifier.dense.weight, classifier.dense.bias; "
        "not filled: stages.head.fc.weight, stages.head.fc.bias"
    )
    assert torch.equal(ours.stage("head").fc.weight, head)
    assert torch.equal(ours.stage("head").norm.weight, theirs.audio_spectrogram_transformer.layernorm.weight)


def test_a_class_token_alone_leaves_the_distillation_token():
    ours = our_ast(head="class")
    loaded = load_transformers(ours, their_ast(), strict=False)
    tokens = [name for name in loaded.left if "token" in name]
    assert tokens == ["audio_spectrogram_transformer.embeddings.distillation_token"]


def test_one_channel_gets_the_sum_of_three():
    ours = create_network("mobilevit", **SMALL_MOBILEVIT, in_channels=1).eval()
    theirs = their_mobilevit()
    assert "summed to one" in str(load_transformers(ours, theirs))
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = theirs(pixel_values=x.expand(-1, 3, -1, -1)).logits
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)


def test_files(tmp_path):
    theirs = their_ast()
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        ours = our_ast()
        assert load_transformers(ours, source).missing == ()
    with pytest.raises(InputError, match="no file"):
        load_transformers(our_ast(), tmp_path / "elsewhere.safetensors")


def test_a_pickle_is_not_opened(tmp_path):
    torch.save(their_ast().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_transformers(our_ast(), tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("tiny-cnn", {}, "fit networks 'ast'"),
        ("passt", AST | {"size": (48, 33), "patchout": (0, 0)}, "fit networks 'ast'"),
        ("mobilevit", SMALL_MOBILEVIT, "None of the weights fit"),
    ],
)
def test_another_network_is_refused(network, options, message):
    with pytest.raises(ConfigError, match=message):
        load_transformers(create_network(network, **options), their_ast(), strict=False)


def test_something_else_is_refused():
    with pytest.raises(ConfigError, match="Weights come from a model"):
        load_transformers(our_ast(), [1, 2])
