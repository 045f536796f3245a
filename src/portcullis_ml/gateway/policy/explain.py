"""A policy in sentences: what `portcullis check` says."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from portcullis_ml.core.guard import Defense
from portcullis_ml.core.settings import describe
from portcullis_ml.core.types import Interface, Reveals
from portcullis_ml.gateway.policy.explain_clients import about_clients
from portcullis_ml.gateway.policy.home_made import in_sentences
from portcullis_ml.gateway.policy.image_table import about_pictures
from portcullis_ml.gateway.policy.inputs import told_inputs
from portcullis_ml.gateway.policy.policy import Policy
from portcullis_ml.gateway.policy.text_table import about_texts
from portcullis_ml.gateway.policy.unit_words import unit_in_words
from portcullis_ml.gateway.protocols.wire import NOTHING, ModelSpec

__all__ = ["example", "explained", "stages"]

MOST = 600  # characters of an example's body; a longer one is told of
FAILURES = {
    "state": {"closed": "requests get 503", "open": "requests are served, and written down when it is back"},
    "guard": {
        "closed": "the request gets 503",
        "labels": "the class alone is served",
        "open": "the answer is served as it is",
    },
    "log": {"closed": "requests get 503", "open": "requests are served and the lost lines counted"},
}


def _address(url: str) -> str:
    """Without the name and password that may stand in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def explained(policy: Policy, *, further: bool = False) -> Iterator[str]:
    """One sentence after another; of a further model, those that are not said of the main policy already."""
    served, up, limits = policy.served, policy.upstream, policy.limits
    where = (
        f"the model server at {_address(up.url)} in {up.protocol}" if up else "no model server yet (give --upstream)"
    )
    yield (
        f"The model {served.name!r} takes {_taken(served)} and knows "
        f"{served.interface.n_classes or 'no'} classes{_called(served.class_names)}{_wide(served.interface)}; "
        f"the gate asks {where}."
    )
    yield from about_pictures(served, policy.asked, up)
    yield from told_inputs(served, policy.asked)
    if served.text:
        yield about_texts(served.text)
    yield from [f"Clients speak {', '.join(policy.listen.protocols)}."] if further else _listens(policy)
    if policy.enforced:
        yield "Decisions are enforced."
    else:
        yield "Decisions are observed only: they are counted and alarms are told, but every answer goes out as it is."
    if not policy.stages:
        yield "The guard has no stages: everyone gets the model's answer."
    for number, stage in enumerate(policy.stages, 1):
        yield f"Stage {number}: {unit_in_words(describe(stage))}."
        yield from _documented(stage)
    yield from _groups(policy)
    yield from _answers(policy)
    yield from in_sentences(policy.served, policy.asked, policy.listen, up)
    yield (
        f"A request may hold {served.max_rows} rows and {limits.body_bytes} bytes; {limits.in_flight} run at once, "
        f"{limits.per_client} of one client."
    )
    if not further:
        yield (
            f"In a minute a client may send {limits.requests_per_minute:,.0f} requests, answered or not, and "
            f"{limits.bytes_per_minute:,.0f} bytes{', to all models together' if policy.models else ''}."
        )
    for part, words in FAILURES.items():
        name = {"state": "the state cannot be written", "guard": "a stage fails", "log": "the log cannot be written"}
        yield f"When {name[part]}, {words[getattr(policy.failure, part)]}."
    yield f"State is kept in {_without_password(policy.state.url)}."
    if policy.log:
        what = "decisions, rows and answers" if policy.log.queries else "decisions only"
        age = f"deleted after {policy.log.days:g} days" if policy.log.days else "never deleted"
        yield f"The query log in {policy.log.path} holds {what} as {policy.log.format}, {age}."
    if policy.alarms and policy.alarms.webhook and not further:
        yield f"Alarms are told to {policy.alarms.webhook}, signed, until it takes them."
    if policy.alarms and policy.alarms.contact and not further:
        whom = "operators and, in a refusal, clients" if policy.alarms.tell_clients else "operators"
        yield f"Who was stopped by mistake turns to {policy.alarms.contact}: {whom} are told so."
    if policy.telemetry and not further:
        told = policy.telemetry
        yield (
            f"Metrics every {told.every_s:g} s and spans of {100 * told.spans:g}% of the requests, without clients' "
            f"names and rows, go to {_address(told.endpoint)}."
        )
    if not further:
        yield f"Operators look in at {policy.admin.host}:{policy.admin.port} with a token."


def _listens(policy: Policy) -> Iterator[str]:
    """Where clients come in, and who they are."""
    speaks, listen = ", ".join(policy.listen.protocols), policy.listen
    over = f", over TLS with the certificate in {listen.cert_file}" if listen.cert_file else ""
    yield f"Clients speak {speaks} at {listen.host}:{listen.port}{over}; every other route is refused."
    if listen.grpc_port is not None:
        yield (
            f"Clients call the Open Inference Protocol by gRPC at {listen.host}:{listen.grpc_port}{over}; what it has "
            "beside health, metadata and ModelInfer is refused."
        )
    if listen.cors:
        pages = "every origin" if "*" in listen.cors.origins else ", ".join(listen.cors.origins)
        yield f"Pages of {pages} may ask from within a browser."
    yield from about_clients(policy)


