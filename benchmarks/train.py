"""Training speed and memory beside sentence-transformers' trainer: same weights, pairs, batches, optimiser and steps.

    python benchmarks/train.py [--batch 64] [--steps 12] [--rounds 2] [--bf16] [--mlm]

all-MiniLM-L6-v2 in fp32 (``--bf16``: autocast, both) on docstrings of Python's standard library of all lengths up to
256 tokens, InfoNCE over the batch at temperature 0.05 (their MultipleNegativesRankingLoss at scale 20), AdamW, no
dropout. With ``--mlm`` masked language modelling of the same texts, a new encoder with MiniLM's weights and rotary
positions, packed as this project trains, and with every batch padded to its longest text. Each run is a process of its
own, whose largest resident memory is its peak; the engines take turns. A run's speed is that of its median step, the
first two not counted; the best run of each counts. The last loss says that both have trained alike.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from machine import describe

from mgte_cli.stdlib_docs import collect
from mgte_rag.checkpoints import find_model

ENGINES = ("sentence-transformers", "mgte-rag")
MLM_ENGINES = ("padded", "packed")
_WARM_UP = 2


@dataclass
class Batches:
    """The pairs in the order in which both train on them."""

    pairs: list[tuple[str, str]]
    size: int

    @property
    def steps(self) -> int:
        """How many batches."""
        return len(self.pairs) // self.size

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Any:
        """A batch as this project's trainer takes it."""
        from mgte_training.data import TrainingBatch

        some = self.pairs[step * self.size : (step + 1) * self.size]
        return TrainingBatch(
            source="docstrings",
            queries=[query for query, _ in some],
            groups=[[document] for _, document in some],
            scores=None,
            same=None,
            query_prompt=None,
            document_prompt=None,
            in_batch_negatives=True,
            sub_batch=self.size,
        )


