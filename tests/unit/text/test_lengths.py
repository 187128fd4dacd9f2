"""What a limit on the length costs, against counting by hand."""

from hypothesis import given
from hypothesis import strategies as st

from luthier.text.lengths import costs, suggested

ROWS = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 100)), min_size=1, max_size=40)


@given(rows=ROWS, context=st.integers(64, 8192))
def test_the_costs_are_the_rows_and_tokens_beyond(rows: list[tuple[int, int]], context: int) -> None:
    lengths, trained = [a for a, _ in rows], [b for _, b in rows]
    found = costs(lengths, trained, context)
    for cost in found:
        assert cost.rows == sum(n > cost.limit for n in lengths)
        assert cost.trained == sum(t for n, t in rows if n > cost.limit)
        assert cost.limit <= context
    assert [c.limit for c in found] == sorted({c.limit for c in found})
    assert not found or found[-1].rows == 0 or found[-1].limit == context


def test_the_suggested_limit_loses_hardly_any_row() -> None:
    lengths = [100] * 997 + [5000] * 3
    assert suggested(costs(lengths, [1] * 1000, 8192), 1000) == 128
    assert suggested(costs([300] * 10 + [5000], [1] * 11, 8192), 11) == 8192
    assert suggested([], 0) is None
