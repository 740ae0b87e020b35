import pytest

from ftlib.counted import counted


@pytest.mark.parametrize(("count", "said"), [(0, "no rows"), (1, "1 row"), (2, "2 rows"), (1200, "1,200 rows")])
def test_the_noun_agrees_with_its_number(count: int, said: str):
    assert counted(count, "row") == said
