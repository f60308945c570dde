"""Raw texts to a retriever: a new random encoder and every stage of the papers, tiny and offline.

    python examples/07_from_scratch.py [out]

The documentation of Python's standard library is the corpus. A tokenizer is learnt from it and a random encoder made;
masked language modelling, RetroMAE, contrastive pre-training on pairs that the texts' structure gives (first paragraph
to the rest) and fine-tuning on names with mined negatives follow, each the recipe of a paper in its tiny variant. After
each stage held-out names are looked up among 1,000 docstrings. Then a LangChain retriever searches with the result. The
same recipes without "-tiny" are the papers': ``mgte-rag plan mgte-mlm-2048`` says what they cost.

An untrained encoder is a bag of random word vectors, which finds names whose words stand in the docstring. Masked
language modelling gives that up for something better later; the stages after it are measured against it and chance.
"""

import json
import math
import random
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from langchain_core.documents import Document

from langchain_mgte import MGTERetriever
from mgte_cli.stdlib_docs import DocEntry, collect
from mgte_rag import EmbeddingModel
from mgte_training.data import Source, SourceData
from mgte_training.finetune.held_out import mean_ndcg
from mgte_training.finetune.recipe import find_recipe
from mgte_training.negatives import MiningOptions, mine
from mgte_training.pretrain.new_model import make_model
from mgte_training.stages import read_stage, run_stage

HELD_OUT, CORPUS = 200, 1000
CHANCE = sum(1 / math.log2(rank + 1) for rank in range(1, 11)) / CORPUS  # nDCG@10 of a random order
ENCODER = ("encoder.hidden=96", "encoder.intermediate=192", "encoder.vocabulary=2048", "tokenizer.size=2048",
           'encoder.pooling="mean"')  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """Steps of each stage: minutes on two cores."""

    mlm: int = 1500
    retromae: int = 1000
    contrastive: int = 150
    fine_tuning: int = 150


def question(entry: DocEntry) -> str:
    """The words of a qualified name."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", entry.name))


def write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def ndcg(folder: Path, held_out: Sequence[DocEntry], corpus: Sequence[str]) -> float:
    """NDCG@10 of held-out names; the document of each has its place."""
    with EmbeddingModel.load(folder) as model:
        queries = torch.from_numpy(model.encode_query([question(entry) for entry in held_out]).dense)
        documents = torch.from_numpy(model.encode_document(corpus, max_length=64).dense)
    return mean_ndcg(queries @ documents.T, [frozenset({place}) for place in range(len(held_out))])


def main(out: Path, steps: Steps = Steps()) -> dict[str, float]:  # it is frozen
    """Make, train stage by stage, measure, search; the figures after each stage."""
    entries = list({entry.text: entry for entry in collect() if len(entry.text.split()) >= 8}.values())
    random.Random(0).shuffle(entries)
    held_out, train = entries[:HELD_OUT], entries[HELD_OUT:]
    corpus = [entry.text for entry in entries[:CORPUS]]
    parts = [entry.text.partition("\n\n") for entry in train]
    out.mkdir(parents=True, exist_ok=True)
    write(out / "texts.jsonl", [{"text": entry.text} for entry in train])
    write(out / "structure.jsonl", [{"query": a, "positive": b} for a, _, b in parts if len(b.split()) > 5])
    write(out / "names.jsonl", [{"query": question(entry), "positive": entry.text} for entry in train])
    figures = {"chance": CHANCE}
    print(f"{'chance':24} nDCG@10 {CHANCE:.3f}")

    def measured(stage: str, folder: Path) -> Path:
        figures[stage] = ndcg(folder, held_out, corpus)
        print(f"{stage:24} nDCG@10 {figures[stage]:.3f}", flush=True)
        return folder

    def train_stage(name: str, recipe: str, model: Path, *settings: str) -> Path:
        stage = read_stage(find_recipe(recipe), [f"model.name={model}", "training.save_strategy=no", *settings])
        return measured(name, run_stage(stage, out / name, data=out).folder)

    make_model(read_stage(find_recipe("mgte-init-tiny"), ENCODER), out / "new", data=out, say=print)
    model = measured("untrained", out / "new")
    model = train_stage("mlm", "mgte-mlm-2048-tiny", model, f"batches.steps={steps.mlm}")
    model = train_stage("retromae", "bge-retromae-tiny", model, f"batches.steps={steps.retromae}",
                        "retromae.hidden=0.7", "training.learning_rate=2e-3")  # fmt: skip
    model = train_stage("contrastive", "mgte-contrastive-tiny", model, "sources.0.path=structure.jsonl",
                        f"batches.steps={steps.contrastive}", "training.learning_rate=2e-3")  # fmt: skip
    with EmbeddingModel.load(model) as contrastive:
        names = SourceData.read(Source("names", str(out / "names.jsonl")))
        options = MiningOptions(rank_range=(0, 50), count=3, relative_margin=0.05, max_length=64)
        mine(contrastive, names, [entry.text for entry in train], out / "mined.jsonl", options=options)
    model = train_stage(
        "fine-tuning", "mgte-finetune-tiny", model, "sources.0.path=mined.jsonl", "sources.0.negatives=1",
        f"batches.steps={steps.fine_tuning}", "batches.buckets=[{max_tokens=64, batch=64, sub_batch=64}]",
        "batches.scale=1.0", "lengths.query=32", "lengths.document=64", "objective.heads.dense.sizes={32=1.0, 96=1.0}",
        "training.learning_rate=2e-3",
    )  # fmt: skip

    pages = [Document(entry.text, metadata={"name": entry.name}) for entry in entries[:CORPUS]]
    with MGTERetriever.from_documents(pages, location=out / "index", model=str(model), k=3) as retriever:
        for asked in map(question, held_out[:4]):
            print(f"\n? {asked}")
            for rank, page in enumerate(retriever.invoke(asked), start=1):
                print(f"  {rank}. {page.metadata['name']}")
    return figures


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
