"""Jina's variant of XLM-RoBERTa: jina-colbert-v2, jina-reranker-v2, plain rotary encoders.

Written from the papers, the files' names and the behaviour of independent readers; the authors' remote code is under a
non-commercial licence and is neither copied nor run. LoRA adapters (jina-embeddings-v3) are not supported: their names
are unexpected and refused.

Source: Jina-ColBERT-v2, arXiv 2408.16672; transformers 5.23 ``models/jina_embeddings_v3``; fastembed c48247f
``fastembed/late_interaction/jina_colbert.py`` and PyLate 1f1f47c for the markers.
"""

from collections.abc import Mapping
from typing import Any

from mgte_rag.checkpoints.bert import ENCODER_FIELDS
from mgte_rag.checkpoints.family import Family, Names, Reading, module_names, multi_vector_names
from mgte_rag.checkpoints.fields import choose, has_architecture, read_rotary, require, take
from mgte_rag.checkpoints.late_interaction_files import PUNCTUATION, read_query_length
from mgte_rag.checkpoints.published_prompts import prompts_of
from mgte_rag.checkpoints.sentence_transformers_files import read_max_length, read_pooling
from mgte_rag.checkpoints.source import ModelFolder
from mgte_rag.checkpoints.weights import find_weights, tensor_rows
from mgte_rag.config import ClassifierConfig, EncoderConfig, ModelConfig, MultiVectorConfig
from mgte_rag.errors import CheckpointError

_SUPPORTED = {"hidden_act": "gelu", "rotary_emb_scale_base": None, "rotary_emb_interleaved": False, "is_decoder": False}
_WHOLE_HEAD = (None, 0, 0.0, 1.0)  # what rotary_emb_dim and rotary_emb_fraction may be: every component turns
_DEFAULT_THETA = 10_000.0  # the reference configuration's own default; files that lack the field were made with it
_TRANSFORMERS_TYPE = "jina_embeddings_v3"
_PROJECTION = "linear"
_LICENCE = "CC BY-NC 4.0 (no commercial use) for the weights that Jina AI publishes in this layout"


def recognises(config: Mapping[str, Any]) -> bool:
    """Whether a config.json of ``model_type`` "xlm-roberta" is of this variant, by the fields that only it has."""
    if config.get("model_type") == _TRANSFORMERS_TYPE:
        return True
    classes = [*(config.get("architectures") or ()), *(config.get("auto_map") or {}).values()]
    return config.get("model_type") in ("xlm-roberta", "xlm-roberta-flash") and (
        config.get("position_embedding_type") == "rotary"
        or "use_flash_attn" in config
        or any(part in str(name).lower() for name in classes for part in ("flash", "hf_colbert", "jinaai/"))
    )


def read(folder: ModelFolder, config: Mapping[str, Any]) -> Reading:
    """The switches of a Jina folder; ``architectures`` says which head it has.

    Raises:
        CheckpointError: a field is missing, or asks for something that is not supported.
    """
    path = folder.path
    require(path, config, _SUPPORTED)
    default = "rotary" if config.get("model_type") == _TRANSFORMERS_TYPE else "absolute"
    is_rotary = choose(path, config, "position_embedding_type", ("rotary", "absolute"), default) == "rotary"
    fields = take(path, config, {**ENCODER_FIELDS, "padding": "pad_token_id"})
    offset = fields.pop("padding") + 1
    encoder = EncoderConfig(
        **fields,
        position_offset=0 if is_rotary else offset,
        rotary=_read_rotary(folder, config) if is_rotary else None,
    )
    for field in ("rotary_emb_dim", "rotary_emb_fraction"):
        if is_rotary and config.get(field) not in (*_WHOLE_HEAD, encoder.head_dim):
            raise CheckpointError(f"{path}/config.json: {field} is {config[field]!r}; supported is the whole head")
    is_reranker = has_architecture(config, "ForSequenceClassification")
    is_colbert = has_architecture(config, "HF_ColBERT") or has_architecture(config, "ColBERTJinaRobertaModel")
    query_prompt, document_prompt = prompts_of(folder)
    # max_position_embeddings counts the unused rows of an absolute table even where there is none.
    longest = encoder.positions - offset
    return Reading(
        ModelConfig(
            encoder=encoder,
            pooling=None if is_reranker or is_colbert else read_pooling(path),
            max_length=longest if is_colbert else read_max_length(path, default=longest),
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            multi_vector=_late_interaction(folder) if is_colbert else None,
            classifier=ClassifierConfig() if is_reranker else None,
            licence=_LICENCE,
        )
    )


