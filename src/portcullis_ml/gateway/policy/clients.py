"""Who is asking: an API key, a claim of a signed token, or a name set by a proxy that is trusted.

Detection works per client, so a name that can be made up is a bypass: keys are looked up by their
SHA-256 (they are random and long, so a slow hash would add nothing), tokens are verified, and a
name in a header counts only when it comes from a trusted address; from anyone else it is refused.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.settings import check
from portcullis_ml.gateway.policy.names import HEADER, is_header
from portcullis_ml.gateway.policy.principals import Caller, Owner, Principals, from_proxy, groups, networks
from portcullis_ml.gateway.protocols.strict import BadRequest

__all__ = ["ANONYMOUS", "ApiKey", "Clients", "Named", "Token", "hashed", "loopback", "new_key"]

ANONYMOUS = "(anonymous)"
LONGEST = 128


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One key of one client; a client may have several, so that a new one can overlap the old."""

    client: str
    sha256: str  # hex digest of the key; make one with `portcullis check --new-key`
    until: float | None = None  # seconds since 1970 after which it is refused; None means never
    organisation: str = ""  # that the client belongs to, where the policy links clients by it
    payment: str = ""  # whom or what it is paid by, such as a customer's number, the same

    def __post_init__(self) -> None:
        expected = "a name of 1 to 128 printable characters that does not begin with ("
        check(self, "client", expected, good_name)
        for name in ("organisation", "payment"):
            check(self, name, expected, lambda v: v == "" or good_name(v))
        check(self, "sha256", "64 hexadecimal digits", lambda v: len(v) == 64 and int(v, 16) >= 0)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A signed token (JWT), whose claim names the client."""

    key_file: str  # public key in PEM form, or a shared secret
    algorithms: tuple[str, ...]  # such as ("RS256",); "none" is refused
    header: str = "authorization"
    claim: str = "sub"
    audience: str | None = None
    issuer: str | None = None
    leeway_s: float = 10.0  # by which the issuer's clock and the gate's may differ
    organisation: str | None = None  # the claim that says it, where the policy links clients by it
    payment: str | None = None  # the same

    def __post_init__(self) -> None:
        check(self, "algorithms", 'a list such as ["RS256"], without "none"', _signed)
        check(
            self, "leeway_s", "a number of seconds from 0 to 600", lambda v: type(v) in (int, float) and 0 <= v <= 600
        )
        check(self, "header", HEADER, is_header)

    def caller(self, text: str) -> Caller:
        try:
            import jwt
        except ModuleNotFoundError as error:
            raise MissingExtra("Token", "PyJWT", "gateway") from error
        # That the claim is a name is checked below; PyJWT would refuse a subject that is a number.
        wanted = {"require": ["exp", self.claim], "verify_aud": self.audience is not None, "verify_sub": False}
        try:
            claims: dict[str, Any] = jwt.decode(
                text, _key(self.key_file), list(self.algorithms), options=wanted,  # type: ignore[arg-type]
                audience=self.audience, issuer=self.issuer, leeway=self.leeway_s,
            )  # fmt: skip
        except jwt.PyJWTError:
            raise BadRequest("The token is not valid.", 401) from None
        told = (_claimed(claims[c]) if c is not None and claims.get(c) is not None else "" for c in self.links)
        return Caller(_claimed(claims[self.claim]), *told)

    @property
    def links(self) -> tuple[str | None, str | None]:
        return self.organisation, self.payment


@dataclass(frozen=True, kw_only=True)
class Named:
    """A header in which a trusted proxy names the client: its account, or the subject of its certificate."""

    header: str
    trusted: tuple[str, ...] = ("127.0.0.1/32", "::1/128")  # addresses of the proxy
    organisation: str | None = None  # the header in which the proxy says it, where the policy links clients by it
    payment: str | None = None  # the same

    def __post_init__(self) -> None:
        check(self, "header", HEADER, is_header)
        for name in ("organisation", "payment"):
            check(self, name, HEADER, lambda v: v is None or is_header(v))
        check(self, "trusted", "a list of networks such as 10.0.0.0/8", lambda v: bool(v) and bool(networks(v)))

    @property
    def headers(self) -> tuple[str, ...]:
        return tuple(name for name in (self.header, self.organisation, self.payment) if name is not None)


@dataclass(frozen=True, kw_only=True)
class Clients:
    """All ways to be known, tried in this order: header, token, key."""

    keys: tuple[ApiKey, ...] = ()
    keys_file: str | None = None  # FILE of more of them, which may change while the gate runs
    kept: tuple[ApiKey, ...] = ()  # those that were in it
    key_header: str = "x-api-key"
    token: Token | None = None
    named: tuple[Named, ...] = ()
    anonymous: str = "refuse"  # or "shared": everyone without a name is one client
    principals: Principals = field(default_factory=Principals)
    _by_digest: dict[str, ApiKey] = field(init=False, repr=False, compare=False)
    _groups: dict[str, str] = field(init=False, repr=False, compare=False)  # what keys link

    def __post_init__(self) -> None:
        check(self, "anonymous", '"refuse" or "shared"', lambda v: v in ("refuse", "shared"))
        check(self, "key_header", HEADER, is_header)
        object.__setattr__(self, "_by_digest", {k.sha256.lower(): k for k in (*self.kept, *self.keys)})
        object.__setattr__(self, "_groups", groups((*self.keys, *self.kept), self.principals.principal))

    def keeping(self, kept: Iterable[ApiKey]) -> Self:
        """The same with these keys of the keys' file. Raises ParameterError where they link what may not be linked."""
        return replace(self, kept=tuple(kept))

    def identify(self, headers: Mapping[str, str], twice: Set[str], peer: str | None, now: float) -> Caller:
        """Who is asking, or BadRequest with 400, 401 or 403. `twice` are headers that came more than once."""
        for way in self.named:
            for header in way.headers:
                if header in headers and not from_proxy(way.trusted, peer):
                    raise BadRequest(f"The header {header} is taken from the proxy only.", 403)
            if way.header in headers:
                return Caller(
                    *(_said(header, headers, twice) for header in (way.header, way.organisation, way.payment))
                )
        if self.token and self.token.header in headers:
            return self.token.caller(_bearer(headers[self.token.header], self.token.header, twice))
        if self.key_header in headers:
            return self._by_key(_bearer(headers[self.key_header], self.key_header, twice), now)
        if self.anonymous == "shared":
            return Caller(ANONYMOUS)
        raise BadRequest("Say who you are: an API key or a token is needed.", 401)

    def owner(self, caller: Caller, headers: Mapping[str, str], twice: Set[str], peer: str | None) -> Owner:
        """Whose limits count for them, or BadRequest where a header tells of another address than it may."""
        way = self.principals.forwarded
        address = peer if way is None else way.origin(headers, twice, peer)
        return self.principals.owner(caller, self._groups, address)

    def principal_of(self, account: str) -> str | None:
        """The principal that an account belongs to by its key or its name; None where they say nothing."""
        owner = self.principals.owner(Caller(account), self._groups, None)
        return owner.principal if owner.principal != account else None

    def _by_key(self, key: str, now: float) -> Caller:
        known = self._by_digest.get(hashed(key))
        if known is None or (known.until is not None and now > known.until):
            raise BadRequest("The API key is not valid.", 401)
        return Caller(known.client, known.organisation, known.payment)


