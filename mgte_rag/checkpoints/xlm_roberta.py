"""XLM-RoBERTa folders: bge-m3 with its two head files, bge-reranker-{base,large,v2-m3}, multilingual-e5.

Source: FlagEmbedding 7ed43d6 ``FlagEmbedding/finetune/embedder/encoder_only/m3/modeling.py`` for bge-m3's heads.
"""

from collections.abc import Mapping
from typing import Any

from mgte_rag.checkpoints import bert
from mgte_rag.checkpoints.family import Family, Names, Reading, module_names, multi_vector_names
from mgte_rag.checkpoints.fields import has_architecture, require, take
from mgte_rag.checkpoints.published_prompts import prompts_of
from mgte_rag.checkpoints.sentence_transformers_files import read_max_length, read_pooling
from mgte_rag.checkpoints.source import ModelFolder
from mgte_rag.checkpoints.weights import tensor_rows
from mgte_rag.config import ClassifierConfig, EncoderConfig, HybridWeights, ModelConfig, MultiVectorConfig
from mgte_rag.errors import CheckpointError

SPARSE_FILE, MULTI_VECTOR_FILE = "sparse_linear.pt", "colbert_linear.pt"


def read(folder: ModelFolder, config: Mapping[str, Any]) -> Reading:
    """The switches of an XLM-RoBERTa folder; with bge-m3's head files, of bge-m3.

    Raises:
        CheckpointError: a field or a head file is missing, or a field asks for something that is not supported.
    """
    path = folder.path
    require(path, config, bert.SUPPORTED)
    fields = take(path, config, {**bert.ENCODER_FIELDS, "padding": "pad_token_id"})
    encoder = EncoderConfig(position_offset=fields.pop("padding") + 1, **fields)
    is_reranker = has_architecture(config, "ForSequenceClassification")
    is_language_model = has_architecture(config, "ForMaskedLM") and not (path / "modules.json").is_file()
    has_heads = _has_head_files(folder)
    makes_vectors = not is_reranker and not is_language_model
    query_prompt, document_prompt = prompts_of(folder)
    multi_vector = None
    if has_heads:
        size = tensor_rows([path / MULTI_VECTOR_FILE], "weight")
        multi_vector = MultiVectorConfig(dims=(size,), bias=True, first_token=False, mean=True)
    return Reading(
        ModelConfig(
            encoder=encoder,
            pooling=read_pooling(path, default="cls" if has_heads else None) if makes_vectors else None,
            max_length=read_max_length(path, default=encoder.longest),
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            sparse=has_heads,
            multi_vector=multi_vector,
            classifier=ClassifierConfig() if is_reranker else None,
            language_model=is_language_model,
            weights=HybridWeights(averaged=has_heads),
        ),
        head_files=(SPARSE_FILE, MULTI_VECTOR_FILE) if has_heads else (),
    )


def _has_head_files(folder: ModelFolder) -> bool:
    """Whether the folder is bge-m3: it has the head files, or its name says that it should."""
    missing = [name for name in (SPARSE_FILE, MULTI_VECTOR_FILE) if not (folder.path / name).is_file()]
    if len(missing) == 2 and "bge-m3" not in folder.published_names:
        return False
    if missing:
        raise CheckpointError(
            f"{folder.path / missing[0]} is missing: bge-m3 has its heads in {SPARSE_FILE} and {MULTI_VECTOR_FILE}, "
            f"and no head is ever made up; fetch the model's folder again"
        )
    return True


def layouts(config: ModelConfig) -> list[Names]:
    """XLM-RoBERTa's own names, heads included."""
    table = bert.encoder_names(config) | multi_vector_names(config, f"{MULTI_VECTOR_FILE}:")
    if config.sparse:
        table |= module_names("sparse.projection", f"{SPARSE_FILE}:")
    if config.classifier is not None:
        table |= module_names("classifier.dense", "classifier.dense")
        table |= module_names("classifier.out", "classifier.out_proj")
    if config.language_model:
        table |= module_names("language.dense", "lm_head.dense") | module_names("language.norm", "lm_head.layer_norm")
        table["language.bias"] = ("lm_head.bias",)
    return [table]


FAMILY = Family(
    recognises=lambda config: config.get("model_type") == "xlm-roberta",
    read=read,
    layouts=layouts,
    prefixes=("roberta.",),
    # The language model's output table is the word embeddings under a second name.
    unused=(
        "embeddings.position_ids",
        "pooler.dense.weight",
        "pooler.dense.bias",
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    ),
)
