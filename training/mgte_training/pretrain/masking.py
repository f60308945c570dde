"""Which tokens are hidden from a model that learns to say them."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgte_rag.errors import CheckpointError, InvalidOptionError
from mgte_rag.tokenization import TextTokenizer
from mgte_rag.types import Bools, Integers

# Scripts that put no blank between words: a token with one of their letters is a word by itself, as a whole sentence
# would be one otherwise. Thai, Lao, Tibetan, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Masked language modelling.

    Attributes:
        rate: share of the tokens that are to be predicted.
        mask: share of these that the encoder sees as mask tokens
        random: and as random tokens; the others it sees as they are.
        whole_words: mask whole words.

    Source: Devlin et al. 2019, arXiv 1810.04805, section 3.1; mGTE, arXiv 2407.19669 (30 %).
    """

    rate: float = 0.3
    mask: float = 0.8
    random: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InvalidOptionError(f"rate={self.rate!r}; a share between 0 and 1 is needed")
        if self.mask < 0 or self.random < 0 or self.mask + self.random > 1:
            raise InvalidOptionError(
                f"mask={self.mask!r}, random={self.random!r}: shares of the chosen tokens, together at most 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetroMAE:
    """Masked language modelling, and a weak decoder that sees the text's vector and few of its tokens.

    Attributes:
        masking: of what the encoder sees.
        hidden: share of the tokens that each of the decoder's predictions does not see.

    Source: Xiao et al. 2022, arXiv 2205.12035.
    """

    masking: Masking = Masking(whole_words=True)
    hidden: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.hidden <= 1:
            raise InvalidOptionError(f"hidden={self.hidden!r}; a share from 0 to 1 is needed")


@dataclass(frozen=True, slots=True)
class MaskedText:
    """One text of a step.

    Attributes:
        ids: int32 [length], as it is.
        seen: int32 [length], as the encoder sees it.
        chosen: bool [length], the tokens that it is to predict.
        visible: bool [length - 2, length], what each of the decoder's predictions, of all tokens but the first and the
            last, sees; None without a decoder.
    """

    ids: Integers
    seen: Integers
    chosen: Bools
    visible: Bools | None = None


class Masker:
    """Hides tokens of texts.

    Args:
        tokenizer: the model's.
        objective: what to hide.

    Raises:
        CheckpointError: the tokenizer has no mask token.
    """

    def __init__(self, tokenizer: TextTokenizer, objective: Masking | RetroMAE) -> None:
        if tokenizer.mask_id is None:
            raise CheckpointError("the tokenizer has no mask token, [MASK] or <mask>; masked texts cannot be made")
        self._mask_id = tokenizer.mask_id
        self._masking = objective.masking if isinstance(objective, RetroMAE) else objective
        self._hidden = objective.hidden if isinstance(objective, RetroMAE) else None
        self._fixed = np.zeros(tokenizer.vocabulary, dtype=np.bool_)
        self._fixed[[*tokenizer.unsaid.tolist(), self._mask_id]] = True
        self._ordinary = np.flatnonzero(~self._fixed).astype(np.int32)
        self._begins = word_begins(tokenizer) | self._fixed

    def mask(self, ids: Integers, chance: np.random.Generator) -> MaskedText:
        """Hide some of a text's tokens; markers stay and are not predicted.

        Args:
            ids: int32 [length], markers included.
            chance: decides.
        """
        units, count = self._units(ids)
        fixed = self._fixed[ids]
        chosen = (chance.random(count) < self._masking.rate)[units] & ~fixed
        kind = chance.random(len(ids))
        others = chance.choice(self._ordinary, len(ids))
        seen = np.where(chosen & (kind < self._masking.mask), np.int32(self._mask_id), ids)
        replaced = chosen & (kind >= self._masking.mask) & (kind < self._masking.mask + self._masking.random)
        seen = np.where(replaced, others, seen)
        if self._hidden is None:
            return MaskedText(ids, seen, chosen)
        rows = max(0, len(ids) - 2)
        hidden = (chance.random((rows, count), dtype=np.float32) < self._hidden)[:, units] & ~fixed
        hidden[np.arange(rows), np.arange(1, rows + 1)] = True  # never itself
        return MaskedText(ids, seen, chosen, ~hidden)

    def _units(self, ids: Integers) -> tuple[NDArray[np.int64], int]:
        """The unit, a word or a token, that each token belongs to, and how many there are."""
        if not self._masking.whole_words:
            return np.arange(len(ids)), len(ids)
        begins = self._begins[ids]
        begins[:1] = True
        begins[1:] |= self._fixed[ids[:-1]]
        units = np.cumsum(begins) - 1
        return units, int(units[-1]) + 1


def word_begins(tokenizer: TextTokenizer) -> Bools:
    """Bool [vocabulary], the tokens that a word begins with: "▁cat" not "s", or "cat" not "##s".

    In scripts without blanks between words every token begins one.
    """
    tokens = [tokenizer.token(index) for index in range(tokenizer.vocabulary)]
    if any(token.startswith("##") for token in tokens):
        begins = [not token.startswith("##") for token in tokens]
    else:
        begins = [token[:1] in ("▁", "Ġ") or bool(_UNSPACED.search(token)) for token in tokens]
    return np.array(begins, dtype=np.bool_)
