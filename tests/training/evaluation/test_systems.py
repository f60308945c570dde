"""Systems against others' own tools: sentence-transformers, bm25s, the model's similarity, plain loops."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bm25s
import numpy as np
import pytest
import Stemmer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from transformers import BertConfig, BertForSequenceClassification

from mgte_rag import EmbeddingModel, Encodings, InvalidOptionError, Reranker
from mgte_rag.checkpoints import find_model
from mgte_training.evaluation import Evaluation, Options, RetrievalSet, SystemResult, evaluate, read_folder
from mgte_training.evaluation import build_systems as building
from mgte_training.evaluation.bm25 import Bm25, analysis_for
from mgte_training.evaluation.cached_model import CachedModel
from mgte_training.evaluation.languages import document_language, query_languages
from mgte_training.evaluation.lengths import length_variants
from mgte_training.evaluation.sampling import sampled_corpus


def system(found: Evaluation, name: str) -> SystemResult:
    return next(each for each in found.sets[0].systems if each.name == name)


def check_beside_sentence_transformers(data: RetrievalSet, dense: SystemResult) -> None:
    evaluator = InformationRetrievalEvaluator(
        dict(zip(data.query_ids, data.queries, strict=True)),
        dict(zip(data.document_ids, data.documents, strict=True)),
        {query: {key for key, grade in found.items() if grade > 0} for query, found in data.grades.items()},
        ndcg_at_k=[10],
        mrr_at_k=[10],
        accuracy_at_k=[5],
        precision_recall_at_k=[100],
        map_at_k=[100],
    )
    theirs = evaluator(SentenceTransformer(str(find_model(None).path), device="cpu"))
    names = {
        "nDCG@10": "cosine_ndcg@10",
        "MRR@10": "cosine_mrr@10",
        "R@100": "cosine_recall@100",
        "Success@5": "cosine_accuracy@5",
        "MAP@100": "cosine_map@100",
    }
    for name, their_name in names.items():
        assert dense.measures[name].value == pytest.approx(theirs[their_name], abs=1e-4), name


def test_dense_figures_are_those_of_sentence_transformers(docs_set: RetrievalSet, evaluated: Evaluation) -> None:
    check_beside_sentence_transformers(docs_set, system(evaluated, "dense 384"))


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA does not name a folder of open data")
def test_dense_figures_on_a_larger_set_are_those_of_sentence_transformers(
    mini_fp32: EmbeddingModel, tmp_path: Path
) -> None:
    data = read_folder(Path(os.environ["MGTE_DATA"]) / "retrieval" / "xquad-en").sample_queries(100)
    judged = {key for grades in data.grades.values() for key in grades}
    data = data.keep_documents({*judged, *data.document_ids[:60]}, "xquad-en, a part")
    assert len(data.documents) > 100  # more than any measure looks at
    found = evaluate(mini_fp32, [data], options=Options(systems=("dense",), cache=tmp_path))
    check_beside_sentence_transformers(data, system(found, "dense 384"))


def test_bm25_is_bm25s_used_by_hand(docs_set: RetrievalSet, evaluated: Evaluation) -> None:
    index = bm25s.BM25()
    options = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    index.index(bm25s.tokenize(list(docs_set.documents), **options), show_progress=False)
    places, scores = index.retrieve(bm25s.tokenize(list(docs_set.queries), **options), k=20, show_progress=False)
    ours = Bm25(docs_set.documents, analysis_for("en")).scores(docs_set.queries)
    for row in range(len(places)):
        assert ours[row][places[row]] == pytest.approx(scores[row], abs=1e-5)
        assert np.sort(ours[row])[::-1][:20] == pytest.approx(scores[row], abs=1e-5)
    ranks = [
        list(np.array(docs_set.document_ids)[found]).index(f"d{query[1:]}") + 1
        for query, found in zip(docs_set.query_ids, places, strict=True)
        if f"d{query[1:]}" in np.array(docs_set.document_ids)[found][:10]
    ]
    by_hand = sum(1 / np.log2(rank + 1) for rank in ranks) / len(docs_set.queries)
    assert system(evaluated, "BM25").measures["nDCG@10"].value == pytest.approx(by_hand, abs=1e-4)


def test_sparse_weighted_and_late_interaction_rank_as_the_models_own_similarity(
    docs_set: RetrievalSet,
    evaluated: Evaluation,
    mini_fp32: EmbeddingModel,
    encoded: tuple[Encodings, Encodings],
) -> None:
    asked, found = encoded
    scores = mini_fp32.similarity(asked, found)
    two = mini_fp32.similarity(replace(asked, multi_vector=None), replace(found, multi_vector=None))
    places = {key: place for place, key in enumerate(docs_set.document_ids)}
    relevant = [places[f"d{query[1:]}"] for query in docs_set.query_ids]
    expected = {
        "sparse": scores.sparse,
        "dense + sparse, weighted": two.hybrid,
        "late interaction": scores.multi_vector,
    }
    for name, matrix in expected.items():
        assert matrix is not None
        ranks = [1 + int((row > row[place]).sum()) for row, place in zip(matrix, relevant, strict=True)]
        by_hand = np.mean([1 / rank if rank <= 10 else 0 for rank in ranks])
        assert system(evaluated, name).measures["MRR@10"].value == pytest.approx(by_hand, abs=4e-3), (
            name
        )  # a near tie of one


def test_a_smaller_dimension_is_the_models_own(
    docs_set: RetrievalSet, evaluated: Evaluation, encoded: tuple[Encodings, Encodings]
) -> None:
    names = [each.name for each in evaluated.sets[0].systems if each.kind == "dense"]
    assert names == ["dense 64", "dense 128", "dense 384"]
    asked, found = (each.dense for each in encoded)
    assert asked is not None
    assert found is not None
    cut = [part[:, :64] / np.linalg.norm(part[:, :64], axis=1, keepdims=True) for part in (asked, found)]
    places = {key: place for place, key in enumerate(docs_set.document_ids)}
    matrix = cut[0] @ cut[1].T
    ranks = [1 + int((row > row[places[f"d{q[1:]}"]]).sum()) for row, q in zip(matrix, docs_set.query_ids, strict=True)]
    by_hand = np.mean([rank <= 5 for rank in ranks])
    assert system(evaluated, "dense 64").measures["Success@5"].value == pytest.approx(by_hand)


def test_late_interaction_rescores_where_every_document_would_take_too_long(
    docs_set: RetrievalSet,
    mini_fp32: EmbeddingModel,
    cache: Path,
    evaluated: Evaluation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "_FIRST_STAGE", 1)
    found = evaluate(mini_fp32, [docs_set], options=Options(systems=("late_interaction",), cache=cache))
    rescored = found.sets[0].systems[0]
    assert rescored.name == "dense 384 -> late interaction"
    assert rescored.detail.startswith("MaxSim with the best 100 of dense 384")
    whole = system(evaluated, "late interaction")
    assert rescored.measures["nDCG@10"].value == pytest.approx(whole.measures["nDCG@10"].value, abs=0.02)


def test_a_reranker_orders_the_best_fifty_and_its_scores_are_kept(
    docs_set: RetrievalSet, mini_fp32: EmbeddingModel, cache: Path, make_tiny_bert: Callable[..., Path]
) -> None:
    folder = make_tiny_bert(max_position_embeddings=80)
    BertForSequenceClassification(BertConfig.from_pretrained(folder, num_labels=1)).save_pretrained(folder)
    few = docs_set.sample_queries(5)
    options = Options(systems=("dense", "reranker"), cache=cache)
    with Reranker.load(folder) as reranker:
        found = evaluate(mini_fp32, [few], reranker=reranker, options=options).sets[0]
        first = reranker.forwards
        again = evaluate(mini_fp32, [few], reranker=reranker, options=options).sets[0]
        timed = reranker.forwards - first
        with pytest.raises(InvalidOptionError, match="but 'reranker' is not among the systems dense"):
            evaluate(mini_fp32, [few], reranker=reranker, options=Options(systems=("dense",), cache=cache))
        reranked = found.systems[-1]
        assert reranked.name == "dense 384 -> reranker"
        assert (reranked.per_query["nDCG@10"] == again.systems[-1].per_query["nDCG@10"]).all()
        assert timed < first  # what is left are the queries whose time is taken
        worst = found.worst[0]
        texts = dict(zip(docs_set.document_ids, docs_set.documents, strict=True))
        shown = worst.returned["dense 384 -> reranker"]
        scores = reranker.score([(worst.text, texts[each.id]) for each in shown])
        assert [each.score for each in shown] == pytest.approx(scores.tolist(), abs=1e-4)
        assert sorted(scores, reverse=True) == pytest.approx(scores.tolist(), abs=1e-4)


def test_a_collection_finds_what_exact_search_finds(evaluated: Evaluation) -> None:
    run = evaluated.sets[0].collection
    assert run is not None
    assert {each.mode for each in run.modes} == {"dense", "sparse", "hybrid", "late_interaction"}
    assert run.split  # one document is longer than the model reads
    assert run.points > 120
    for each in run.modes:
        assert each.exact is not None
        assert each.measures["nDCG@10"].value == pytest.approx(each.exact, abs=0.03)
        assert 0 < each.p50_ms <= each.p95_ms


def test_the_sample_holds_what_is_judged_and_what_bm25_finds(docs_set: RetrievalSet, evaluated: Evaluation) -> None:
    sample = sampled_corpus(docs_set, depth=3)
    scores = Bm25(docs_set.documents, analysis_for("en")).scores(docs_set.queries)
    expected = {key for found in docs_set.grades.values() for key in found}
    for row in scores:
        order = np.argsort(-row, kind="stable")[:3]
        expected |= {docs_set.document_ids[place] for place in order if row[place] > 0}
    assert set(sample.document_ids) == expected
    assert len(expected) < len(docs_set.document_ids)
    result = evaluated.sets[0].sample
    assert result is not None
    assert (result.documents, result.of_documents, result.depth) == (len(expected), 120, 3)
    assert all(result.sampled[name] >= result.full[name] - 1e-9 for name in result.full if name.startswith("dense 3"))
    assert result.tau is not None
    assert 0.5 < result.tau <= 1


def test_late_interaction_is_compared_as_the_same_system_on_the_sample(
    docs_set: RetrievalSet,
    mini_fp32: EmbeddingModel,
    cache: Path,
    encoded: tuple[Encodings, Encodings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where only the sample is small enough for late interaction with every document."""
    queries, documents = (sum(len(rows) for rows in each.multi_vector or ()) for each in encoded)
    monkeypatch.setattr(building, "_FIRST_STAGE", queries * documents - 1)
    options = Options(systems=("late_interaction",), sampled="compare", sample_depth=1, cache=cache)
    found = evaluate(mini_fp32, [docs_set], options=options).sets[0].sample
    assert found is not None
    assert found.documents < found.of_documents
    assert set(found.full) == set(found.sampled) == {"dense 384 -> late interaction"}


