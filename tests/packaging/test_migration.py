"""Every "after" of the migration page runs as it stands."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import source

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
AFTER = re.findall(r"^\*\*After\*\*\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, mini: EmbeddingModel) -> Path:
    """The embedded default in place of the hub's models: it has all outputs."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    mini.save(folder)
    return folder


@pytest.mark.parametrize("block", AFTER, ids=range(len(AFTER)))
def test_the_lines_after_run(
    block: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_tiny_bert: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)

    def download(hub_id: str, **options: object) -> str:
        if "reranker" not in hub_id:
            return str(hub)
        folder = make_tiny_bert()
        BertForSequenceClassification(BertConfig.from_pretrained(folder, num_labels=1)).save_pretrained(folder)
        return str(folder)

    monkeypatch.setattr(source, "snapshot_download", download)
    exec(compile(block, "docs/migration.md", "exec"), {})


def test_every_section_says_what_was_before() -> None:
    for section in PAGE.split("\n## ")[1:]:
        assert "**Before**" in section
        assert "**After**" in section


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/migration.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
