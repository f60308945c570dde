"""BERT folders: all-MiniLM-L6-v2, bge-*-en and -zh, small multilingual-e5, cross-encoders.

Source: the files themselves, and sentence-transformers 6.2 ``sentence_transformers/models`` for their meaning.
"""

from collections.abc import Mapping
from typing import Any

from mgte_rag.checkpoints.family import Family, Names, Reading, module_names
from mgte_rag.checkpoints.fields import has_architecture, require, take
from mgte_rag.checkpoints.published_prompts import prompts_of
from mgte_rag.checkpoints.sentence_transformers_files import read_max_length, read_pooling
from mgte_rag.checkpoints.source import ModelFolder
from mgte_rag.config import ClassifierConfig, EncoderConfig, ModelConfig

ENCODER_FIELDS = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
}
SUPPORTED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


def read(folder: ModelFolder, config: Mapping[str, Any]) -> Reading:
    """The switches of a BERT folder.

    Raises:
        CheckpointError: a field is missing, or asks for something that this family's encoder does not do.
    """
    path = folder.path
    require(path, config, SUPPORTED)
    encoder = EncoderConfig(**take(path, config, ENCODER_FIELDS))
    is_reranker = has_architecture(config, "ForSequenceClassification")
    query_prompt, document_prompt = prompts_of(folder)
    return Reading(
        ModelConfig(
            encoder=encoder,
            pooling=None if is_reranker else read_pooling(path),
            max_length=read_max_length(path, default=encoder.longest),
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            classifier=ClassifierConfig() if is_reranker else None,
        )
    )


def layouts(config: ModelConfig) -> list[Names]:
    """BERT's own names."""
    table = encoder_names(config)
    if config.classifier is not None:
        table |= module_names("classifier.dense", "pooler.dense") | module_names("classifier.out", "classifier")
    return [table]


def encoder_names(config: ModelConfig) -> Names:
    """The encoder's names in BERT, RoBERTa and XLM-RoBERTa."""
    table: Names = {
        "encoder.embeddings.word.weight": ("embeddings.word_embeddings.weight",),
        "encoder.embeddings.position.weight": ("embeddings.position_embeddings.weight",),
        **module_names("encoder.embeddings.norm", "embeddings.LayerNorm"),
    }
    if config.encoder.token_types:
        table["encoder.embeddings.token_type.weight"] = ("embeddings.token_type_embeddings.weight",)
    for i in range(config.encoder.layers):
        ours, theirs = f"encoder.layers.{i}", f"encoder.layer.{i}"
        projections = [f"{theirs}.attention.self.{projection}" for projection in ("query", "key", "value")]
        table |= module_names(f"{ours}.attention.qkv", *projections)
        table |= module_names(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        table |= module_names(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        table |= module_names(f"{ours}.feed_forward.up", f"{theirs}.intermediate.dense")
        table |= module_names(f"{ours}.feed_forward.down", f"{theirs}.output.dense")
        table |= module_names(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm")
    return table


FAMILY = Family(
    recognises=lambda config: config.get("model_type") == "bert",
    read=read,
    layouts=layouts,
    prefixes=("bert.",),
    unused=("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"),
)
