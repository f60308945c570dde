"""What importing costs and drags in, each seen in a fresh process."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "numpy", "tokenizers", "huggingface_hub"]
FRAMEWORKS = ["langchain_core", "llama_index", "qdrant_client", "qdrant_edge", "transformers", "pydantic"]


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = run(f"import sys, mgte_rag; print([m for m in {HEAVY + FRAMEWORKS} if m in sys.modules])")
    assert loaded == "[]"


def test_importing_the_package_takes_under_a_tenth_of_a_second() -> None:
    script = "import time; t = time.perf_counter(); import mgte_rag; print(time.perf_counter() - t)"
    assert min(float(run(script)) for _ in range(3)) < 0.1


def test_loading_a_model_imports_no_framework() -> None:
    script = f"import sys; from mgte_rag import EmbeddingModel; EmbeddingModel.load().encode_query('x'); " \
             f"print([m for m in {FRAMEWORKS} if m in sys.modules])"  # fmt: skip
    assert run(script) == "[]"


def test_every_public_name_can_be_imported_and_others_cannot() -> None:
    import mgte_rag

    for name in mgte_rag.__all__:
        assert getattr(mgte_rag, name) is not None
    assert dir(mgte_rag) == mgte_rag.__all__
    with pytest.raises(AttributeError, match="no attribute 'EmbedingModel'"):
        mgte_rag.EmbedingModel  # noqa: B018


def test_importing_changes_no_environment_no_warnings_and_no_logging() -> None:
    script = """
import logging, os, warnings
before = dict(os.environ), list(warnings.filters), logging.root.level, list(logging.root.handlers)
import mgte_rag
from mgte_rag import errors
after = dict(os.environ), list(warnings.filters), logging.root.level, list(logging.root.handlers)
print(before == after)
"""
    assert run(script) == "True"


@pytest.mark.parametrize(
    ("module", "hidden", "extra"),
    [
        ("langchain_mgte", "langchain_core", "langchain"),
        ("llama_index_mgte", "llama_index", "llama-index"),
        ("qdrant_mgte", "qdrant_edge", "qdrant"),
    ],
)
def test_a_missing_extra_is_an_error_with_the_exact_pip_line(module: str, hidden: str, extra: str) -> None:
    script = f"""
import sys
sys.modules[{hidden!r}] = None  # as if it were not installed
try:
    import {module}
except ImportError as error:
    print(type(error).__name__, error)
"""
    assert run(script).endswith(f"pip install 'mgte-rag[{extra}]'")
    assert run(script).startswith("MissingExtraError")
