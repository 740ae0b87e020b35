"""The order in which a Prefect server takes events, of which it forgets half when it is started again.

Prefect keeps a run's change of state waiting until the change before it has been seen, and which it has seen it keeps
in memory. A server that was started again has seen none: what happens to a run that began before waits for 15
minutes, and with it every automation, also the one by which crashed runs go on. Here it waits for half a minute.
`PREFECT_SERVER_EVENTS_CAUSAL_ORDERING` names this module.
"""

from datetime import UTC, datetime, timedelta

from prefect.server.events.ordering import memory
from prefect.server.events.schemas.events import ReceivedEvent

PATIENCE = timedelta(seconds=30)
"""How long an event may wait for the one it follows: on one machine that is there in a second, or never."""


class CausalOrdering(memory.CausalOrdering):
    """Prefect's own order in memory, with another patience."""

    async def wait_for_leader(self, event: ReceivedEvent) -> None:
        """Return once the event before this one was seen, or for too long was not; else raise EventArrivedEarly."""
        if datetime.now(UTC) - event.received < PATIENCE:
            await super().wait_for_leader(event)

    async def get_lost_followers(self) -> list[ReceivedEvent]:
        """Return events that have waited for too long, in order, and forget that they wait."""
        late = datetime.now(UTC) - PATIENCE
        async with self._lock:
            lost = [self._events[key] for key, since in self._waitlist.items() if since <= late and key in self._events]
        for event in lost:
            await self.forget_follower(event)
        return sorted(lost, key=lambda event: event.occurred)
