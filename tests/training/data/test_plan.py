"""The plan of a training run: every batch known in advance, nothing lost that is not counted."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from mgte_rag import DataError, InvalidOptionError
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.types import Role
from mgte_training.data import (
    MGTE_BUCKETS,
    Bucket,
    Example,
    Source,
    SourceData,
    TrainingBatch,
    TrainingPlan,
    checkpoint_lengths,
    make_plan,
    scale_buckets,
)

BUCKETS = (Bucket(4, 8, 4), Bucket(8, 4, 2), Bucket(100, 2, 1))
ONE_BUCKET = (Bucket(100, 8, 4),)


def words(texts: Sequence[str], _role: Role, prompt: str | None) -> list[int]:
    return [len(f"{prompt or ''}{text}".split()) for text in texts]


def make_data(name: str, count: int, *, negatives: int = 0, scored: bool = False, **options: Any) -> SourceData:
    """Distinct examples of 2 to 11 words."""
    examples = []
    for i in range(count):
        hard = tuple(f"{name} negative {i} {n}" for n in range(negatives))
        positive = f"{name} {i}" + " word" * (i % 10)
        positive_scores, negative_scores = ((1.0 + i,), tuple(-float(n) for n in range(negatives)))
        scores = (positive_scores, negative_scores) if scored else (None, None)
        examples.append(Example(f"{name}? {i}", (positive,), hard, *scores))
    return SourceData(Source(name, "memory", **options), examples)


def all_batches(plan: TrainingPlan) -> list[TrainingBatch]:
    return [plan.batch(step) for step in range(plan.steps)]


def assert_equal(a: TrainingBatch, b: TrainingBatch) -> None:
    for field in TrainingBatch.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


@pytest.fixture(scope="module")
def mixed() -> list[SourceData]:
    return [make_data("a", 203), make_data("b", 57)]


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(mixed: list[SourceData]) -> None:
    first, again, other = (make_plan(mixed, lengths=words, buckets=BUCKETS, epochs=2, seed=seed) for seed in (5, 5, 6))
    assert first.steps == again.steps
    for one, two in zip(all_batches(first), all_batches(again), strict=True):
        assert_equal(one, two)
    assert [b.queries for b in all_batches(first)] != [b.queries for b in all_batches(other)]


def test_a_step_alone_gives_what_it_gives_after_all_others() -> None:
    hard = make_data("a", 60, negatives=5)
    data = [SourceData(replace(hard.source, negatives=2, random_negatives=2), hard)]
    plan = make_plan(data, lengths=words, buckets=BUCKETS, epochs=2)
    iterated = all_batches(plan)
    fresh = make_plan(data, lengths=words, buckets=BUCKETS, epochs=2)
    for step in (plan.steps - 1, 3, 0):
        assert_equal(fresh.batch(step), iterated[step])


def test_a_plan_written_and_read_back_gives_equal_batches(tmp_path: Path) -> None:
    data = [make_data("a", 60, negatives=3, scored=True), make_data("b", 30, query_prompt="ask: ")]
    plan = make_plan(data, lengths=words, buckets=BUCKETS, epochs=3, seed=9, multiple_of=2)
    plan.write(tmp_path / "plan.npz")
    read = TrainingPlan.read(tmp_path / "plan.npz", data)
    assert (read.steps, read.epochs, read.seed, read.multiple_of) == (plan.steps, 3, 9, 2)
    assert read.passes == plan.passes
    assert read.describe() == plan.describe()
    for one, two in zip(all_batches(plan), all_batches(read), strict=True):
        assert_equal(one, two)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.npz"]


def test_a_plan_is_not_read_for_other_data_or_options(tmp_path: Path) -> None:
    data = make_data("a", 20)
    make_plan([data], lengths=words, buckets=BUCKETS, epochs=1).write(tmp_path / "plan.npz")
    moved = SourceData(replace(data.source, path="elsewhere"), data)
    assert TrainingPlan.read(tmp_path / "plan.npz", [moved]).steps > 0
    for other, said in (
        (make_data("a", 21), "another examples than when the plan was made: 21, then 20"),
        (SourceData(data.source, reversed(list(data))), "another fingerprint"),
        (make_data("a", 20, document_prompt="x"), "another document_prompt"),
        (make_data("b", 20), r"made for the sources \['a'\], not \['b'\]"),
    ):
        with pytest.raises(DataError, match=said):
            TrainingPlan.read(tmp_path / "plan.npz", [other])


def test_a_file_that_is_no_plan_is_an_error(tmp_path: Path) -> None:
    data = make_data("a", 20)
    (tmp_path / "text.npz").write_text("no plan")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    make_plan([data], lengths=words, buckets=BUCKETS, epochs=1).write(tmp_path / "plan.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "plan.npz").read_bytes()[:-200])
    for name in ("text", "other", "torn", "missing"):
        with pytest.raises(DataError, match=rf"{name}\.npz: cannot be read as a training plan"):
            TrainingPlan.read(tmp_path / f"{name}.npz", [data])


@pytest.mark.parametrize("world", [2, 4])
def test_the_slices_of_all_ranks_are_the_batch_of_one_device(world: int) -> None:
    labelled = [Example(f"q{i}", (f"p{i}",), (f"p{i + 1}", f"n{i}"), label=str(i % 3)) for i in range(50)]
    data = [
        SourceData(Source("a", "memory", random_negatives=1), labelled),
        make_data("b", 40, negatives=2, scored=True),
    ]
    plan = make_plan(data, lengths=words, buckets=(Bucket(3, 16, 8), Bucket(99, 8, 2)), epochs=1, multiple_of=4)
    assert {plan.batch(step).source for step in range(plan.steps)} == {"a", "b"}
    for step in range(plan.steps):
        whole = plan.batch(step)
        shares = [plan.batch(step, rank, world) for rank in range(world)]
        assert [query for share in shares for query in share.queries] == whole.queries
        assert [group for share in shares for group in share.groups] == whole.groups
        for field in ("scores", "same"):
            if getattr(whole, field) is None:
                assert all(getattr(share, field) is None for share in shares)
            else:
                joined = np.concatenate([getattr(share, field) for share in shares])
                np.testing.assert_array_equal(joined, getattr(whole, field))


def test_ranks_that_cannot_share_a_batch_equally_are_an_error() -> None:
    plan = make_plan([make_data("a", 20)], lengths=words, buckets=ONE_BUCKET, epochs=1)
    with pytest.raises(InvalidOptionError, match="3 devices cannot share equally; make the plan with multiple_of=3"):
        plan.batch(0, 0, 3)
    with pytest.raises(InvalidOptionError, match="ranks go from 0 to world - 1"):
        plan.batch(0, 2, 2)
    with pytest.raises(IndexError, match=f"step {plan.steps} of a plan with {plan.steps}"):
        plan.batch(plan.steps)


def test_same_marks_what_a_naive_comparison_of_texts_and_labels_marks() -> None:
    chance = np.random.default_rng(0)
    examples = [
        Example(
            f"q{i}",
            tuple(f"p{i}.{n}" for n in range(chance.integers(1, 3))),
            tuple({f"p{chance.integers(40)}.0", f"q{chance.integers(40)}", f"n{i}"} - {f"p{i}.0"}),
            label=None if i % 4 == 0 else str(i % 5),
        )
        for i in range(40)
    ]
    by_query = {example.query: example for example in examples}
    owner = {positive: example for example in examples for positive in example.positives}
    data = SourceData(Source("a", "memory", negatives=2, random_negatives=1), examples)
    plan = make_plan([data], lengths=None, buckets=(Bucket(9, 16, 16),), epochs=2)
    for batch in all_batches(plan):
        own = [by_query[query] for query in batch.queries]
        group = len(batch.groups[0])
        expected = np.zeros((len(own), len(own) * group), dtype=bool)
        for i, mine in enumerate(own):
            for j, documents in enumerate(batch.groups):
                for place, document in enumerate(documents):
                    as_negative = document in own[j].negatives and place > 0
                    label = None if as_negative or document not in owner else owner[document].label
                    alike = mine.label is not None and label == mine.label
                    expected[i, j * group + place] = i != j and (document in (mine.query, *mine.positives) or alike)
        assert batch.same is not None
        np.testing.assert_array_equal(batch.same, expected)


def test_without_anything_alike_there_is_no_mask(mixed: list[SourceData]) -> None:
    plan = make_plan(mixed, lengths=words, buckets=BUCKETS, epochs=1)
    assert all(batch.same is None for batch in all_batches(plan))


@given(
    texts=st.lists(st.tuples(st.integers(0, 12), st.sets(st.integers(0, 20), min_size=1, max_size=3)), min_size=4),
    size=st.integers(2, 9),
    multiple_of=st.integers(1, 2),
    drop_last=st.booleans(),
)
@settings(max_examples=150)
def test_no_text_is_twice_in_a_batch_and_every_example_is_used_once_or_counted_as_dropped(
    texts: list[tuple[int, set[int]]], size: int, multiple_of: int, drop_last: bool
) -> None:
    examples = [Example(str(query), tuple(map(str, sorted(positives)))) for query, positives in texts]
    data = SourceData(Source("a", "memory"), examples)
    buckets = (Bucket(1, 2 * size, size), Bucket(3, size, 1))
    try:
        plan = make_plan([data], lengths=words, buckets=buckets, epochs=1, multiple_of=multiple_of, drop_last=drop_last)
    except DataError:
        own = [{each.query, *each.positives} for each in examples]
        assert drop_last or not all(a.isdisjoint(b) for a, b in combinations(own, 2))
        return
    used: Counter[int] = Counter()
    for step in range(plan.steps):
        numbers = plan.examples(step)[1].tolist()
        used.update(numbers)
        own = [text for number in numbers for text in {examples[number].query, *examples[number].positives}]
        assert len(own) == len(set(own))
        assert len(numbers) % multiple_of == 0
        assert len(numbers) >= 2
    assert set(used.values()) == {1}
    (only,) = plan.passes
    assert only.in_batches == len(used)
    assert only.in_batches + sum(only.dropped.values()) == len(examples)


@pytest.mark.parametrize("drop_last", [False, True])
def test_examples_without_shared_texts_lose_at_most_what_is_stated(drop_last: bool) -> None:
    for count in range(3, 60):
        plan = make_plan([make_data("a", count)], lengths=words, buckets=BUCKETS, epochs=1, drop_last=drop_last)
        assert sum(plan.passes[0].dropped.values()) <= (1 if drop_last else 1 if count % 2 else 0)


def test_a_frequent_positive_is_spread_over_batches_and_what_has_no_room_is_counted() -> None:
    examples = [Example(f"q{i}", ("the same",)) for i in range(10)]
    examples += [Example(f"r{i}", (f"p{i}",)) for i in range(14)]
    plan = make_plan([SourceData(Source("a", "memory"), examples)], lengths=None, buckets=ONE_BUCKET, epochs=1)
    batches = all_batches(plan)
    assert all(sum(group == ["the same"] for group in batch.groups) <= 1 for batch in batches)
    dropped = plan.passes[0].dropped
    assert dropped["its query or positive stands in every batch already"] > 0
    assert sum(len(batch.queries) for batch in batches) + sum(dropped.values()) == 24


def test_a_source_of_one_text_only_ends_at_once_with_an_error() -> None:
    data = SourceData(Source("a", "memory"), [Example("q", (f"p{i}",)) for i in range(5_000)])
    with pytest.raises(DataError, match=r"source 'a' gives no batch: of 5,000 examples .* its query or positive"):
        make_plan([data], lengths=None, buckets=ONE_BUCKET, epochs=1)


def test_batches_have_the_size_of_their_bucket_and_texts_no_longer_than_it(mixed: list[SourceData]) -> None:
    plan = make_plan(mixed, lengths=words, buckets=BUCKETS, alpha=1, epochs=1)
    sizes: Counter[int] = Counter()
    for step, batch in enumerate(all_batches(plan)):
        bucket = BUCKETS[plan.schedule.buckets[step]]
        longest = max(words([*batch.queries, *(text for group in batch.groups for text in group)], "query", None))
        assert longest <= bucket.max_tokens
        assert len(batch.queries) <= bucket.batch
        assert batch.sub_batch == min(bucket.sub_batch, len(batch.queries))
        sizes[bucket.batch] += len(batch.queries) == bucket.batch
    assert min(sizes.values()) > 3


def test_with_alpha_one_an_epoch_is_one_reshuffled_pass_over_every_source(mixed: list[SourceData]) -> None:
    plan = make_plan(mixed, lengths=words, buckets=BUCKETS, alpha=1, epochs=3)
    starts = [0, *plan.schedule.epoch_ends.tolist()]
    orders = []
    for epoch, (start, end) in enumerate(pairwise(starts)):
        assert {plan.epoch(step) for step in range(start, end)} == {epoch}
        batches = [plan.batch(step) for step in range(start, end)]
        used = Counter(query for batch in batches for query in batch.queries)
        dropped = sum(sum(each.dropped.values()) for each in plan.passes if each.number == epoch)
        assert set(used.values()) == {1}
        assert len(used) + dropped == 260
        orders.append([batch.queries for batch in batches])
        order = [batch.source for batch in batches]
        assert order != sorted(order)  # sources are mixed
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(("alpha", "weights"), [(0.0, (1, 1)), (0.5, (1, 1)), (1.0, (1, 1)), (0.5, (3, 1))])
def test_sources_share_as_the_exponent_and_their_weights_say(alpha: float, weights: tuple[float, float]) -> None:
    data = [make_data("a", 1_600, weight=float(weights[0])), make_data("b", 400, weight=float(weights[1]))]
    plan = make_plan(data, lengths=None, buckets=ONE_BUCKET, alpha=alpha, epochs=4)
    uses = Counter({name: 0 for name in "ab"})
    for step in range(plan.steps):
        number, examples = plan.examples(step)
        uses["ab"[number]] += len(examples)
    shares = [weight * count**alpha for weight, count in zip(weights, (1_600, 400), strict=True)]
    assert uses["a"] / uses.total() == pytest.approx(shares[0] / sum(shares), abs=0.005)
    assert uses.total() == pytest.approx(4 * 2_000, rel=0.01)


def test_over_the_passes_of_a_small_source_its_examples_are_used_equally_often() -> None:
    data = [make_data("big", 800), make_data("small", 40)]
    plan = make_plan(data, lengths=None, buckets=ONE_BUCKET, alpha=0.5, epochs=2)
    used = Counter(q for batch in all_batches(plan) if batch.source == "small" for q in batch.queries)
    assert len(used) == 40
    assert max(used.values()) - min(used.values()) <= 1
    assert max(used.values()) > 5


def test_a_number_of_steps_is_kept_exactly(mixed: list[SourceData]) -> None:
    for steps in (1, 17, 300):
        plan = make_plan(mixed, lengths=words, buckets=BUCKETS, steps=steps)
        assert plan.steps == steps
        assert plan.schedule.epoch_ends[-1] == steps
    longer = make_plan(mixed, lengths=words, buckets=BUCKETS, steps=301)
    assert_equal(plan.batch(299), longer.batch(299))


def test_positives_and_negatives_are_drawn_from_the_examples_own_in_every_way() -> None:
    examples = [Example(f"q{i}", (f"p{i}.0", f"p{i}.1"), tuple(f"n{i}.{n}" for n in range(4))) for i in range(8)]
    data = SourceData(Source("a", "memory", negatives=2), examples)
    plan = make_plan([data], lengths=None, buckets=ONE_BUCKET, epochs=60)
    seen = set()
    for batch in all_batches(plan):
        for query, group in zip(batch.queries, batch.groups, strict=True):
            example = examples[int(query[1:])]
            assert group[0] in example.positives
            assert len(set(group)) == 3
            assert set(group[1:]) <= set(example.negatives)
            seen.update(group)
    assert len(seen) == 8 * 6


def test_missing_negatives_and_random_ones_are_other_examples_positives_but_none_of_the_same_label() -> None:
    examples = [Example(f"q{i}", (f"p{i}",), (f"n{i}",) * (i % 2), label=str(i % 3)) for i in range(24)]
    data = SourceData(Source("a", "memory", negatives=1, random_negatives=3), examples)
    for batch in all_batches(make_plan([data], lengths=None, buckets=ONE_BUCKET, epochs=5)):
        for query, (_, *negatives) in zip(batch.queries, batch.groups, strict=True):
            number = int(query[1:])
            assert len(set(negatives)) == 4
            if number % 2:
                assert negatives.pop(0) == f"n{number}"
            assert all(text[0] == "p" and int(text[1:]) % 3 != number % 3 for text in negatives)


def test_random_negatives_that_cannot_be_had_are_an_error() -> None:
    examples = [Example(f"q{i}", (f"p{i}",), label="all") for i in range(8)]
    data = SourceData(Source("a", "memory", random_negatives=1), examples)
    plan = make_plan([data], lengths=None, buckets=ONE_BUCKET, epochs=1)
    with pytest.raises(DataError, match="source 'a': no random negative for the query"):
        plan.batch(0)


def test_scores_stand_beside_their_documents_and_examples_without_enough_are_counted() -> None:
    short = [Example(f"short{i}", (f"s{i}",), (), (1.0,), ()) for i in range(3)]
    data = make_data("a", 20, negatives=4, scored=True)
    data = SourceData(replace(data.source, negatives=2), [*short, *data])
    plan = make_plan([data], lengths=words, buckets=BUCKETS, epochs=1)
    assert plan.passes[0].dropped["fewer negatives than asked for, and random ones have no score"] == 3
    for batch in all_batches(plan):
        assert batch.scores is not None
        assert batch.scores.dtype == np.float32
        for query, (_, *negatives), scores in zip(batch.queries, batch.groups, batch.scores.tolist(), strict=True):
            assert scores == [1.0 + int(query.split()[-1]), *(-float(text.split()[-1]) for text in negatives)]
    unused = SourceData(replace(data.source, use_scores=False), data)
    assert make_plan([unused], lengths=words, buckets=BUCKETS, epochs=1).batch(0).scores is None


def test_at_most_max_examples_are_used_the_same_in_every_epoch() -> None:
    plan = make_plan([make_data("a", 100, max_examples=24)], lengths=None, buckets=ONE_BUCKET, epochs=3)
    used = Counter(query for batch in all_batches(plan) for query in batch.queries)
    assert len(used) == 24
    assert set(used.values()) == {3}
    assert plan.passes[0].dropped["over max_examples"] == 76
    other = make_plan([make_data("a", 100, max_examples=24)], lengths=None, buckets=ONE_BUCKET, epochs=1, seed=1)
    assert {query for batch in all_batches(other) for query in batch.queries} != set(used)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 1.5}, "sampling exponent"),
        ({"epochs": None}, "give one of them"),
        ({"steps": 3}, "give one of them"),
        ({"epochs": 0}, "epochs=0; it is a whole number from 1 up"),
        ({"seed": -1}, "seed=-1; it is a whole number from 0 up"),
        ({"multiple_of": 3}, "multiple_of=3: the batch of Bucket"),
        ({"lengths": None}, "lengths=None with 3 buckets"),
        ({"buckets": ()}, "give at least one, ascending"),
        ({"buckets": (*BUCKETS, BUCKETS[0])}, "give at least one, ascending"),
        ({"data": []}, "give at least one, each with a name of its own"),
    ],
)
def test_an_option_that_makes_no_plan_is_an_error(options: dict[str, Any], said: str) -> None:
    given_options = {"data": [make_data("a", 20)], "lengths": words, "buckets": BUCKETS, "epochs": 1, **options}
    with pytest.raises(InvalidOptionError, match=said):
        make_plan(given_options.pop("data"), **given_options)


def test_negatives_that_are_not_clear_are_an_error() -> None:
    uneven = [Example("q", ("p",), ("n",)), Example("r", ("s",))]
    alone = [Example("q", ("p",)), Example("r", ("s",))]
    scored = [Example(f"q{i}", (f"p{i}",), (f"n{i}",), (1.0,), (0.0,)) for i in range(4)]
    for examples, options, said in (
        (uneven, {}, "its examples have 0 to 1 negatives; say how many are drawn with negatives="),
        (alone, {"in_batch_negatives": False}, "there is nothing to learn"),
        (scored, {"random_negatives": 1}, "have no score of the teacher"),
        (scored, {"negatives": 2}, "no scored example has more than 1"),
    ):
        data = SourceData(Source("a", "memory", **options), examples)  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match=said):
            make_plan([data], lengths=None, buckets=ONE_BUCKET, epochs=1)


def test_buckets_scale_with_the_hardware() -> None:
    assert scale_buckets(MGTE_BUCKETS, 1 / 16)[0] == Bucket(500, 48, 16)
    assert scale_buckets(MGTE_BUCKETS, 1e-6)[-1] == Bucket(8_000, 2, 1)
    budgeted = scale_buckets(MGTE_BUCKETS, group=9, token_budget=100_000)
    assert [bucket.sub_batch for bucket in budgeted] == [20, 10, 5, 3, 1]
    assert [bucket.batch for bucket in budgeted] == [768, 384, 256, 160, 80]
    with pytest.raises(InvalidOptionError, match="must be above zero"):
        scale_buckets(MGTE_BUCKETS, 0)
    with pytest.raises(InvalidOptionError, match="batch=0"):
        Bucket(500, 0, 1)


def test_the_description_names_sources_sizes_and_losses() -> None:
    plan = make_plan([make_data("a", 1_003, max_examples=1_000)], lengths=words, buckets=BUCKETS, epochs=1)
    said = plan.describe()
    assert said.startswith(f"{plan.steps:,} steps, 1,000 queries, 1 epochs, seed 0")
    assert "<=4 8/4, <=8 4/2, <=100 2/1" in said
    assert "a: 3 examples dropped in a pass: over max_examples" in said


def test_lengths_are_what_the_model_reads(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(find_model(None))
    lengths = checkpoint_lengths(checkpoint, max_length=32, query_max_length=8)
    texts = ["cat", "a cat sat", "cat " * 1_000]
    assert list(lengths(texts, "document", None)) == [3, 5, 32]
    assert list(lengths(texts, "query", None)) == [3, 5, 8]
    assert list(lengths(texts, "document", "a b ")) == [5, 7, 32]


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA does not name a folder of open data")
def test_real_sources_are_planned_and_what_is_lost_is_little() -> None:
    folder = Path(os.environ["MGTE_DATA"]) / "pairs"
    names = ("eips", "clinc", "tldr", "selqa-dev")
    sources = [
        Source(name, str(folder / f"{name}.jsonl.gz"), negatives=2 if name == "selqa-dev" else None, max_examples=2_000)
        for name in names
    ]
    data = [SourceData.read(source) for source in sources]
    checkpoint = load_checkpoint(find_model(None))
    buckets = scale_buckets((Bucket(64, 768, 256), Bucket(128, 384, 128), Bucket(256, 256, 64)), 1 / 8)
    plan = make_plan(data, lengths=checkpoint_lengths(checkpoint, max_length=256), buckets=buckets, epochs=1, seed=3)
    for each in plan.passes:
        usable = each.examples - each.dropped["over max_examples"]
        assert each.in_batches > 0.98 * usable, json.dumps(each.dropped)
    batches = all_batches(plan)
    assert any(batch.same is not None for batch in batches if batch.source == "clinc")
    assert all(len(group) == 3 for batch in batches if batch.source == "selqa-dev" for group in batch.groups)
