from hypothesis import given
from hypothesis import strategies as st

from mgte_rag.batching import plan_batches

lengths_of_texts = st.lists(st.integers(1, 300), max_size=200)


@given(lengths_of_texts, st.integers(1, 1000))
def test_every_text_is_in_exactly_one_batch(lengths: list[int], budget: int) -> None:
    batches = list(plan_batches(lengths, lambda: budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


@given(lengths_of_texts, st.integers(1, 1000))
def test_no_batch_exceeds_the_budget_unless_one_text_does(lengths: list[int], budget: int) -> None:
    for batch in plan_batches(lengths, lambda: budget):
        assert sum(lengths[i] for i in batch) <= budget or len(batch) == 1


def test_the_longest_texts_come_first_and_equal_lengths_keep_their_order() -> None:
    assert list(plan_batches([2, 5, 2, 5], lambda: 10)) == [[1, 3], [0, 2]]


def test_no_texts_make_no_batches() -> None:
    assert list(plan_batches([], lambda: 10)) == []
