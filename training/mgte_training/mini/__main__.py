"""The embedded default's heads and reranker, from open pairs to the files in the package.

    python -m mgte_training.mini --data "$MGTE_DATA" --out build
    cp build/package/*.* mgte_rag/mini/

Pairs are chosen, negatives mined with the dense vectors, and the recipes mini-heads and mini-reranker run on them; the
weights of the hybrid score come from sources that nothing was trained on. One seed decides everything; stopped, the
same command goes on where it was.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from mgte_rag import EmbeddingModel
from mgte_training.data import Source, SourceData
from mgte_training.finetune.recipe import Recipe, find_recipe, read_recipe
from mgte_training.finetune.run import run_recipe
from mgte_training.finetune.run_folder import MODEL
from mgte_training.mini.fusion import UNSEEN, choose_weights, judge, unseen_pairs
from mgte_training.mini.package import write_heads, write_reranker
from mgte_training.mini.pairs import PAIRS, write_pairs
from mgte_training.negatives import MiningOptions, mine

# Among the 50 best; what scores within 5 % of the answer may be an answer too.
_MINING = MiningOptions(rank_range=(0, 50), count=5, relative_margin=0.05, max_length=160)


def main() -> None:
    """Run every stage that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pairs/*.jsonl.gz and retrieval/*")
    parser.add_argument("--out", type=Path, required=True, help="folder of all results; package/ is what ships")
    parser.add_argument("--share", type=float, default=1.0, help="share of the pairs, for a quick try")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="instead of both recipes': batches.scale=0.1")  # fmt: skip
    options = parser.parse_args()
    out: Path = options.out
    counts = write_pairs(options.data, out, share=options.share)
    mine_negatives(out)
    recipes = [read_recipe(find_recipe(name), options.settings) for name in ("mini-heads", "mini-reranker")]
    heads, reranker = (
        _trained(recipe, out / name, out) for recipe, name in zip(recipes, ("heads", "reranker"), strict=True)
    )
    with EmbeddingModel.load(str(heads)) as model:
        judged = {source: judge(model, unseen_pairs(options.data, source)) for source in UNSEEN}
    weights, figures = choose_weights(judged)
    write_heads(heads, weights, out / "package")
    lora = recipes[1].model.lora
    assert lora is not None, "the recipe says so"
    write_reranker(reranker, lora.rank, out / "package" / "reranker")
    made = {"seed": recipes[0].seed, "pairs": counts, "weights": asdict(weights), "unseen sources, nDCG@10": figures}
    (out / "package" / "recipe.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    _say(json.dumps(made, indent=2))


def mine_negatives(folder: Path) -> None:
    """Hard negatives of every source among its own documents, by the dense vectors."""
    with EmbeddingModel.load() as model:
        for source in PAIRS:
            mined = folder / f"{source}.mined.jsonl"
            if not mined.exists():
                pairs = SourceData.read(Source(source, str(folder / f"{source}.jsonl")))
                report = mine(model, pairs, None, mined, options=_MINING)
                _say(f"{source}: {report.taken:,} negatives")


def _trained(recipe: Recipe, run: Path, data: Path) -> Path:
    if not (run / MODEL).exists():
        run_recipe(recipe, run, data=data, say=_say)
    return run / MODEL


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line program


if __name__ == "__main__":
    main()
