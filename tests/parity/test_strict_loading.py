"""What a folder must have, may have and must not have; nothing in it is ever run or made up."""

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mgte_rag import CheckpointError, EmbeddingModel, Reranker
from mgte_rag.checkpoints import loading, source

FAMILIES = {
    "gte-multilingual-base": "new.encoder.layer.2.attention.o_proj.bias",
    "bge-small-en-v1.5": "encoder.layer.2.output.dense.bias",
    "multilingual-e5-base": "encoder.layer.2.output.dense.bias",
    "jina-colbert-v2": "roberta.encoder.layers.2.mixer.Wqkv.bias",
    "gte-modernbert-base": "layers.2.attn_norm.weight",
}


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        EmbeddingModel.load(str(folder))


class _Code:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("name", "tensor"), FAMILIES.items())
def test_one_missing_tensor_is_an_error_naming_it(copy_of: Callable[..., Any], name: str, tensor: str) -> None:
    folder = copy_of(name).folder
    change_tensors(folder, lambda tensors: tensors.pop(tensor))
    refuse(folder, rf"lacks 1 tensors .*{tensor.removeprefix('new.').removeprefix('roberta.')}")


@pytest.mark.parametrize("name", FAMILIES)
def test_one_tensor_too_many_is_an_error_naming_it(copy_of: Callable[..., Any], name: str) -> None:
    folder = copy_of(name).folder
    change_tensors(folder, lambda tensors: tensors.update({"encoder.extra.weight": torch.zeros(2)}))
    refuse(folder, r"has 1 tensors that this project does not know, .*'encoder\.extra\.weight'")


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("gte-multilingual-base", ["classifier.weight", "classifier.bias"]),
        ("jina-colbert-v2", ["linear.weight"]),
    ],
)
def test_a_head_missing_from_the_weights_is_an_error(copy_of: Callable[..., Any], name: str, tensors: list) -> None:
    folder = copy_of(name).folder
    change_tensors(folder, lambda found: [found.pop(tensor) for tensor in tensors])
    refuse(folder, tensors[0].replace("weight", ""))


