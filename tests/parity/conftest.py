"""Tiny random models in the layout, naming and configuration of the published ones, beside their reference models.

A case's weights are made by a class of the transformers package, renamed to the names of the original checkpoint and
written to disk with the original's config.json and a tokenizer of a few words; nothing is downloaded.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GteConfig,
    GteForMaskedLM,
    GteForSequenceClassification,
    GteForTokenClassification,
    GteModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ModernBertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "under", "tree", "and", "then", "a", "query", "猫", "é"]
SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
HEAD_DIM = 16
PACKAGE = "sentence_transformers.models"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "weights: loads real published weights; run with -m weights")


@dataclass(frozen=True)
class Published:
    """A folder as published and the reference model with the same weights.

    Attributes:
        folder: the model's folder.
        reference: a class of transformers; ``reference_encoder`` is the part that makes hidden states.
        pad: the padding id.
    """

    folder: Path
    reference: nn.Module
    pad: int

    def hidden(self, ids: list[np.ndarray], types: list[np.ndarray] | None = None) -> list[torch.Tensor]:
        """The reference's hidden states of a padded batch, fp32 [length, hidden] per text."""
        inputs = self.padded(ids, types)
        with torch.inference_mode():
            output = base_of(self.reference)(**inputs).last_hidden_state
        return [row[: len(row_ids)] for row, row_ids in zip(output, ids, strict=True)]

    def logits(self, ids: list[np.ndarray], types: list[np.ndarray] | None = None) -> torch.Tensor:
        """The reference's logits of a padded batch."""
        with torch.inference_mode():
            return self.reference(**self.padded(ids, types)).logits

    def padded(self, ids: list[np.ndarray], types: list[np.ndarray] | None) -> dict[str, torch.Tensor]:
        rows = [torch.from_numpy(row).long() for row in ids]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in ids])
        inputs = {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
        }
        if types is not None:
            kinds = [torch.from_numpy(row).long() for row in types]
            inputs["token_type_ids"] = nn.utils.rnn.pad_sequence(kinds, batch_first=True)
        return inputs

    def change_config(self, **changes: Any) -> None:
        """Change fields of config.json; None removes one."""
        path = self.folder / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def base_of(model: nn.Module) -> nn.Module:
    """The encoder inside a model with a head."""
    return getattr(model, getattr(model, "base_model_prefix", ""), model)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    """Gives the case of that name; its folder must not be changed."""
    made: dict[str, Published] = {}

    def give(name: str) -> Published:
        if name not in made:
            made[name] = CASES[name](tmp_path_factory.mktemp("published") / name)
        return made[name]

    return give


@pytest.fixture
def copy_of(published: Callable[[str], Published], tmp_path: Path) -> Callable[..., Published]:
    """Gives a copy of a case that a test may damage, under the same folder name or another."""

    def copy(name: str, rename: str | None = None) -> Published:
        original = published(name)
        folder = Path(shutil.copytree(original.folder, tmp_path / (rename or original.folder.name)))
        return Published(folder, original.reference, original.pad)

    return copy


