"""Prompts that models were trained with and whose folders do not say so: they stand in the model cards only."""

import re

from mgte_rag.checkpoints.sentence_transformers_files import read_prompts
from mgte_rag.checkpoints.source import ModelFolder

# The end of a hub id or folder name, without case: the prompt for queries, the one for documents.
# Source: the model cards; C-Pack, arXiv 2309.07597, appendix; multilingual E5, arXiv 2402.05672.
_PUBLISHED = {
    r"bge-(small|base|large)-en(-v1\.5)?": ("Represent this sentence for searching relevant passages: ", ""),
    r"bge-(small|base|large)-zh(-v1\.5)?": ("为这个句子生成表示以用于检索相关文章：", ""),
    r"(multilingual-)?e5-(small|base|large)(-v2)?": ("query: ", "passage: "),
}


def prompts_of(folder: ModelFolder) -> tuple[str, str]:
    """The prompts for queries and documents: what the folder's own files say, else what its name was published with.

    A fine-tuned copy under another name has no prompts but those in its files; ``prompt=`` gives them by hand.
    """
    written = read_prompts(folder.path)
    if written is not None:
        return written
    for name in folder.published_names:
        for pattern, prompts in _PUBLISHED.items():
            if re.fullmatch(pattern, name):
                return prompts
    return "", ""
