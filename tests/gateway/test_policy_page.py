"""docs/gateway/policy.md: every key of the policy has a heading, and what it is unless given stands under it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portcullis_ml.core.types import Feature
from portcullis_ml.detectors.linkage.linkage import Linkage
from portcullis_ml.gateway.policy import entrances, image_table, policy, text_table
from portcullis_ml.gateway.policy.clients import ApiKey, Clients, Named, Token
from portcullis_ml.gateway.policy.groups_table import GROUPS, Groups
from portcullis_ml.gateway.policy.principals import Forwarded, Principals
from portcullis_ml.gateway.policy.settings import (
    Admin,
    Alarms,
    Cors,
    Failure,
    Limits,
    Listen,
    QueryLog,
    State,
    Telemetry,
    UpstreamTable,
)
from portcullis_ml.gateway.protocols.image_spec import ImageSpec
from portcullis_ml.gateway.protocols.mapping_table import DEFAULTS
from portcullis_ml.gateway.protocols.wire import ModelSpec

PAGE = Path(__file__).parents[2] / "docs" / "gateway" / "policy.md"
SETTINGS: dict[str, Any] = {
    "upstream": UpstreamTable, "listen": Listen, "listen.cors": Cors, "limits": Limits, "failure": Failure,
    "state": State, "log": QueryLog, "alarms": Alarms, "telemetry": Telemetry, "clients.key": ApiKey,
    "clients.token": Token, "clients.header": Named, "clients.subject": Named, "clients.forwarded": Forwarded,
    "model.features": Feature, "model.image": ImageSpec,
}  # fmt: skip
KEYS: dict[str, tuple[str, ...]] = {
    "": policy.TOP, "model": policy.MODEL, "answers": policy.ANSWERS,
    "clients": entrances.CLIENTS, "admin": entrances.ADMIN,
    "model.mapping": tuple(DEFAULTS), "model.text": ("rows", *text_table.KEYS), "guard": ("unit",),
    "groups": GROUPS,
    "upstream.image": image_table.UPSTREAM,
    "admin.operator": ("name", "sha256"),
    **{table: tuple(f.name for f in dataclasses.fields(kind) if f.init) for table, kind in SETTINGS.items()},
    "model.features": (*(f.name for f in dataclasses.fields(Feature)), "datatype"),
    "model.inputs": ("name", "shape", "datatype"),
}  # fmt: skip


def sections() -> Iterator[tuple[tuple[str, str], str]]:
    """((table, key), the text under its heading), as often as a heading names it."""
    _, *parts = re.split(r"^#+ (.*)\n", PAGE.read_text(), flags=re.M)
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        tables = re.findall(r"`\[([\w.]+)\]`", heading) or [""]
        for key in re.findall(r"`(\w+)`", heading):
            yield from (((table, key), text) for table in tables)


def test_every_key_has_one_heading_and_every_heading_a_key() -> None:
    headed = [place for place, _ in sections()]
    assert sorted(headed) == sorted({(table, key) for table, keys in KEYS.items() for key in keys})


def test_every_table_is_there() -> None:
    assert {table.partition(".")[0] for table in KEYS} == {"", *policy.TABLES}


def defaults() -> dict[tuple[str, str], Any]:
    """What is said in the file's own words; lists and None are said in others."""
    found: dict[tuple[str, str], Any] = {("model.mapping", key): value for key, value in DEFAULTS.items()}
    kinds = [*SETTINGS.items(), ("admin", Admin), ("clients", Clients), ("clients", Principals), ("model", ModelSpec),
             ("groups", Groups), ("groups", Linkage)]  # fmt: skip
    for table, kind in kinds:
        for f in dataclasses.fields(kind):
            if f.name in KEYS[table] and isinstance(f.default, str | bool | int | float):
                found[table, f.name] = f.default
    del found["model", "version"]  # said in a sentence
    return found


@pytest.mark.parametrize("place", defaults(), ids=".".join)
def test_what_a_key_is_unless_given_stands_under_its_heading(place: tuple[str, str]) -> None:
    assert f"`{json.dumps(defaults()[place])}`" in dict(sections())[place]
