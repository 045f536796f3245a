"""Pages in a browser: what they are told they may ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.gateway.asgi import ALICE, URL, Here

from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.policy import PolicyError

X = [[0.1, 0.2, 0.3, 0.4]]
PAGE = "https://app.example"
CORS = f'[listen]\nport = 0\n[listen.cors]\norigins = ["{PAGE}"]\nmax_age_s = 60\n'
PREFLIGHT = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}


def told(headers: dict[str, str]) -> dict[str, str]:
    return {
        k.removeprefix("access-control-"): v for k, v in headers.items() if k.startswith(("access-control-", "vary"))
    }


async def test_a_page_that_may_ask_is_told_so_beforehand_and_with_the_answer(tmp_path: Path) -> None:
    here = Here(tmp_path, more=CORS)
    status, headers, _ = await here.send("OPTIONS", URL, headers=PREFLIGHT)
    assert status == 204
    assert told(headers) == {
        "vary": "origin",
        "allow-origin": PAGE,
        "allow-methods": "POST, OPTIONS",
        "allow-headers": "content-type, authorization, x-api-key",
        "max-age": "60",
    }
    status, headers, _ = await here.infer(X, {**ALICE, "origin": PAGE})
    assert status == 200
    assert told(headers) == {
        "vary": "origin",
        "allow-origin": PAGE,
        "expose-headers": "x-request-id, retry-after, x-ratelimit-remaining",
    }
    status, headers, _ = await here.infer(X, {"origin": PAGE})  # a page can read why it was refused
    assert (status, told(headers)["allow-origin"]) == (401, PAGE)


@pytest.mark.parametrize(
    "origin", ["https://elsewhere.example", "http://app.example", f"{PAGE}.elsewhere.example", "null"]
)
async def test_any_other_page_is_not_told_so(origin: str, tmp_path: Path) -> None:
    here = Here(tmp_path, more=CORS)
    assert told((await here.send("OPTIONS", URL, headers={**PREFLIGHT, "origin": origin}))[1]) == {"vary": "origin"}
    assert told((await here.infer(X, {**ALICE, "origin": origin}))[1]) == {"vary": "origin"}
    assert told((await here.infer(X))[1]) == {"vary": "origin"}


async def test_without_the_table_nobody_is_told_anything_and_with_a_star_everybody(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = Here(tmp_path / "a")
    assert told((await here.infer(X, {**ALICE, "origin": PAGE}))[1]) == {}
    here = Here(tmp_path / "b", more=CORS.replace(PAGE, "*"))
    headers = (await here.infer(X, {**ALICE, "origin": "https://any.example"}))[1]
    assert told(headers)["allow-origin"] == "*"
    assert "vary" not in headers


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("cors = 3", "must be a table"),
        ('[listen.cors]\norigin = ["*"]', "origins"),
        ('[listen.cors]\norigins = ["app.example"]', "https://app.example"),
        ('[listen.cors]\norigins = ["https://app.example/"]', "https://app.example"),
        ('[listen.cors]\norigins = "*"', "list of text"),
        ('[listen.cors]\norigins = ["*"]\nheaders = ["a b"]', "names of headers"),
        ('[listen.cors]\norigins = ["*"]\nmax_age_s = -1', "seconds"),
        ("[listen.cors]\nmax_age_s = 1", "origins"),
    ],
)
def test_a_mistake_in_the_table_is_refused_with_its_line(table: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=word) as found:
        Here(tmp_path, more=f"[listen]\nport = 0\n{table}\n")
    assert "line" in found.value.args[0]


def test_check_names_the_pages(tmp_path: Path) -> None:
    policy = Here(tmp_path, more=CORS).policy
    assert f"Pages of {PAGE} may ask from within a browser." in list(explained(policy))
