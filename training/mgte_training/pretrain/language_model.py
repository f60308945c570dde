"""An encoder that learns to say hidden tokens: what pre-training trains."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mgte_rag.checkpoints import Checkpoint
from mgte_rag.config import ModelConfig
from mgte_rag.errors import InvalidOptionError
from mgte_rag.nn.heads import LanguageHead, pool
from mgte_rag.nn.model import RetrievalModel
from mgte_rag.nn.packing import pack
from mgte_training.finetune.trainable import Trainable, Trained
from mgte_training.pretrain.decoder import Decoder
from mgte_training.pretrain.masking import MaskedText, Masking, RetroMAE

# Logits of one slice, 256 MB in fp32; where there are more, they are computed again on the way back.
_KEPT_FLOATS = 64 * 1024 * 1024


class TrainableLanguageModel(Trainable):
    """An encoder with its language model's head, and in RetroMAE a decoder that is not written with the model."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, model: RetrievalModel, trained: Trained) -> None:
        super().__init__(checkpoint, config, model, trained)
        self.decoder: Decoder | None = None

    def learning(self, objective: Masking | RetroMAE, *, seed: int = 0) -> Self:
        """Say what is learnt; heads that have no part in it get no gradient.

        Raises:
            InvalidOptionError: the model has no language model's head.
        """
        if self.model.language is None:
            raise InvalidOptionError(
                f"the model {self.checkpoint.identity.name!r} has no language model's head; 'mgte-rag init' with "
                f"start={self.checkpoint.identity.name!r} makes one that has"
            )
        for name in ("sparse", "multi_vector", "classifier"):
            module = getattr(self.model, name)
            if module is not None:
                module.requires_grad_(False)
        if isinstance(objective, RetroMAE):
            device = next(self.model.parameters()).device
            self.decoder = Decoder(self.settings.encoder, seed=seed).to(device)
        return self

    def forward(self, texts: Sequence[MaskedText]) -> dict[str, Tensor]:
        """Sums over the predicted tokens of some texts, sorted by length.

        Returns:
            fp32 scalars: "mlm", the cross-entropy of the masked tokens; "right", how many of them are said; and with a
            decoder "decoder", the cross-entropy of its predictions.
        """
        encoder = self.model.encoder
        device = encoder.embeddings.word.weight.device
        batch = pack([text.seen for text in texts], device)
        clean = pack([text.ids for text in texts], device)
        hidden = encoder(batch).float()
        chosen = torch.cat([torch.from_numpy(text.chosen) for text in texts]).to(device)
        entropy, right = self._said(hidden[chosen], clean.ids[chosen])
        found = {"mlm": entropy, "right": right}
        if self.decoder is not None:
            visible = [torch.from_numpy(text.visible).to(device) for text in texts if text.visible is not None]
            vectors = pool(hidden, batch, self.settings.pooling or "cls")  # the paper's is the first token's state
            decoded = self.decoder(encoder, vectors, clean, visible)
            inner = (clean.positions > 0) & (clean.positions < (clean.lengths - 1)[clean.texts])
            found["decoder"], _ = self._said(decoded, clean.ids[inner])
        return found

    def _said(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, summed, and how many tokens are right; logits of a slice at a time."""
        head, words = self.model.language, self.model.encoder.embeddings.word.weight
        assert head is not None, "a language model without its head"
        rows = max(1, _KEPT_FLOATS // len(words))
        if len(hidden) <= rows:
            return _entropy(head, hidden, words, tokens)
        slices = zip(hidden.split(rows), tokens.split(rows), strict=True)
        parts = [checkpoint(_entropy, head, some, words, ids, use_reentrant=False) for some, ids in slices]
        entropy, right = (torch.stack(side).sum() for side in zip(*parts, strict=True))
        return entropy, right


def _entropy(head: LanguageHead, hidden: Tensor, words: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    logits = head(hidden, words).float()
    right = (logits.detach().argmax(-1) == tokens).sum()
    return F.cross_entropy(logits, tokens, reduction="sum"), right
