"""The embedded default's heads and reranker, from open pairs to the files in the package.

    python -m mgte_training.mini --data "$MGTE_DATA" --out build
    cp -r build/package/* mgte_rag/mini/

Pairs are chosen, negatives mined with the dense vectors, and the recipe mini-heads runs on them; the weights of the
hybrid score come from sources that nothing was trained on. With the new heads each question's candidates are found and
scored, which the recipe mini-reranker learns from. One seed decides everything; stopped, the same command goes on where
it was.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from mgte_rag import EmbeddingModel, Reranker
from mgte_training.data import Source, SourceData
from mgte_training.finetune.recipe import Recipe, find_recipe, read_recipe
from mgte_training.finetune.run import run_recipe
from mgte_training.finetune.run_folder import MODEL
from mgte_training.mini.fusion import UNSEEN, best_factor, choose_weights, judge, judge_reranked, unseen_pairs
from mgte_training.mini.package import write_heads, write_reranker
from mgte_training.mini.pairs import PAIRS, RERANKED, write_pairs
from mgte_training.negatives import MiningOptions, mine

# Among the 50 best; what scores within 5 % of the answer may be an answer too.
_NEGATIVES = MiningOptions(rank_range=(0, 50), count=5, relative_margin=0.05, max_length=160)
# What a reranker is given: what the hybrid ranks best, be it above the answer.
_CANDIDATES = MiningOptions(
    rank_range=(0, 30), count=4, outputs=("dense", "sparse", "multi_vector"), scored=True, max_length=160
)


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
    counts = write_pairs(options.data, out, PAIRS, share=options.share)
    with EmbeddingModel.load() as model:
        mine_all(model, out, PAIRS, "mined", _NEGATIVES)
    recipes = [read_recipe(find_recipe(name), options.settings) for name in ("mini-heads", "mini-reranker")]
    heads = _trained(recipes[0], out / "heads", out)
    reranked = write_pairs(options.data, out / "candidates", RERANKED, share=options.share)
    with EmbeddingModel.load(str(heads)) as model:
        judged = {source: judge(model, unseen_pairs(options.data, source)) for source in UNSEEN}
        weights, figures = choose_weights(judged)
        own = {output: getattr(weights, output) for output in _CANDIDATES.outputs}
        mine_all(model, out / "candidates", RERANKED, "scored", replace(_CANDIDATES, weights=own))
    write_heads(heads, weights, out / "package")
    reranker = _trained(recipes[1], out / "reranker", out / "candidates")
    lora = recipes[1].model.lora
    assert lora is not None, "the recipe says so"
    write_reranker(reranker, lora.rank, out / "package" / "reranker")
    with Reranker.load(str(reranker)) as cross_encoder:
        beside = {
            source: judge_reranked(each, weights, cross_encoder, unseen_pairs(options.data, source))
            for source, each in judged.items()
        }
    made = {
        "seed": recipes[0].seed,
        "pairs": counts,
        "pairs of the reranker": reranked,
        "weights": asdict(weights),
        "unseen sources, nDCG@10": figures,
        "weight of the reranker": best_factor(beside),
        "unseen sources, nDCG@10 by that weight": beside,
    }
    (out / "package" / "recipe.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    _say(json.dumps(made, indent=2))


def mine_all(model: EmbeddingModel, folder: Path, sources: Iterable[str], name: str, options: MiningOptions) -> None:
    """Negatives of every source in the folder among its own documents, to ``<source>.<name>.jsonl``."""
    for source in sources:
        mined = folder / f"{source}.{name}.jsonl"
        if not mined.exists():
            pairs = SourceData.read(Source(source, str(folder / f"{source}.jsonl")))
            report = mine(model, pairs, None, mined, options=options)
            _say(f"{source}: {report.taken:,} negatives")


def _trained(recipe: Recipe, run: Path, data: Path) -> Path:
    if not (run / MODEL).exists():
        run_recipe(recipe, run, data=data, say=_say)
    return run / MODEL


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line program


if __name__ == "__main__":
    main()