def main() -> None:
    """Run each engine in processes of its own, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--mlm", action="store_true")
    parser.add_argument("--engine", choices=ENGINES + MLM_ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine is not None:
        print(json.dumps(run(options.engine, options.batch, options.steps, bf16=options.bf16)))
        return
    engines, unit = (MLM_ENGINES, "texts") if options.mlm else (ENGINES, "pairs")
    results: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    for _ in range(options.rounds):
        for engine in engines:
            command = [sys.executable, __file__, *sys.argv[1:], "--engine", engine]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[engine].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{describe()}\n{'bf16 autocast' if options.bf16 else 'fp32'}, batches of {options.batch} {unit}, "
          f"{options.steps} steps, {options.rounds} rounds\n")  # fmt: skip
    slowest = min(each["seconds"] for each in results[engines[0]])
    for engine, runs in results.items():
        best = min(runs, key=lambda each: each["seconds"])
        print(f"{engine:24} {options.batch / best['seconds']:7.1f} {unit}/s  {slowest / best['seconds']:5.2f}x  "
              f"{min(each['peak'] for each in runs):6.0f} MB  last loss {best['loss']:.4f}")  # fmt: skip


def run(engine: str, size: int, steps: int, *, bf16: bool) -> dict[str, float]:
    """Train, and measure: seconds of the median step, peak memory in MB, the last loss."""
    entries = [entry for entry in collect() if entry.signature]
    pairs = [(f"{entry.name}{entry.signature}", entry.text) for entry in entries]
    random.Random(0).shuffle(pairs)
    batches = Batches(pairs[: size * steps], size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder,
            "per_device_train_batch_size": size,
            "num_train_epochs": 1,
            "learning_rate": 2e-5,
            "optim": "adamw_torch",
            "max_grad_norm": 1.0,
            "bf16": bf16,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "disable_tqdm": True,
            "seed": 0,
        }
        if engine in MLM_ENGINES:
            trainer = _language_model(batches, arguments, folder, padded=engine == "padded")
        else:
            trainer = (_ours if engine == "mgte-rag" else _theirs)(batches, arguments)
        times = _step_times(trainer)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    return {"seconds": statistics.median(times[_WARM_UP:]), "peak": peak, "loss": float(losses[-1])}


def _ours(batches: Batches, arguments: dict[str, Any]) -> Any:
    from transformers import TrainingArguments

    from mgte_training.finetune.objective import HeadLoss, Objective
    from mgte_training.finetune.trainable import TrainableModel
    from mgte_training.finetune.trainer import ModelTrainer

    objective = Objective(heads={"dense": HeadLoss(temperature=0.05)})
    return ModelTrainer(TrainableModel.open(device="cpu"), TrainingArguments(**arguments), batches, objective)


def _language_model(batches: Batches, arguments: dict[str, Any], folder: str, *, padded: bool) -> Any:
    from pathlib import Path

    import numpy as np
    from transformers import TrainingArguments

    from mgte_rag.nn.packing import pack
    from mgte_training.pretrain.language_model import TrainableLanguageModel
    from mgte_training.pretrain.masking import Masking
    from mgte_training.pretrain.new_model import NewEncoder, NewModel, make_model
    from mgte_training.pretrain.new_tokenizer import TokenizerChoice
    from mgte_training.pretrain.text_plan import TextBatches, TextPlan, TextSource
    from mgte_training.pretrain.token_store import token_store
    from mgte_training.pretrain.trainer import PretrainTrainer

    class Padded(TrainableLanguageModel):
        def forward(self, texts: Any) -> dict[str, torch.Tensor]:
            longest = max(len(text.ids) for text in texts)
            rows = [np.pad(text.seen, (0, longest - len(text.ids))) for text in texts]
            batch = pack(rows, torch.device("cpu"), attended=[len(text.ids) for text in texts])
            hidden = self.model.encoder(batch)
            chosen = np.concatenate([np.pad(text.chosen, (0, longest - len(text.ids))) for text in texts])
            tokens = np.concatenate([text.ids[text.chosen] for text in texts])
            entropy, right = self._said(hidden[torch.from_numpy(chosen)], torch.from_numpy(tokens).long())
            return {"mlm": entropy, "right": right}

    encoder = NewEncoder(layers=6, hidden=384, heads=12, intermediate=1536, max_length=256, gate="none", up_bias=True)
    new = Path(folder) / "new"
    make_model(NewModel(encoder=encoder, tokenizer=TokenizerChoice(path="mini"), start="mini"), new)
    model = (Padded if padded else TrainableLanguageModel).open(new)
    tokenizer = model.checkpoint.tokenizer
    store = token_store(Path(folder) / "0", [text for _, text in batches.pairs], tokenizer, show_progress=False)
    sizes = TextBatches(steps=batches.steps, batch=batches.size, length=256, token_budget=batches.size * 256)
    plan = TextPlan([TextSource(name="docstrings", path="")], [store], sizes, tokenizer, seed=0)
    return PretrainTrainer(model, TrainingArguments(**arguments), plan, Masking())


def _theirs(batches: Batches, arguments: dict[str, Any]) -> Any:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler

    model = SentenceTransformer(str(find_model(None).path), device="cpu")
    model.max_seq_length = 256
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    queries, documents = zip(*batches.pairs, strict=True)
    in_order = lambda dataset, batch_size, drop_last, **_: BatchSampler(  # noqa: E731
        SequentialSampler(dataset), batch_size, drop_last
    )
    return SentenceTransformerTrainer(
        model=model,
        args=Arguments(**arguments, batch_sampler=in_order),
        train_dataset=Dataset.from_dict({"anchor": queries, "positive": documents}),
        loss=MultipleNegativesRankingLoss(model, scale=20.0),
    )


def _step_times(trainer: Any) -> list[float]:
    """Seconds from one step's end to the next; filled while the trainer trains."""
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        last = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            times.append(now - self.last)
            self.last = now

    trainer.add_callback(Clock())
    return times


if __name__ == "__main__":
    main()
