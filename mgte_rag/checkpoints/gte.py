"""mGTE folders: gte-multilingual-{base,reranker-base,mlm-base}, gte-{base,large}-en-v1.5, arctic-embed-m-v2.0.

``model_type`` is "new" in the original files and "gte" in transformers 5.18 and later. ``auto_map`` and the remote
code it names are ignored: the encoder here is this project's own.

Source: mGTE, arXiv 2407.19669; transformers 5.23 ``models/gte`` and ``conversion_mapping.py``.
"""

from collections.abc import Mapping
from typing import Any

from mgte_rag.checkpoints.family import Family, Names, Reading, module_names
from mgte_rag.checkpoints.fields import choose, has_architecture, read_rotary, require, take
from mgte_rag.checkpoints.published_prompts import prompts_of
from mgte_rag.checkpoints.sentence_transformers_files import read_max_length, read_pooling
from mgte_rag.checkpoints.source import ModelFolder
from mgte_rag.config import ClassifierConfig, EncoderConfig, HybridWeights, ModelConfig

_FIELDS = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
}
_SUPPORTED = {"hidden_act": "gelu", "logn_attention_scale": False, "logn_attention_clip1": False}
_MATRYOSHKA_STEP = 32  # mGTE, section on representation: prefixes in steps of 32


def read(folder: ModelFolder, config: Mapping[str, Any]) -> Reading:
    """The switches of an mGTE folder; ``architectures`` says which head it has.

    Raises:
        CheckpointError: a field is missing, or asks for something that is not supported.
    """
    path = folder.path
    require(path, config, _SUPPORTED)
    positions = choose(path, config, "position_embedding_type", ("rope", "absolute"), "rope")
    norm = choose(path, config, "layer_norm_type", ("layer_norm", "rms_norm"), "layer_norm")
    encoder = EncoderConfig(
        **take(path, config, _FIELDS),
        rotary=read_rotary(path, config) if positions == "rope" else None,
        norm="rms" if norm == "rms_norm" else "layer",
        norm_bias=norm == "layer_norm",
        gate="second",
        up_bias=False,
    )
    is_reranker = has_architecture(config, "ForSequenceClassification")
    is_language_model = has_architecture(config, "ForMaskedLM")
    if is_language_model:
        require(path, config, {"tie_word_embeddings": True})
    is_hybrid = has_architecture(config, "ForTokenClassification")  # the released dense and sparse model
    query_prompt, document_prompt = prompts_of(folder)
    return Reading(
        ModelConfig(
            encoder=encoder,
            pooling=None if is_reranker or is_language_model else read_pooling(path, default="cls"),
            dims=(*range(_MATRYOSHKA_STEP, encoder.hidden, _MATRYOSHKA_STEP), encoder.hidden) if is_hybrid else (),
            max_length=read_max_length(path, default=encoder.longest),
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            sparse=is_hybrid,
            classifier=ClassifierConfig() if is_reranker else None,
            language_model=is_language_model,
            weights=HybridWeights(dense=1.0, sparse=0.1) if is_hybrid else HybridWeights(),
        )
    )


def layouts(config: ModelConfig) -> list[Names]:
    """The original names with packed and with separate projections, and transformers' own."""
    return [
        _table(config, "encoder.layer.{}", ["attention.qkv_proj"], "attention.o_proj"),
        _table(config, "encoder.layer.{}", [f"attention.{p}_proj" for p in "qkv"], "attention.o_proj"),
        native_names(config),
    ]


def native_names(config: ModelConfig) -> Names:
    """The names of transformers' GteModel."""
    return _table(
        config,
        "layers.{}",
        [f"self_attn.{p}_proj" for p in "qkv"],
        "self_attn.o_proj",
        norms=("post_attention_layernorm", "post_mlp_layernorm"),
        up=("mlp.up_proj", "mlp.gate_proj"),
        language_norm="lm_head.layer_norm",
    )


def _table(
    config: ModelConfig,
    layer: str,
    qkv: list[str],
    out: str,
    *,
    norms: tuple[str, str] = ("attn_ln", "mlp_ln"),
    up: tuple[str, ...] = ("mlp.up_gate_proj",),
    language_norm: str = "lm_head.norm",
) -> Names:
    encoder = config.encoder
    table: Names = {"encoder.embeddings.word.weight": ("embeddings.word_embeddings.weight",)}
    if encoder.token_types:
        table["encoder.embeddings.token_type.weight"] = ("embeddings.token_type_embeddings.weight",)
    if encoder.rotary is None:
        table["encoder.embeddings.position.weight"] = ("embeddings.position_embeddings.weight",)
    table |= module_names("encoder.embeddings.norm", "embeddings.LayerNorm", bias=encoder.norm_bias)
    for i in range(encoder.layers):
        ours, theirs = f"encoder.layers.{i}", layer.format(i)
        table |= module_names(f"{ours}.attention.qkv", *(f"{theirs}.{name}" for name in qkv))
        table |= module_names(f"{ours}.attention.out", f"{theirs}.{out}")
        table |= module_names(f"{ours}.attention_norm", f"{theirs}.{norms[0]}", bias=encoder.norm_bias)
        table |= module_names(f"{ours}.feed_forward.up", *(f"{theirs}.{name}" for name in up), bias=False)
        table |= module_names(f"{ours}.feed_forward.down", f"{theirs}.mlp.down_proj")
        table |= module_names(f"{ours}.feed_forward_norm", f"{theirs}.{norms[1]}", bias=encoder.norm_bias)
    return table | _head_names(config, language_norm)


def _head_names(config: ModelConfig, language_norm: str) -> Names:
    table: Names = {}
    if config.sparse:
        table |= module_names("sparse.projection", "classifier")
    if config.classifier is not None:
        table |= module_names("classifier.dense", "pooler.dense") | module_names("classifier.out", "classifier")
    if config.language_model:
        table |= module_names("language.dense", "lm_head.dense") | module_names("language.norm", language_norm)
        table["language.bias"] = ("lm_head.decoder.bias",)
    return table


FAMILY = Family(
    recognises=lambda config: config.get("model_type") in ("new", "gte"),
    read=read,
    layouts=layouts,
    prefixes=("new.", "gte."),
    # Rotary tables are computed; the language model's output table is the word embeddings under a second name.
    unused=(
        "embeddings.position_ids",
        "*.inv_freq",
        "*.cos_cached",
        "*.sin_cached",
        "lm_head.decoder.weight",
        "pooler.dense.weight",
        "pooler.dense.bias",
    ),
)
