"""mGTE's "reversed NTK" by one command: the base of the rotary positions in contrastive pre-training, scaling after it.

    python benchmarks/revntk.py [--recipe mgte-contrastive-small] [--model FOLDER] [--data FOLDER] [--set KEY=VALUE ...]

From one encoder (rotary base 160,000) three models are trained on the same short pairs: with its own base, with an
eighth of it, and with an eighth of it and NTK scaling by 8 in the model that is written. nDCG@10 of a held-out set of
long documents is measured for each, read up to several lengths: what is lost beyond the length of training. Source:
mGTE, arXiv 2407.19669, section 2.2 and its ablation.

Without arguments everything is tiny and offline: a new random encoder, pairs of the standard library's documentation,
and long documents joined from several docstrings, the one that is asked for last. That shows how it goes and nothing
about the method: such an encoder hardly looks at positions, and the three are alike. With --model (an encoder after
mgte-mlm-8192), --pairs and --data (a folder in the BEIR layout) it is the ablation.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import torch
from machine import describe

from mgte_cli.stdlib_docs import collect
from mgte_rag import EmbeddingModel
from mgte_training.domain.judged import Judged, read_beir
from mgte_training.finetune.held_out import mean_ndcg
from mgte_training.finetune.recipe import find_recipe
from mgte_training.pretrain.new_model import make_model
from mgte_training.stages import read_stage, run_stage

VARIANTS = {
    "base 160,000": "{{theta=160000.0, max_length={length}}}",
    "base 20,000": "{{theta=20000.0, max_length={length}}}",
    "base 20,000, NTK 8 after": "{{theta=20000.0, ntk_factor=8.0, max_length={length}}}",
}


def main() -> None:
    """Train the three and measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mgte-contrastive-tiny")
    parser.add_argument("--model", help="an encoder with rotary positions (default: a new tiny one)")
    parser.add_argument("--pairs", help="training pairs, .jsonl (default: names and docstrings)")
    parser.add_argument("--data", type=Path, help="long documents, a folder in the BEIR layout")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256], help="tokens read of a document")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        judged = prepare(folder, options)
        print(
            f"{describe()}\n{len(judged.queries)} queries, {len(judged.documents)} documents; nDCG@10 by tokens read\n"
        )
        print(f"{'':26}" + "".join(f"{length:>8,}" for length in options.lengths))
        for name, positions in VARIANTS.items():
            settings = [
                f"model.name={options.model or folder / 'new'}",
                f"sources.0.path={options.pairs or folder / 'pairs.jsonl'}",
                f"model.positions={positions.format(length=max(options.lengths))}",
                *options.settings,
            ]
            stage = read_stage(find_recipe(options.recipe), settings)
            trained = run_stage(stage, folder / name, say=None)
            figures = [measure(trained.folder, judged, length) for length in options.lengths]
            print(f"{name:26}" + "".join(f"{figure:8.4f}" for figure in figures), flush=True)


def prepare(folder: Path, options: argparse.Namespace) -> Judged:
    """The held-out set; where nothing was given also pairs and an encoder."""
    entries = [entry for entry in collect() if 15 < len(entry.text.split()) < 60]
    random.Random(0).shuffle(entries)
    held_out, train = entries[:100], entries[100:]
    rows = [{"query": entry.name.replace(".", " "), "positive": entry.text} for entry in train]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": entry.text}) for entry in train))
    if options.model is None:
        sizes = [
            f"encoder.max_length={max(options.lengths)}",
            "encoder.rope_base=160000.0",
            'encoder.pooling="mean"',
        ]
        make_model(read_stage(find_recipe("mgte-init-tiny"), sizes), folder / "new", data=folder)
    if options.data is not None:
        return read_beir(options.data)
    fillers = [entry.text for entry in train]
    pairs = [
        (entry.name.replace(".", " "), "\n\n".join([*random.Random(place).sample(fillers, 3), entry.text]))
        for place, entry in enumerate(held_out)
    ]
    return Judged.of_pairs(pairs)


def measure(model_folder: Path, judged: Judged, length: int) -> float:
    """nDCG@10 of dense vectors of documents cut at a length."""
    with EmbeddingModel.load(model_folder, dtype="float32") as model:
        queries = torch.from_numpy(model.encode_query(list(judged.queries)).dense)
        documents = torch.from_numpy(model.encode_document(list(judged.documents), max_length=length).dense)
    return mean_ndcg(queries @ documents.T, judged.relevant)


if __name__ == "__main__":
    main()
