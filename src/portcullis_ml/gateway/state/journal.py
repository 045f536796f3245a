"""What a journal is: every client's events in order, a snapshot under them, and alarms beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from portcullis_ml.core.errors import PortcullisError
from portcullis_ml.core.guard import Alarm
from portcullis_ml.gateway.state.events import JournalEvent, unpack_event

__all__ = ["Bodies", "Down", "Journal", "Saved"]


class Down(PortcullisError):
    """The journal cannot be written or read just now."""


@dataclass(frozen=True)
class Bodies:
    """Events as bytes, unpacked one at a time, so that nobody waits while thousands are."""

    packed: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[JournalEvent]:
        return map(unpack_event, self.packed)


class Saved(NamedTuple):
    """What a journal holds of one client: a snapshot as of `position` with its pages' names, and the events since."""

    snapshot: bytes | None
    position: int
    events: Bodies | list[JournalEvent]
    pages: frozenset[bytes] = frozenset()


class Journal(Protocol):
    """Where events are kept. Raises Down."""

    async def load(self, client: str) -> Saved: ...

    async def tell(self, client: str, position: int, event: JournalEvent, *, durable: bool) -> Saved:
        """Append; returns all events after `position`, this one among them (a snapshot too if it was overtaken).
        An event that is not durable may wait for the next durable one of the same client."""

    def retract(self, client: str) -> bool:
        """Take back the client's last event, not durable and not read by anyone; false if that cannot be known."""

    async def snapshot(
        self, client: str, base: int, position: int, order: Sequence[bytes], fresh: Mapping[bytes, bytes]
    ) -> tuple[int, frozenset[bytes]]:
        """Replace the snapshot as of `base` by one whose pages are `order`; `fresh` are those that the old one has
        not. Events up to `position` may go. Nothing happens if another replica has replaced it meanwhile.
        Returns position and pages of the snapshot that there is now."""

    async def join(self, account: str, principal: str, at: float) -> str:
        """The principal that this account stays with: the first that was ever given here. On return it is safe."""

    async def alarm(self, id: str, alarm: Alarm) -> bool:
        """Keep an alarm; true if it is new. On return it is safe."""

    async def ping(self) -> None:
        """Raise Down unless an event could be written now; it is tried."""
