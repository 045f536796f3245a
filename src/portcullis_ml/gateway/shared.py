"""What the gates of one process have in common, however many models they stand before."""

from __future__ import annotations

import asyncio

from portcullis_ml.gateway.health import Health
from portcullis_ml.gateway.http.bodies import Bodies
from portcullis_ml.gateway.rates import Rates
from portcullis_ml.gateway.reading import Reading

__all__ = ["Shared"]


class Shared:
    """The bytes of bodies that are being read, the thread beside the event loop, how fast clients send, and the health
    of each gate."""

    def __init__(self) -> None:
        self.bodies = Bodies()
        self.reading = Reading(self.bodies)
        self.rates = Rates()
        self.healths: list[Health] = []

    async def ready(self) -> bool:
        """Whether a request for any of the models would be served just now."""
        found = await asyncio.gather(*(health.look() for health in self.healths))
        return all(tree["ready"] for tree in found)
