"""A training run as one file: TOML to dataclasses, every field known, every value checked."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mgte_rag.errors import InvalidOptionError, shown
from mgte_training.data.buckets import Bucket
from mgte_training.data.sources import Source
from mgte_training.finetune.lora import LoRA
from mgte_training.finetune.new_heads import NewHeads
from mgte_training.finetune.objective import Distillation, Objective
from mgte_training.finetune.positions import Positions
from mgte_training.finetune.steps import Lengths
from mgte_training.finetune.trainable import Trained
from mgte_training.finetune.watching import Alarms

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which model is trained, and what of it.

    Attributes:
        name: a hub id or a folder; None is the embedded default: of rerankers the embedded one, unless its head is
            begun anew.
        kind: vectors or a reranker's scores.
        trained: all weights or those of the heads.
        lora: adapters on the encoder instead of its weights.
        new_heads: heads to begin anew.
        dropout: share of each block's result dropped.
        recompute: gradient checkpointing.
        positions: other rotary positions than the model's.
    """

    name: str | None = None
    kind: Literal["embedding", "reranker"] = "embedding"
    trained: Trained = "all"
    lora: LoRA | None = None
    new_heads: NewHeads = field(default_factory=NewHeads)
    dropout: float = 0.0
    recompute: bool = False
    positions: Positions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """How examples become batches; the fields are those of ``make_plan`` and ``scale_buckets``.

    Attributes:
        buckets: batch sizes by length.
        scale: factor on every batch and sub-batch.
        token_budget: tokens that a device computes at once, which decides the sub-batches.
        alpha: sampling exponent of the sources.
        epochs: how many; not looked at where there are ``steps``.
        steps: how many.
        drop_last: leave out incomplete batches.
    """

    buckets: tuple[Bucket, ...]
    scale: float = 1.0
    token_budget: int | None = None
    alpha: float = 0.5
    epochs: int | None = None
    steps: int | None = None
    drop_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerLoss:
    """What a reranker minimises.

    Attributes:
        temperature: logits are divided by it.
        contrastive_weight: what the cross-entropy over each query's candidates counts.
        distillation: learning from a teacher's scores.
    """

    temperature: float = 1.0
    contrastive_weight: float = 1.0
    distillation: Distillation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutChoice:
    """What a run is measured on while it trains, with the prompts of the sources where all have the same.

    Attributes:
        path: examples, in any format that sources have.
        every: steps between two measurements.
        max_examples: measure on so many, the first ones.
        patience: stop after so many measurements without a better one; None never stops.
    """

    path: str
    every: int
    max_examples: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for option in ("every", "max_examples", "patience"):
            count = getattr(self, option)
            if count is not None and count < 1:
                raise InvalidOptionError(f"{option}={count!r}; it is a whole number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One reproducible training stage.

    Attributes:
        model: what is trained.
        sources: on what.
        batches: in which batches.
        lengths: tokens kept of each text.
        objective: what a model of vectors minimises.
        reranker: what a reranker minimises.
        held_out: what it is measured on.
        alarms: when to stop it.
        seed: decides everything that is drawn.
        training: fields of ``transformers.TrainingArguments``: learning rate, schedule, precision, logging.
    """

    model: ModelChoice
    sources: tuple[Source, ...]
    batches: Batches
    lengths: Lengths = field(default_factory=Lengths)
    objective: Objective | None = None
    reranker: RerankerLoss | None = None
    held_out: HeldOutChoice | None = None
    alarms: Alarms = field(default_factory=Alarms)
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts go together.

        Raises:
            InvalidOptionError: no source, or no objective for the kind of model.
        """
        if not self.sources:
            raise InvalidOptionError("a recipe needs at least one [[sources]]")
        needed, other = ("objective", "reranker") if self.model.kind == "embedding" else ("reranker", "objective")
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise InvalidOptionError(f"model.kind={self.model.kind!r} needs [{needed}] and no [{other}]")


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the package.

    Raises:
        InvalidOptionError: neither; the message lists those that there are.
    """
    path = Path(name)
    if path.is_file():
        return path
    there = {each.stem: each for each in sorted(RECIPES.glob("*.toml"))}
    if name in there:
        return there[name]
    raise InvalidOptionError(f"no recipe {name!r}: neither a file nor one of {', '.join(there)}")


def read_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: a TOML file. One with ``extends = "name"`` at its top changes another recipe.
        settings: "key=value" each, in place of what the file says: "training.learning_rate=1e-5",
            "sources.0.path=my.jsonl". Values are TOML; what is no TOML is a string.

    Raises:
        InvalidOptionError: the file is no TOML, or a field is unknown, missing or of the wrong kind.
    """
    built: Recipe = build(Recipe, read_content(path, settings), str(path))
    return built


def read_content(path: str | Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """What stands in a recipe, of whatever stage; the arguments and errors are those of ``read_recipe``."""
    content = _read(Path(path))
    for setting in settings:
        _set(content, setting)
    return content


def _read(path: Path) -> dict[str, Any]:
    """The file's content on top of that of the recipe it ``extends``.

    Tables are joined, but for those of sizes, which are replaced as everything else.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidOptionError(f"{path} cannot be read as a recipe: {error}") from error
    extended = content.pop("extends", None)
    if extended is None:
        return content
    if not isinstance(extended, str):
        raise InvalidOptionError(f"{path}: extends is the name or the path of a recipe, not {shown(extended)}")
    beside = path.parent / extended
    return _joined(_read(beside if beside.is_file() else find_recipe(extended)), content)


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: (below[name], above[name]) for name in below.keys() & above.keys()}
    tables = {
        name: _joined(*pair)
        for name, pair in both.items()
        if name != "sizes" and all(isinstance(each, Mapping) for each in pair)
    }
    return {**below, **above, **tables}


def _set(content: Any, setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InvalidOptionError(f"{setting!r} is no key=value")
    *parents, last = key.split(".")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    try:
        for parent in parents:
            content = content[int(parent)] if isinstance(content, list) else content.setdefault(parent, {})
        content[int(last) if isinstance(content, list) else last] = value
    except (AttributeError, TypeError, IndexError, ValueError) as error:
        raise InvalidOptionError(f"{setting!r}: there is no such place in the recipe") from error


def build(kind: Any, content: Any, place: str) -> Any:
    """A dataclass out of TOML: no field unknown, none missing, every value of the field's kind.

    Raises:
        InvalidOptionError: what is wrong, and where.
    """
    if not isinstance(content, Mapping):
        raise InvalidOptionError(f"{place} is a table, not {shown(content)}")
    hints = get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}
    unknown = sorted(content.keys() - known.keys())
    if unknown:
        raise InvalidOptionError(f"{place} has the unknown field {unknown[0]!r}; it may have {', '.join(known)}")
    required = [name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING]
    missing = [name for name in required if name not in content]
    if missing:
        raise InvalidOptionError(f"{place} lacks the field {missing[0]!r}")
    values = {name: _value(hints[name], value, f"{place}: {name}") for name, value in content.items()}
    try:
        return kind(**values)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{place}: {error}") from error


def _value(hint: Any, value: Any, place: str) -> Any:
    choices = [each for each in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if each is not NoneType]
    errors = []
    for choice in choices:
        try:
            return _as(choice, value, place)
        except InvalidOptionError as error:
            errors.append(error)
    raise errors[0]


def _as(hint: Any, value: Any, place: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return build(hint, value, place)
    if hint is Any:
        return value
    if origin is Literal:
        if value in get_args(hint):
            return value
        raise InvalidOptionError(f"{place} is {shown(value)}; allowed are {', '.join(map(str, get_args(hint)))}")
    if origin is tuple and isinstance(value, list):
        return tuple(_value(get_args(hint)[0], each, f"{place}.{i}") for i, each in enumerate(value))
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        if isinstance(value, Mapping):
            to_key, to_value = get_args(hint)
            return {_key(to_key, key, place): _value(to_value, each, f"{place}.{key}") for key, each in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif origin is None and type(value) is hint:
        return value
    name = {tuple: "list", Mapping: "table"}.get(origin, getattr(hint, "__name__", str(hint)))
    raise InvalidOptionError(f"{place} is {shown(value)}, which is no {name}")


def _key(hint: Any, key: str, place: str) -> Any:
    if hint is not int:
        return _value(hint, key, place)
    if not key.isdigit():
        raise InvalidOptionError(f"{place} has the key {key!r}; a whole number is needed")
    return int(key)
