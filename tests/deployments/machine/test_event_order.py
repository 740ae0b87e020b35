"""After a restart a server has seen no event: what follows one of before must not wait for a quarter of an hour."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.server.events.ordering import CausalOrderingModule, EventArrivedEarly, memory
from prefect.server.events.schemas.events import ReceivedEvent, Resource

from deployments.machine import event_order
from deployments.machine.event_order import PATIENCE, CausalOrdering


def event(age: timedelta, **more: object) -> ReceivedEvent:
    then = datetime.now(UTC) - age
    resource = Resource({"prefect.resource.id": "prefect.flow-run.1"})
    return ReceivedEvent(id=uuid4(), event="x", occurred=then, received=then, resource=resource, **more)


async def early(ordering: memory.CausalOrdering, one: ReceivedEvent) -> bool:
    async def handler(*_: object, **__: object) -> None:
        """Take the events that waited for this one."""

    try:
        async with ordering.preceding_event_confirmed(handler, one):
            return False
    except EventArrivedEarly:
        return True


async def look() -> None:
    ordering, prefects = CausalOrdering(uuid4().hex), memory.CausalOrdering(uuid4().hex)
    leader = event(timedelta(seconds=1))
    follower = event(timedelta(seconds=1), follows=leader.id)
    assert await early(ordering, follower)  # its leader may be a moment away
    assert not await early(ordering, leader)
    assert not await early(ordering, follower)

    lost = event(PATIENCE - timedelta(seconds=1), follows=uuid4())
    newer = event(timedelta(seconds=1), follows=uuid4())
    for one in (newer, lost):
        assert await early(ordering, one)
    ordering._waitlist[lost.id] -= timedelta(seconds=2)
    assert [one.id for one in await ordering.get_lost_followers()] == [lost.id]
    assert await ordering.get_lost_followers() == []

    old = event(PATIENCE + timedelta(seconds=1), follows=uuid4())
    assert await early(prefects, old)  # what this is for: Prefect's own waits on
    assert not await early(ordering, old)


@pytest.mark.prefect
def test_an_event_whose_leader_never_comes_waits_for_half_a_minute():
    assert isinstance(event_order, CausalOrderingModule)  # what Prefect asks of the module
    asyncio.run(look())
