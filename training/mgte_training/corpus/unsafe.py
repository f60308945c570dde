"""Payloads that were pasted into texts, links to sites that are known to be bad, and words that nobody wants.

This is a net with wide meshes: it knows some signs of code that attacks those who show a text, and what its user lists.
It does not judge what a text says; toxic or false text needs a classifier.
"""

import re
from collections.abc import Sequence

from mgte_training.corpus.pairs import Pair
from mgte_training.corpus.words import is_unspaced

_PAYLOADS = {
    "hidden script": re.compile(
        r"eval\s*\(\s*(?:atob|unescape|base64_decode|gzinflate|String\.fromCharCode)\s*\("
        r"|document\.write\s*\(\s*(?:unescape|atob)\s*\(",
        re.IGNORECASE,
    ),
    "script in an address": re.compile(
        r"""(?:href|src)\s*=\s*["']?\s*(?:javascript|vbscript):|data:text/html[^"'\s]{0,40};base64,""", re.IGNORECASE
    ),
    "script from elsewhere": re.compile(
        r"<script[^>]{0,200}\bsrc\s*=\s*[\"']?(?:https?:)?//\d+\.\d+\.\d+\.\d+", re.IGNORECASE
    ),
    "stolen cookies": re.compile(
        r"<(?:script|img|svg|iframe|body)\b[^>]{0,200}(?:\bon\w+\s*=|>)[^<]{0,200}document\.cookie", re.IGNORECASE
    ),
    "invisible frame": re.compile(
        r"<iframe\b[^>]{0,300}(?:display\s*:\s*none|visibility\s*:\s*hidden|(?:width|height)\s*=\s*[\"']?[01]\b)",
        re.IGNORECASE,
    ),
    "encoded command": re.compile(
        r"powershell[^\n]{0,80}\s-e(?:nc|ncodedcommand)?\s+[A-Za-z0-9+/=]{40,}", re.IGNORECASE
    ),
    "remote shell": re.compile(r"bash\s+-i\s+>&\s*/dev/tcp/|\bnc\b[^\n]{0,40}\s-e\s+/bin/(?:ba)?sh", re.IGNORECASE),
    "web shell": re.compile(
        r"<\?php[^?]{0,200}(?:eval|system|passthru|shell_exec)\s*\(\s*\$_(?:GET|POST|REQUEST)", re.IGNORECASE
    ),
}
_HOST = re.compile(r"(?:https?:)?//(?:[^\s/@\"'<>]*@)?([\w.-]+)", re.IGNORECASE)


class Blocked:
    """Sites and words that a user lists.

    Args:
        sites: names of hosts; "example.com" is also www.example.com.
        words: or several in a row, whatever their case; in scripts without spaces wherever they stand.
    """

    def __init__(self, sites: Sequence[str], words: Sequence[str]) -> None:
        self._sites = frozenset(site.strip().strip(".").casefold() for site in sites)
        parts = [_as_pattern(word.strip()) for word in words if word.strip()]
        self._words = re.compile("|".join(parts), re.IGNORECASE) if parts else None

    def site(self, text: str) -> str:
        """The first blocked site that a text has a link to, or ""."""
        for host in _HOST.findall(text) if self._sites else ():
            parts = host.casefold().strip(".").split(".")
            for start in range(len(parts)):
                if (name := ".".join(parts[start:])) in self._sites:
                    return name
        return ""

    def word(self, text: str) -> str:
        """The first blocked word of a text, or ""."""
        found = self._words.search(text) if self._words else None
        return found.group() if found else ""


def unsafe(pair: Pair, blocked: Blocked) -> str:
    """A payload, a link to a blocked site or a blocked word, in the query or the positive."""
    for text in (pair.query, pair.positive):
        for name, pattern in _PAYLOADS.items():
            if pattern.search(text):
                return name
        if site := blocked.site(text):
            return f"link to {site}"
        if word := blocked.word(text):
            return f"the word {word!r}"
    return ""


def _as_pattern(word: str) -> str:
    escaped = r"\s+".join(map(re.escape, word.split()))
    return escaped if is_unspaced(word) else rf"(?<!\w){escaped}(?!\w)"
