"""Words of texts in scripts with and without spaces between them."""

import hashlib
import re

# Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Marks that are written over, under and beside letters: Latin, Hebrew, Arabic, Indic; Python's \\w lacks them.
_MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0980-\u0dff"
)
_TOKEN = re.compile(rf"[{_UNSPACED}]|(?:[^\W{_UNSPACED}]|[{_MARKS}])+")
_CHARACTER = re.compile(rf"[{_UNSPACED}]")
_ASCII = re.compile(r"\w+")


def tokens(text: str) -> list[str]:
    """Words, and single characters where a script has no spaces."""
    return (_ASCII if text.isascii() else _TOKEN).findall(text)


def word_count(text: str) -> int:
    """Words; two characters of a script without spaces count as one."""
    words = len(tokens(text))
    return words if text.isascii() else words - len(_CHARACTER.findall(text)) // 2


def is_unspaced(text: str) -> bool:
    """Whether some of it is in a script without spaces."""
    return _CHARACTER.search(text) is not None


def folded(text: str) -> str:
    """A text as it is compared: its words, whatever their case and what stands between them."""
    return " ".join(tokens(text.casefold())) or " ".join(text.split())


def key_of(*texts: str) -> int:
    """64 bits that stand for texts as they are compared."""
    joined = "\0".join(map(folded, texts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")
