"""BERT folders as sentence-transformers publishes them: all-MiniLM-L6-v2, bge-*-v1.5 and their kin.

Source: the files themselves, and sentence-transformers 6.2 ``sentence_transformers/models`` for their meaning.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgte_rag.checkpoints.sentence_transformers_files import read_max_length, read_pooling, read_prompts
from mgte_rag.config import EncoderConfig, ModelConfig
from mgte_rag.errors import CheckpointError

PREFIXES = ("bert.",)
UNUSED = frozenset({"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"})

_REQUIRED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


def read_config(folder: Path, config: Mapping[str, Any]) -> ModelConfig:
    """The switches of a BERT folder.

    Raises:
        CheckpointError: a field is missing, or asks for something that this family's encoder does not do.
    """
    for field, supported in _REQUIRED.items():
        if config.get(field, supported) != supported:
            raise CheckpointError(f"{folder}/config.json: {field} is {config[field]!r}; supported is {supported!r}")
    try:
        encoder = EncoderConfig(
            vocabulary=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            positions=config["max_position_embeddings"],
            token_types=config["type_vocab_size"],
            norm_eps=config["layer_norm_eps"],
        )
    except KeyError as error:
        raise CheckpointError(f"{folder}/config.json lacks the field {error.args[0]!r}") from error
    query_prompt, document_prompt = read_prompts(folder)
    return ModelConfig(
        encoder=encoder,
        pooling=read_pooling(folder),
        max_length=read_max_length(folder, default=encoder.positions),
        query_prompt=query_prompt,
        document_prompt=document_prompt,
    )


def names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Our parameter names, each with the checkpoint's names whose rows are stacked."""
    table: dict[str, tuple[str, ...]] = {
        "embeddings.word.weight": ("embeddings.word_embeddings.weight",),
        "embeddings.position.weight": ("embeddings.position_embeddings.weight",),
        "embeddings.token_type.weight": ("embeddings.token_type_embeddings.weight",),
    }
    for part in ("weight", "bias"):
        table[f"embeddings.norm.{part}"] = (f"embeddings.LayerNorm.{part}",)
        for i in range(config.encoder.layers):
            ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
            table |= {
                f"{ours}.attention.qkv.{part}": tuple(
                    f"{theirs}.attention.self.{projection}.{part}" for projection in ("query", "key", "value")
                ),
                f"{ours}.attention.out.{part}": (f"{theirs}.attention.output.dense.{part}",),
                f"{ours}.attention_norm.{part}": (f"{theirs}.attention.output.LayerNorm.{part}",),
                f"{ours}.feed_forward.up.{part}": (f"{theirs}.intermediate.dense.{part}",),
                f"{ours}.feed_forward.down.{part}": (f"{theirs}.output.dense.{part}",),
                f"{ours}.feed_forward_norm.{part}": (f"{theirs}.output.LayerNorm.{part}",),
            }
    return table