def _taken(served: ModelSpec) -> str:
    if served.text is not None:
        return f"texts of at most {served.text.longest:,} characters"
    return f"{_shape(served.interface.input_shape)} numbers ({served.datatype})"


def _documented(stage: Defense[Any]) -> Iterator[str]:
    """What a stage costs and what it does not stop, as the documentation of its unit says; a watch speaks of its
    detector too."""
    for unit in (stage, *stage.detectors()):
        text = sys.modules[type(unit).__module__].__doc__ or ""
        for head in ("Costs the honest client", "Defaults hold for", "Does not stop", "Does not see"):
            if found := re.search(rf"^{head} {{2,}}(.*(?:\n {{3,}}.*)*)", text, re.M):
                yield f"  {unit.name.replace('_', ' ')} {head[0].lower()}{head[1:]}: {' '.join(found[1].split())}"


def stages(policy: Policy) -> str:
    """The stages of the guard in a few words: quota, watch (prada), rounding."""
    trees = [describe(stage) for stage in policy.stages]
    return ", ".join(t["unit"] + (f" ({t['detector']['unit']})" if "detector" in t else "") for t in trees) or "empty"


def example(policy: Policy, url: str) -> str:
    """How to ask this gate for one row, by curl."""
    shape, clients = policy.served.interface.input_shape, policy.clients
    x, carried = (np.zeros((1, *shape)), NOTHING) if policy.served.text is None else policy.served.plain_question
    wire = policy.wires()[0]
    ask, file = wire.ask(replace(policy.served, binary=False), x, carried), wire.curl_file(policy.served)
    said = [] if file else [f"{name}: {value}" for name, value in ask.headers.items()]
    if clients.keys or clients.keys_file:
        said.append(f"{clients.key_header}: KEY")
    elif clients.token:
        said.append(f"{clients.token.header}: Bearer TOKEN")
    said += [f"{way.header}: CLIENT" for way in clients.named[:1] if not clients.keys and not clients.token]
    headers = "".join(f" -H {shlex.quote(words)}" for words in said)
    if file:
        return f"curl {url}{ask.path}{headers} {file}"
    body = ask.body.decode()
    if len(body) > MOST:
        about = f"{body[:60]} ... {' x '.join(map(str, shape))} numbers ..."
        return f"curl {url}{ask.path}{headers} -d @question.json   # {about}"
    return f"curl {url}{ask.path}{headers} -d {shlex.quote(body)}"


def _wide(interface: Interface) -> str:
    """How many numbers a row's answer has, where it has no classes."""
    return f", but answers {interface.outputs} number{'s' * (interface.outputs > 1)}" if not interface.n_classes else ""


def _called(names: tuple[str | int, ...]) -> str:
    """The first names of the classes."""
    return f" ({', '.join(map(str, names[:5]))}{', ...' if len(names) > 5 else ''})" if names else ""


def _groups(policy: Policy) -> Iterator[str]:
    """Whose questions are compared with whose."""
    groups, test = policy.groups, policy.groups.linkage
    if groups.seen == "off":
        return
    signals = [f"questions within {test.near:g} of one another"] if test.near is not None else []
    signals += [f"differences of a flatness up to {test.flat:g}"] if test.flat is not None else []
    signals += ["questions that few ask"] + (["requests in turn"] if test.window else [])
    called = f"answered more than {groups.rows} rows"
    if groups.detector is not None:
        called += f" or called by {unit_in_words(describe(groups.detector))}"
    told = "blocked, and an alarm is told" if groups.seen == "block" and policy.enforced else "told of in an alarm"
    yield (
        f"Every {groups.every_s:g} seconds accounts are linked by {', '.join(signals)}; a group that was {called} is "
        f"{told}. What is remembered for that is lost at a restart, blocks are not."
    )


def _answers(policy: Policy) -> Iterator[str]:
    shown = policy.shown
    words = {Reveals.LABELS: "the class only", Reveals.TOP_K: f"the {shown.k} best scores", Reveals.PROBS: "all scores"}
    rounded = "" if shown.decimals is None else f", rounded to {shown.decimals} decimals"
    yield f"Everybody is shown {words[shown.reveals]}{rounded}{', and the explanation' if shown.explains else ''}."
    if policy.upstream and policy.upstream.protocol == "v2":
        guarded = " and ".join(map(repr, policy.asked.outputs))
        yield f"Guarded and shown of the model's outputs: {guarded}; whatever else it answers is shown to nobody."
    if policy.asked.explanation and not shown.explains:
        yield f"The model's explanations ({policy.asked.explanation!r}) are for the guard alone; nobody is shown them."


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at else url
