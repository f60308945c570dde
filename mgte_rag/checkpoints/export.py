"""A model to a folder that transformers (5.18 and later for mGTE) and sentence-transformers load.

Which class a model becomes follows from its switches: each target below is a table from them to the fields and names
of a class of transformers. What that class has no place for, such as bge-m3's sparse head, stays behind.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from mgte_rag.checkpoints import bert, gte, jina, modernbert, xlm_roberta
from mgte_rag.checkpoints.family import Names
from mgte_rag.checkpoints.loading import Checkpoint
from mgte_rag.checkpoints.saving import write_folder, write_tensors
from mgte_rag.config import EncoderConfig, ModelConfig, Rotary
from mgte_rag.errors import InvalidOptionError, UnsupportedOutputError
from mgte_rag.tokenization import TextTokenizer

Format = Literal["sentence-transformers", "transformers"]

_SPECIAL = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A family of classes of transformers.

    Attributes:
        model_type: its name in config.json.
        stem: what its classes' names begin with.
        fits: whether its encoder does what the switches say.
        fields: the switches as its config.json has them.
        names: our names to its names.
        prefix: what stands before the encoder's names in classes with a head.
    """

    model_type: str
    stem: str
    fits: Callable[[EncoderConfig], bool]
    fields: Callable[[EncoderConfig], dict[str, Any]]
    names: Callable[[ModelConfig], Names]
    prefix: str


def _rope(rotary: Rotary, head_dim: int) -> dict[str, Any]:
    """Rotary positions as transformers has them; plain NTK is linear scaling of a larger base."""
    if rotary.scaling == "none":
        return {"rope_type": "default", "rope_theta": rotary.theta}
    if rotary.scaling == "linear":
        return {"rope_type": "linear", "rope_theta": rotary.theta, "factor": rotary.factor}
    return {
        "rope_type": "linear",
        "rope_theta": rotary.theta * rotary.factor,
        "factor": rotary.factor ** (2 / head_dim),
    }


def _bert_fields(encoder: EncoderConfig) -> dict[str, Any]:
    return {theirs: getattr(encoder, ours) for ours, theirs in bert.ENCODER_FIELDS.items()} | {"hidden_act": "gelu"}


def _rotary_fields(encoder: EncoderConfig) -> dict[str, Any]:
    assert encoder.rotary is not None, "a target for rotary positions was chosen without them"
    return {**_bert_fields(encoder), "rope_parameters": _rope(encoder.rotary, encoder.head_dim)}


def _modernbert_fields(encoder: EncoderConfig) -> dict[str, Any]:
    assert encoder.rotary is not None, "a target for rotary positions was chosen without them"
    local = encoder.local_rotary or encoder.rotary
    return {
        **{theirs: getattr(encoder, ours) for ours, theirs in modernbert.FIELDS.items()},
        "hidden_activation": "gelu",
        "global_attn_every_n_layers": encoder.global_every,
        "local_attention": 2 * (encoder.local_window or 0),
        "global_rope_theta": encoder.rotary.theta,
        "local_rope_theta": local.theta,
    }


def _is_plain(encoder: EncoderConfig) -> bool:
    """Post-norm, layer norm with bias, every projection with one: BERT's own layer, but for positions and gate."""
    return (
        not encoder.pre_norm
        and encoder.norm == "layer"
        and encoder.norm_bias
        and encoder.attention_bias
        and encoder.down_bias
        and encoder.local_window is None
    )


def _is_turned_simply(rotary: Rotary | None) -> bool:
    return rotary is not None and rotary.mixed_b is None


TARGETS = (
    Target(
        "bert",
        "Bert",
        lambda e: _is_plain(e) and e.gate == "none" and e.rotary is None and not e.position_offset,
        _bert_fields,
        lambda config: bert.layouts(config)[0],
        "bert.",
    ),
    Target(
        "xlm-roberta",
        "XLMRoberta",
        lambda e: _is_plain(e) and e.gate == "none" and e.rotary is None and e.position_offset > 0,
        _bert_fields,
        lambda config: xlm_roberta.layouts(config)[0],
        "roberta.",
    ),
    Target(
        "jina_embeddings_v3",
        "JinaEmbeddingsV3",
        lambda e: _is_plain(e) and e.gate == "none" and _is_turned_simply(e.rotary) and e.token_types > 0,
        _rotary_fields,
        jina.native_names,
        "roberta.",
    ),
    Target(
        "gte",
        "Gte",
        lambda e: _is_plain(e) and e.gate == "second" and not e.up_bias and _is_turned_simply(e.rotary),
        _rotary_fields,
        gte.native_names,
        "gte.",
    ),
    Target(
        "modernbert",
        "ModernBert",
        lambda e: (
            e.pre_norm
            and e.gate == "first"
            and e.norm == "layer"
            and e.up_bias == e.down_bias
            and all(rotary is not None and rotary.scaling == "none" for rotary in (e.rotary, e.local_rotary))
        ),
        _modernbert_fields,
        lambda config: modernbert.layouts(config)[0],
        "model.",
    ),
)


