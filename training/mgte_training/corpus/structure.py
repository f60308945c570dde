"""Where the sections of a text are: Markdown, reStructuredText, HTML and plain text."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FRONT_TITLE = re.compile(r"title:\s*(.+?)\s*$", re.IGNORECASE)
_NO_PARAGRAPH = re.compile(r"\s*([-*+>|]|\d+[.)])(\s|$)")  # a list, a quotation, a table: no text of a heading
_RST_LINE = re.compile(r"([!-/:-@[-`{-~])\1*$")
# A first line of more words is a sentence.
_TITLE_WORDS = 16


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, up to the next heading of any level.

    Attributes:
        heading: "" for what stands before the first one, or directly under the title.
        text: without the heading.
    """

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Outline:
    """A text in its parts.

    Attributes:
        title: "" where the text has none.
        sections: in their order.
    """

    title: str
    sections: tuple[Section, ...]


@dataclass(slots=True)
class _Part:
    """A section while it is read; level 0 is what stands before the first heading."""

    level: int
    heading: str
    lines: list[str]


def outline_markdown(text: str, title: str = "") -> Outline:
    """Markdown: headings with # and underlined ones, none in code.

    Args:
        text: the whole document.
        title: of the document; "" is the front matter's ``title:``, or the first heading where no other is as high.
    """
    front_title, lines = _front_matter(text.splitlines())
    title = title or front_title
    parts = [_Part(0, "", [])]
    fence = ""
    for number, line in enumerate(lines):
        marker = _FENCE.match(line)
        if fence or marker:
            parts[-1].lines.append(line)
            if not fence and marker:
                fence = marker.group(1)
            elif marker and marker.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif atx := _ATX.match(line):
            parts.append(_Part(len(atx.group(1)), _plain(atx.group(2) or ""), []))
        elif (underline := _SETEXT.match(line)) and _is_heading(lines, number):
            heading = parts[-1].lines.pop()
            parts.append(_Part(1 if "=" in underline.group(1) else 2, _plain(heading), []))
        else:
            parts[-1].lines.append(line)
    return _outline(parts, title)


def outline_marked_up(text: str, title: str = "") -> Outline:
    """Markdown or reStructuredText: the latter where no heading has a # and one is underlined with what Markdown lacks.

    Args:
        text: the whole document.
        title: of the document, as for ``outline_markdown``.
    """
    lines = text.splitlines()
    underlined = (number for number in range(len(lines) - 1) if lines[number + 1][:1] not in ("=", "-", "`"))
    is_rst = any(_rst_heading(lines, number) for number in underlined) and not any(map(_ATX.match, lines))
    return (outline_rst if is_rst else outline_markdown)(text, title)


def outline_rst(text: str, title: str = "") -> Outline:
    """ReStructuredText and plain text: underlined headings, overlined or not; their order of appearance is the level.

    Without any heading a short first line with an empty line after it is the title.

    Args:
        text: the whole document.
        title: of the document; "" is the first heading where no other is as high.
    """
    lines = text.splitlines()
    parts = [_Part(0, "", [])]
    styles: list[tuple[str, bool]] = []
    number = 0
    while number < len(lines):
        over = _rst_heading(lines, number + 1) if _RST_LINE.match(lines[number]) else ""
        overlined = bool(over) and lines[number][0] == lines[number + 2][0]
        heading = over if overlined else _rst_heading(lines, number)
        if not heading:
            parts[-1].lines.append(lines[number])
            number += 1
            continue
        style = (lines[number + 1 + overlined][0], overlined)
        if style not in styles:
            styles.append(style)
        parts.append(_Part(1 + styles.index(style), heading, []))
        number += 2 + overlined
    if len(parts) == 1 and not title:
        return _outline_plain(parts[0].lines)
    return _outline(parts, title)


def outline_html(text: str) -> Outline:
    """HTML: h1 to h6, and <title>; what is no content (scripts, navigation, footers) is left out."""
    reader = _HTMLReader()
    reader.feed(text)
    reader.close()
    for part in reader.parts:
        part.heading = " ".join(part.heading.split())
        part.lines = [" ".join(line.split()) for line in "".join(part.lines).split("\n")]
    outline = _outline(reader.parts, "")
    title = outline.title or " ".join("".join(reader.title).split())
    return Outline(title, outline.sections)


