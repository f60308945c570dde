"""How the lexicon of a new sparse head begins: which tokens are forms of one term, and what each term says."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mgte_rag.errors import InvalidOptionError, MissingExtraError
from mgte_rag.tokenization import TextTokenizer
from mgte_rag.types import Integers
from mgte_training.data.sources import Source
from mgte_training.data.store import SourceData

_SHORTEST_WORD = 3
_LONGEST = 100_000  # tokens counted of a document: all
_WORD_START = "\u2581"  # in vocabularies of sentencepiece
_CONTINUED = "##"  # in WordPiece's


@dataclass(frozen=True, slots=True, kw_only=True)
class LexiconChoice:
    """How a new lexicon begins.

    Attributes:
        texts: files of examples in whose positives the terms are counted.
        language: a Snowball stemmer's language: whole words of one stem become one term. None: every token is a term.
        scale: a term begins with so much times the square root of its inverse document frequency, ln(documents /
            documents with the term): query and document together then have the frequency itself times scale squared,
            as in BM25.
    """

    texts: tuple[str, ...]
    language: str | None = None
    scale: float = 0.2

    def __post_init__(self) -> None:
        if not self.texts:
            raise InvalidOptionError("a lexicon needs texts: at least one file of examples")


def first_lexicon(tokenizer: TextTokenizer, vocabulary: int, choice: LexiconChoice) -> tuple[Tensor, Tensor]:
    """The first weight of every term, fp32 [vocabulary], and the term of every token, int32 [vocabulary].

    Args:
        tokenizer: whose vocabulary it is.
        vocabulary: rows of the encoder's word table, at least the tokenizer's.
        choice: how it begins.

    Raises:
        DataError: a file cannot be read.
        InvalidOptionError: a language without a stemmer.
        MissingExtraError: a language, and PyStemmer is not installed.
    """
    terms = np.arange(vocabulary, dtype=np.int32)
    if choice.language is not None:
        _merge_stems(terms, tokenizer, choice.language)
    documents = [
        positive
        for number, path in enumerate(choice.texts)
        for example in SourceData.read(Source(f"texts.{number}", path))
        for positive in example.positives
    ]
    found = np.zeros(vocabulary)
    for ids in tokenizer.tokenize(documents, prompt="", max_length=_LONGEST).ids:
        found[np.unique(terms[ids])] += 1
    weights = choice.scale * np.sqrt(np.log((len(documents) + 1) / (found + 1)))
    return torch.from_numpy(weights[terms]).float(), torch.from_numpy(terms)


def _merge_stems(terms: Integers, tokenizer: TextTokenizer, language: str) -> None:
    """Give whole words of one stem the smallest number among them."""
    try:
        import Stemmer  # type: ignore[import-not-found]  # compiled, without types
    except ImportError as error:
        raise MissingExtraError("PyStemmer", "a lexicon of stems") from error
    if language not in Stemmer.algorithms():
        raise InvalidOptionError(
            f"language={language!r} has no stemmer; allowed are {', '.join(sorted(Stemmer.algorithms()))}"
        )
    words = _whole_words([tokenizer.token(number) for number in range(tokenizer.vocabulary)])
    first: dict[str, int] = {}
    for (number, _), stem in zip(words, Stemmer.Stemmer(language).stemWords([word for _, word in words]), strict=True):
        terms[number] = first.setdefault(stem, number)


def _whole_words(tokens: Sequence[str]) -> list[tuple[int, str]]:
    """Number and letters of the tokens that are words by themselves, ascending."""
    marked = any(token.startswith(_WORD_START) for token in tokens)
    found = []
    for number, token in enumerate(tokens):
        word = token.removeprefix(_WORD_START) if marked else token
        is_start = token.startswith(_WORD_START) if marked else not token.startswith(_CONTINUED)
        if is_start and word.isalpha() and len(word) >= _SHORTEST_WORD:
            found.append((number, word))
    return found
