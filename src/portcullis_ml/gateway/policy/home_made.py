"""What a policy says of a home-made JSON server must suit its model, and the sides of the gate each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.core.types import Interface, Reveals
from portcullis_ml.gateway.policy.settings import Listen, UpstreamTable
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.mapping_table import suits, table_of
from portcullis_ml.gateway.protocols.wire import ModelSpec

__all__ = ["HOME_MADE", "in_sentences", "limited", "mistakes", "no_more_than"]

Where = tuple[str, ...]
HOME_MADE = frozenset(("mapping", "pictures"))  # protocols whose answers stand where [model.mapping] says


def mistakes(
    served: ModelSpec, asked: ModelSpec, upstream: UpstreamTable | None, listen: Listen
) -> Iterator[tuple[Where, str]]:
    """Each key that cannot work, and why in one sentence."""
    own = ("upstream", "mapping") if upstream and upstream.mapping is not None else ("model", "mapping")
    there = upstream is not None and upstream.protocol in HOME_MADE
    if HOME_MADE & set(listen.protocols):
        yield from _unsuitable(served, ("model", "mapping"))
    if "pictures" in listen.protocols and table_of(served).extras and "mapping" not in listen.protocols:
        yield ("model", "mapping", "extras"), "extras cannot be passed on: a question of pictures holds nothing else."
    if "mapping" in listen.protocols:
        table = table_of(served)
        for name in listen.protocols:
            if name != "mapping" and PROTOCOLS.load(name)().route("POST", table.path, served):
                yield ("model", "mapping", "path"), f"The path {table.path!r} belongs to the protocol {name}."
        if table.extras and upstream is not None and "extras" not in PROTOCOLS.load(upstream.protocol).carries:
            yield (
                ("model", "mapping", "extras"),
                f"extras cannot be passed on: the protocol {upstream.protocol} of the model server has no place for "
                "keys beside the rows.",
            )
    if there:
        yield from _unsuitable(asked, own)


def _unsuitable(spec: ModelSpec, where: Where) -> Iterator[tuple[Where, str]]:
    try:
        suits(table_of(spec), spec.interface)
        if spec.text is not None and not (table_of(spec).batch or table_of(spec).rows.keys):
            raise ParameterError("rows", 'a key such as "$.text", where a question holds one text', "$")
    except ParameterError as error:
        yield (*where, error.parameter), str(error)


def limited(served: ModelSpec, asked: ModelSpec, upstream: UpstreamTable | None) -> ModelSpec:
    """The model for clients, who may ask no more rows at once than the model server takes."""
    if upstream is None:
        return served
    most = PROTOCOLS.load(upstream.protocol)().most_rows(asked)
    return dataclasses.replace(served, max_rows=min(served.max_rows, most))


def no_more_than(shown: Interface, known: Interface) -> Interface:
    """What everybody is shown, which is never more than what the model server answers."""
    if known.reveals is not Reveals.TOP_K or shown.reveals is Reveals.LABELS:
        return shown
    k = min(shown.k, known.k) if shown.reveals is Reveals.TOP_K else known.k
    changes: dict[str, Any] = {"reveals": Reveals.TOP_K, "k": k}
    return shown.revealing(**changes)


SCORES = {
    "list": "its scores as a list",
    "object": "its scores by the classes' names",
    "number": "its score as one number",
    "top": "the score of its class alone",
    "pairs": "its classes and their scores in pairs",
}


def in_sentences(served: ModelSpec, asked: ModelSpec, listen: Listen, upstream: UpstreamTable | None) -> Iterator[str]:
    """What is asked and answered where it is JSON of one's own."""
    there = upstream is not None and upstream.protocol == "mapping"
    if "mapping" in listen.protocols:
        yield f"Clients post {_in_words(served, 'get')}."
    if there and ("mapping" not in listen.protocols or table_of(asked) != table_of(served)):
        yield f"The model server is asked at {_in_words(asked, 'answers')}."
    k = asked.interface.k
    told = f"the {k} best scores alone" if k > 1 else "the score of the named class alone"
    if there and asked.interface.reveals is Reveals.TOP_K:
        yield (
            f"The model server tells {told}; the guard reads what is missing to 1 as spread evenly over the other "
            "classes, and nobody is shown that."
        )


def _in_words(spec: ModelSpec, verb: str) -> str:
    table = table_of(spec)
    what = {"list": "numbers", "object": "columns by name"}[table.rows_as]
    rows = f"a list of rows of {what}" if table.batch else f"one row of {what}"
    if spec.text is not None:
        rows = "a list of texts" if table.batch else "one text"
    answered = [f"{SCORES[table.scores_as]} at {table.scores}"] if table.scores and spec.scores else []
    answered += [f"its class at {table.labels}"] if table.labels and spec.interface.n_classes else []
    return f"{table.path} with {rows} at {table.rows} and {verb} for each {' and '.join(answered)}"
