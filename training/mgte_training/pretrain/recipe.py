"""A pre-training stage as one file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mgte_rag.errors import InvalidOptionError
from mgte_training.finetune.positions import Positions
from mgte_training.finetune.watching import Alarms
from mgte_training.pretrain.masking import Masking, RetroMAE
from mgte_training.pretrain.text_plan import TextBatches, TextSource


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderChoice:
    """Which encoder is trained.

    Attributes:
        name: a hub id or a folder; ``mgte-rag init`` makes one.
        dropout: share of each block's result dropped.
        recompute: gradient checkpointing.
        positions: other rotary positions than the model's.
    """

    name: str
    dropout: float = 0.0
    recompute: bool = False
    positions: Positions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainRecipe:
    """One reproducible pre-training stage: masked language modelling or RetroMAE.

    Attributes:
        model: what is trained.
        texts: on what.
        batches: in which batches.
        mlm: hide tokens from the encoder.
        retromae: and from a decoder.
        alarms: when to stop it.
        seed: decides everything that is drawn.
        training: fields of ``transformers.TrainingArguments``.
    """

    model: EncoderChoice
    texts: tuple[TextSource, ...]
    batches: TextBatches
    mlm: Masking | None = None
    retromae: RetroMAE | None = None
    alarms: Alarms = field(default_factory=Alarms)
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [source.name for source in self.texts]
        if not names or len(set(names)) < len(names):
            raise InvalidOptionError(f"texts {names}: at least one [[texts]], each with a name of its own")
        if self.seed < 0:
            raise InvalidOptionError(f"seed={self.seed!r}; a whole number from 0 up is needed")
        if (self.mlm is None) == (self.retromae is None):
            raise InvalidOptionError("a stage of pre-training has [mlm] or [retromae], one of them")

    @property
    def objective(self) -> Masking | RetroMAE:
        """What is learnt."""
        chosen = self.retromae if self.mlm is None else self.mlm
        assert chosen is not None, "a stage that learns nothing"
        return chosen