def wordpiece(added: tuple[str, ...] = ()) -> Tokenizer:
    """A BERT tokenizer of a few words."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*specials, *WORDS, "##s", "!", ".", ","])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([*specials, *(AddedToken(token, normalized=False) for token in added)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


def unigram(added: tuple[str, ...] = ()) -> Tokenizer:
    """An XLM-RoBERTa tokenizer of a few pieces."""
    pieces = [(f"▁{word}", -2.0) for word in WORDS] + [(mark, -3.0) for mark in "!.,▁"]
    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram([*((s, 0.0) for s in specials), *pieces, *letters], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([*specials, "<mask>", *added])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def randomise(model: nn.Module) -> nn.Module:
    """Every parameter random, biases and norms included: what stays at 0 or 1 hides errors."""
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=chance)
            is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm_weight else 0.15 * noise)
    return model.eval()


def write(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    *,
    pooling: str | None = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    if pooling is not None:
        write_modules(folder, {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"})
        (folder / "1_Pooling").mkdir()
        flags = {f"pooling_mode_{kind}": kind.startswith(pooling) for kind in ("cls_token", "mean_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))


def write_modules(folder: Path, kinds: dict[str, str]) -> None:
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": path,
            "type": kind if "." in kind else f"sentence_transformers.models.{kind}",
        }
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


# mGTE ------------------------------------------------------------------------------------------------------------

_NEW_NAMES = {
    "layers.": "encoder.layer.",
    "self_attn.o_proj": "attention.o_proj",
    "post_attention_layernorm": "attn_ln",
    "post_mlp_layernorm": "mlp_ln",
    "lm_head.layer_norm": "lm_head.norm",
}


def original_gte_names(reference: nn.Module, *, prefix: str, packed: bool) -> dict[str, torch.Tensor]:
    """The state dict of a class of transformers under the names of the ``new`` implementation."""
    state = {name.removeprefix("gte."): tensor for name, tensor in reference.state_dict().items()}
    renamed = {}
    for name, tensor in state.items():
        if ".self_attn.q_proj." in name:
            q, k, v = (name.replace("q_proj", f"{p}_proj") for p in "qkv")
            if packed:
                name, tensor = name.replace("q_proj", "qkv_proj"), torch.cat([state[q], state[k], state[v]])
            name = name.replace("self_attn", "attention")
        elif ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            if packed:
                continue
            name = name.replace("self_attn", "attention")
        elif ".mlp.up_proj." in name:
            tensor = torch.cat([tensor, state[name.replace("up_proj", "gate_proj")]])
            name = name.replace("up_proj", "up_gate_proj")
        elif ".mlp.gate_proj." in name:
            continue
        for theirs, original in _NEW_NAMES.items():
            name = name.replace(theirs, original)
        is_head = name.startswith(("classifier", "lm_head"))
        renamed[name if is_head else prefix + name] = tensor
    renamed.pop("lm_head.decoder.weight", None)  # tied
    return renamed


def make_gte(
    folder: Path,
    *,
    head: type = GteModel,
    types: int = 1,
    theta: float,
    scaling: dict[str, Any] | None = None,
    reference_rope: dict[str, Any] | None = None,
    prefix: str = "new.",
    packed: bool = True,
    config_changes: dict[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Published:
    tokenizer = tokenizer or unigram()
    pad = tokenizer.token_to_id("<pad>") or 0
    sizes = {"vocab_size": tokenizer.get_vocab_size() + 5, "type_vocab_size": types, "max_position_embeddings": 512}
    reference = head(
        GteConfig(
            **SIZES,
            **sizes,
            num_labels=1,
            pad_token_id=pad,
            rope_parameters=reference_rope or {"rope_type": "default", "rope_theta": theta},
        )
    )
    randomise(reference)
    classes = {
        GteModel: ["NewModel"],
        GteForTokenClassification: ["NewModel", "NewForTokenClassification"],
        GteForSequenceClassification: ["NewForSequenceClassification"],
        GteForMaskedLM: ["NewForMaskedLM"],
    }
    config = {
        "architectures": classes[head],
        "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
        "model_type": "new",
        **SIZES,
        **sizes,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "layer_norm_type": "layer_norm",
        "pack_qkv": packed,
        "pad_token_id": pad,
        "position_embedding_type": "rope",
        "rope_theta": theta,
        "rope_scaling": scaling,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
        "logn_attention_scale": False,
        **(config_changes or {}),
    }
    write(folder, config, original_gte_names(reference, prefix=prefix, packed=packed), tokenizer)
    return Published(folder, reference, pad)


def ntk(theta: float, factor: float) -> dict[str, Any]:
    """Our own scaling in terms of transformers: linear scaling by factor^(2/d) of the base theta * factor."""
    return {
        "scaling": {"type": "ntk", "factor": factor},
        "reference_rope": {
            "rope_type": "linear",
            "rope_theta": theta * factor,
            "factor": factor ** (2 / HEAD_DIM),
        },
    }


def make_native_gte(folder: Path) -> Published:
    """What transformers itself saves of a GteModel: its names, rope_parameters, model_type gte."""
    tokenizer = unigram()
    rope = {"rope_type": "linear", "rope_theta": 160_000.0, "factor": 1.3}
    reference = randomise(
        GteModel(
            GteConfig(
                **SIZES,
                vocab_size=tokenizer.get_vocab_size(),
                max_position_embeddings=512,
                rope_parameters=rope,
            )
        )
    )
    config = {**reference.config.to_dict(), "architectures": ["GteModel"]}
    write(folder, config, reference.state_dict(), tokenizer)
    return Published(folder, reference, 1)


# BERT and XLM-RoBERTa --------------------------------------------------------------------------------------------


def make_bert(folder: Path, *, pooling: str = "cls", tokenizer: Tokenizer | None = None) -> Published:
    tokenizer = tokenizer or wordpiece()
    config = BertConfig(**SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=512)
    reference = randomise(BertModel(config))
    write(
        folder, {**config.to_dict(), "architectures": ["BertModel"]}, reference.state_dict(), tokenizer, pooling=pooling
    )
    return Published(folder, reference, 0)


def make_bert_reranker(folder: Path) -> Published:
    tokenizer = wordpiece()
    config = BertConfig(**SIZES, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=128, num_labels=1)
    reference = randomise(BertForSequenceClassification(config))
    content = {**config.to_dict(), "architectures": ["BertForSequenceClassification"]}
    write(folder, content, reference.state_dict(), tokenizer)
    return Published(folder, reference, 0)


def xlm_roberta_config(tokenizer: Tokenizer, positions: int) -> XLMRobertaConfig:
    return XLMRobertaConfig(
        **SIZES,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        num_labels=1,
    )


def make_xlm_roberta(folder: Path, *, pooling: str = "mean") -> Published:
    tokenizer = unigram()
    config = xlm_roberta_config(tokenizer, 514)
    reference = randomise(XLMRobertaModel(config))
    content = {**config.to_dict(), "architectures": ["XLMRobertaModel"]}
    write(folder, content, reference.state_dict(), tokenizer, pooling=pooling)
    return Published(folder, reference, 1)


def make_bge_m3(folder: Path) -> Published:
    """As published: one pickle of the encoder, two of the heads in half precision, no safetensors."""
    made = make_xlm_roberta(folder, pooling="cls")
    (folder / "model.safetensors").unlink()
    torch.save(dict(made.reference.state_dict()), folder / "pytorch_model.bin")
    chance = torch.Generator().manual_seed(1)
    for name, rows in (("sparse_linear.pt", 1), ("colbert_linear.pt", 64)):
        head = {"weight": torch.randn(rows, 64, generator=chance).half(), "bias": torch.randn(rows).half()}
        torch.save(head, folder / name)
    return made


def make_xlm_roberta_reranker(folder: Path) -> Published:
    tokenizer = unigram()
    config = xlm_roberta_config(tokenizer, 514)
    reference = randomise(XLMRobertaForSequenceClassification(config))
    content = {**config.to_dict(), "architectures": ["XLMRobertaForSequenceClassification"]}
    write(folder, content, reference.state_dict(), tokenizer)
    return Published(folder, reference, 1)


# Jina ------------------------------------------------------------------------------------------------------------

MARKERS = ("[QueryMarker]", "[DocumentMarker]")


def make_jina_colbert(folder: Path, *, base: float | None = 20_000.0) -> Published:
    tokenizer = unigram(MARKERS)
    shape = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 514, "type_vocab_size": 1}
    rope = {"rope_type": "default", "rope_theta": base or 10_000.0}
    reference = randomise(
        JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**SIZES, **shape, rope_parameters=rope), add_pooling_layer=False)
    )
    state = reference.state_dict()
    tensors = {}
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = torch.cat([state[name.replace("q_proj", f"{p}_proj")] for p in "qkv"])
        for theirs, original in {
            "self_attn.q_proj": "mixer.Wqkv",
            "self_attn.o_proj": "mixer.out_proj",
            "post_attention_layernorm": "norm1",
            "post_mlp_layernorm": "norm2",
            "embeddings.LayerNorm": "emb_ln",
        }.items():
            name = name.replace(theirs, original)
        name = f"encoder.{name}" if name.startswith("layers.") else name
        tensors[f"roberta.{name}"] = tensor
    tensors["linear.weight"] = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    config = {
        "architectures": ["HF_ColBERT"],
        "auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_xlm_roberta.XLMRobertaModel"},
        "model_type": "xlm-roberta",
        **SIZES,
        **shape,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        **({} if base is None else {"rotary_emb_base": base}),
    }
    write(folder, config, tensors, tokenizer)
    (folder / "artifact.metadata").write_text(json.dumps({"query_maxlen": 32, "attend_to_mask_tokens": False}))
    return Published(folder, reference, 1)


def make_jina_reranker(folder: Path) -> Published:
    """Absolute positions: XLM-RoBERTa's arithmetic under the names of the flash implementation."""
    made = make_xlm_roberta_reranker(folder)
    state = made.reference.state_dict()
    tensors = {}
    for name, tensor in state.items():
        if ".self.key." in name or ".self.value." in name:
            continue
        if ".self.query." in name:
            tensor = torch.cat([state[name.replace("query", p)] for p in ("query", "key", "value")])
        for theirs, original in {
            "attention.self.query": "mixer.Wqkv",
            "attention.output.dense": "mixer.out_proj",
            "attention.output.LayerNorm": "norm1",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
            "output.LayerNorm": "norm2",
            "embeddings.LayerNorm": "emb_ln",
            "encoder.layer.": "encoder.layers.",
        }.items():
            name = name.replace(theirs, original)
        tensors[name] = tensor
    config = json.loads((folder / "config.json").read_text())
    config |= {"position_embedding_type": "absolute", "use_flash_attn": True}
    write(folder, config, tensors, unigram())
    return made


