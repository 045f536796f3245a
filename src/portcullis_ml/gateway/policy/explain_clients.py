"""Who a policy's clients are, and which of them are one principal, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.principals import Principals

__all__ = ["about_clients"]


def about_clients(policy: Policy) -> Iterator[str]:
    clients = policy.clients
    for way in clients.named:
        yield f"The header {way.header} names the client when it comes from {', '.join(way.trusted)}, else 403."
    if clients.token:
        yield f"A signed token in {clients.token.header} names the client by its claim {clients.token.claim!r}."
    if clients.keys:
        names = {k.client for k in clients.keys}
        ending = sum(k.until is not None for k in clients.keys)
        yield f"{len(clients.keys)} API keys in {clients.key_header} name {len(names)} clients; {ending} of them end."
    if clients.keys_file:
        names = {k.client for k in clients.kept}
        yield (
            f"{len(clients.kept)} more in {clients.keys_file} name {len(names)} clients; changes of that file count "
            "within a second."
        )
    links = clients.principals
    if links.principal:
        words = [_link(link, links) for link in links.principal]
        yield (
            f"Clients that share {', or '.join(words)} are one principal: quotas, rates, detectors and blocks are the "
            "principal's."
        )
    shared = clients.anonymous == "shared"
    yield f"Whoever has no name {'shares one account with all such others' if shared else 'is refused with 401'}."


def _link(link: str, links: Principals) -> str:
    """What clients share that the policy links by it."""
    if link == "address":
        way = f" in {links.forwarded.header}" if links.forwarded else ""
        return "the network ({} and {} bits) of the address{} that they first came from".format(
            *links.address_bits, way
        )
    if link == "key_prefix":
        size = links.key_prefix
        return f"the first {size} characters of their names" if type(size) is int else f"their names up to {size!r}"
    return f"the {link}"
