"""A recipe to a trained model: data, plan, trainer, figures, files."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgte_rag.types import Role
from mgte_training.data.buckets import scale_buckets
from mgte_training.data.draws import draw_rule
from mgte_training.data.lengths import checkpoint_lengths
from mgte_training.data.plan import TrainingPlan
from mgte_training.data.planning import make_plan
from mgte_training.data.sources import Source
from mgte_training.data.store import SourceData
from mgte_training.finetune.recipe import Recipe
from mgte_training.finetune.run_folder import (
    MODEL,
    Trained,
    check_packages,
    claim,
    found,
    speaker,
    train_to_end,
    training_arguments,
    training_device,
)
from mgte_training.finetune.trainable import Trainable, TrainableModel, TrainableReranker

PLAN = "plan.npz"


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    data: str | Path = ".",
    show_progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> Trained:
    """Train as a recipe says. A run that was stopped goes on where its last checkpoint was.

    Args:
        recipe: what to do.
        out: folder of the run: recipe.json, plan.npz, checkpoints, and the trained model in ``model``.
        data: folder that relative paths of the recipe are in.
        show_progress: draw progress bars on standard error.
        say: told what happens, in sentences.

    Raises:
        MissingExtraError: transformers or accelerate are not installed.
        InvalidOptionError: the folder has a finished run, one of another recipe, or other files; or a value of the
            recipe is not allowed.
        DataError: a source cannot be used.
        TrainingError: an alarm or SIGTERM stopped the run.
    """
    check_packages()
    folder, data = Path(out), Path(data)
    arguments = training_arguments(
        folder, recipe.training, seed=recipe.seed, show_progress=show_progress, **_measured(recipe)
    )
    say = speaker(say, arguments)
    resumed = claim(folder, recipe, data)
    model = _open(recipe, data)
    plan = _plan(recipe, model, data, folder, show_progress, say)
    trainer = _trainer(recipe, model, arguments, plan, data)
    train_to_end(trainer, folder, resumed=resumed, say=say)
    figures = {}
    if recipe.held_out is not None:
        figures = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    if trainer.is_world_process_zero():
        model.save(folder / MODEL)
    return Trained(folder / MODEL, figures, trainer.state.log_history)


def _open(recipe: Recipe, data: Path) -> Trainable:
    kind = TrainableModel if recipe.model.kind == "embedding" else TrainableReranker
    choice = recipe.model
    new_heads = choice.new_heads
    if new_heads.lexicon is not None:
        texts = tuple(found(path, data) for path in new_heads.lexicon.texts)
        new_heads = replace(new_heads, lexicon=replace(new_heads.lexicon, texts=texts))
    return kind.open(
        choice.name,
        new_heads=new_heads,
        trained=choice.trained,
        lora=choice.lora,
        dropout=choice.dropout,
        recompute=choice.recompute,
        positions=choice.positions,
        device=training_device(recipe.training),
        seed=recipe.seed,
    )


def _plan(
    recipe: Recipe, model: Trainable, data: Path, folder: Path, show_progress: bool, say: Callable[[str], None]
) -> TrainingPlan:
    read = [SourceData.read(_found(source, data), show_progress=show_progress) for source in recipe.sources]
    path = folder / PLAN
    if path.exists():
        return TrainingPlan.read(path, read)
    batches, lengths = recipe.batches, recipe.lengths
    group = max(draw_rule(each).group for each in read)
    buckets = scale_buckets(batches.buckets, batches.scale, group=group, token_budget=batches.token_budget)
    counted = checkpoint_lengths(
        model.checkpoint, max_length=lengths.document or lengths.pair, query_max_length=lengths.query
    )
    plan = make_plan(
        read,
        lengths=counted if len(buckets) > 1 else None,
        buckets=buckets,
        alpha=batches.alpha,
        epochs=batches.epochs if batches.steps is None else None,
        steps=batches.steps,
        seed=recipe.seed,
        multiple_of=int(os.environ.get("WORLD_SIZE", "1")),
        drop_last=batches.drop_last,
        show_progress=show_progress,
    )
    say(plan.describe())
    if int(os.environ.get("RANK", "0")) == 0:
        plan.write(path)
    return plan


def _found(source: Source, data: Path) -> Source:
    """The source with its path in the folder of the data, where there is such a file."""
    return replace(source, path=found(source.path, data))


def _measured(recipe: Recipe) -> dict[str, Any]:
    """What the held-out set asks of the trainer."""
    if recipe.held_out is None:
        return {}
    every = recipe.held_out.every
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "load_best_model_at_end": True,
        "metric_for_best_model": "ndcg@10",
        "greater_is_better": True,
    }


def _prompts(sources: Sequence[Source]) -> dict[Role, str | None]:
    """The held-out set's prompts: the sources' where all have the same, else the model's own."""
    queries, documents = ({getattr(source, side) for source in sources} for side in ("query_prompt", "document_prompt"))
    return {
        "query": queries.pop() if len(queries) == 1 else None,
        "document": documents.pop() if len(documents) == 1 else None,
    }


def _trainer(recipe: Recipe, model: Trainable, arguments: Any, plan: TrainingPlan, data: Path) -> Any:
    from transformers import EarlyStoppingCallback

    from mgte_training.finetune.held_out import HeldOut, ModelFigures, RerankerFigures
    from mgte_training.finetune.trainer import ModelTrainer, RerankerTrainer

    callbacks: list[Any] = []
    held_out = None
    if recipe.held_out is not None:
        source = Source("held_out", recipe.held_out.path)
        examples = SourceData.read(_found(source, data))
        held_out = HeldOut.of(list(examples)[: recipe.held_out.max_examples])
        if recipe.held_out.patience is not None:
            callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.held_out.patience))
    if isinstance(model, TrainableModel) and recipe.objective is not None:
        return ModelTrainer(
            model,
            arguments,
            plan,
            recipe.objective,
            lengths=recipe.lengths,
            evaluate=None
            if held_out is None
            else ModelFigures(held_out, recipe.objective, recipe.lengths, _prompts(recipe.sources)),
            alarms=recipe.alarms,
            callbacks=callbacks,
        )
    assert isinstance(model, TrainableReranker), "a recipe of neither kind"
    assert recipe.reranker is not None, "a reranker's recipe says what it minimises"
    return RerankerTrainer(
        model,
        arguments,
        plan,
        temperature=recipe.reranker.temperature,
        contrastive_weight=recipe.reranker.contrastive_weight,
        distillation=recipe.reranker.distillation,
        lengths=recipe.lengths,
        evaluate=None if held_out is None else RerankerFigures(held_out, recipe.lengths),
        alarms=recipe.alarms,
        callbacks=callbacks,
    )