class _HTMLReader(HTMLParser):
    """Collects headings and the text under them."""

    _HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
    _CHOICES = frozenset("select option optgroup".split())
    _SKIPPED = frozenset("script style nav footer aside template noscript svg select textarea".split())
    _INLINE = frozenset("a abbr b bdi bdo cite code em i kbd mark q s samp small span strong sub sup u var wbr".split())

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts = [_Part(0, "", [])]
        self.title: list[str] = []
        self._open = ""
        self._skipped: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped[-1:] == ["select"] and tag not in self._CHOICES:  # which is never closed
            self._skipped.pop()
        if tag in self._SKIPPED:
            self._skipped.append(tag)
        elif self._skipped:
            return
        elif tag in self._HEADINGS:
            self.parts.append(_Part(int(tag[1]), "", []))
            self._open = tag
        elif tag == "title":
            self._open = tag
        elif tag not in self._INLINE:
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipped:  # what was opened within and never closed ends here too
            del self._skipped[self._skipped.index(tag) :]
        elif tag == self._open or tag in ("body", "html", "head"):
            self._open = ""
        elif tag not in self._INLINE and not self._skipped:
            self.parts[-1].lines.append("\n")

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._open == "title":
            self.title.append(data)
        elif self._open:
            self.parts[-1].heading += data
        else:
            self.parts[-1].lines.append(data)


def _outline(parts: Sequence[_Part], title: str) -> Outline:
    """The first heading is the title where no other is as high and none was given."""
    headed = [part for part in parts if part.level]
    if not title and headed and all(part.level > headed[0].level for part in headed[1:]):
        title, headed[0].heading = headed[0].heading, ""
    elif headed and headed[0].heading == title:
        headed[0].heading = ""
    return Outline(title, tuple(_sections(parts)))


def _sections(parts: Sequence[_Part]) -> Iterator[Section]:
    for part in parts:
        text = "\n".join(part.lines).strip()
        if text or part.heading:
            yield Section(part.heading, re.sub(r"\n{3,}", "\n\n", text))


def _outline_plain(lines: Sequence[str]) -> Outline:
    text = "\n".join(lines).strip()
    first, _, rest = text.partition("\n")
    is_title = not rest or rest.startswith("\n")
    if text and is_title and len(first.split()) <= _TITLE_WORDS:
        return Outline(first.strip(), (Section("", rest.strip()),) if rest.strip() else ())
    return Outline("", (Section("", text),) if text else ())


def _front_matter(lines: list[str]) -> tuple[str, list[str]]:
    """The title that YAML between --- gives, and the lines after it."""
    if not lines or lines[0].strip() != "---":
        return "", lines
    end = next((number for number, line in enumerate(lines[1:], start=1) if line.strip() in ("---", "...")), None)
    if end is None:
        return "", lines
    titles = [found.group(1).strip("\"'") for line in lines[1:end] if (found := _FRONT_TITLE.match(line))]
    return (titles or [""])[0], lines[end + 1 :]


def _is_heading(lines: Sequence[str], number: int) -> bool:
    """Whether the line before an underline is a paragraph of one line."""
    above = lines[number - 1] if number else ""
    before = lines[number - 2] if number > 1 else ""
    is_paragraph = bool(above.strip()) and not _NO_PARAGRAPH.match(above) and not above.startswith(("    ", "\t"))
    return is_paragraph and not before.strip()


def _plain(heading: str) -> str:
    """A heading without its Markdown: links by their text, no emphasis, no anchors."""
    heading = re.sub(r"\{#[^}]*\}\s*$", "", heading)
    heading = re.sub(r"!?\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", heading)
    return " ".join(re.sub(r"[*`]", "", heading).split())


def _rst_heading(lines: Sequence[str], number: int) -> str:
    """The line's text where the next one underlines it, else ""."""
    if number + 1 >= len(lines):
        return ""
    text, under = lines[number].strip(), lines[number + 1].rstrip()
    if not text or not _RST_LINE.match(under) or len(under) < max(3, len(text)) or _RST_LINE.match(text):
        return ""
    is_indented = lines[number][:1].isspace()
    return "" if is_indented and not (number and _RST_LINE.match(lines[number - 1])) else text