def hashed(key: str) -> str:
    """The digest under which a key is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def loopback(host: str) -> bool:
    """Whether a host's name stands for this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_key() -> tuple[str, str]:
    """A fresh API key and its digest."""
    key = "pk_" + secrets.token_urlsafe(24)
    return key, hashed(key)


def good_name(name: Any) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= LONGEST and name.isprintable() and not name.startswith("(")


def named(name: Any) -> str:
    if not good_name(name):
        raise BadRequest(f"A client's name must be 1 to {LONGEST} printable characters.")
    return str(name)


def _said(header: str | None, headers: Mapping[str, str], twice: Set[str]) -> str:
    """The name in a proxy's header; nothing where that is not there."""
    if header is None or header not in headers:
        return ""
    _once(header, twice)
    try:
        return named(headers[header].encode("latin-1").decode("utf-8"))  # headers are read byte by byte
    except UnicodeError:
        raise BadRequest(f"The header {header} must be UTF-8.") from None


def _claimed(value: Any) -> str:
    return named(str(value) if type(value) is int else value)


def _bearer(value: str, header: str, twice: Set[str]) -> str:
    _once(header, twice)
    return value[7:].strip() if value[:7].lower() == "bearer " else value


def _once(header: str, twice: Set[str]) -> None:
    if header in twice:
        raise BadRequest(f"The header {header} may come once.")


def _signed(algorithms: Any) -> bool:
    return bool(algorithms) and not isinstance(algorithms, str) and "none" not in [a.lower() for a in algorithms]


@lru_cache(maxsize=8)
def _key(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise InputError(f"The token's key file {path!r} cannot be read ({error.strerror}).") from error
