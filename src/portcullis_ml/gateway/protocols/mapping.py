"""A home-made JSON server, described by where its rows and scores stand.

For FastAPI, BentoML, LitServe, Ray Serve and everything else that posts JSON and answers JSON. The request may
hold nothing but the rows at their place and the extra keys that the policy names.

    [model.mapping]
    path = "/predict"
    rows = "$.features"                    # "$" is the whole body
    batch = false                          # one row a request, without a list around it
    scores = "$.result.probabilities"      # "$.results[*].probabilities" where each row has an object of its own
    labels = "$.result.class"              # "" where the answer names no class
    extras = ["$.lang"]                    # passed on, and not seen by the guard
"""

from __future__ import annotations

from typing import ClassVar

import orjson

from portcullis_ml.core.types import Answer, Floats, Interface, Reveals
from portcullis_ml.gateway.protocols.described import Described
from portcullis_ml.gateway.protocols.mapped_answer import described_answer, read_answer, written_answer
from portcullis_ml.gateway.protocols.mapped_question import described_question, read_question, written_question
from portcullis_ml.gateway.protocols.mapping_table import table_of
from portcullis_ml.gateway.protocols.strict import BadRequest, json_typed
from portcullis_ml.gateway.protocols.wire import NOTHING, Ask, Carried, Headers, Inquiry, ModelSpec, Reply, Wire, parsed

__all__ = ["JsonPath"]


class JsonPath(Wire):
    """Any server that takes JSON with rows in it and answers JSON with scores or classes in it."""

    name: ClassVar[str] = "mapping"
    explains: ClassVar[bool] = True
    carries: ClassVar[frozenset[str]] = frozenset(("extras", "texts"))

    def route(self, method: str, path: str, served: ModelSpec) -> str | None:
        return "infer" if method == "POST" and path == table_of(served).path else None

    def routes(self, served: ModelSpec) -> tuple[Described, ...]:
        table = table_of(served)
        answer, body = described_answer(table, served), described_question(table, served)
        return (Described("post", table.path, "Ask the model", answer, body),)

    def most_rows(self, served: ModelSpec) -> int:
        return served.max_rows if table_of(served).batch else 1

    def given(self, served: ModelSpec) -> Interface:
        table, classes = table_of(served), served.interface.n_classes
        told = {"top": 1 if classes > 2 else classes, "pairs": table.best or classes}.get(table.scores_as, classes)
        if told < classes and served.scores is not None:
            return served.interface.revealing(reveals=Reveals.TOP_K, k=told)
        return served.interface

    def read(self, served: ModelSpec, headers: Headers, body: bytes) -> Inquiry:
        json_typed(headers)
        x, carried = read_question(served, table_of(served), body)
        return Inquiry(served.inspected(x), carried=carried)

    def write(self, served: ModelSpec, inquiry: Inquiry, answer: Answer) -> Reply:
        tree = written_answer(table_of(served), served, answer)
        return Reply(orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY))

    def tell(self, served: ModelSpec, what: str) -> Reply:
        raise BadRequest("There is nothing here.", 404)

    def ask(self, served: ModelSpec, x: Floats, carried: Carried = NOTHING) -> Ask:
        table = table_of(served)
        return Ask(table.path, written_question(table, served, x, carried), {"content-type": "application/json"})

    def understand(self, served: ModelSpec, n: int, headers: Headers, body: bytes) -> Answer:
        return read_answer(table_of(served), served, n, parsed(body))