def _read_rotary(folder: ModelFolder, config: Mapping[str, Any]) -> Any:
    return read_rotary(
        folder.path,
        config,
        theta_field="rotary_emb_base" if "rotary_emb_base" in config else "rope_theta",
        default_theta=_DEFAULT_THETA,
    )


def _late_interaction(folder: ModelFolder) -> MultiVectorConfig:
    """The late-interaction head: its size is the projection's; -96 and -64 are models of their own, not slices."""
    return MultiVectorConfig(
        dims=(tensor_rows(find_weights(folder.path), f"{_PROJECTION}.weight"),),
        query_marker="[QueryMarker]",
        document_marker="[DocumentMarker]",
        query_length=read_query_length(folder.path, default=32),
        attend_to_mask=True,
        skipped=PUNCTUATION,
    )


def layouts(config: ModelConfig) -> list[Names]:
    """Jina's own names, and transformers'."""
    original = _table(config, "encoder.layers.{}", "mixer.", ("Wqkv",), ("norm1", "norm2"), norm="emb_ln")
    return [original, native_names(config)]


def native_names(config: ModelConfig) -> Names:
    """The names of transformers' JinaEmbeddingsV3Model."""
    norms = ("post_attention_layernorm", "post_mlp_layernorm")
    qkv = ("q_proj", "k_proj", "v_proj")
    return _table(config, "layers.{}", "self_attn.", qkv, norms, out="o_proj", norm="embeddings.LayerNorm")


def _table(
    config: ModelConfig,
    layer: str,
    attention: str,
    qkv: tuple[str, ...],
    norms: tuple[str, str],
    *,
    out: str = "out_proj",
    norm: str,
) -> Names:
    encoder = config.encoder
    table: Names = {"encoder.embeddings.word.weight": ("embeddings.word_embeddings.weight",)}
    if encoder.token_types:
        table["encoder.embeddings.token_type.weight"] = ("embeddings.token_type_embeddings.weight",)
    if encoder.rotary is None:
        table["encoder.embeddings.position.weight"] = ("embeddings.position_embeddings.weight",)
    table |= module_names("encoder.embeddings.norm", norm)
    for i in range(encoder.layers):
        ours, theirs = f"encoder.layers.{i}", layer.format(i)
        table |= module_names(f"{ours}.attention.qkv", *(f"{theirs}.{attention}{name}" for name in qkv))
        table |= module_names(f"{ours}.attention.out", f"{theirs}.{attention}{out}")
        table |= module_names(f"{ours}.attention_norm", f"{theirs}.{norms[0]}")
        table |= module_names(f"{ours}.feed_forward.up", f"{theirs}.mlp.fc1")
        table |= module_names(f"{ours}.feed_forward.down", f"{theirs}.mlp.fc2")
        table |= module_names(f"{ours}.feed_forward_norm", f"{theirs}.{norms[1]}")
    table |= multi_vector_names(config, _PROJECTION)
    if config.classifier is not None:
        table |= module_names("classifier.dense", "classifier.dense")
        table |= module_names("classifier.out", "classifier.out_proj")
    return table


FAMILY = Family(
    recognises=recognises,
    read=read,
    layouts=layouts,
    prefixes=("roberta.",),
    unused=("embeddings.position_ids", "*.inv_freq", "pooler.dense.weight", "pooler.dense.bias"),
)
