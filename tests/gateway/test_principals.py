"""Limits belong to the principal: accounts that the policy links share one stream, one quota and one set of rates."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import Here, question
from tests.gateway.harness import Softmax, asked, fetch, gate, policy_of, policy_text, running, served_of
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.explain import explained
from portcullis_ml.gateway.policy.keys import KeptKey, KeyFile
from portcullis_ml.gateway.policy.policy import PolicyError, read_policy
from portcullis_ml.gateway.policy.principals import Caller, Forwarded, Principals, groups, network_of
from portcullis_ml.gateway.policy.warn import warnings
from portcullis_ml.gateway.protocols.strict import BadRequest
from portcullis_ml.gateway.querylog import QueryLogFile, read_log
from portcullis_ml.gateway.remembered import remembered
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.state.accounts import ACCOUNTS, OTHERS, Asked, count
from portcullis_ml.gateway.state.journal import Down

QUOTA = '[[guard]]\nunit = "quota"\nrows = 30\nper = 1000000\n'
WATCH = """
[[guard]]
unit = "watch"
detector = { unit = "prada", window = 4, threshold = 1.2 }
then = { unit = "label_only" }
"""
ROW = np.array([[0.1, 0.2, 0.3, 0.4]])


def key(client: str, **links: str) -> str:
    words = "".join(f', {name} = "{value}"' for name, value in links.items())
    return f'    {{ client = "{client}", sha256 = "{hashed(f"key-of-{client}")}"{words} }},\n'


def clients(*keys: str, principal: str = '["organisation", "payment"]', more: str = "") -> str:
    return f"[clients]\nprincipal = {principal}\n{more}\nkey = [\n{''.join(keys)}]\n"


def by_key(client: str) -> dict[str, str]:
    return {"x-api-key": f"key-of-{client}"}


TWELVE = [f"worker-{i}" for i in range(12)]
ACME = clients(*(key(name, organisation="acme") for name in TWELVE), key("bob"))


async def statuses(here: Here, names: list[str], **more: Any) -> list[int]:
    return [(await here.infer(ROW, by_key(name), **more))[0] for name in names]


async def test_twelve_accounts_of_one_organisation_share_one_quota_to_the_row(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, ACME)
    assert await statuses(here, [TWELVE[i % 12] for i in range(30)]) == [200] * 30
    assert await statuses(here, TWELVE) == [429] * 12
    assert await statuses(here, ["bob"]) == [200]  # who is nobody's
    stream = await here.streams.look("org:acme")
    assert stream.tally["rows"] == 30
    assert {name: held[0] for name, held in stream.accounts.items()} == {
        n: 3 if i < 6 else 2 for i, n in enumerate(TWELVE)
    }
    assert sorted(await here.store.clients()) == ["bob", "org:acme"]


async def test_the_quota_of_a_principal_survives_a_crash(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, ACME)
    await statuses(here, [TWELVE[i % 12] for i in range(30)])
    here.open()
    assert await statuses(here, TWELVE[:2]) == [429, 429]
    stream = await here.streams.look("org:acme")
    assert sum(held[0] for held in stream.accounts.values()) == 30


async def test_a_client_who_mints_keys_gains_nothing(tmp_path: Path) -> None:
    more = clients(key("bob"), more='keys_file = "keys.json"')
    here = Here(tmp_path, QUOTA, more)
    file, answered = KeyFile(tmp_path / "keys.json"), 0
    for i in range(10):  # accounts and keys, as fast as they can be made
        secret, _ = file.make(f"thief-{i}", organisation="acme" if i % 2 else "", payment="cus_1")
        here.gate.use_keys(file.read())
        for _ in range(10):
            answered += (await here.infer(ROW, {"x-api-key": secret}))[0] == 200
    assert answered == 30
    assert list(here.streams.open) == ["pay:cus_1"]  # acme came later, and renamed nobody


async def test_a_rotated_key_keeps_its_principal(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, clients(key("bob"), more='keys_file = "keys.json"'))
    file = KeyFile(tmp_path / "keys.json")
    old, kept = file.make("carol", organisation="acme")
    new, after, _ = file.rotate(kept.id, overlap_s=100.0)
    here.gate.use_keys(file.read())
    here.now = kept.made + 1.0
    assert after.organisation == "acme"
    assert [(await here.infer(ROW, {"x-api-key": k}))[0] for k in (old, new)] == [200, 200]
    assert list(here.streams.open) == ["org:acme"]


async def test_rates_and_requests_at_once_are_the_principals(tmp_path: Path) -> None:
    here = Here(tmp_path, "", ACME + "[limits]\nper_client = 2\nrequests_per_minute = 24\n")
    here.upstream.waits = asyncio.Event()
    running = [asyncio.create_task(here.infer(ROW, by_key(name))) for name in TWELVE[:2]]
    for _ in range(50):
        await asyncio.sleep(0)
    status, _, tree = await here.infer(ROW, by_key(TWELVE[2]))
    assert (status, "running" in tree["error"]) == (429, True)
    here.upstream.waits.set()
    assert [(await task)[0] for task in running] == [200, 200]
    assert await statuses(here, TWELVE[3:5]) == [200, 429]  # the fourth and the fifth of ten seconds' four


async def test_a_block_by_an_operator_is_of_all_accounts(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, ACME)
    await here.streams.operate("org:acme", "block", "ops", here.now)
    assert await statuses(here, [*TWELVE[:3], "bob"]) == [403, 403, 403, 200]


async def lived(here: Here, names: list[str]) -> list[int]:
    rng = np.random.default_rng(3)
    seeds, found = rng.normal(size=(5, 4)), []
    for i in range(70):
        row = seeds[rng.integers(5)] + rng.choice([0.01, 1.0]) * rng.normal(size=4)
        found.append((await here.infer(row[None], by_key(names[i % len(names)])))[0])
        here.now += 1.0
    await asyncio.to_thread(here.gate.querylog.close)
    return found


async def test_a_replay_folds_by_principal_and_decides_as_the_gate_did(tmp_path: Path) -> None:
    log = QueryLogFile(tmp_path / "log", queries=True)
    stages = QUOTA.replace("30", "60") + WATCH
    here = Here(tmp_path, stages, ACME, querylog=log)
    assert (await lived(here, TWELVE)).count(429) == 10
    lines = list(read_log(tmp_path / "log"))
    assert {(line.client, line.principal) for line in lines} == {(name, "org:acme") for name in TWELVE}
    found = replay(lines, here.policy)
    assert (found.requests, found.different, list(found.fates)) == (70, [], ["org:acme"])
    fate = found.fates["org:acme"]
    assert (fate.refused, fate.altered, fate.accounts) == (10, fate.was_altered, TWELVE)
    assert fate.altered > 5
    assert fate.stopped_row is not None
    apart = replay([replace(line, principal="") for line in lines], here.policy)  # as an earlier version wrote them
    assert list(apart.fates) == TWELVE
    assert len(apart.different) > 10


async def test_a_replay_says_what_links_would_have_done(tmp_path: Path) -> None:
    stages, alone = QUOTA.replace("30", "60") + WATCH, ACME.replace("principal", "# principal")
    here = Here(tmp_path, stages, alone, querylog=QueryLogFile(tmp_path / "log", queries=True))
    assert (await lived(here, TWELVE)).count(429) == 0  # each has a quota of its own
    linked = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, stages, ACME)
    assert list(replay(read_log(tmp_path / "log"), linked).fates) == TWELVE  # as it was
    found = replay(read_log(tmp_path / "log"), linked, regroup=True)
    assert list(found.fates) == ["org:acme"]
    (tmp_path / "linked").mkdir()
    together = Here(tmp_path / "linked", stages, ACME, querylog=QueryLogFile(tmp_path / "linked" / "log", queries=True))
    await lived(together, TWELVE)
    online = replay(read_log(tmp_path / "linked" / "log"), linked).fates["org:acme"]
    fate = found.fates["org:acme"]
    assert (fate.refused, fate.altered, fate.stopped_row) == (10, online.altered, online.stopped_row)


@pytest.mark.parametrize(
    ("when_down", "status", "then"),
    [("closed", 503, "198.51.100.0"), ("open", 200, "192.0.2.0")],  # who was served stays there, for this process
)
async def test_where_an_account_belongs_cannot_be_written_down(
    when_down: str, status: int, then: str, tmp_path: Path
) -> None:
    here = Here(tmp_path, QUOTA, NETWORKS + f'[failure]\nstate = "{when_down}"\n')

    async def down(*given: Any) -> str:
        raise Down("The state file cannot be written.")

    here.store.join = down
    assert (await from_address(here, TWELVE[0], "192.0.2.1"))[0] == status
    assert (here.streams.failures, here.gate.callers.running) == (1, {})
    del here.store.join
    assert (await from_address(here, TWELVE[0], "198.51.100.1"))[0] == 200
    assert list(here.streams.open) == [f"net:{then}/24"]


async def test_accounts_are_known_of_requests_that_were_served_while_the_journal_was_down(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, ACME + '[failure]\nstate = "open"\n')
    assert await statuses(here, TWELVE[:2]) == [200, 200]

    async def down(*given: Any, **more: Any) -> Any:
        raise Down("The state file cannot be written.")

    here.store.tell = down
    assert await statuses(here, TWELVE[:4]) == [200] * 4
    del here.store.tell
    assert await statuses(here, TWELVE[:1]) == [200]
    told = {name: 3 if name == "worker-0" else 2 if name == "worker-1" else 1 for name in TWELVE[:4]}
    assert {n: held[0] for n, held in (await here.streams.look("org:acme")).accounts.items()} == told
    here.open()  # from the journal alone
    assert {n: held[0] for n, held in (await here.streams.look("org:acme")).accounts.items()} == told


async def test_twelve_accounts_are_stopped_where_one_is(tmp_path: Path) -> None:
    for name in ("one", "twelve"):
        (tmp_path / name).mkdir()
    one = Here(tmp_path / "one", WATCH, ACME, querylog=QueryLogFile(tmp_path / "one" / "log"))
    twelve = Here(tmp_path / "twelve", WATCH, ACME, querylog=QueryLogFile(tmp_path / "twelve" / "log"))
    await lived(one, TWELVE[:1])
    await lived(twelve, TWELVE)
    assert [a.row for a in one.alarms] == [a.row for a in twelve.alarms]
    assert len(one.alarms) == 1


async def test_replicas_decide_as_one_and_agree_on_where_an_account_belongs(tmp_path: Path, redis: Any) -> None:
    import redis as client

    with client.Redis.from_url(redis[0]) as r:
        r.flushall()
    policy = clients(*(key(name) for name in TWELVE), principal='["address"]')
    two = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        two.append(Here(tmp_path / name, QUOTA, f'{policy}[state]\nurl = "{redis[0]}"\n'))
    answers = []
    for i in range(33):  # one network at first; later every account comes from another one, to whichever replica
        peer = f"192.0.2.{i}" if i < 12 else f"198.51.{i}.1"
        sent = await two[i % 2].send(body=question(ROW), headers=by_key(TWELVE[i % 12]), client=(peer, 1))
        answers.append(sent[0])
    assert answers == [200] * 30 + [429] * 3
    assert await two[0].store.clients() == ["net:192.0.2.0/24"]
    for h in two:
        await h.store.close()


NETWORKS = clients(*(key(name) for name in TWELVE), principal='["address"]')
PROXY = """forwarded = { header = "X-Forwarded-For", trusted = ["10.0.0.0/8"] }"""


async def from_address(here: Here, name: str, peer: str, **headers: str) -> tuple[int, str]:
    status, _, tree = await here.send(body=question(ROW), headers={**by_key(name), **headers}, client=(peer, 1))
    return status, tree.get("error", "")


async def test_accounts_of_one_network_are_one_and_who_moves_gains_nothing(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA, NETWORKS)
    sent = [await from_address(here, TWELVE[i % 12], f"192.0.2.{i}") for i in range(20)]
    sent += [await from_address(here, TWELVE[i % 12], f"198.51.{i}.1") for i in range(10)]  # they move about
    assert {status for status, _ in sent} == {200}
    here.open()  # and the gate crashes
    assert [(await from_address(here, TWELVE[i], f"203.0.{i}.1"))[0] for i in range(12)] == [429] * 12
    assert await here.store.clients() == ["net:192.0.2.0/24"]


async def test_who_has_no_name_is_their_network(tmp_path: Path) -> None:
    here = Here(tmp_path, QUOTA.replace("30", "2"), NETWORKS + '\n[failure]\nstate = "closed"\n')
    anonymous = replace(here.policy.clients, anonymous="shared")
    here.gate.use(replace(here.policy, clients=anonymous))
    peers = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1", "2001:db8::1", "2001:db8:0:ff::9"]
    sent = [(await here.send(body=question(ROW), headers={}, client=(peer, 1)))[0] for peer in peers]
    assert sent == [200, 200, 429, 200, 200, 200]
    assert await here.store.clients() == ["net:192.0.2.0/24", "net:198.51.100.0/24", "net:2001:db8::/56"]


@pytest.mark.parametrize(
    ("peer", "header", "found"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "1.2.3.4, 192.0.2.7, 10.0.0.9", "192.0.2.7"),  # the first was sent by the client itself
        ("10.0.0.1", "10.0.0.5", "10.0.0.5"),
        ("192.0.2.1", "192.0.2.7", 403),
        ("10.0.0.1", "192.0.2.7, nobody", 400),
        (None, "192.0.2.7", 403),
    ],
)
def test_where_a_request_came_from_is_believed_of_proxies_alone(peer: Any, header: Any, found: Any) -> None:
    way = Forwarded(trusted=("10.0.0.0/8",))
    headers = {} if header is None else {"x-forwarded-for": header}
    if isinstance(found, str):
        assert way.origin(headers, frozenset(), peer) == found
        return
    with pytest.raises(BadRequest) as refused:
        way.origin(headers, frozenset(), peer)
    assert refused.value.status == found


async def test_a_spoofed_header_is_refused_and_counts_for_nobody(tmp_path: Path) -> None:
    proxy = f'{PROXY}\nheader = {{ header = "X-Client", trusted = ["10.0.0.0/8"], organisation = "X-Organisation" }}'
    more = clients(key(TWELVE[0]), principal='["organisation", "address"]', more=proxy)
    here = Here(tmp_path, QUOTA, more)
    assert await from_address(here, TWELVE[0], "192.0.2.1", **{"x-forwarded-for": "198.51.100.1"}) == (
        403, "The header x-forwarded-for is taken from the proxy only.",
    )  # fmt: skip
    assert await from_address(here, TWELVE[0], "192.0.2.1", **{"x-organisation": "acme"}) == (
        403, "The header x-organisation is taken from the proxy only.",
    )  # fmt: skip
    assert not here.streams.open
    told = {"x-client": "dora", "x-organisation": "acme", "x-forwarded-for": "198.51.100.1"}
    assert (await from_address(here, TWELVE[0], "10.0.0.1", **told))[0] == 200
    assert list(here.streams.open) == ["org:acme"]


def owner(links: tuple[str, ...], caller: Caller, address: str | None = None, **settings: Any) -> str:
    return Principals(principal=links, **settings).owner(caller, {}, address).principal


def test_the_first_link_that_an_account_has_decides() -> None:
    both = Caller("acme-7", "acme", "cus_1")
    assert owner((), both) == "acme-7"
    assert owner(("organisation", "payment"), both) == "org:acme"
    assert owner(("payment", "organisation"), both) == "pay:cus_1"
    assert owner(("organisation", "key_prefix"), Caller("acme-7")) == "key:acme-"
    assert owner(("key_prefix",), Caller("acme-7"), key_prefix=3) == "key:acm"
    assert owner(("key_prefix", "address"), Caller("dora"), "192.0.2.1") == "net:192.0.2.0/24"
    assert owner(("address",), Caller("dora"), "::ffff:192.0.2.1", address_bits=(16, 56)) == "net:192.0.0.0/16"
    assert owner(("address",), Caller("dora"), None) == "dora"
    assert network_of("no address", (24, 56)) == ""


@pytest.mark.parametrize("name", ["org:acme", "pay:x", "net:192.0.2.0/24", "key:a", "client:org:acme"])
def test_no_account_can_take_a_principals_name(name: str) -> None:
    assert owner(("organisation",), Caller(name)) == f"client:{name}"
    assert owner((), Caller(name)) == name


def kept(client: str, organisation: str = "", payment: str = "") -> KeptKey:
    return KeptKey(client=client, sha256="0" * 64, made=0.0, organisation=organisation, payment=payment)


def test_keys_link_through_one_another_and_a_later_one_renames_nobody() -> None:
    keys = [
        kept("a", "acme", "cus_1"),
        kept("b", payment="cus_1"),
        kept("c", "aaa", "cus_1"),
        kept("d", "aaa"),
        kept("e"),
    ]
    found = groups(keys, ("organisation", "payment"))
    assert {found.get(f"={name}") for name in "abcd"} == {"org:acme"}
    assert "=e" not in found
    assert groups(keys, ("organisation",))["=c"] == "org:aaa"
    again = groups([kept("a", "acme"), kept("a", "beta"), kept("b", "beta")], ("organisation",))
    assert again["=b"] == "org:acme"  # through a client with two keys
    token = Principals(principal=("organisation",)).owner(Caller("dora", "aaa"), found, None)
    assert token.principal == "org:acme"  # however its organisation is told


def test_a_key_that_would_make_one_of_two_principals_is_refused_everywhere(tmp_path: Path) -> None:
    two = [key("a", organisation="acme"), key("b", organisation="beta", payment="cus_2")]
    sentence = "It would make one of org:acme and org:beta, which are two so far"
    with pytest.raises(PolicyError, match=sentence) as error:
        policy_of(
            Softmax(),
            "http://127.0.0.1:1",
            tmp_path,
            more=clients(*two, key("c", organisation="acme", payment="cus_2")),
        )
    assert error.value.line > 0
    policy = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, more=clients(*two, more='keys_file = "keys.json"'))
    file = KeyFile(tmp_path / "keys.json", accept=lambda keys: policy.clients.keeping(k.key() for k in keys))
    with pytest.raises(ValueError, match=sentence):
        file.make("c", organisation="acme", payment="cus_2")
    assert file.read() == ()  # nothing was written


@pytest.mark.parametrize(
    ("principal", "more", "sentence"),
    [
        ('["company"]', "", "principal must be a list of some of organisation"),
        ('["payment", "payment"]', "", "each once"),
        ('"payment"', "", "principal must be a list of text"),
        ('["address", "payment"]', "", "a list with 'address' at its end"),
        ('["key_prefix", "address"]', "key_prefix = 4", "a list with 'key_prefix' at its end"),
        ('["key_prefix"]', "key_prefix = 0", "key_prefix must be a number of characters"),
        ('["key_prefix"]', "key_prefix = true", "key_prefix must be a number of characters"),
        ('["address"]', "address_bits = [24]", "address_bits must be two whole numbers"),
        ('["address"]', "address_bits = 24", "address_bits must be two whole numbers"),
        ('["address"]', "address_bits = [33, 56]", "address_bits must be two whole numbers"),
        ('["payment"]', PROXY, 'forwarded must be given with "address"'),
        ('["address"]', 'forwarded = { header = "a b" }', "header must be the name of a header"),
        ('["address"]', 'forwarded = { trusted = ["here"] }', "trusted must be a list of networks"),
        ('["address"]', "forwarded = 3", "must be a table"),
    ],
)
def test_a_mistake_is_refused_at_its_line(principal: str, more: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=sentence) as error:
        policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, more=clients(key("a"), principal=principal, more=more))
    assert error.value.line > 0


def test_a_principal_of_many_accounts_tells_the_largest_apart() -> None:
    accounts: dict[str, list[float]] = {}
    for i in range(3 * ACCOUNTS):
        count(accounts, Asked("org:acme", np.zeros((1 + (i == 7), 4)), float(i), account=f"a{i}"))
    assert len(accounts) == ACCOUNTS + 1
    assert accounts["a7"] == [2, 7.0, 7.0]
    assert sum(held[0] for held in accounts.values()) == 3 * ACCOUNTS + 1
    assert accounts[OTHERS][1] == 0.0


async def test_a_token_says_whose_account_it_is(tmp_path: Path) -> None:
    import jwt

    (tmp_path / "jwt.key").write_text("s" * 32)
    token = 'token = { key_file = "jwt.key", algorithms = ["HS256"], organisation = "org", payment = "bill" }'
    here = Here(tmp_path, QUOTA, clients(key("a", organisation="acme"), more=token))

    async def sent(**claims: Any) -> tuple[int, str]:
        bearer = jwt.encode({"exp": 4e9, **claims}, "s" * 32, "HS256")
        status, _, tree = await here.infer(ROW, {"authorization": f"Bearer {bearer}"})
        return status, tree.get("error", "")

    assert await sent(sub="dora", org="acme") == (200, "")
    assert await sent(sub="erin", org=77) == (200, "")
    assert await sent(sub="fred", bill="cus_9") == (200, "")
    assert await sent(sub="gina") == (200, "")
    assert await sent(sub="hugo", org=["acme"]) == (400, "A client's name must be 1 to 128 printable characters.")
    assert sorted(here.streams.open) == ["gina", "org:77", "org:acme", "pay:cus_9"]


async def test_marks_and_remembered_states_are_the_principals(tmp_path: Path) -> None:
    dawn = '[[guard]]\nunit = "dawn"\nrate = 0.5\nplanes = 12\n'
    log = QueryLogFile(tmp_path / "log", queries=True)
    here = Here(tmp_path, dawn, ACME, querylog=log)
    rows = np.random.default_rng(0).uniform(-3, 3, (20, 4))
    answers = [[(await here.infer(x[None], by_key(name)))[2]["outputs"] for x in rows] for name in TWELVE[:2]]
    assert answers[0] == answers[1]  # a second account learns nothing of where the marks are
    await asyncio.to_thread(here.gate.querylog.close)
    await here.streams.close()
    await here.store.close()
    found = replay(read_log(tmp_path / "log"), here.policy)
    state = (await asyncio.to_thread(remembered, here.policy, "dawn"))["org:acme"]
    assert len(found.marks["org:acme"]) == len(state.labels) > 3


def test_operators_see_accounts_and_act_on_their_principal(tmp_path: Path) -> None:
    model = Softmax()
    served = ModelServer(model, served_of(model))
    with running(served) as upstream, gate(policy_of(model, upstream, tmp_path, QUOTA, ACME)) as server:
        assert [asked(server.url, f"key-of-{TWELVE[i % 3]}") for i in range(7)] == [200] * 7
        token = server.admin.state.token
        told = json.loads(fetch(f"{server.admin_url}/clients", token)[1])["clients"][0]
        assert (told["client"], told["rows"], told["account_count"]) == ("org:acme", 7, 3)
        assert [(a["account"], a["rows"], a["share"]) for a in told["accounts"]] == [
            ("worker-0", 3, 0.4286), ("worker-1", 2, 0.2857), ("worker-2", 2, 0.2857),
        ]  # fmt: skip
        assert told["accounts"][0]["since"] <= told["accounts"][0]["last"]
        assert "3 accounts: worker-0 43%" in fetch(f"{server.admin_url}/", token)[1]
        page = fetch(f"{server.admin_url}/client?name=org%3Aacme", token)[1]
        assert "Accounts of this principal" in page
        done = json.loads(fetch(f"{server.admin_url}/act", token, name="worker-7", deed="block")[1])
        assert done["client"] == "org:acme"  # who has asked nothing yet, and is one of them by the key
        assert asked(server.url, "key-of-worker-1") == 403
        assert asked(server.url, "key-of-bob") == 200
        done = json.loads(fetch(f"{server.admin_url}/act", token, name="org:nobody", deed="block")[1])
        assert done["client"] == "org:nobody"  # before it ever asks


def test_keys_say_whose_they_are_by_command_and_on_the_operators_port(tmp_path: Path) -> None:
    model, path = Softmax(), tmp_path / "p.toml"
    two = key("a", organisation="acme"), key("b", organisation="beta", payment="cus_2")
    with running(ModelServer(model, served_of(model))) as upstream:
        path.write_text(policy_text(model, upstream, tmp_path, QUOTA, clients(*two, more='keys_file = "keys.json"')))
        cli, make = CliRunner(), ["keys", "make", "--policy", str(path), "--organisation"]
        assert cli.invoke(app, [*make, "acme", "carol"]).exit_code == 0
        wrong = cli.invoke(app, [*make, "acme", "dora", "--payment", "cus_2"])
        assert "It would make one of org:acme and org:beta" in " ".join(wrong.output.split())
        assert "carol" in (listed := cli.invoke(app, ["keys", "list", "--policy", str(path)]).output)
        assert "organisation acme" in listed
        assert "dora" not in listed
        with gate(read_policy(path)) as server:
            url, token = f"{server.admin_url}/keys", server.admin.state.token
            status, text = fetch(url, token, deed="make", client="erin", organisation="acme")
            assert (status, json.loads(text)["organisation"]) == (200, "acme")
            assert asked(server.url, json.loads(text)["key"]) == 200
            assert list(server.streams.open) == ["org:acme"]
            status, text = fetch(url, token, deed="make", client="fred", organisation="acme", payment="cus_2")
            assert (status, "which are two so far" in text) == (400, True)
            held = (tmp_path / "keys.json").read_text()
            (tmp_path / "keys.json").write_text(held.replace('"payment": ""', '"payment": "cus_2"'))  # by hand
            with pytest.raises(ValueError, match="which are two so far"):
                server.gate.use_keys(KeyFile(tmp_path / "keys.json").read())
            assert asked(server.url, "key-of-a") == 200  # the keys are what they were


def test_check_says_who_is_one(tmp_path: Path) -> None:
    linked = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, QUOTA, ACME)
    assert "Clients that share the organisation, or the payment are one principal" in " ".join(explained(linked))
    assert next(iter(warnings(linked))) == "principal names payment, and no key, token or header says one."
    apart = policy_of(Softmax(), "http://127.0.0.1:1", tmp_path, QUOTA, ACME.replace('"organisation", ', ""))
    assert next(iter(warnings(apart))).startswith("Clients have an organisation, and principal does not name it")