def export(checkpoint: Checkpoint, folder: str | Path, format: Format) -> None:
    """Write a folder for another library.

    Args:
        checkpoint: the model.
        folder: a new or empty folder.
        format: "transformers": the encoder, with the head of a reranker, or mGTE's sparse head as token classifier.
            "sentence-transformers": a SentenceTransformer for models with dense vectors, a CrossEncoder for rerankers.

    Raises:
        InvalidOptionError: another format, or the folder is not empty.
        UnsupportedOutputError: the model has nothing that the format can hold.
    """
    if format not in get_args(Format):
        raise InvalidOptionError(f"format={format!r}: choose one of {', '.join(get_args(Format))}")
    config, name = checkpoint.config, checkpoint.identity.name
    target = next((target for target in TARGETS if target.fits(config.encoder)), None)
    if target is None:
        raise UnsupportedOutputError(f"no class of transformers computes what the model {name!r} computes")
    if format == "sentence-transformers" and config.pooling is None and config.classifier is None:
        raise UnsupportedOutputError(
            f"format={format!r}: the model {name!r} has neither dense vectors nor a reranker; "
            f"format='transformers' writes its encoder"
        )

    def fill(path: Path) -> None:
        content = _config(target, config, checkpoint.tokenizer)
        _write_json(path / "config.json", content)
        write_tensors(_tensors(target, config, checkpoint.read_weights()), path)
        _write_tokenizer(checkpoint.tokenizer, config, path)
        if format == "sentence-transformers" and config.classifier is None:
            _write_modules(config, path)

    write_folder(folder, fill)


def _class_name(target: Target, config: ModelConfig) -> str:
    if config.classifier is not None:
        return f"{target.stem}ForSequenceClassification"
    if config.language_model:
        return f"{target.stem}ForMaskedLM"
    has_token_classifier = config.sparse and not config.lexicon and target.model_type == "gte"
    return f"{target.stem}{'ForTokenClassification' if has_token_classifier else 'Model'}"


def _config(target: Target, config: ModelConfig, tokenizer: TextTokenizer) -> dict[str, Any]:
    pad = next((i for i in map(tokenizer.token_id, _SPECIAL["pad_token"]) if i is not None), None)
    content = {
        "architectures": [_class_name(target, config)],
        "model_type": target.model_type,
        **target.fields(config.encoder),
        "pad_token_id": config.encoder.position_offset - 1 if config.encoder.position_offset else pad,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    if config.classifier is not None:  # else a CrossEncoder would put a sigmoid on the logit
        content["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    if config.classifier is not None and target.model_type == "modernbert":
        content |= {
            "classifier_pooling": config.classifier.pooling,
            "classifier_bias": config.classifier.bias,
            "classifier_activation": config.classifier.activation,
        }
    return content


def _tensors(target: Target, config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the class's names; stacked projections apart again."""
    has_head = not _class_name(target, config).endswith("Model")
    renamed = {}
    for ours, theirs in target.names(config).items():
        if ours.startswith("multi_vector.") or ":" in theirs[0]:
            continue  # the class has no place for it
        for name, part in zip(theirs, tensors[ours].chunk(len(theirs)), strict=True):
            is_head = name.startswith(("classifier", "lm_head", "head."))
            renamed[name if is_head or not has_head else target.prefix + name] = part
    return renamed


def _write_tokenizer(tokenizer: TextTokenizer, config: ModelConfig, path: Path) -> None:
    tokenizer.save(path / "tokenizer.json")
    found = {
        role: next((name for name in names if tokenizer.token_id(name) is not None), None)
        for role, names in _SPECIAL.items()
    }
    inputs = ["input_ids", "attention_mask"]
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_length,
        "model_input_names": [*inputs, "token_type_ids"] if config.encoder.token_types > 1 else inputs,
        **{role: name for role, name in found.items() if name is not None},
    }
    _write_json(path / "tokenizer_config.json", content)


def _write_modules(config: ModelConfig, path: Path) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for i, (place, kind) in enumerate(kinds.items())
    ]
    (path / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
    for place in ("1_Pooling", "2_Normalize"):
        (path / place).mkdir()
    pooling = {
        "word_embedding_dimension": config.encoder.hidden,
        "pooling_mode_cls_token": config.pooling == "cls",
        "pooling_mode_mean_tokens": config.pooling == "mean",
        "include_prompt": True,
    }
    _write_json(path / "1_Pooling" / "config.json", pooling)
    _write_json(path / "sentence_bert_config.json", {"max_seq_length": config.max_length, "do_lower_case": False})
    prompts = {"query": config.query_prompt, "document": config.document_prompt}
    _write_json(path / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
