"""A pre-training recipe to a trained model."""

from collections.abc import Callable
from pathlib import Path

from mgte_rag.errors import InvalidOptionError
from mgte_training.data.readers import corpus_texts
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
from mgte_training.pretrain.language_model import TrainableLanguageModel
from mgte_training.pretrain.recipe import PretrainRecipe
from mgte_training.pretrain.text_plan import TextPlan
from mgte_training.pretrain.token_store import token_store

TOKENS = "tokens"


def run_pretraining(
    recipe: PretrainRecipe,
    out: str | Path,
    *,
    data: str | Path = ".",
    show_progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> Trained:
    """Pre-train as a recipe says. A run that was stopped goes on where its last checkpoint was.

    The texts are tokenised once, by the first process, into ``tokens`` in the run's folder; what is trained on is what
    stands there.

    Args:
        recipe: what to do.
        out: folder of the run: recipe.json, tokens, checkpoints, and the trained model in ``model``.
        data: folder that relative paths of the recipe are in.
        show_progress: draw progress bars on standard error.
        say: told what happens, in sentences.

    Raises:
        MissingExtraError: transformers or accelerate are not installed.
        InvalidOptionError: the folder has a finished run, or one of another recipe, or texts are longer than the model
            reads.
        DataError: texts that cannot be read, or no texts.
        TrainingError: an alarm or SIGTERM stopped the run.
    """
    check_packages()
    from mgte_training.pretrain.trainer import PretrainTrainer

    folder, data = Path(out), Path(data)
    arguments = training_arguments(folder, recipe.training, seed=recipe.seed, show_progress=show_progress)
    say = speaker(say, arguments)
    resumed = claim(folder, recipe, data)
    choice = recipe.model
    model = TrainableLanguageModel.open(
        choice.name,
        dropout=choice.dropout,
        recompute=choice.recompute,
        positions=choice.positions,
        device=training_device(recipe.training),
        seed=recipe.seed,
    )
    if recipe.batches.length > model.settings.max_length:
        raise InvalidOptionError(
            f"length={recipe.batches.length:,}: the model reads {model.settings.max_length:,} tokens; lower it, or set "
            f"model.positions.max_length, which models with rotary positions take"
        )
    tokenizer = model.checkpoint.tokenizer
    with arguments.main_process_first(local=False, desc="tokenising"):
        stores = [
            token_store(
                folder / TOKENS / str(number),
                corpus_texts(found(source.path, data)),
                tokenizer,
                show_progress=show_progress,
            )
            for number, source in enumerate(recipe.texts)
        ]
    plan = TextPlan(recipe.texts, stores, recipe.batches, tokenizer, seed=recipe.seed)
    say(plan.describe())
    trainer = PretrainTrainer(model, arguments, plan, recipe.objective, alarms=recipe.alarms)
    train_to_end(trainer, folder, resumed=resumed, say=say)
    if trainer.is_world_process_zero():
        model.save(folder / MODEL)
    return Trained(folder / MODEL, {}, trainer.state.log_history)
