import pytest

from ftlib.counted import counted, some


@pytest.mark.parametrize(("count", "said"), [(0, "no rows"), (1, "1 row"), (2, "2 rows"), (1200, "1,200 rows")])
def test_the_noun_agrees_with_its_number(count: int, said: str):
    assert counted(count, "row") == said


@pytest.mark.parametrize(
    ("names", "said"),
    [("", ""), ("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more"), ("a" * 1500, "a, a, a and 1,497 more")],
)
def test_a_long_list_names_its_first_and_counts_exactly_those_left_out(names: str, said: str):
    assert some(list(names), 3) == said
