"""Windows of time in which something is counted, by the requests' own times: nothing here reads a clock."""

from __future__ import annotations

__all__ = ["renewed"]


def renewed(since: float, at: float, per: float | None, *, unused: bool) -> tuple[float, bool]:
    """(when the window of this moment began, whether it is a new one). A window begins with what is first counted in it
    and lasts `per` seconds; None means for life. Where a clock was set back, what is used stays used, for `per` from
    then on."""
    since = min(since, at)
    if unused or (per is not None and at - since >= per):
        return at, True
    return since, False
