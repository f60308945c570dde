"""``mgte-rag verify MODEL``: whether a published model gives here the values that others published for it."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mgte_rag import UnknownModelError

if TYPE_CHECKING:  # torch is imported on use: --version and --help answer at once
    from torch import Tensor

    from mgte_rag.checkpoints import Checkpoint
    from mgte_rag.nn.model import RetrievalModel
    from mgte_rag.nn.packing import PackedBatch
    from mgte_rag.types import Floats

PLANTS = ("Plants create oxygen.", "Photosynthesis is a process where plants create oxygen.")


@dataclass(frozen=True, slots=True)
class Expected:
    """A published value and how to compute it here.

    Attributes:
        what: what it is of, for people.
        values: the published numbers, in any nesting.
        compute: a hub id or folder to the same numbers.
        source: who published them.
        tolerance: largest absolute difference; the numbers are published with three to four decimals.
    """

    what: str
    values: Sequence[object]
    compute: Callable[[str], "Floats"]
    source: str
    tolerance: float = 1e-3


@dataclass(frozen=True, slots=True)
class Finding:
    """An expected value beside the one computed here."""

    expected: Expected
    published: "Floats"
    actual: "Floats"

    @property
    def difference(self) -> float:
        """The largest absolute difference."""
        return float(abs(self.published - self.actual).max())

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance."""
        return self.difference <= self.expected.tolerance


def _read(name: str) -> "tuple[Checkpoint, RetrievalModel, PackedBatch]":
    """A model in fp32 on the CPU and both sentences, one by one and not as a pair, for it."""
    import torch

    from mgte_rag.checkpoints import find_model, load_checkpoint
    from mgte_rag.nn.packing import pack

    checkpoint = load_checkpoint(find_model(name))
    inputs = checkpoint.rules.read(PLANTS, "document", (), prompt="", max_length=checkpoint.config.max_length)
    cpu = torch.device("cpu")
    return checkpoint, checkpoint.load_model(cpu, torch.float32), pack(inputs.ids, cpu)


def hidden_corner(name: str) -> "Floats":
    """Components 1 to 3 of the hidden states of tokens 1 to 3 of both sentences, float32 [2, 3, 3]."""
    _, model, batch = _read(name)
    return _corner(model.encoder(batch), batch)


def language_corner(name: str) -> "Floats":
    """Logits of vocabulary entries 1 to 3 at tokens 1 to 3 of both sentences, float32 [2, 3, 3]."""
    _, model, batch = _read(name)
    assert model.language is not None, f"{name} is listed here as a language model and has no head of one"
    return _corner(model.language(model.encoder(batch), model.encoder.embeddings.word.weight), batch)


def _corner(rows: "Tensor", batch: "PackedBatch") -> "Floats":
    """Components 1 to 3 of rows 1 to 3 of every text."""
    import numpy as np

    texts = np.split(rows.numpy(), batch.lengths.cumsum(0)[:-1].tolist())
    return np.stack([text[1:4, 1:4] for text in texts])


def logits_of_single_texts(name: str) -> "Floats":
    """The reranker's logits of both sentences, each read alone as the publisher's test does, float32 [2]."""
    from mgte_rag.nn.heads import pool

    checkpoint, model, batch = _read(name)
    config = checkpoint.config.classifier
    assert config is not None, f"{name} is listed here as a reranker and has no head of one"
    assert model.classifier is not None, f"{name} is listed here as a reranker and has no head of one"
    scores: Floats = model.classifier(pool(model.encoder(batch), batch, config.pooling)).numpy()
    return scores


def document_rows(name: str) -> "Floats":
    """The first five components of every token vector of the document "Hello World", float32 [tokens, 5]."""
    from mgte_rag import EmbeddingModel

    with EmbeddingModel.load(name, device="cpu", dtype="float32") as model:
        rows = model.encode_document("Hello World", outputs=["multi_vector"]).multi_vector
    assert rows is not None, "token vectors were asked for"
    return rows[0][:, :5]


def query_rows(name: str) -> "Floats":
    """The first five components of the first eight token vectors of the query "Hello World", float32 [8, 5]."""
    from mgte_rag import EmbeddingModel

    with EmbeddingModel.load(name, device="cpu", dtype="float32") as model:
        rows = model.encode_query("Hello World", outputs=["multi_vector"]).multi_vector
    assert rows is not None, "token vectors were asked for"
    return rows[0][:8, :5]


_TRANSFORMERS = "transformers, tests/models/gte/test_modeling_gte.py"
_FASTEMBED = "fastembed, tests/test_late_interaction_embeddings.py"


def _hidden(*values: object) -> Expected:
    return Expected("hidden states, tokens 1-3, components 1-3, two sentences", values, hidden_corner, _TRANSFORMERS)


