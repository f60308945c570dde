"""The real weights give the values that others published for them. Downloads gigabytes: run with ``-m weights``."""

import argparse
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mgte_cli import verify
from mgte_rag import UnknownModelError


def hub_can_be_reached() -> bool:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.mark.weights
@pytest.mark.parametrize("model", verify.EXPECTED)
def test_the_published_values_hold(request: pytest.FixtureRequest, model: str) -> None:
    if "weights" not in request.config.getoption("-m"):
        pytest.skip("downloads the weights, gigabytes; run with -m weights")
    if not hub_can_be_reached():
        pytest.skip("the hub cannot be reached")
    for finding in verify.verify(model):
        np.testing.assert_allclose(finding.actual, finding.published, atol=finding.expected.tolerance, rtol=0)


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verify.add_parser(parser.add_subparsers())
    return parser.parse_args(["verify", *arguments])


@pytest.mark.parametrize(
    ("model", "case"),
    [
        ("Alibaba-NLP/gte-multilingual-base", "gte-multilingual-base"),
        ("Alibaba-NLP/gte-multilingual-reranker-base", "gte-multilingual-reranker-base"),
        ("Alibaba-NLP/gte-multilingual-mlm-base", "gte-multilingual-mlm-base"),
        ("jinaai/jina-colbert-v2", "jina-colbert-v2"),
    ],
)
def test_verify_prints_every_expected_and_actual_value_and_fails_where_they_differ(
    published: Callable[[str], Any], capsys: pytest.CaptureFixture[str], model: str, case: str
) -> None:
    chosen = options(model, "--folder", str(published(case).folder))
    assert chosen.run(chosen) == 1
    printed = capsys.readouterr().out
    values = sum(np.asarray(expected.values).size for expected in verify.EXPECTED[model])
    assert printed.count("expected ") == printed.count("actual ") == values
    assert printed.count("DOES NOT HOLD") == len(verify.EXPECTED[model])


def test_verify_succeeds_where_the_values_agree(
    copy_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = copy_of("gte-multilingual-reranker-base")
    logits = verify.logits_of_single_texts(str(case.folder))
    expected = verify.Expected("logits", [round(float(x), 4) for x in logits], verify.logits_of_single_texts, "here")
    monkeypatch.setattr(verify, "EXPECTED", {"a/b": (expected,)})
    chosen = options("a/b", "--folder", str(case.folder))
    assert chosen.run(chosen) == 0
    assert "holds: largest difference" in capsys.readouterr().out


def test_verify_lists_the_models_it_knows_values_of() -> None:
    chosen = options("nobody/nothing")
    with pytest.raises(UnknownModelError, match=r"no published values .*gte-multilingual-base"):
        chosen.run(chosen)
