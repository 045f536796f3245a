"""Whose limits count: accounts that the policy links are one principal, with one stream, one quota, one set of rates.

[clients]
principal = ["organisation", "payment", "key_prefix", "address"]

An account is who is asking. The first of these links that it has decides which principal it belongs to; an account with
none is its own. Organisation and payment come with the account's key, token or trusted header. All keys of an account,
and all accounts of an organisation or a means of payment, are one principal, and so is whoever shares either with one
of them. That principal keeps the name that its first key gave it, so that a key that is added later renames nobody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.settings import check
from portcullis_ml.gateway.policy.names import HEADER, is_header
from portcullis_ml.gateway.policy.toml_positions import made
from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["LINKS", "RESERVED", "Caller", "Forwarded", "Linked", "Owner", "Principals", "from_proxy", "groups",
           "networks", "principals_of"]  # fmt: skip

LINKS = {"organisation": "org", "payment": "pay", "key_prefix": "key", "address": "net"}
ATTRIBUTES = ("organisation", "payment")
RESERVED = tuple(f"{word}:" for word in (*LINKS.values(), "client"))  # of names that the gate makes


class Caller(NamedTuple):
    """An account, as a request says it, with what it says of who is behind it."""

    account: str
    organisation: str = ""
    payment: str = ""


class Owner(NamedTuple):
    """Whose limits count for an account. `sticks` says that the account stays with the first one that it came to."""

    principal: str
    sticks: bool = False


class Linked(Protocol):
    """A key, as far as links go."""

    @property
    def client(self) -> str: ...
    @property
    def organisation(self) -> str: ...
    @property
    def payment(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Forwarded:
    """A header in which trusted proxies write where a request came from."""

    header: str = "x-forwarded-for"
    trusted: tuple[str, ...] = ("127.0.0.1/32", "::1/128")  # addresses of the proxies

    def __post_init__(self) -> None:
        check(self, "header", HEADER, is_header)
        check(self, "trusted", "a list of networks such as 10.0.0.0/8", lambda v: bool(v) and bool(networks(v)))

    def origin(self, headers: Mapping[str, str], twice: Set[str], peer: str | None) -> str | None:
        """The last address that is none of the proxies'. Raises BadRequest where others send the header."""
        text = headers.get(self.header)
        if text is None:
            return peer
        if not from_proxy(self.trusted, peer):
            raise BadRequest(f"The header {self.header} is taken from the proxy only.", 403)
        if self.header in twice:
            raise BadRequest(f"The header {self.header} may come once.")
        hop = ""
        for word in reversed(text.split(",")):
            try:
                hop = str(ipaddress.ip_address(word.strip()))
            except ValueError:
                raise BadRequest(f"The header {self.header} must hold addresses, separated by commas.") from None
            if not from_proxy(self.trusted, hop):
                break
        return hop


