"""Run by test_processes.py with torchrun: a few steps of training, the weights written by the first process."""

import sys
from pathlib import Path

import torch
from conftest import HEADS, WrittenPlan, make_words_batch
from safetensors.torch import save_file
from transformers import TrainingArguments

from mgte_training.finetune.objective import HeadLoss, Objective, SelfDistillation
from mgte_training.finetune.trainable import TrainableModel
from mgte_training.finetune.trainer import ModelTrainer

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


def main() -> None:
    model_folder, out = sys.argv[1:3]
    torch.set_num_threads(1)
    for name, objective in OBJECTIVES.items():
        model = TrainableModel.open(model_folder, new_heads=HEADS).wanting(objective.heads, (4, 8))
        arguments = TrainingArguments(
            output_dir=f"{out}/{name}",
            use_cpu=True,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        batches = [make_words_batch(4, 2, sub_batch=size, seed=seed) for seed, size in enumerate((64, 1))]
        trainer = ModelTrainer(model, arguments, WrittenPlan(batches), objective)
        trainer.train()
        if arguments.process_index == 0:
            weights = {key: value.detach().clone() for key, value in model.named_parameters()}
            save_file(weights, Path(out) / f"{name}.{arguments.world_size}.safetensors")


if __name__ == "__main__":
    main()
