"""The training runs of a domain fine-tuning, as recipes."""

from pathlib import Path
from typing import Any

import torch

from mgte_rag import EmbeddingModel
from mgte_rag.config import ClassifierConfig
from mgte_rag.devices import choose_device, choose_dtype
from mgte_training.data import Bucket, Source
from mgte_training.domain.options import NEW_RERANKER, TuningOptions
from mgte_training.finetune.new_heads import NewHeads
from mgte_training.finetune.objective import HeadLoss, Objective
from mgte_training.finetune.recipe import Batches, ModelChoice, Recipe, RerankerLoss
from mgte_training.finetune.steps import Lengths

# So that an interruption costs a minute or two on two cores; a checkpoint of the embedded default is 270 MB.
_SAVED_EVERY = 20


def model_recipe(model: EmbeddingModel, options: TuningOptions, mined: Path) -> Recipe:
    """Trains every output that the model has, late interaction in all its sizes, on mined examples."""
    heads = {
        output: HeadLoss(
            temperature=options.temperatures[output],
            sizes=dict.fromkeys(model.token_dims, 1 / len(model.token_dims)) if output == "multi_vector" else {},
        )
        for output in model.outputs
    }
    return Recipe(
        model=ModelChoice(name=options.model, lora=options.lora),
        sources=(_source(mined, options, options.negatives),),
        batches=_batches(options, options.batch),
        lengths=Lengths(query=options.query_length, document=options.max_length),
        objective=Objective(heads=heads),
        seed=options.seed,
        training=_arguments(options.learning_rate),
    )


def reranker_recipe(options: TuningOptions, mined: Path, tuned: Path) -> Recipe:
    """Trains a reranker on the same examples, each query's own candidates."""
    is_new = options.reranker == NEW_RERANKER
    pair = None if options.max_length is None else options.max_length + (options.query_length or 0)
    return Recipe(
        model=ModelChoice(
            name=str(tuned) if is_new else options.reranker,
            kind="reranker",
            new_heads=NewHeads(classifier=ClassifierConfig() if is_new else None),
        ),
        sources=(_source(mined, options, options.reranker_negatives),),
        batches=_batches(options, max(1, options.batch // 2)),
        lengths=Lengths(pair=pair),
        reranker=RerankerLoss(),
        seed=options.seed,
        training=_arguments(options.reranker_learning_rate),
    )


def _source(mined: Path, options: TuningOptions, negatives: int) -> Source:
    return Source("documents", str(mined), negatives=negatives)


def _batches(options: TuningOptions, batch: int) -> Batches:
    # One bucket: its limit is not looked at, longer texts are cut by the lengths.
    return Batches(buckets=(Bucket(max_tokens=1_000_000, batch=batch, sub_batch=batch),), epochs=options.epochs)


def _arguments(learning_rate: float) -> dict[str, Any]:
    """Fields of ``TrainingArguments``; bf16 where the device computes in it."""
    device = choose_device(None)
    return {
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "bf16": device.type != "mps" and choose_dtype(None, [device]) == torch.bfloat16,
        "use_cpu": device.type == "cpu",
        "logging_steps": 10,
        "save_steps": _SAVED_EVERY,
        "save_total_limit": 1,
    }