EXPECTED: Mapping[str, tuple[Expected, ...]] = {
    "Alibaba-NLP/gte-multilingual-base": (
        _hidden(
            [[0.2660, -0.2507, 0.3888], [0.5936, -0.4777, 0.5725], [0.5867, -0.4302, 0.5467]],
            [[0.4506, -0.2547, 0.4193], [0.3973, -0.2549, 0.3836], [0.3309, -0.3932, 0.4126]],
        ),
    ),
    "Alibaba-NLP/gte-base-en-v1.5": (
        _hidden(
            [[-0.0137, -0.4422, 0.5301], [-0.2834, 0.4779, 0.6164], [-0.2570, 0.3076, 0.7647]],
            [[-0.1446, -0.0088, -0.1134], [-0.1478, 0.1888, 0.3145], [-0.1605, 0.1750, 0.1975]],
        ),
    ),
    "Snowflake/snowflake-arctic-embed-m-v2.0": (
        _hidden(
            [[1.2827, 0.5775, -0.4335], [1.3125, 0.2771, -0.4684], [1.4864, 0.1338, -0.3023]],
            [[1.6184, -0.2137, -0.8186], [1.6171, -0.2500, -0.5360], [1.4568, -0.3333, -0.5992]],
        ),
    ),
    "Alibaba-NLP/gte-multilingual-reranker-base": (
        Expected("logits of two single sentences", (0.2428, 0.5710), logits_of_single_texts, _TRANSFORMERS),
    ),
    "Alibaba-NLP/gte-multilingual-mlm-base": (
        Expected(
            "language model logits, tokens 1-3, entries 1-3, two sentences",
            (
                [[-1.9263, 5.8634, 3.9742], [-1.2569, 9.1684, 6.1088], [-1.1027, 6.3202, 8.6400]],
                [[-2.3521, 4.1811, 9.3579], [-2.2531, -0.8155, 5.1775], [-2.1518, 4.4150, 7.3230]],
            ),
            language_corner,
            _TRANSFORMERS,
            tolerance=1e-2,
        ),
    ),
    "jinaai/jina-colbert-v2": (
        Expected(
            "token vectors of the document 'Hello World', components 0-4",
            (
                [0.0744, 0.0590, -0.2404, -0.1776, 0.0198],
                [0.1318, 0.0882, -0.1136, -0.2065, 0.1461],
                [-0.0178, -0.1359, -0.0136, -0.1075, -0.0509],
                [0.0004, -0.1198, -0.0696, -0.0482, -0.0650],
                [0.0766, 0.0448, -0.2344, -0.1829, 0.0061],
            ),
            document_rows,
            _FASTEMBED,
            tolerance=2e-3,
        ),
        Expected(
            "token vectors 0-7 of the query 'Hello World', components 0-4",
            (
                [0.0475, 0.0250, -0.2225, -0.1087, -0.0297],
                [0.0211, -0.0844, -0.0070, -0.1715, 0.0154],
                [-0.0062, -0.0958, -0.0142, -0.1283, -0.0218],
                [0.0490, -0.0500, -0.1613, 0.0193, 0.0280],
                [0.0477, 0.0250, -0.2279, -0.1128, -0.0289],
                [0.0597, -0.0676, -0.0955, -0.0756, 0.0234],
                [0.0592, -0.0858, -0.0621, -0.1088, 0.0148],
                [0.0870, -0.0715, -0.0769, -0.1414, 0.0365],
            ),
            query_rows,
            _FASTEMBED,
            tolerance=2e-3,
        ),
    ),
}


def verify(model: str, folder: str | None = None) -> list[Finding]:
    """Compute every value that was published for a model.

    Args:
        model: a hub id of ``EXPECTED``.
        folder: a copy of that model on this machine; None fetches it from the hub.

    Raises:
        UnknownModelError: no values are known for the model, or it cannot be had.
        CheckpointError: the folder cannot be loaded exactly as published.
    """
    import numpy as np

    if model not in EXPECTED:
        known = ", ".join(EXPECTED)
        raise UnknownModelError(f"no published values are known for {model!r}; there are some for {known}")
    found = []
    for expected in EXPECTED[model]:
        published = np.asarray(expected.values, dtype=np.float32)
        actual = expected.compute(folder or model)
        if actual.shape != published.shape:  # other tokens than published are no match of any kind
            actual = np.full_like(published, np.inf)
        found.append(Finding(expected, published, actual))
    return found


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "verify",
        help="compare a published model's values here with those that others published",
        description="Prints every published value of a model beside the one computed here, in fp32 on the CPU. "
        f"Values are known for {', '.join(EXPECTED)}.",
    )
    parser.add_argument("model", help="hub id, such as Alibaba-NLP/gte-multilingual-base")
    parser.add_argument("--folder", help="a copy of that model on this machine, instead of fetching it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings.

    Returns:
        0 if every value is within its tolerance, else 1.
    """
    findings = verify(options.model, options.folder)
    for finding in findings:
        print(f"{finding.expected.what} ({finding.expected.source})")
        for published, actual in zip(finding.published.ravel(), finding.actual.ravel(), strict=True):
            print(f"  expected {published:9.4f}   actual {actual:9.4f}   difference {abs(published - actual):.1e}")
        state = "holds" if finding.holds else "DOES NOT HOLD"
        print(f"{state}: largest difference {finding.difference:.1e}, allowed {finding.expected.tolerance:.0e}\n")
    return 0 if all(finding.holds for finding in findings) else 1
