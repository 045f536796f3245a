"""The description of the gate's routes: what it says is so, and bodies made from it meet no error of the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.gateway.asgi import ALICE, Here, down

from portcullis_ml.gateway.admin.openapi import described

ALL = '[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations", "mapping"]\n'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def made(schema: dict[str, Any], wrong: st.SearchStrategy[bool]) -> st.SearchStrategy[Any]:
    """Values of a schema; where `wrong` says so, any JSON instead."""
    return wrong.flatmap(lambda yes: JSON if yes else fitting(schema, wrong))


def fitting(schema: dict[str, Any], wrong: st.SearchStrategy[bool]) -> st.SearchStrategy[Any]:
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return st.one_of([made(s, wrong) for s in schema[key]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return st.one_of([of_type(k, schema, wrong) for k in kinds])


def of_type(kind: str | None, schema: dict[str, Any], wrong: st.SearchStrategy[bool]) -> st.SearchStrategy[Any]:
    if kind == "object":
        parts = {k: made(s, wrong) for k, s in schema.get("properties", {}).items()}
        must = {k: parts.pop(k) for k in schema.get("required", ())}
        return st.fixed_dictionaries(must, optional=parts)
    if kind == "array" and "prefixItems" in schema:
        return st.tuples(*(made(s, wrong) for s in schema["prefixItems"])).map(list)
    if kind == "array":
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", least + 3), least + 3)
        return st.lists(made(schema.get("items", {"type": "number"}), wrong), min_size=least, max_size=most)
    plain = {"null": st.none(), "boolean": st.booleans(), "number": st.floats(-4, 4), "string": st.text(max_size=9)}
    if kind == "integer":
        return st.integers(schema.get("minimum", -5), 9)
    return plain[kind] if kind else JSON


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is what a schema of this description says: the few words of JSON Schema that it uses."""
    for key, enough in (("anyOf", any), ("oneOf", lambda found: sum(found) == 1)):
        if key in schema and not enough([fits(value, s) for s in schema[key]]):
            return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    kind = "null" if value is None else names[type(value)]
    kinds = schema.get("type", kind)
    if not {kind, "number" if kind == "integer" else kind} & set([kinds] if isinstance(kinds, str) else kinds):
        return False
    if kind == "object":
        parts = schema.get("properties", {})
        known = schema.get("additionalProperties", True) or not value.keys() - parts.keys()
        return (
            known
            and set(schema.get("required", ())) <= value.keys()
            and all(fits(v, parts.get(k, {})) for k, v in value.items())
        )
    if kind == "array":
        long = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return long and all(fits(v, schema.get("items", {})) for v in value[len(schema.get("prefixItems", ())) :])
    return True


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path, '[[guard]]\nunit = "rounding"\ndecimals = 2\n', ALL)


def operations(tree: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, op) for path, methods in tree["paths"].items() for method, op in methods.items()]


async def test_every_route_described_is_there_and_told_as_described(here: Here) -> None:
    tree = described(here.policy)
    assert tree["openapi"] == "3.1.0"
    assert {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}} == tree["components"]["securitySchemes"]
    assert len(operations(tree)) == 13
    for path, method, op in operations(tree):
        body = b"{}" if method == "post" else b""
        status, _, answer = await here.send(method.upper(), path, body, {} if op.get("security") == [] else ALICE)
        assert status == (400 if method == "post" else 200), path
        content = op["responses"][str(status)].get("content")
        if content:
            assert fits(answer, content["application/json"]["schema"]), (path, answer)


async def test_what_is_told_while_nothing_is_served_is_described(here: Here) -> None:
    here.upstream.fails = down()
    found = {}
    for path, method, op in operations(described(here.policy)):
        if method == "get":
            status, _, answer = await here.send("GET", path, b"", {})
            found[path] = status
            assert status == 200 or fits(answer, op["responses"]["503"]["content"]["application/json"]["schema"])
    assert sum(status == 503 for status in found.values()) == 5


def test_every_route_of_the_protocols_is_described(here: Here) -> None:
    """The protocols' own patterns, spelled out: none of their words is missing."""
    words = {op for path, _, _ in operations(described(here.policy)) for op in re.findall(r"[a-z]+", path)}
    assert {"live", "ready", "infer", "predict", "ping", "health", "invocations", "models"} <= words


@pytest.mark.parametrize("bad", [False, True], ids=["fitting", "spoiled"])
def test_bodies_made_from_the_description_meet_no_error_of_the_server(bad: bool, here: Here) -> None:
    asks = [(p, op) for p, m, op in operations(described(here.policy)) if m == "post"]
    taken: dict[str, int] = {}

    @settings(max_examples=150, derandomize=True, deadline=5_000, suppress_health_check=list(HealthCheck))
    @given(data=st.data(), ask=st.sampled_from(asks))
    def tried(data: Any, ask: tuple[str, dict[str, Any]]) -> None:
        import asyncio

        path, op = ask
        schema = op["requestBody"]["content"]["application/json"]["schema"]
        value = data.draw(made(schema, st.integers(0, 30).map(lambda n: n == 0) if bad else st.just(False)))
        status, _, answer = asyncio.run(here.send("POST", path, orjson.dumps(value)))
        assert str(status) in op["responses"]
        assert status < 500
        assert fits(answer, op["responses"][str(status)]["content"]["application/json"]["schema"])
        if status == 200:
            assert fits(value, schema)
            taken[path] = taken.get(path, 0) + 1

    tried()
    assert len(taken) == 4 or (bad and taken)  # every protocol answered some of what fits
