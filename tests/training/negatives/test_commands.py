"""``mgte-rag mine`` and ``mgte-rag distill-scores`` as a user runs them."""

import json
from pathlib import Path

import pytest

from mgte_cli.main import main
from mgte_training.data import Example, Source, SourceData, example_to_row


@pytest.fixture
def files(tmp_path: Path, sentences: list[str], sentence_examples: list[Example]) -> Path:
    rows = [json.dumps({**example_to_row(each), "note": "x"}) for each in sentence_examples]
    (tmp_path / "examples.jsonl").write_text("\n".join(rows))
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in sentences))
    return tmp_path


def test_mining_and_scoring_from_the_command_line(
    files: Path, tiny_bert: Path, tiny_reranker_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mined, scored = files / "out" / "mined.jsonl", files / "out" / "scored.jsonl"
    command = ["mine", "--examples", str(files / "examples.jsonl"), "--corpus", str(files / "corpus.jsonl")]
    command += ["--ignore-field", "note", "--model", str(tiny_bert), "--range", "1", "60", "--count", "3"]
    command += ["--reranker", str(tiny_reranker_folder), "--max-relevance", "0.9", "--out", str(mined)]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "20 examples, 150 documents" in out
    assert f"written to {mined}" in out
    assert "searching" in err
    assert any(len(each.negatives) == 3 for each in SourceData.read(Source("mined", str(mined))))
    command = ["distill-scores", "--examples", str(mined), "--reranker", str(tiny_reranker_folder)]
    assert main([*command, "--out", str(scored)]) == 0
    assert "20 examples" in capsys.readouterr().out
    assert SourceData.read(Source("scored", str(scored))).has_scores


def test_errors_are_one_line_and_status_1(files: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["mine", "--examples", str(files / "examples.jsonl"), "--model", str(tiny_bert), "--out", "mined.jsonl"]
    assert main(command) == 1
    assert "line 1: unknown field 'note'" in capsys.readouterr().err
    assert main([*command, "--count", "3", "--max-relevance", "2"]) == 1
    assert capsys.readouterr().err == "mgte-rag: max_relevance=2.0: a number from 0 up to 1\n"
    with pytest.raises(SystemExit):
        main([*command, "--count", "0"])
