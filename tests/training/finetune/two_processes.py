"""Run by test_processes.py in two processes: a few steps of training, losses and weights written by the first."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from conftest import HEADS, WrittenPlan, make_words_batch
from safetensors.torch import save_file
from transformers import TrainingArguments

from mgte_rag.config import ClassifierConfig
from mgte_training.finetune.objective import Distillation, HeadLoss, Objective, SelfDistillation
from mgte_training.finetune.trainable import Trainable, TrainableModel, TrainableReranker
from mgte_training.finetune.trainer import ModelTrainer, PlannedTrainer, RerankerTrainer

OBJECTIVES = {
    "query": Objective(
        heads={
            "dense": HeadLoss(temperature=0.05, sizes={16: 1.0, 32: 1.0}),
            "sparse": HeadLoss(temperature=0.1),
            "multi_vector": HeadLoss(temperature=0.05, sizes={4: 1.0, 8: 1.0}),
        },
        self_distillation=SelfDistillation(shares={"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}, temperature=0.1),
    ),
    "both": Objective(
        heads={"dense": HeadLoss(temperature=0.05), "sparse": HeadLoss(temperature=0.1)}, directions="both"
    ),
    "improved": Objective(heads={"dense": HeadLoss(temperature=0.1)}, directions="improved"),
}


def trainer_of(name: str, folder: str, arguments: TrainingArguments) -> PlannedTrainer:
    chance = np.random.default_rng(0)
    batches = [
        make_words_batch(4, 2, sub_batch=size, seed=seed, scores=chance.normal(size=(4, 2)).astype(np.float32))
        for seed, size in enumerate((64, 1))
    ]
    if name == "reranker":  # of a model that has other heads too, which get no gradient
        reranker = TrainableReranker.open(folder, new_heads=replace(HEADS, classifier=ClassifierConfig()))
        return RerankerTrainer(reranker, arguments, WrittenPlan(batches), distillation=Distillation())
    model = TrainableModel.open(folder, new_heads=HEADS)
    return ModelTrainer(model, arguments, WrittenPlan(batches), OBJECTIVES[name])


def train(name: str, folder: str, out: Path) -> None:
    arguments = TrainingArguments(
        output_dir=str(out / name),
        use_cpu=True,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trainer_of(name, folder, arguments)
    model = trainer.model
    assert isinstance(model, Trainable)
    start = {key: value.detach().clone() for key, value in model.named_parameters()}
    trainer.train()
    if arguments.process_index == 0:
        weights = {key: value.detach().clone() for key, value in model.named_parameters()}
        weights["losses"] = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        save_file(start, out / f"{name}.start.safetensors")
        save_file(weights, out / f"{name}.{arguments.world_size}.safetensors")


def main() -> None:
    """The first process trains alone before both train together: what they are compared with."""
    folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    names = [*OBJECTIVES, "reranker"]
    if os.environ["RANK"] == "0":
        shared = {key: os.environ.pop(key) for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        for name in names:
            train(name, folder, Path(out))
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ |= shared
    for name in names:
        train(name, folder, Path(out))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
