"""The check digits of personal numbers, against python-stdnum's own."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlib.data.personal_data import IBAN_LENGTHS, KINDS, card_number, iban, luhn, nir, redact

stdnum_iban = pytest.importorskip("stdnum.iban")
stdnum_luhn = pytest.importorskip("stdnum.luhn")
stdnum_nir = pytest.importorskip("stdnum.fr.nir")


def kinds_in(text: str) -> list[str]:
    return re.findall(r"\[([a-z-]+)\]", redact(text, frozenset(KINDS), {}))


@pytest.mark.slow
@given(st.integers(1, 2**64), st.sampled_from(sorted(IBAN_LENGTHS)))
def test_check_digits_agree_with_python_stdnum(number: int, country: str):
    digits = str(number)
    assert luhn(digits) == stdnum_luhn.is_valid(digits)
    account = f"{number:0{IBAN_LENGTHS[country] - 4}d}"[: IBAN_LENGTHS[country] - 4]
    whole = f"{country}{stdnum_iban.calc_check_digits(f'{country}00{account}')}{account}"
    assert iban(whole)
    assert kinds_in(f"IBAN {whole}.") == ["iban"]
    wrong = whole[:-1] + str((int(whole[-1]) + 1) % 10)
    assert iban(wrong) == stdnum_iban.is_valid(wrong, check_country=False) == False  # noqa: E712


@pytest.mark.slow
@given(
    st.sampled_from("12"), st.integers(0, 99), st.integers(1, 12), st.sampled_from(["75", "2A", "2B", "99"]),
    st.integers(1, 999), st.integers(1, 999), st.integers(1, 97),
)  # fmt: skip
def test_the_nir_key_agrees_with_python_stdnum(
    sex: str, year: int, month: int, where: str, town: int, n: int, key: int
):
    front = f"{sex}{year:02}{month:02}{where}{town:03}{n:03}"
    right = front + stdnum_nir.calc_check_digits(front)
    assert nir(right)
    assert kinds_in(stdnum_nir.format(right)) == kinds_in(right) == ["nir"]
    assert nir(f"{front}{key:02}") == stdnum_nir.is_valid(f"{front}{key:02}")


def test_a_random_number_of_a_cards_length_is_one_in_a_few_dozen():
    draw = random.Random(0)
    numbers = [str(draw.randrange(10**15, 10**16)) for _ in range(20_000)]
    assert all(stdnum_luhn.is_valid(number) for number in numbers if card_number(number))
    assert 0.01 < sum(map(card_number, numbers)) / len(numbers) < 0.04  # stated on the page: a seventh begins like one
