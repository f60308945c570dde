"""BM25, with an analysis that fits the language."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgte_rag import MissingExtraError
from mgte_rag.types import Floats

# ISO 639-1 code to the name of its Snowball stemmer.
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch",
    "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
# Those of them that bm25s has a list of stop words for.
_STOP_WORDS = {"da", "de", "en", "es", "fr", "it", "nl", "no", "pt", "ru", "sv", "tr"}
# Character bigrams are usual for Korean too, whose blanks stand between phrases.
_WITHOUT_BLANKS = {"zh", "ja", "ko", "th", "lo", "km", "my", "yue"}
# What words are made of: vowel signs and accents, which Python does not count as word characters, belong to the words
# of Indic, Arabic and other texts.
_LETTER = r"\w\u0300-\u036f\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
# Two characters or more, as bm25s and scikit-learn have it.
_WORD = rf"[{_LETTER}]{{2,}}"
# Kana, Chinese characters, Hangul, Thai and Lao, Burmese, Khmer.
_UNSPACED = (
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    r"\U00020000-\U0003ffff]"
)
# A run of those, or a word without them.
_RUN = re.compile(rf"{_UNSPACED}+|(?:(?!{_UNSPACED})[{_LETTER}])+")
_FIRST_UNSPACED = re.compile(_UNSPACED)


@dataclass(frozen=True, slots=True)
class Analysis:
    """How texts become terms.

    Attributes:
        name: what is done, for the report.
        terms: the terms of each text.
    """

    name: str
    terms: Callable[[Sequence[str]], list[list[str]]]


def analysis_for(language: str | None) -> Analysis:
    """The analysis for a language: character bigrams where words have no blanks between, else stemmed words.

    Args:
        language: an ISO 639-1 code; None, or one without a stemmer, is words as they stand, and bigrams of characters
            of scripts without blanks.
    """
    language = None if language is None else language.lower().partition("-")[0]
    if language in _WITHOUT_BLANKS:
        return Analysis(f"{language}: character bigrams; words of other scripts in lower case", _bigrams)
    stemmer = _STEMMERS.get(language or "")
    if stemmer is None:
        return Analysis(
            f"{language or 'mixed languages'}: words in lower case without stemming; "
            f"character bigrams in scripts without blanks",
            _bigrams,
        )
    stop_words = language if language in _STOP_WORDS else None
    about_stop_words = "stop words of bm25s left out" if stop_words else "no stop words left out"
    return Analysis(
        f"{language}: Snowball stemmer {stemmer!r}, {about_stop_words}",
        lambda texts: _stemmed(texts, stemmer, stop_words),
    )


def _stemmed(texts: Sequence[str], stemmer: str, stop_words: str | None) -> list[list[str]]:
    try:
        import Stemmer  # type: ignore[import-not-found]  # compiled, without types
    except ImportError as error:
        raise MissingExtraError("PyStemmer", "BM25 over stemmed words") from error
    terms: list[list[str]] = _bm25s().tokenize(
        list(texts),
        token_pattern=_WORD,
        stopwords=stop_words,
        stemmer=Stemmer.Stemmer(stemmer),
        return_ids=False,
        show_progress=False,
    )
    return terms


def _bigrams(texts: Sequence[str]) -> list[list[str]]:
    return [[term for run in _RUN.findall(text.lower()) for term in _terms_of(run)] for text in texts]


def _terms_of(run: str) -> list[str]:
    if len(run) < 2 or not _FIRST_UNSPACED.match(run):
        return [run]
    return [run[i : i + 2] for i in range(len(run) - 1)]


def _bm25s() -> Any:
    try:
        import bm25s  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("bm25s", "BM25") from error
    return bm25s


class Bm25:
    """An index of documents by bm25s, with its defaults (Lucene's formula, k1 1.5, b 0.75).

    Args:
        documents: texts.
        analysis: how they, and queries, become terms.
    """

    def __init__(self, documents: Sequence[str], analysis: Analysis) -> None:
        self.analysis = analysis
        self._documents = len(documents)
        terms = analysis.terms(documents)
        self._known = {term for each in terms for term in each}
        self._index = _bm25s().BM25()
        if self._known:  # bm25s has no index of nothing
            self._index.index(terms, show_progress=False)

    @property
    def index_bytes(self) -> int:
        """Bytes of its postings: a score and a document number each, and where each term's begin."""
        return (
            sum(part.nbytes for part in self._index.scores.values() if isinstance(part, np.ndarray))
            if self._known
            else 0
        )

    def scores(self, queries: Sequence[str]) -> Floats:
        """Scores of every document, float32 [queries, documents]; 0 where no term is shared."""
        scores = np.zeros((len(queries), self._documents), dtype=np.float32)
        for row, terms in enumerate(self.analysis.terms(queries)):
            if known := [term for term in terms if term in self._known]:
                scores[row] = self._index.get_scores(known)
        return scores
