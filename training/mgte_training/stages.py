"""Recipes of every kind: which one a file is, and how it is run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mgte_rag.errors import InvalidOptionError
from mgte_training.finetune.recipe import Recipe, build, read_content
from mgte_training.finetune.run import run_recipe
from mgte_training.finetune.run_folder import Trained
from mgte_training.pretrain.new_model import NewModel
from mgte_training.pretrain.recipe import PretrainRecipe
from mgte_training.pretrain.run import run_pretraining

Stage = NewModel | PretrainRecipe | Recipe
S = TypeVar("S", NewModel, PretrainRecipe, Recipe)


def read_stage(path: str | Path, settings: Sequence[str] = (), *, kind: type[Any] | None = None) -> Any:
    """Read a recipe of any kind: a new model has [encoder], pre-training [mlm] or [retromae].

    Args:
        path: a TOML file, as ``read_recipe`` takes it.
        settings: "key=value" each, in place of what the file says.
        kind: the kind that is needed; None takes any.

    Raises:
        InvalidOptionError: the file is no recipe, or one of another kind.
    """
    content = read_content(path, settings)
    pretrains = "mlm" in content or "retromae" in content
    found = NewModel if "encoder" in content else PretrainRecipe if pretrains else Recipe
    if kind is not None and found is not kind:
        raise InvalidOptionError(f"{path} is no recipe of a new model, which has [encoder] and [tokenizer]")
    return build(found, content, str(path))


def run_stage(
    stage: PretrainRecipe | Recipe | NewModel,
    out: str | Path,
    *,
    data: str | Path = ".",
    show_progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> Trained:
    """Train as a recipe of any kind says; the arguments and errors are those of ``run_recipe``.

    Raises:
        InvalidOptionError: a recipe that makes a model and trains none.
    """
    if isinstance(stage, NewModel):
        raise InvalidOptionError("this recipe makes a new model and trains none: 'mgte-rag init' takes it")
    run: Callable[..., Trained] = run_pretraining if isinstance(stage, PretrainRecipe) else run_recipe
    return run(stage, out, data=data, show_progress=show_progress, say=say)