@dataclass(frozen=True, kw_only=True)
class Principals:
    """Which accounts are one."""

    principal: tuple[str, ...] = ()  # the links that count, in this order; none: every account is its own principal
    key_prefix: int | str = "-"  # what of an account's name counts: so many characters, or all before this separator
    address_bits: tuple[int, ...] = (24, 56)  # of an IPv4 and an IPv6 address that make one network
    forwarded: Forwarded | None = None  # None: the address that the connection comes from

    def __post_init__(self) -> None:
        links = self.principal
        some = f"a list of some of {', '.join(LINKS)}, each once"
        check(self, "principal", some, lambda v: all(link in LINKS for link in v) and len(set(v)) == len(v))
        always = [
            link for link in links if link == "address" or (link == "key_prefix" and type(self.key_prefix) is int)
        ]
        last = (
            f"a list with {always[0] if always else ''!r} at its end: every account has one, and none behind it counts"
        )
        check(self, "principal", last, lambda v: not always or v.index(always[0]) == len(v) - 1)
        check(self, "key_prefix", "a number of characters from 1 to 128, or a separator such as -", _is_prefix)
        check(self, "address_bits", "two whole numbers such as [24, 56], up to 32 and 128", _are_bits)
        check(self, "forwarded", 'given with "address" in principal', lambda v: v is None or "address" in links)

    def owner(self, caller: Caller, known: Mapping[str, str], address: str | None) -> Owner:
        """Whose limits count. `known` is what the keys say, see `groups`; `address` is where the request comes from."""
        if not self.principal:
            return Owner(caller.account)
        if (found := known.get(_account(caller.account))) is not None:
            return Owner(found)
        named = not caller.account.startswith("(")
        for link in self.principal:
            name = self._named(link, caller, address)
            if name and (named or link == "address"):
                return Owner(known.get(name, name), sticks=named and link == "address")
        return Owner(own(caller.account))

    def _named(self, link: str, caller: Caller, address: str | None) -> str:
        """What the link makes of the caller, such as "org:acme"; nothing where it has no such link."""
        if link == "address":
            return network_of(address, self.address_bits)
        if link in ATTRIBUTES:
            value = getattr(caller, link)
        elif isinstance(self.key_prefix, int):
            value = caller.account[: self.key_prefix]
        else:
            head, separator, _ = caller.account.partition(self.key_prefix)
            value = head + separator if separator else ""
        return f"{LINKS[link]}:{value}" if value else ""


def principals_of(table: Mapping[str, Any]) -> Principals:
    """From the policy's table [clients]; other keys of it are not looked at."""
    own = {f.name: table[f.name] for f in fields(Principals) if f.name in table}
    if "forwarded" in own:
        way = made(Forwarded, own["forwarded"])
        own["forwarded"] = replace(way, header=way.header.lower())
    return made(Principals, own)


def groups(keys: Iterable[Linked], links: Iterable[str]) -> dict[str, str]:
    """What is linked by keys, accounts and attributes alike -> the principal's name. Keys come in the order in which
    they were made. Raises ParameterError where a key would make one of two principals that there are already."""
    links, found = [link for link in links if link in ATTRIBUTES], dict[str, str]()
    for key in keys:
        given = [f"{LINKS[link]}:{value}" for link in links if (value := getattr(key, link))]
        linked = [_account(key.client), *given]
        names = sorted({found[name] for name in linked if name in found})
        if len(names) > 1:
            raise ParameterError(
                "key", "of one principal", key.client, f"It would make one of {' and '.join(names)}, which are two so "
                "far, each with its own history and quotas. Give its key the organisation and payment of one of them."
            )  # fmt: skip
        if names or given:
            found |= dict.fromkeys(linked, names[0] if names else given[0])
    return found


def own(account: str) -> str:
    """The name of a principal of one account: its own, unless the gate might make the same of a link."""
    return f"client:{account}" if account.startswith(RESERVED) else account


def network_of(address: str | None, bits: tuple[int, ...]) -> str:
    """The network that an address belongs to, as "net:192.0.2.0/24"; nothing where there is no address."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return f"net:{ipaddress.ip_network((found, bits[found.version == 6]), strict=False)}"


def from_proxy(trusted: tuple[str, ...], peer: str | None) -> bool:
    """Whether this address is one of the proxies'."""
    return peer is not None and any(ipaddress.ip_address(peer) in network for network in networks(trusted))


@lru_cache(maxsize=64)
def networks(words: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(ipaddress.ip_network(w) for w in words)


def _account(name: str) -> str:
    """An account in the table of `groups`: no link begins so."""
    return f"={name}"


def _is_prefix(value: Any) -> bool:
    if type(value) is int:
        return bool(1 <= value <= 128)
    return isinstance(value, str) and 1 <= len(value) <= 16 and value.isprintable()


def _are_bits(value: Any) -> bool:
    return len(value) == 2 and all(type(n) is int and 1 <= n <= m for n, m in zip(value, (32, 128), strict=True))