# ModernBERT ------------------------------------------------------------------------------------------------------


def modernbert_config(tokenizer: Tokenizer, **changes: Any) -> ModernBertConfig:
    return ModernBertConfig(
        **{**SIZES, "num_hidden_layers": 5},
        vocab_size=tokenizer.get_vocab_size() + 3,
        max_position_embeddings=512,
        local_attention=8,
        pad_token_id=0,
        num_labels=1,
        global_rope_theta=160_000.0,
        local_rope_theta=10_000.0,
        **changes,
    )


def original_modernbert_config(config: ModernBertConfig, architecture: str) -> dict[str, Any]:
    """The fields as they were before transformers 5."""
    content = {k: v for k, v in config.to_dict().items() if k not in ("layer_types", "rope_parameters")}
    return {
        **content,
        "architectures": [architecture],
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
    }


def make_modernbert(folder: Path, *, spelling: str = "original") -> Published:
    tokenizer = wordpiece()
    config = modernbert_config(tokenizer)
    reference = randomise(ModernBertModel(config))
    content = original_modernbert_config(config, "ModernBertModel")
    if spelling == "transformers 5":
        content = {**config.to_dict(), "architectures": ["ModernBertModel"]}
    write(folder, content, reference.state_dict(), tokenizer, pooling="cls")
    return Published(folder, reference, 0)