def test_the_sample_alone_is_evaluated_where_the_corpus_is_too_large(
    docs_set: RetrievalSet, mini_fp32: EmbeddingModel, cache: Path
) -> None:
    options = Options(systems=("bm25",), sampled="only", sample_depth=3, cache=cache)
    found = evaluate(mini_fp32, [docs_set], options=options).sets[0]
    assert found.name == "stdlib, sampled"
    assert found.documents == len(sampled_corpus(docs_set, depth=3).documents)
    assert found.sample is None


def test_reading_all_of_a_long_document_finds_what_its_beginning_does_not(
    mini_fp32: EmbeddingModel, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    filler = "The committee met on Tuesday and talked about the budget of the town hall. " * 30
    corpus = [{"_id": f"d{i}", "text": filler + fact} for i, fact in enumerate(FACTS)]
    queries = [{"_id": f"q{i}", "text": question} for i, question in enumerate(QUESTIONS)]
    data = read_folder(write_set(corpus, queries, [f"q{i}\td{i}\t1" for i in range(len(FACTS))]))
    tokens = np.full(len(FACTS), 600, dtype=np.int32)
    found = {
        (each.name, each.output): each
        for each in length_variants(data, CachedModel(mini_fp32, tmp_path), tokens, (64,))
    }
    assert set(found) == {(n, o) for n in ("first 64 tokens", "whole, best piece") for o in ("dense", "sparse")}
    whole = found["whole, best piece", "dense"]
    assert whole.overall.value == 1.0
    assert list(whole.by_length) == ["513-1024"]
    assert found["first 64 tokens", "dense"].overall.value < 0.9  # the same beginning everywhere


FACTS = (
    "Penguins cannot fly.",
    "Copper conducts electricity.",
    "Mozart was born in Salzburg.",
    "Tea contains caffeine.",
)
QUESTIONS = (
    "Which birds stay on the ground?",
    "What metal is good for wires?",
    "Where was the composer born?",
    "Which drink keeps me awake?",
)


def test_documents_without_a_shared_term_are_not_found_by_sparse_vectors_at_any_length(
    mini_fp32: EmbeddingModel, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    data = read_folder(write_set(queries=[{"_id": "q", "text": "zebra"}]))
    found = length_variants(data, CachedModel(mini_fp32, tmp_path), np.array([5], dtype=np.int32), (32,))
    assert {(each.name, each.output): each.overall.value for each in found} == {
        ("first 32 tokens", "dense"): 1.0,  # the only document there is
        ("first 32 tokens", "sparse"): 0.0,
        ("whole", "dense"): 1.0,
        ("whole", "sparse"): 0.0,
    }


def test_lengths_below_what_the_model_reads_are_cut_and_those_above_are_refused(
    docs_set: RetrievalSet, evaluated: Evaluation, mini_fp32: EmbeddingModel, cache: Path
) -> None:
    variants = evaluated.sets[0].variants
    assert [each.name for each in variants if each.output == "dense"] == [
        "first 16 tokens", "first 256 tokens", "whole, best piece",
    ]  # fmt: skip
    for name, output in (("dense 384", "dense"), ("sparse", "sparse")):
        read = next(each for each in variants if (each.name, each.output) == ("first 256 tokens", output))
        assert read.overall == system(evaluated, name).measures["nDCG@10"]
    with pytest.raises(InvalidOptionError, match="max_length=9999"):
        evaluate(mini_fp32, [docs_set], options=Options(systems=("dense",), lengths=(9999,), cache=cache))


@pytest.mark.parametrize(
    ("language", "text", "terms", "name"),
    [
        ("en", "The cats are running", ["cat", "run"], "en: Snowball stemmer 'english'"),
        ("de", "die Häuser der Stadt", ["haus", "stadt"], "de: Snowball stemmer 'german'"),
        ("hi", "हिन्दी में", ["हिंद", "में"], "hi: Snowball stemmer 'hindi'"),
        ("zh", "梵語的研究 BM25", ["梵語", "語的", "的研", "研究", "bm25"], "zh: character bigrams"),
        ("zh-Hant", "研", ["研"], "zh: character bigrams"),
        ("ja", "東京タワー", ["東京", "京タ", "タワ", "ワー"], "ja: character bigrams"),
        ("th", "กา 7", ["กา", "7"], "th: character bigrams"),
        ("sw", "Habari za ASUBUHI", ["habari", "za", "asubuhi"], "sw: words in lower case"),
        (None, "das 研究", ["das", "研究"], "mixed languages: words in lower case"),
    ],
)
def test_analysis_fits_the_language_and_says_what_it_does(
    language: str | None, text: str, terms: list[str], name: str
) -> None:
    analysis = analysis_for(language)
    assert analysis.name.startswith(name)
    found = analysis.terms([text])[0]
    assert found == terms if language != "hi" else len(found) == 2  # Snowball's rules for Hindi differ by release


def test_bm25_survives_texts_without_terms() -> None:
    assert Bm25(["", "..."], analysis_for("en")).scores(["cats", ""]).tolist() == [[0, 0], [0, 0]]
    scores = Bm25(["cats sleep", "", "the"], analysis_for("en")).scores(["the cats", "dogs", ""])
    assert scores[0][0] > 0
    assert not scores[1:].any()


def test_languages_are_as_given_or_detected(write_set: Callable[..., Path]) -> None:
    german = [{"_id": str(i), "text": text} for i, text in enumerate(GERMAN)]
    queries = [{"_id": str(i), "text": text} for i, text in enumerate((*GERMAN, *ENGLISH))]
    data = read_folder(write_set(german, queries, [f"{i}\t0\t1" for i in range(len(queries))]))
    assert document_language(data) == "de"
    assert query_languages(data) == ["de"] * len(GERMAN) + ["en"] * len(ENGLISH)
    named = [{**line, "language": "bar"} for line in german]
    assert document_language(read_folder(write_set(named, queries, ["0\t0\t1"], name="named"))) == "bar"
    mixed = [{"_id": str(i), "text": text} for i, text in enumerate((*GERMAN, *ENGLISH))]
    assert document_language(read_folder(write_set(mixed, queries, ["0\t0\t1"], name="mixed"))) is None
    norwegian = [{"_id": str(i), "text": text} for i, text in enumerate(NORWEGIAN)]
    assert document_language(read_folder(write_set(norwegian, queries, ["0\t0\t1"], name="norwegian"))) == "no"


GERMAN = (
    "Die Katze schläft den ganzen Tag auf dem Sofa.",
    "Wo kann ich in dieser Stadt gut essen gehen?",
    "Der Zug nach München fährt heute leider später ab.",
)
NORWEGIAN = (  # both written forms, which are told apart and have one stemmer
    "Regjeringen la fram et nytt forslag til budsjett for neste år, og opposisjonen er ikke fornøyd med det.",
    "Eg veit ikkje kva eg skal gjere i dag, men eg vil gjerne gå på tur i fjellet saman med deg.",
)
ENGLISH = (
    "The cat sleeps on the sofa all day long.",
    "Where can I find something good to eat in this town?",
    "The train to Munich leaves later than planned today.",
)


def test_a_model_with_dense_vectors_alone_is_measured_by_what_it_has(
    docs_set: RetrievalSet, tiny_bert: Path, tmp_path: Path
) -> None:
    with EmbeddingModel.load(tiny_bert) as model:
        found = evaluate(model, [docs_set.sample_queries(5)], options=Options(cache=tmp_path)).sets[0]
        assert [each.name for each in found.systems] == ["BM25", "dense 32", "dense + BM25, rrf"]
        assert found.collection is not None
        assert [each.mode for each in found.collection.modes] == ["dense"]
        assert found.truncated > 0.9  # it reads 32 tokens


def test_a_system_or_size_that_is_not_to_be_had_is_an_error(
    docs_set: RetrievalSet, mini_fp32: EmbeddingModel, cache: Path, tiny_bert: Path
) -> None:
    def run(model: EmbeddingModel, **options: object) -> None:
        evaluate(model, [docs_set], options=Options(cache=cache, **options))  # type: ignore[arg-type]

    with pytest.raises(InvalidOptionError, match="'bm52' is unknown; choose from bm25, dense"):
        run(mini_fp32, systems=("bm52",))
    with pytest.raises(InvalidOptionError, match="'reranker' needs a reranker: name one too"):
        run(mini_fp32, systems=("reranker",))
    with pytest.raises(InvalidOptionError, match="name at least one of"):
        run(mini_fp32, systems=("collection",))
    with pytest.raises(InvalidOptionError, match="dims: 385 is no size from 1 to 384"):
        run(mini_fp32, dims=(385,))
    with pytest.raises(InvalidOptionError, match="depth=0"):
        run(mini_fp32, systems=("bm25",), sampled="only", sample_depth=0)
    with (
        EmbeddingModel.load(tiny_bert) as dense_only,
        pytest.raises(InvalidOptionError, match="nothing this model"),
    ):
        run(dense_only, systems=("sparse",))
