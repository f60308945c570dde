"""ModernBERT folders: gte-modernbert-base, gte-reranker-modernbert-base, GTE-ModernColBERT-v1.

Source: Warner et al. 2024, arXiv 2412.13663; transformers 5.23 ``models/modernbert``.
"""

from collections.abc import Mapping
from typing import Any

from mgte_rag.checkpoints.family import Family, Names, Reading, module_names, multi_vector_names
from mgte_rag.checkpoints.fields import choose, has_architecture, read_rotary, require, take
from mgte_rag.checkpoints.late_interaction_files import read_pylate
from mgte_rag.checkpoints.published_prompts import prompts_of
from mgte_rag.checkpoints.sentence_transformers_files import read_max_length, read_pooling
from mgte_rag.checkpoints.source import ModelFolder
from mgte_rag.config import ClassifierConfig, EncoderConfig, ModelConfig
from mgte_rag.errors import CheckpointError

FIELDS = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
    "norm_eps": "norm_eps",
    "norm_bias": "norm_bias",
    "attention_bias": "attention_bias",
    "up_bias": "mlp_bias",
    "down_bias": "mlp_bias",
}
_SUPPORTED = {"hidden_activation": "gelu", "classifier_activation": "gelu"}
_HEAD_FOLDER = "1_Dense"
_HEAD_FILE = f"{_HEAD_FOLDER}/model.safetensors"


def read(folder: ModelFolder, config: Mapping[str, Any]) -> Reading:
    """The switches of a ModernBERT folder; ``modules.json`` and ``architectures`` say which head it has.

    Raises:
        CheckpointError: a field is missing, or asks for something that is not supported.
    """
    path = folder.path
    require(path, config, _SUPPORTED)
    window = take(path, config, {"width": "local_attention"})["width"]
    encoder = EncoderConfig(
        **take(path, config, FIELDS),
        token_types=0,
        pre_norm=True,
        gate="first",
        rotary=read_rotary(path, config, theta_field="global_rope_theta", section="full_attention"),
        local_rotary=read_rotary(path, config, theta_field="local_rope_theta", section="sliding_attention"),
        local_window=window // 2,
        global_every=_global_every(folder, config),
    )
    is_reranker = has_architecture(config, "ForSequenceClassification")
    late_interaction = None if is_reranker else read_pylate(path)
    if late_interaction is not None and late_interaction[1] != _HEAD_FOLDER:
        raise CheckpointError(f"{path}/modules.json puts the projection in {late_interaction[1]!r}, not {_HEAD_FOLDER}")
    has_dense = not is_reranker and late_interaction is None
    query_prompt, document_prompt = prompts_of(folder) if has_dense else ("", "")
    return Reading(
        ModelConfig(
            encoder=encoder,
            pooling=read_pooling(path) if has_dense else None,
            max_length=read_max_length(path, default=encoder.longest) if has_dense else encoder.longest,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            multi_vector=late_interaction[0] if late_interaction else None,
            classifier=_classifier(folder, config) if is_reranker else None,
        ),
        head_files=(_HEAD_FILE,) if late_interaction else (),
    )


def _global_every(folder: ModelFolder, config: Mapping[str, Any]) -> int:
    """How often a layer sees the whole text; transformers 5 writes out a list of layer kinds instead."""
    kinds = config.get("layer_types")
    if kinds is None:
        return int(take(folder.path, config, {"every": "global_attn_every_n_layers"})["every"])
    every = next((i for i, kind in enumerate(kinds) if i and kind == "full_attention"), len(kinds))
    if kinds != ["sliding_attention" if i % every else "full_attention" for i in range(len(kinds))]:
        raise CheckpointError(
            f"{folder.path}/config.json: layer_types is {kinds!r}; supported is a full_attention layer first and then "
            f"at every n-th place"
        )
    return every


def _classifier(folder: ModelFolder, config: Mapping[str, Any]) -> ClassifierConfig:
    pooling = choose(folder.path, config, "classifier_pooling", ("cls", "mean"), "cls")
    return ClassifierConfig(
        pooling="mean" if pooling == "mean" else "cls",
        activation="gelu",
        bias=bool(config.get("classifier_bias", False)),
        norm=True,
    )


def layouts(config: ModelConfig) -> list[Names]:
    """ModernBERT's own names."""
    encoder = config.encoder
    table: Names = {"encoder.embeddings.word.weight": ("embeddings.tok_embeddings.weight",)}
    table |= module_names("encoder.embeddings.norm", "embeddings.norm", bias=encoder.norm_bias)
    for i in range(encoder.layers):
        ours, theirs = f"encoder.layers.{i}", f"layers.{i}"
        table |= module_names(f"{ours}.attention.qkv", f"{theirs}.attn.Wqkv", bias=encoder.attention_bias)
        table |= module_names(f"{ours}.attention.out", f"{theirs}.attn.Wo", bias=encoder.attention_bias)
        if i:  # the first layer's input was normalised by the embeddings
            table |= module_names(f"{ours}.attention_norm", f"{theirs}.attn_norm", bias=encoder.norm_bias)
        table |= module_names(f"{ours}.feed_forward.up", f"{theirs}.mlp.Wi", bias=encoder.up_bias)
        table |= module_names(f"{ours}.feed_forward.down", f"{theirs}.mlp.Wo", bias=encoder.down_bias)
        table |= module_names(f"{ours}.feed_forward_norm", f"{theirs}.mlp_norm", bias=encoder.norm_bias)
    table |= module_names("encoder.final_norm", "final_norm", bias=encoder.norm_bias)
    table |= multi_vector_names(config, f"{_HEAD_FILE}:linear")
    if config.classifier is not None:
        table |= module_names("classifier.dense", "head.dense", bias=config.classifier.bias)
        table |= module_names("classifier.norm", "head.norm", bias=encoder.norm_bias)
        table |= module_names("classifier.out", "classifier")
    return [table]


FAMILY = Family(
    recognises=lambda config: config.get("model_type") == "modernbert",
    read=read,
    layouts=layouts,
    prefixes=("model.",),
    unused=("*.inv_freq",),
)
