"""MaxSim of one query with 1,000 documents: this package's scoring, sentence-transformers' and PyLate's, in turns.

    python benchmarks/late_interaction.py [--documents 1000] [--rounds 9]

Random unit vectors of 128 components: 32 query tokens, documents of 20 to 300 tokens, as arrays of their own lengths,
which is what a model returns. What an engine needs first, such as padding, is part of its time.
"""

import argparse
import time

import numpy as np
import torch
from machine import describe
from pylate.scores import colbert_scores
from sentence_transformers.util.similarity import maxsim
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mgte_rag.scoring import max_sim_ragged


def main() -> None:
    """Run all on the same vectors, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    chance = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 301, (options.documents,), generator=chance).tolist()
    query = unit(32, chance)
    documents = [unit(length, chance) for length in lengths]
    engines = {
        "sentence-transformers": lambda: maxsim([query], documents),
        "PyLate": lambda: pylate(query, documents),
        "mgte-rag": lambda: max_sim_ragged([query], documents),
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    scores = {}
    with torch.inference_mode():
        for round_number in range(options.rounds + 1):  # the first is the warm-up
            for name, score in engines.items():
                started = time.perf_counter()
                scores[name] = np.asarray(score()).reshape(-1)
                if round_number:
                    seconds[name].append(time.perf_counter() - started)
    print(describe())
    print(f"32 query tokens, {options.documents} documents of 20 to 300 tokens; best of {options.rounds} rounds each\n")
    ours = min(seconds["mgte-rag"])
    for name, times in seconds.items():
        off = np.abs(scores[name] - scores["mgte-rag"]).max()
        print(f"{name:24} {min(times) * 1e3:7.1f} ms  {min(times) / ours:5.2f}x  largest difference {off:.6f}")


def unit(tokens: int, chance: torch.Generator) -> Tensor:
    """Random vectors of length 1: [tokens, 128]."""
    return torch.nn.functional.normalize(torch.randn(tokens, 128, generator=chance), dim=-1)


def pylate(query: Tensor, documents: list[Tensor]) -> Tensor:
    """PyLate scores padded documents with a mask, in batches of its rank function's default."""
    padded = pad_sequence(documents, batch_first=True)
    lengths = torch.tensor([len(document) for document in documents])
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).float()
    return colbert_scores(query[None], padded, documents_mask=mask)


if __name__ == "__main__":
    main()
