"""Every Python block of the README runs as it stands, in the order in which a reader meets them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from mgte_rag.checkpoints import source

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_readme_has_its_blocks() -> None:
    assert len(BLOCKS) == 7
    assert len(BLOCKS) == README.count("```python")


@pytest.mark.parametrize("block", BLOCKS, ids=[re.findall(r"import ([\w, ]+)\n", block)[-1] for block in BLOCKS])
def test_a_block_of_the_readme_runs(
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_tiny_bert: Callable[..., Path],
) -> None:
    monkeypatch.chdir(tmp_path)

    def download(hub_id: str, **options: object) -> str:
        """The hub is a remote server: it gives a tiny model of the kind that the block asks for."""
        return str(tiny_reranker(make_tiny_bert()) if "reranker" in hub_id else make_tiny_bert(pooling="cls"))

    monkeypatch.setattr(source, "snapshot_download", download)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    if "retriever" in names:
        assert "Most birds can fly." in capsys.readouterr().out
    for closable in ("retriever", "model", "reranker"):
        if closable in names:
            getattr(names[closable], "collection", names[closable]).close()


def tiny_reranker(folder: Path) -> Path:
    """Turns a tiny BERT into a cross-encoder."""
    config = BertConfig.from_pretrained(folder, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_every_extra_is_in_the_readmes_table() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE)) == set(extras)


def test_the_commands_named_in_the_readme_are_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^\$ make (\w+)", README, re.MULTILINE)) <= targets
