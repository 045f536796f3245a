"""What a stage of the guard remembers of each client, from the state that a gate has left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.state.stores import open_store
from portcullis_ml.gateway.state.streams import Streams

__all__ = ["remembered"]


def remembered(policy: Policy, unit: str) -> dict[str, Any]:
    """Client -> the state of the policy's first stage of this name; clients of whom it knows nothing are left out.

    A state file has one process that writes it, so a gate on it has to be stopped before. InputError where there is no
    such stage, or no state.
    """
    names = [n for n, s in zip(policy.guard().names, policy.stages, strict=True) if s.name == unit]
    if not names:
        raise InputError(
            f'A policy with a stage unit = "{unit}" was expected; this one has none. Name the gate\'s own.'
        )
    url = policy.state.url
    path = url.removeprefix("sqlite:///")
    if "://" not in path and not Path(path).is_file():
        raise InputError(f"The gate's state was expected at {path}; there is none. Serve under this policy first.")
    return asyncio.run(_read(policy, names[0]))


async def _read(policy: Policy, name: str) -> dict[str, Any]:
    store = open_store(policy.state.url, synchronous=policy.state.synchronous)
    try:
        streams = Streams(policy.guard(), store, capacity=policy.state.clients_in_memory)
        found = {client: (await streams.look(client)).states.get(name) for client in await store.clients()}
        await streams.close()
    finally:
        await store.close()
    return {client: state for client, state in found.items() if state is not None}
