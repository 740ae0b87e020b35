"""Batches of questions: whoever asks gets the answers to what it asked, whatever it shares a batch with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from ftlib.on_ray.batches import Batches

MOST = 4


class Model:
    """Answers a number with its square, once it is let; 13 breaks it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let = threading.Event()
        self.let.set()

    def __call__(self, questions: Sequence[int]) -> list[int]:
        self.let.wait(10)
        self.batches.append(list(questions))
        if 13 in questions:
            raise ZeroDivisionError
        return [one * one for one in questions]


@pytest.fixture
def model() -> Model:
    return Model()


def test_each_gets_its_own_answers_and_no_batch_is_larger_than_it_may_be(model: Model) -> None:
    calls = [[number, number + 100][: 1 + number % 2] for number in range(50) if number not in (12, 13)]

    async def all_of() -> list[list[int]]:
        batches = Batches(model, MOST, 0.001)
        return await asyncio.gather(*map(batches.ask, calls))

    assert asyncio.run(all_of()) == [[one * one for one in call] for call in calls]
    assert max(map(len, model.batches)) <= MOST
    assert sorted(one for batch in model.batches for one in batch) == sorted(one for call in calls for one in call)


def test_those_who_come_while_others_are_answered_share_the_next(model: Model) -> None:
    async def late() -> None:
        batches = Batches(model, MOST, 0.0)
        model.let.clear()
        first = asyncio.ensure_future(batches.ask([1]))
        while not batches._thread._threads:
            await asyncio.sleep(0.001)
        rest = [asyncio.ensure_future(batches.ask([number])) for number in (2, 3, 4)]
        await asyncio.sleep(0.01)
        model.let.set()
        await asyncio.gather(first, *rest)

    asyncio.run(late())
    assert model.batches == [[1], [2, 3, 4]]


def test_a_call_of_more_than_a_batch_is_a_batch_of_its_own(model: Model) -> None:
    async def both() -> list[list[int]]:
        batches = Batches(model, MOST, 0.001)
        return await asyncio.gather(batches.ask([1]), batches.ask([*range(2, 9)]))

    assert asyncio.run(both()) == [[1], [one * one for one in range(2, 9)]]
    assert model.batches == [[1], [*range(2, 9)]]


def test_what_breaks_breaks_its_own_batch_alone(model: Model) -> None:
    async def three() -> list[object]:
        batches = Batches(model, 2, 0.001)
        return await asyncio.gather(*(batches.ask([n]) for n in (13, 1, 2)), return_exceptions=True)

    found = asyncio.run(three())
    assert [type(one) for one in found] == [ZeroDivisionError, ZeroDivisionError, list]


def test_a_caller_that_has_gone_keeps_nobody_from_an_answer(model: Model) -> None:
    async def gone() -> list[int]:
        batches = Batches(model, MOST, 0.01)
        first = asyncio.ensure_future(batches.ask([1]))
        second = asyncio.ensure_future(batches.ask([2]))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == [4]
        return await batches.ask([3])

    assert asyncio.run(gone()) == [9]
