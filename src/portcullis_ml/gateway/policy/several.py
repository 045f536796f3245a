"""Several models behind one gate: what the policy of a further one may say, and what no two of them may share.

The main policy lists further ones, `models = ["credit.toml"]`. Each is a file of its own, with a guard, a state and a
log of its own. Who the clients are and what belongs to the ports is said by the main policy for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.policy.contents import Policy

__all__ = ["files_of", "governed", "own", "together"]

OWN_LIMITS = ("rows", "body_bytes", "in_flight", "per_client")  # the others are those of the ports and of all clients
MAIN = {
    "models": "lists the models",
    "listen": "says where clients come in",
    "clients": "says who they are",
    "alarms": "says where alarms are told",
    "telemetry": "says where metrics and spans are sent",
    "admin": "says where operators look in",
}


def files_of(names: Any) -> list[str]:
    """The files of further models that a main policy lists."""
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ParameterError("models", 'a list of policy files, such as ["credit.toml"]', names)
    return names


def own(tree: dict[str, Any], where: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key, sentence) of everything that the policy of a further model says and must not, or does not say and must."""
    for key, what in MAIN.items():
        if key in tree:
            yield (
                (key,),
                f"The main policy alone {what}, for all models: {key} cannot stand in the policy of a further one.",
            )
    limits = tree.get("limits", {})
    for key in limits if isinstance(limits, dict) else ():
        if key not in OWN_LIMITS:
            yield (
                ("limits", key),
                f"A further model's [limits] may say {', '.join(OWN_LIMITS)}; {key!r} is for all models.",
            )
    if "state" not in tree or (isinstance(tree["state"], dict) and "url" not in tree["state"]):
        url = f"sqlite:///portcullis-state-{Path(where).stem}.db"
        yield ("state",), f'A further model must say where its own state is kept: [state] url = "{url}".'


def governed(policy: Policy, main: Policy) -> Policy:
    """The policy of a further model, with what the main one says for all of them."""
    limits = dataclasses.replace(main.limits, **{name: getattr(policy.limits, name) for name in OWN_LIMITS})
    listen = dataclasses.replace(main.listen, protocols=policy.listen.protocols)
    return dataclasses.replace(
        policy,
        listen=listen,
        limits=limits,
        clients=main.clients,
        alarms=main.alarms,
        telemetry=main.telemetry,
        admin=main.admin,
    )


def together(policies: list[Policy]) -> tuple[Policy, ...]:
    """The policies, each knowing what else is served beside it. Raises InputError where two of them cannot be."""
    for first, second in combinations(policies, 2):
        _apart(first, second)
    spoken = [[(p.served.name, p.served.version, word) for word in p.listen.protocols] for p in policies]
    found = []
    for i, policy in enumerate(policies):
        beside = tuple(entry for j, entries in enumerate(spoken) for entry in entries if j != i)
        found.append(dataclasses.replace(policy, served=dataclasses.replace(policy.served, beside=beside)))
    return tuple(found)


def _apart(first: Policy, second: Policy) -> None:
    """Refuse what two models cannot both have: a name and version, a route, a state, a log."""
    files = f"{first.path} and {second.path}"
    if first.served.id == second.served.id:
        raise InputError(
            f"{files} both serve the model {first.served.id!r}: give each another [model] name or version."
        )
    for path in (*_claimed(first, second), *_claimed(second, first)):
        raise InputError(
            f"{files} both claim the route {path}: give one of them another path, or say in its [model] by which "
            "protocols it is asked."
        )
    if _place(first.state.url) == _place(second.state.url):
        raise InputError(f"{files} both keep their state in {_place(first.state.url)}: give each its own [state] url.")
    if first.log and second.log and Path(first.log.path).resolve() == Path(second.log.path).resolve():
        raise InputError(f"{files} both log in {first.log.path}: give each its own [log] path.")


def _claimed(one: Policy, other: Policy) -> Iterator[str]:
    """Routes by which one model is asked and the other would be too. Of two versions of a model, the first that is
    listed answers where no version is said."""
    for wire in one.wires():
        for route in wire.routes(one.served):
            plain = route.method == "post" and one.served.name == other.served.name and _without_version(route.path)
            if (
                route.method == "post"
                and not plain
                and any(w.route("POST", route.path, other.served) for w in other.wires())
            ):
                yield route.path


def _without_version(path: str) -> bool:
    return path.startswith(("/v1/models/", "/v2/models/")) and "/versions/" not in path


def _place(url: str) -> str:
    """Where a state lies, written in one way and without a password: a file's whole path, or a database of Redis."""
    scheme, _, rest = url.partition("://")
    if scheme in ("redis", "rediss", "unix"):
        return f"{scheme}://{rest.rpartition('@')[2].removesuffix('/0').rstrip('/')}"
    return str(Path(url.removeprefix("sqlite:///")).resolve())