def test_a_rerankers_missing_head_is_an_error(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("bge-reranker-v2-m3").folder
    change_tensors(folder, lambda tensors: tensors.pop("classifier.out_proj.weight"))
    with pytest.raises(CheckpointError, match=r"classifier\.out_proj\.weight"):
        Reranker.load(str(folder))


@pytest.mark.parametrize("file", ["sparse_linear.pt", "colbert_linear.pt"])
def test_a_missing_head_file_of_bge_m3_is_an_error(copy_of: Callable[..., Any], file: str) -> None:
    folder = copy_of("bge-m3", "fine-tuned").folder
    (folder / file).unlink()
    refuse(folder, rf"{file} is missing.*no head is ever made up")


def test_bge_m3_by_name_without_both_head_files_is_an_error(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("bge-m3").folder
    (folder / "sparse_linear.pt").unlink()
    (folder / "colbert_linear.pt").unlink()
    refuse(folder, "no head is ever made up")


def test_a_missing_projection_folder_is_an_error(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("GTE-ModernColBERT-v1").folder
    (folder / "1_Dense" / "model.safetensors").unlink()
    refuse(folder, r"1_Dense/model\.safetensors is missing")


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gte-multilingual-base", ["rope_theta"], "lacks the field 'rope_theta'.*not guessed"),
        ("gte-modernbert-base", ["global_rope_theta"], "lacks the field 'global_rope_theta'"),
        ("gte-modernbert-base", ["local_rope_theta"], "lacks the field 'local_rope_theta'"),
        ("gte-modernbert-base", ["global_attn_every_n_layers"], "lacks the field 'global_attn_every_n_layers'"),
        ("gte-multilingual-base", ["type_vocab_size"], "lacks the field 'type_vocab_size'"),
        ("multilingual-e5-base", ["pad_token_id"], "lacks the field 'pad_token_id'"),
    ],
)
def test_a_config_without_a_field_that_matters_is_an_error(
    copy_of: Callable[..., Any], name: str, fields: list, message: str
) -> None:
    case = copy_of(name)
    case.change_config(**dict.fromkeys(fields))
    refuse(case.folder, message)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gte-multilingual-base", {"hidden_act": "silu"}, "hidden_act is 'silu'; supported is 'gelu'"),
        ("gte-multilingual-base", {"layer_norm_type": "group"}, "layer_norm_type is 'group'; supported are 'layer_n"),
        ("gte-multilingual-base", {"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
        ("gte-multilingual-base", {"logn_attention_scale": True}, "logn_attention_scale is True"),
        ("gte-multilingual-base", {"rope_scaling": {"type": "yarn", "factor": 2}}, "rotary scaling is 'yarn'"),
        ("gte-multilingual-base", {"rope_scaling": {"type": "ntk"}}, "'ntk' lacks its 'factor'"),
        ("gte-multilingual-base", {"rope_scaling": {"type": "ntk", "factor": 8, "beta": 3}}, "'beta' = 3"),
        ("jina-colbert-v2", {"rotary_emb_interleaved": True}, "rotary_emb_interleaved is True"),
        ("gte-modernbert-base", {"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
        ("gte-modernbert-base", {"local_attention": "wide"}, "field of the wrong kind"),
        ("gte-modernbert-base", {"norm_bias": "no"}, "norm_bias = 'no'; true or false"),
        ("gte-modernbert-base", {"norm_eps": 0}, "norm_eps = 0; a number above 0"),
        ("multilingual-e5-base", {"pad_token_id": "<pad>"}, "field of the wrong kind"),
        ("gte-multilingual-base", {"rope_theta": "large"}, "field of the wrong kind"),
        ("gte-multilingual-base", {"rope_scaling": [8]}, "field of the wrong kind"),
        ("modernbert-saved-by-transformers-5", {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 3},
         "layer_types is"),
    ],
)  # fmt: skip
def test_a_switch_with_an_unsupported_value_is_an_error_giving_both(
    copy_of: Callable[..., Any], name: str, changes: dict, message: str
) -> None:
    case = copy_of(name)
    case.change_config(**changes)
    refuse(case.folder, message)


def test_remote_code_named_in_auto_map_is_neither_run_nor_missed(copy_of: Callable[..., Any], tmp_path: Path) -> None:
    case = copy_of("gte-multilingual-base")
    (case.folder / "modeling.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    case.change_config(auto_map={"AutoModel": "modeling.NewModel", "AutoConfig": "modeling.NewConfig"})
    with EmbeddingModel.load(str(case.folder)) as model:
        assert model.encode_query("cat").dense.shape == (1, 64)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["sparse_linear.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_that_holds_code_is_refused_without_running_it(
    copy_of: Callable[..., Any], tmp_path: Path, file: str, form: str
) -> None:
    folder, ran = copy_of("bge-m3").folder, tmp_path / "ran"
    content = {"weight": _Code(ran), "bias": torch.zeros(1)}
    if form == "torch":
        torch.save(content, folder / file)
    else:
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    refuse(folder, rf"{file} is refused: it holds more than tensors|{file} is truncated or damaged")
    assert not ran.exists()


def test_a_pickle_that_is_no_state_dict_is_an_error(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("bge-m3").folder
    torch.save([torch.zeros(1)], folder / "sparse_linear.pt")
    refuse(folder, "must hold a state dict")


def test_rotary_tables_in_a_checkpoint_are_ignored(
    copy_of: Callable[..., Any], published: Callable[[str], Any]
) -> None:
    folder = copy_of("gte-multilingual-base").folder
    change_tensors(folder, lambda t: t.update({"new.embeddings.rotary_emb.inv_freq": torch.full((8,), torch.nan)}))
    with (
        EmbeddingModel.load(str(folder), dtype="float32") as damaged,
        EmbeddingModel.load(str(published("gte-multilingual-base").folder), dtype="float32") as whole,
    ):
        np.testing.assert_array_equal(damaged.encode_query("cat").dense, whole.encode_query("cat").dense)


@pytest.mark.parametrize(("name", "fetches"), [("bge-m3", 2), ("gte-multilingual-base", 1)])
def test_pickled_weights_are_fetched_only_from_where_there_are_no_others(
    published: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str, fetches: int
) -> None:
    asked = []

    def download(hub_id: str, *, allow_patterns: list[str], **_: object) -> str:  # the hub is a remote server
        asked.append("pytorch_model.bin" in allow_patterns)
        return str(published(name).folder)

    monkeypatch.setattr(source, "snapshot_download", download)
    EmbeddingModel.load(f"org/{name}").close()
    assert asked == [False, True][:fetches]


def test_shards_load_as_the_whole_file(copy_of: Callable[..., Any], published: Callable[[str], Any]) -> None:
    folder = shard(copy_of("gte-multilingual-base").folder)
    with (
        EmbeddingModel.load(str(folder), dtype="float32") as sharded,
        EmbeddingModel.load(str(published("gte-multilingual-base").folder), dtype="float32") as whole,
    ):
        np.testing.assert_array_equal(sharded.encode_query("cat").dense, whole.encode_query("cat").dense)


def test_a_missing_shard_is_an_error_naming_it(copy_of: Callable[..., Any]) -> None:
    folder = shard(copy_of("gte-multilingual-base").folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuse(folder, r"model-00002-of-00002\.safetensors is missing: the index lists it")


def test_an_index_that_leads_out_of_the_folder_is_an_error(copy_of: Callable[..., Any]) -> None:
    folder = shard(copy_of("gte-multilingual-base").folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    refuse(folder, r"names '\.\./elsewhere\.safetensors'")


def shard(folder: Path) -> Path:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        placed |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def test_one_name_with_and_without_the_prefix_is_an_error(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("gte-multilingual-base").folder
    change_tensors(folder, lambda t: t.update({"embeddings.LayerNorm.bias": torch.zeros(64)}))
    refuse(folder, "with and without the prefix 'new.'")


def test_a_late_interaction_model_whose_tokenizer_lacks_its_marker_is_an_error(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("jina-colbert-v2").folder
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("[QueryMarker]", "[Other]"))
    refuse(folder, r"lacks the token '\[QueryMarker\]'")


def test_a_non_commercial_licence_is_told_once(copy_of: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    loading._tell_licence.cache_clear()
    folder = str(copy_of("jina-colbert-v2").folder)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            EmbeddingModel.load(folder).close()
    assert [record.message for record in caplog.records if "BY-NC" in record.message] == [caplog.messages[0]]


def test_free_models_say_nothing_on_loading(published: Callable[[str], Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        EmbeddingModel.load(str(published("bge-m3").folder)).close()
    assert caplog.messages == []


def test_the_fingerprint_covers_head_files_and_the_attention_to_masks(
    copy_of: Callable[..., Any], published: Callable[[str], Any]
) -> None:
    folder = copy_of("bge-m3").folder
    torch.save({"weight": torch.ones(1, 64), "bias": torch.zeros(1)}, folder / "sparse_linear.pt")
    colbert = str(published("jina-colbert-v2").folder)
    with (
        EmbeddingModel.load(str(folder)) as changed,
        EmbeddingModel.load(str(published("bge-m3").folder)) as original,
        EmbeddingModel.load(colbert) as attending,
        EmbeddingModel.load(colbert, attend_to_mask=False) as not_attending,
    ):
        assert changed.identity.fingerprint != original.identity.fingerprint
        assert attending.identity.fingerprint != not_attending.identity.fingerprint