def make_moderncolbert(folder: Path) -> Published:
    tokenizer = wordpiece(("[Q] ", "[D] "))
    config = modernbert_config(tokenizer)
    reference = randomise(ModernBertModel(config))
    write(folder, original_modernbert_config(config, "ModernBertModel"), reference.state_dict(), tokenizer)
    write_modules(folder, {"": "Transformer", "1_Dense": "pylate.models.Dense.Dense"})
    (folder / "1_Dense").mkdir()
    dense = {
        "in_features": 64,
        "out_features": 32,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(3))
    save_file({"linear.weight": weight}, folder / "1_Dense" / "model.safetensors")
    options = {
        "model_type": "ColBERT",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 32,
        "document_length": 300,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(options))
    return Published(folder, reference, 0)


def make_modernbert_reranker(folder: Path, *, pooling: str) -> Published:
    tokenizer = wordpiece()
    config = modernbert_config(tokenizer, classifier_pooling=pooling)
    reference = randomise(ModernBertForSequenceClassification(config))
    content = original_modernbert_config(config, "ModernBertForSequenceClassification")
    write(folder, content, reference.state_dict(), tokenizer)
    return Published(folder, reference, 0)


CASES: dict[str, Callable[[Path], Published]] = {
    "gte-multilingual-base": lambda f: make_gte(
        f, head=GteForTokenClassification, theta=20_000.0, **ntk(20_000.0, 8.0)
    ),
    "gte-multilingual-reranker-base": lambda f: make_gte(f, head=GteForSequenceClassification, theta=160_000.0),
    "gte-multilingual-mlm-base": lambda f: make_gte(f, head=GteForMaskedLM, theta=160_000.0),
    "gte-base-en-v1.5": lambda f: make_gte(
        f, theta=500_000.0, **ntk(500_000.0, 2.0), types=0, prefix="", tokenizer=wordpiece()
    ),
    "gte-large-en-v1.5": lambda f: make_gte(
        f, theta=160_000.0, **ntk(160_000.0, 2.0), types=2, packed=False, tokenizer=wordpiece()
    ),
    "arctic-embed-m-v2.0": lambda f: make_gte(f, theta=160_000.0, prefix="", config_changes={"model_type": "gte"}),
    "gte-saved-by-transformers": make_native_gte,
    "bge-small-en-v1.5": make_bert,
    "ms-marco-cross-encoder": make_bert_reranker,
    "multilingual-e5-base": make_xlm_roberta,
    "bge-m3": make_bge_m3,
    "bge-reranker-v2-m3": make_xlm_roberta_reranker,
    "jina-colbert-v2": make_jina_colbert,
    "jina-colbert-without-a-base": lambda f: make_jina_colbert(f, base=None),
    "jina-reranker-v2-base-multilingual": make_jina_reranker,
    "gte-modernbert-base": make_modernbert,
    "modernbert-saved-by-transformers-5": lambda f: make_modernbert(f, spelling="transformers 5"),
    "GTE-ModernColBERT-v1": make_moderncolbert,
    "gte-reranker-modernbert-base": lambda f: make_modernbert_reranker(f, pooling="cls"),
    "modernbert-reranker-with-mean-pooling": lambda f: make_modernbert_reranker(f, pooling="mean"),
}
