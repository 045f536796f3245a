"""What a policy allows and is yet worth a second look: the notes of `portcullis check`."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from portcullis_ml.core.settings import describe
from portcullis_ml.gateway.policy.clients import Clients, loopback
from portcullis_ml.gateway.policy.home_made import HOME_MADE
from portcullis_ml.gateway.policy.policy import Policy

__all__ = ["warnings"]


def warnings(policy: Policy, *, further: bool = False) -> Iterator[str]:
    """What is allowed and yet worth a second look; of a further model, what is not said of the main policy already."""
    if not further:
        yield from _warnings_of_all(policy)
    spoken = (*policy.listen.protocols, policy.upstream.protocol if policy.upstream else "")
    if set(policy.served.options) - {"image"} and not HOME_MADE & set(spoken):
        yield "Nobody speaks the protocol mapping: [model.mapping] is not used."
    if "image" in policy.served.options and "pictures" not in spoken:
        yield "Nobody speaks the protocol pictures: [model.image] is not used."
    if policy.upstream and policy.upstream.mapping is not None and policy.upstream.protocol not in HOME_MADE:
        yield "The model server is not asked in the protocol mapping: [upstream.mapping] is not used."
    if extras := policy.served.options.get("extras") if "mapping" in policy.listen.protocols else None:
        yield (
            f"{', '.join(extras)} are passed on, and the guard does not see them. Where one changes what the model "
            "computes, a client can ask several models for the price of one, and repeat a question in other words."
        )
    for path in _readable(policy):
        yield f"Everyone on this machine may read {path}, which holds a secret: chmod 600."
    if policy.failure.state == "open":
        yield "While the state cannot be written, every process decides for itself."
    test = policy.groups.linkage
    if test is not None and test.near is None and test.flat is None:
        yield (
            "[groups] has neither near nor flat: questions are compared for equality only. `portcullis replay LOG "
            "--policy FILE --groups --honest CLIENT ...` measures them."
        )
    for stage in policy.stages:
        if not _watches(describe(stage)):
            continue
        return
    yield "No stage watches for extraction: a thief is not noticed, whatever the stages do to the answers."


def _warnings_of_all(policy: Policy) -> Iterator[str]:
    """Of what a main policy says for all of its models."""
    if policy.clients.anonymous == "shared":
        yield "Everyone without a name is one client: one thief among them gets all of them stopped."
    if policy.clients.anonymous == "refuse" and not (
        policy.clients.keys or policy.clients.keys_file or policy.clients.token or policy.clients.named
    ):
        yield "Nobody is named in [clients]: every request gets 401."
    yield from _unlinked(policy.clients)
    admin = policy.admin
    if not (loopback(admin.host) or admin.cert_file or admin.https):
        yield f"The operators' port listens on {admin.host}; put it behind TLS (https = true says so) or on 127.0.0.1."
    if not policy.admin.tokens:
        yield "No operator is named; each start prints a token of its own."
    for one, other in combinations((policy, *policy.models), 2):
        if one.key == other.key:
            yield f"{one.path} and {other.path} have one secret: what the guard of each draws at random is alike."
        if one.served.name == other.served.name:
            yield (
                f"{one.path} and {other.path} are versions of {one.served.name!r} with a guard each: a thief who asks "
                "both has two quotas and two histories for nearly the same model."
            )


def _readable(policy: Policy) -> Iterator[Path]:
    """Files with secrets that more than their owner's group may read."""
    up, alarms, token = policy.upstream, policy.alarms, policy.clients.token
    shared = token.key_file if token and any(a.startswith("HS") for a in token.algorithms) else None
    for name in (policy.key_path, up and up.token_file, up and up.key_file, alarms and alarms.secret_file, shared):
        if name and (path := Path(name)).is_file() and path.stat().st_mode & stat.S_IROTH:
            yield path


def _unlinked(clients: Clients) -> Iterator[str]:
    """What clients say of themselves and the policy does not link by, and links that nobody has."""
    keys = (*clients.keys, *clients.kept)
    for link in ("organisation", "payment"):
        told = any(getattr(k, link) for k in keys) or any(
            getattr(way, link) for way in (*clients.named, *([clients.token] if clients.token else []))
        )
        if told and link not in clients.principals.principal:
            article = "an" if link == "organisation" else "a"
            yield f"Clients have {article} {link}, and principal does not name it: each still has limits of its own."
        if link in clients.principals.principal and not told and not clients.keys_file:
            yield f"principal names {link}, and no key, token or header says one."


def _watches(tree: dict[str, Any]) -> bool:
    return tree["unit"] == "watch" or any(isinstance(v, dict) and _watches(v) for v in tree.values())
