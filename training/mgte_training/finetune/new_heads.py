"""Heads that are begun anew on a published encoder."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mgte_rag.checkpoints import Checkpoint
from mgte_rag.config import ClassifierConfig, ModelConfig, MultiVectorConfig
from mgte_rag.errors import InvalidOptionError
from mgte_rag.nn import heads
from mgte_rag.nn.model import RetrievalModel
from mgte_training.finetune.lexicon import LexiconChoice, first_lexicon

# From a bias of 0 all weights of a new sparse head may die at once.
_FIRST_SPARSE_BIAS = 0.3
_FIRST_WEIGHTS_STD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHeads:
    """Heads to begin anew, where the model has none or instead of those it has.

    Attributes:
        sparse: a sparse head.
        lexicon: how the lexicon of the new sparse head begins; None is a head without one.
        multi_vector: a late-interaction head.
        classifier: a reranker's head.
    """

    sparse: bool = False
    lexicon: LexiconChoice | None = None
    multi_vector: MultiVectorConfig | None = None
    classifier: ClassifierConfig | None = None

    def __post_init__(self) -> None:
        if self.lexicon is not None and not self.sparse:
            raise InvalidOptionError("new_heads has a lexicon and no sparse head; set sparse = true")

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the modules that are begun anew."""
        fields = ("sparse", "multi_vector", "classifier")
        return tuple(name for name in fields if getattr(self, name))


def with_new_heads(
    checkpoint: Checkpoint, new: NewHeads, device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[ModelConfig, RetrievalModel]:
    """The model as it was published, with new heads in the places of those that are begun anew."""
    model = checkpoint.load_model(device, dtype)
    changes: dict[str, Any] = {name: getattr(new, name) for name in new.modules}
    if new.sparse:
        changes["lexicon"] = new.lexicon is not None
    config = replace(checkpoint.config, **changes)
    if not changes:
        return config, model
    generator = torch.Generator().manual_seed(seed)
    rows = config.encoder.vocabulary if new.lexicon is not None else 1
    begun = RetrievalModel(
        replace(config, encoder=replace(config.encoder, layers=1, vocabulary=rows), language_model=False)
    )
    for name in new.modules:
        module = getattr(begun, name)
        _begin(module, generator)
        setattr(model, name, module.to(device))
    if new.lexicon is not None:
        assert model.sparse is not None, "begun above"
        lexicon = model.sparse.lexicon
        assert lexicon is not None, "begun above"
        weights, terms = first_lexicon(checkpoint.tokenizer, config.encoder.vocabulary, new.lexicon)
        with torch.no_grad():
            model.sparse.projection.bias.zero_()  # terms have weights already
            lexicon.weight.copy_(weights)
            lexicon.term.copy_(terms)
    return config, model


@torch.no_grad()
def _begin(module: nn.Module, generator: torch.Generator) -> None:
    """A head's first weights: normal with a small deviation, biases 0, but for the sparse head's."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, _FIRST_WEIGHTS_STD, generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()
    if isinstance(module, heads.SparseHead):
        module.projection.bias.fill_(_FIRST_SPARSE_BIAS)
