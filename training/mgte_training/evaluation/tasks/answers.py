"""Whether an answer that a model found is the one that people gave: exact match and F1."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = {
    "ar": r"(?<!\w)ال",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
}
# Written without blanks between words: every character is a word there.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f]"
)


def normalise(answer: str, language: str) -> list[str]:
    """The words that count: lower case, no punctuation, no articles of that language.

    Characters of scripts without blanks (Chinese, Japanese, Thai, Lao, Burmese, Khmer) are words of their own,
    whatever the language.

    Args:
        answer: any text.
        language: ISO 639-1 code; one whose articles are not known keeps them, "und" counts as English.

    Source: SQuAD, arXiv 1606.05250, section 6.1; per language MLQA, arXiv 1910.07475, section 4.1.
    """
    text = unicodedata.normalize("NFC", answer).lower()
    text = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
    text = "".join(character for character in text if character not in "$+<=>^`|~")  # ASCII's punctuation too
    articles = _ARTICLES.get("en" if language == "und" else language)
    text = re.sub(articles, " ", text) if articles else text
    return _UNSPACED.sub(lambda found: f" {found.group()} ", text).split()


def exact_match(found: str, answers: Sequence[str], language: str) -> float:
    """1 where the found answer is one of the given ones but for case, punctuation, articles and blanks, else 0."""
    words = normalise(found, language)
    return float(any(words == normalise(answer, language) for answer in answers))


def f1(found: str, answers: Sequence[str], language: str) -> float:
    """The harmonic mean of precision and recall of the found answer's words, against the given answer that fits best.

    An answer without words that count is right only if the other has none either.
    """
    words = Counter(normalise(found, language))
    return max(_overlap(words, Counter(normalise(answer, language))) for answer in answers)


def _overlap(found: Counter[str], given: Counter[str]) -> float:
    if not found or not given:
        return float(found == given)
    return 2 * (found & given).total() / (found.total() + given.total())
