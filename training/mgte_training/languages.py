"""Which language a text is in."""

from collections.abc import Collection
from functools import cache
from typing import Any

from mgte_rag.errors import MissingExtraError

# Mandarin is taken for Cantonese or Wu often: short texts in traditional characters, and technical ones. Both written
# forms of Norwegian are one here.
_WRITTEN_ALIKE = {"wuu": "zh", "yue": "zh", "nb": "no", "nn": "no"}


def detect_language(text: str, among: Collection[str] | None = None) -> str:
    """The most likely language, as an ISO 639-1 code.

    Args:
        text: in one language, best a sentence or more.
        among: the likeliest of these, where one of them is known.

    Raises:
        MissingExtraError: py3langid is not installed.
    """
    ranked: list[str] = [_WRITTEN_ALIKE.get(language, language) for language, _ in _identifier().rank(text)]
    return next((language for language in ranked if among is None or language in among), ranked[0])


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("py3langid", "detecting languages") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)
