"""The general filter's looks at one pair: language, length, broken characters, boilerplate, unsafe content.

Each function gives what is wrong with a pair, in a few words, or "".
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping

from mgte_training.corpus.options import CorpusOptions
from mgte_training.corpus.pairs import Pair
from mgte_training.corpus.unsafe import Blocked, unsafe
from mgte_training.corpus.words import folded, word_count

CODE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1[`~]*\s*$", re.MULTILINE | re.DOTALL)
"""Fenced code of Markdown."""

# Characters that stand for others that were lost or misread, and the share of a text from which it is broken; long
# texts may have one, about characters say, and short ones none.
_BROKEN_SHARE = 0.001
_SHORT = 200
_LOST = re.compile("[\ufffd\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# What UTF-8 of two to four bytes looks like when it is read as Windows-1252 or Latin-1.
_MISREAD = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]+"
)

# Shares of a text, the first four those of Rae et al. 2021 (arXiv 2112.11446, table A1).
_MOST_BULLETS = 0.9
_MOST_ELLIPSES = 0.3
_MOST_REPEATED_LINES = 0.3
_MOST_REPEATED_CHARACTERS = 0.2
_FEWEST_LETTERS = 0.4
_MOST_LINKS = 0.3
# Lists of at least so many lines of fewer words each are menus and links.
_BARE_LINES, _BARE_WORDS = 5, 4
_MOST_PHRASE_WORDS = 80

_LETTER = re.compile("[A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff]|[^\\x00-\u02ff]+")
_RULE = re.compile(r"([^\w\s])\1{2,}")  # lines drawn in tables and under headings
_WORDED = re.compile(r"\w")
_BULLET = re.compile(r"\s*(?:[-*+•‣·◦]|\d+[.)])\s")
_LINK = re.compile(r"(?:https?://|www\.)\S+")
_PHRASES = re.compile(
    r"lorem ipsum|javascript (?:is|must be) (?:disabled|enabled|turned)|(?:enable|turn on) javascript|we use cookies"
    r"|accept (?:all )?cookies|all rights reserved|terms (?:of service|and conditions)|page not found|404 not found"
    r"|under construction|subscribe to our newsletter|click here to|版权所有|请启用 ?javascript|页面不存在",
    re.IGNORECASE,
)
_HEADINGS = frozenset(
    map(
        folded,
        "references|reference list|bibliography|footnotes|copyright|copyrights|license|licence|table of contents"
        "|contents|toc|see also|changelog|change log|change history|revision history|document history|acknowledgements"
        "|acknowledgments|acknowledgement|links|external links|further reading|navigation|menu"
        "|另请参阅|相关链接|参考资料|参考文献|目录|延伸阅读|参考|関連項目|参考文献|外部リンク|目次"
        "|siehe auch|einzelnachweise|inhaltsverzeichnis|voir aussi|références|véase también|referencias".split("|"),
    )
)


def quality_filters(options: CorpusOptions) -> Mapping[str, Callable[[Pair], str]]:
    """The looks by the names that reports have them under, in their order."""
    blocked = Blocked(options.blocked_sites, options.blocked_words)
    return {
        "language": lambda pair: wrong_language(pair, options.languages),
        "length": lambda pair: wrong_length(pair, options.query_words, options.positive_words),
        "broken characters": broken,
        "boilerplate": boilerplate,
        "unsafe": lambda pair: unsafe(pair, blocked),
    }


def wrong_language(pair: Pair, allowed: tuple[str, ...] | None) -> str:
    """A language that was not asked for."""
    others = [] if allowed is None else [each for each in pair.language.split("-") if each not in allowed]
    return f"language {others[0] or 'unknown'}" if others else ""


def wrong_length(pair: Pair, query: tuple[int, int], positive: tuple[int, int]) -> str:
    """Too few or too many words."""
    for name, text, (fewest, most) in (("query", pair.query, query), ("positive", pair.positive, positive)):
        if pair.task == "translation" and name == "positive":
            fewest = min(fewest, query[0])  # sentences are translated, too
        words = word_count(text)
        if words < fewest:
            return f"{name} of {words:,} words, fewest {fewest:,}"
        if words > most:
            return f"{name} of {words:,} words, most {most:,}"
    return ""


def broken(pair: Pair) -> str:
    """Replacement and control characters, and text that was read in the wrong encoding."""
    for name, text in (("query", pair.query), ("positive", pair.positive)):
        most = 0 if len(text) < _SHORT else max(1, _BROKEN_SHARE * len(text))
        if len(_LOST.findall(text)) > most:
            return f"{name} with lost or control characters"
        if sum(len(each) for each in _MISREAD.findall(text) if _is_misread(each)) > most:
            return f"{name} read in the wrong encoding"
    return ""


def boilerplate(pair: Pair) -> str:
    """Text that says nothing of its own: lists of links, tables of numbers, notices, repetition."""
    if folded(pair.query) == folded(pair.positive):
        return "positive is the query"
    if pair.task == "heading-section" and folded(pair.query.rpartition(": ")[2]) in _HEADINGS:
        return "section of references, notices or links"
    text = pair.positive
    if word_count(text) <= _MOST_PHRASE_WORDS and (found := _PHRASES.search(text)):
        return f'a notice: "{found.group()}"'
    if _link_share(text) > _MOST_LINKS:
        return "mostly links"
    if _letter_share(text) < _FEWEST_LETTERS:
        return "few letters"
    lines = [line.strip() for line in CODE.sub("", text).split("\n") if line.strip() and line[:4].strip()]
    return _wrong_lines(lines) if len(lines) > 3 else ""


def _wrong_lines(lines: list[str]) -> str:
    if sum(line.endswith(("...", "…")) for line in lines) > _MOST_ELLIPSES * len(lines):
        return "lines that end in an ellipsis"
    worded = [line for line in lines if _WORDED.search(line)]  # brackets, rules and fences repeat in any text
    repeats = [(line, count - 1) for line, count in Counter(worded).items() if count > 1]
    if sum(count for _, count in repeats) > _MOST_REPEATED_LINES * len(lines):
        return "repeated lines"
    if sum(len(line) * count for line, count in repeats) > _MOST_REPEATED_CHARACTERS * sum(map(len, lines)):
        return "repeated lines"
    bullets = sum(bool(_BULLET.match(line)) for line in lines)
    is_bare = len(lines) >= _BARE_LINES and word_count(" ".join(lines)) < _BARE_WORDS * len(lines)
    if is_bare and bullets > _MOST_BULLETS * len(lines):
        return "a list of bare entries"
    return ""


def _link_share(text: str) -> float:
    return sum(map(len, _LINK.findall(text))) / len(text)


def _letter_share(text: str) -> float:
    """Letters among all that is no space; whatever lies beyond the Latin alphabets counts as one."""
    visible = "".join(_RULE.sub(r"\1", text).split())
    return 1 - len(_LETTER.sub("", visible)) / max(1, len(visible))


def _is_misread(text: str) -> bool:
    """Whether characters give other ones of fewer when written as Windows-1252 or Latin-1 and read as UTF-8."""
    for encoding in ("cp1252", "latin-1"):
        try:
            text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False
