"""Accounts that ask as one are linked by what the gate sees, called, and blocked."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import Here
from tests.gateway.harness import KEYS, Softmax, alarms_of, fetch, gate, policy_of, policy_text, running, served_of

from portcullis_ml.core.types import Answer, Array
from portcullis_ml.gateway.admin.webhook import told
from portcullis_ml.gateway.campaigns import MEANS, REASON, Campaigns, Seen, campaigns_in
from portcullis_ml.gateway.linking import WAITING, Linker
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import Policy, PolicyError, parse_policy
from portcullis_ml.gateway.querylog import Line, QueryLogFile, read_log
from portcullis_ml.gateway.state.streams import Down

SEEN = '[groups]\nseen = "block"\nrows = 30\nevery_s = 0.05\n'
OPERATOR = f'[admin]\nport = 0\noperator = [{{ name = "ops", sha256 = "{hashed("token-of-ops")}" }}]\n'
HEADERS = {name: {"x-api-key": key, "content-type": "application/json"} for name, key in KEYS.items()}


def linked_policy(folder: Path, groups: str = SEEN, top: str = "", stages: str = "") -> Policy:
    return policy_of(Softmax(), "http://127.0.0.1:1", folder, stages, groups, top)


def lines(client: str, x: Array, at: float = 0.0) -> list[Line]:
    """Answered requests of one row each."""
    clean = Answer(np.zeros(len(x), np.int64), np.full((len(x), 3), 1 / 3))
    return [
        Line(at=at + i, client=client, rows=1, released=1, x=x[i : i + 1], clean=clean.take(slice(i, i + 1)))
        for i in range(len(x))
    ]


def two_of_a_kind() -> list[Line]:
    """Two accounts that ask the same twenty rows at times that say nothing, and an honest one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4))
    return lines("a", x) + lines("b", x, 1e4) + lines("honest", rng.normal(size=(40, 4)), 2e4)


def remembered(asked: list[Line], policy: Policy) -> Campaigns:
    """What is remembered of these lines."""
    state = Campaigns(policy.groups)
    for line in asked:
        assert line.x is not None
        assert line.clean is not None
        state.add(Seen(line.client, line.x, line.clean, line.at))
    return state


ALARMS = Path(__file__).parents[2] / "docs" / "gateway" / "alarms.md"


class Records:
    """Streams and store that write down what they are told, and may be down."""

    def __init__(self) -> None:
        self.blocked: list[tuple[str, str, str]] = []
        self.written: list[tuple[str, str, str]] = []
        self.kept: dict[str, Any] = {}
        self.down = 0  # calls that fail from now on

    def _up(self) -> None:
        if self.down:
            self.down -= 1
            raise Down("The state cannot be written.")

    async def operate(self, client: str, kind: str, by: str, at: float) -> None:
        self._up()
        self.blocked.append((client, kind, by))

    async def alarm(self, id: str, alarm: Any) -> bool:
        new = id not in self.kept
        self.kept[id] = alarm
        return new

    async def log_operation(self, at: float, who: str, what: str, client: str) -> None:
        self.written.append((who, what, client))


def linker(folder: Path, records: Records, groups: str = SEEN, top: str = "") -> Linker:
    return Linker(linked_policy(folder, groups, top), records, records, clock=lambda: 5e4)  # type: ignore[arg-type]


class TestCampaigns:
    def test_a_linked_group_is_called_beyond_its_rows(self, tmp_path: Path) -> None:
        state = remembered(two_of_a_kind(), linked_policy(tmp_path))
        (campaign,) = state.test()
        assert campaign.members == campaign.new == ("a", "b")
        assert (campaign.rows, campaign.cause) == (40, "rows")
        assert "same with b (20, p " in campaign.evidence("a")
        assert campaign.evidence("a").startswith(f"{REASON}: 2 accounts, 40 rows, called by rows; ")
        assert state.called == {"a", "b"}

    def test_a_linked_group_of_few_rows_is_not_called(self, tmp_path: Path) -> None:
        state = remembered(two_of_a_kind(), linked_policy(tmp_path, SEEN.replace("30", "40")))
        assert state.test() == []
        assert state.linkage.links(state.state).groups == (("a", "b"),)

    def test_the_detector_calls_a_group_by_its_stream(self, tmp_path: Path) -> None:
        groups = SEEN.replace("30", "1000") + 'detector = { unit = "call_rate", threshold = 39, per_s = 1e6 }\n'
        (campaign,) = remembered(two_of_a_kind(), linked_policy(tmp_path, groups)).test()
        assert (campaign.cause, campaign.loudest) == ("detector", 40)
        assert remembered(two_of_a_kind(), linked_policy(tmp_path, groups.replace("39", "40"))).test() == []

    def test_an_account_that_links_to_a_called_campaign_is_called_with_it(self, tmp_path: Path) -> None:
        state, rng = Campaigns(linked_policy(tmp_path).groups), np.random.default_rng(0)
        x = rng.normal(size=(60, 4))
        for line in lines("a", x[:40]) + lines("b", x[:40], 1e4) + lines("c", x[20:45], 2e4):
            assert line.x is not None
            assert line.clean is not None
            state.add(Seen(line.client, line.x, line.clean, line.at))
            if line.client == "b" and line.at == 1e4 + 39:
                assert [c.new for c in state.test()] == [("a", "b")]
        (grown,) = state.test()
        assert (grown.new, grown.cause) == (("c",), "called before")
        assert state.test() == []

    def test_what_is_kept_for_the_detector_is_bounded(self, tmp_path: Path) -> None:
        groups = SEEN + 'cap = 10\ntotal = 20\ndetector = { unit = "call_rate" }\n'
        state, rng = Campaigns(linked_policy(tmp_path, groups).groups), np.random.default_rng(0)
        for i in range(500):
            line = lines(f"client-{i // 5}", rng.normal(size=(1, 4)))[0]
            state.add(Seen(line.client, line.x, line.clean, line.at))  # type: ignore[arg-type]
        assert sum(len(held) for held in state._streams.values()) == state._rows == 20
        assert list(state._streams)[-1] == "client-99"
        assert len(state.state.accounts) <= 40


class TestLinker:
    async def test_each_account_of_a_campaign_is_blocked_and_written_down(self, tmp_path: Path) -> None:
        records = Records()
        here = linker(tmp_path, records)
        for line in two_of_a_kind():
            here.take(line)
        await here.look()
        assert records.blocked == [("a", "block", "linkage"), ("b", "block", "linkage")]
        assert [(who, client) for who, _, client in records.written] == [("linkage", "a"), ("linkage", "b")]
        assert all(what.startswith(f"block ({REASON}: 2 accounts, 40 rows") for _, what, _ in records.written)
        ((alarm),) = records.kept.values()
        assert (alarm.stage, alarm.client, alarm.row, alarm.suspicion) == (REASON, "a", 40, 40)
        assert alarm.code == told("id", alarm, "ops@example.org")["code"] == REASON
        assert f"`{REASON}`: t{MEANS[1:]}" in " ".join(ALARMS.read_text().split())
        assert alarm.evidence["threshold"] == 30
        assert [(a["account"], a["rows"]) for a in alarm.evidence["accounts"]] == [("a", 20), ("b", 20)]
        ((link,), count) = alarm.evidence["links"], alarm.evidence["link_count"]
        assert (link["a"], link["b"], link["signal"], link["count"], count) == ("a", "b", "same", 20, 1)
        assert (alarm.evidence["since"], alarm.evidence["last"]) == (0.0, 1e4 + 19)
        await here.look()
        assert len(records.blocked) == 2

    async def test_principals_are_linked_not_their_accounts(self, tmp_path: Path) -> None:
        records = Records()
        here = linker(tmp_path, records)
        for line in two_of_a_kind():
            line.client, line.principal = f"{line.client}-{int(line.at) % 3}", line.client
            here.take(line)
        await here.look()
        assert [client for client, _, _ in records.blocked] == ["a", "b"]

    @pytest.mark.parametrize(("groups", "top"), [(SEEN.replace("block", "log"), ""), (SEEN, 'mode = "observe"\n')])
    async def test_to_log_blocks_nobody(self, tmp_path: Path, groups: str, top: str) -> None:
        records = Records()
        here = linker(tmp_path, records, groups, top)
        for line in two_of_a_kind():
            here.take(line)
        await here.look()
        assert records.blocked == []
        assert [what[:8] for _, what, _ in records.written] == ["linked ("] * 2
        assert len(records.kept) == 1

    async def test_what_could_not_be_written_is_written_later_and_once(self, tmp_path: Path) -> None:
        records = Records()
        here = linker(tmp_path, records)
        for line in two_of_a_kind():
            here.take(line)
        records.down = 1
        await here.look()
        assert records.blocked == []
        records.down = 0
        await here.look()
        assert [client for client, _, _ in records.blocked] == ["a", "b"]
        assert len(records.kept) == 1

    async def test_whom_an_operator_unblocks_is_not_blocked_again(self, tmp_path: Path) -> None:
        records = Records()
        here = linker(tmp_path, records)
        for line in two_of_a_kind():
            here.take(line)
        await here.look()
        late, again = two_of_a_kind()[:2], two_of_a_kind()
        for line in late:
            here.take(line)  # asked before the block, answered after it
        assert here.campaigns is not None
        assert here.campaigns.cleared == set()
        for line in again[:20]:
            line.at += 1e5
            here.take(line)
        await here.look()
        assert here.campaigns.cleared == {"a"}
        assert len(records.blocked) == 2

    def test_rows_beyond_the_queue_are_dropped_and_counted(self, tmp_path: Path) -> None:
        here = linker(tmp_path, Records())
        (line,) = lines("a", np.zeros((1, 4)))
        line.x = np.zeros((WAITING // 64, 4))  # half of what may wait
        for _ in range(3):
            here.take(line)
        assert here.dropped == WAITING // 64
        assert sum(seen.x.nbytes for seen in here._waiting) == WAITING

    def test_what_was_not_answered_is_not_looked_at(self, tmp_path: Path) -> None:
        here = linker(tmp_path, Records())
        (line,) = lines("a", np.zeros((1, 4)))
        line.released = 0
        here.take(line)
        assert not here._waiting

    def test_other_settings_begin_with_an_empty_memory_and_off_with_none(self, tmp_path: Path) -> None:
        here = linker(tmp_path, Records())
        before = here.campaigns
        here.use(linked_policy(tmp_path))
        assert here.campaigns is before
        here.use(linked_policy(tmp_path, SEEN.replace("30", "31")))
        assert here.campaigns is not before
        here.use(linked_policy(tmp_path, ""))
        assert here.campaigns is None
        for line in two_of_a_kind():
            here.take(line)
        assert (here.called, here.dropped, len(here._waiting)) == (0, 0, 0)


class TestGate:
    def test_a_campaign_is_blocked_over_http_and_stays_blocked_after_a_restart(self, tmp_path: Path) -> None:
        model = Softmax()
        with running(ModelServer(model, served_of(model))) as upstream:
            policy = policy_of(model, upstream, tmp_path, "", SEEN.replace("30", "39") + OPERATOR)
            with gate(policy) as server:
                for seed in range(20):
                    for name in ("alice", "thief"):
                        assert ask(server.url, name, seed) == 200
                    ask(server.url, "bob", 100 + seed)
                assert until(lambda: {ask(server.url, n, 0) for n in ("alice", "thief")} == {403})
                assert ask(server.url, "bob", 0) == 200
                (alarm,) = alarms_of(server)
                assert (alarm.stage, alarm.client) == (REASON, "alice")
                assert alarm.row >= 40
                shown = fetch(f"{server.admin_url}/client?name=alice", "token-of-ops")[1]
                assert f"<code>{REASON}</code> {MEANS}" in shown
            with gate(policy) as server:
                assert [ask(server.url, n, 1) for n in ("alice", "thief", "bob")] == [403, 403, 200]

    async def test_an_answer_is_handed_over_after_the_guard_and_as_the_model_gave_it(self, tmp_path: Path) -> None:
        rounding = '[[guard]]\nunit = "rounding"\ndecimals = 0\n'
        here, seen = Here(tmp_path, rounding), list[tuple[str, Array, Answer]]()

        def keep(line: Line) -> None:
            assert line.x is not None
            assert line.clean is not None
            seen.append((line.client, line.x, line.clean))

        here.gate.on_answered = keep
        x = np.array([[0.1, 0.2, 0.3, 0.4]])
        status, _, _ = await here.infer(x)
        assert status == 200
        ((client, rows, clean),) = seen
        assert client == "alice"
        np.testing.assert_array_equal(rows, x)
        np.testing.assert_array_equal(clean.scores, here.model.scores(x))


def ask(url: str, name: str, seed: int) -> int:
    x = np.random.default_rng(seed).normal(size=4).tolist()
    body = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": x}]}).encode()
    request = urllib.request.Request(f"{url}/v2/models/m/infer", body, HEADERS[name])
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def until(holds: Any, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("groups", "line", "said"),
    [
        ('seen = "maybe"', "seen", 'must be "off", "log" or "block"'),
        ('seen = "log"\nrows = 0', "rows", "an int of at least 1"),
        ('seen = "log"\nevery_s = 0', "every_s", "a number of at least 0.01"),
        ('seen = "log"\nnear = -1', "near", "greater than 0, or None"),
        ('seen = "log"\nflat = "x"', "flat", "flat"),
        ('seen = "log"\nwindw = 3', "windw", "Did you mean 'window'?"),
        ('seen = "log"\ndetector = { unit = "pada" }', "detector", "pada"),
        ('seen = "log"\ndetector = { unit = "prada", window = 1 }', "detector", "window"),
        ('seen = "log"\ntotal = 100000000', "total", "at most 67108864 for rows of 4 numbers"),
        ("rows = 10", "rows", 'left out while seen is "off"'),
    ],
)
def test_a_mistake_is_refused_at_its_line(tmp_path: Path, groups: str, line: str, said: str) -> None:
    text = policy_text(Softmax(), "http://127.0.0.1:1", tmp_path, "", f"[groups]\n{groups}\n")
    with pytest.raises(PolicyError, match=said) as error:
        parse_policy(text, folder=tmp_path)
    assert text.splitlines()[error.value.line - 1].startswith((line, "[groups]"))


async def test_a_log_replays_to_the_campaigns_that_the_gate_called(tmp_path: Path) -> None:
    records = Records()
    here, log = linker(tmp_path, records), QueryLogFile(tmp_path / "log", queries=True)
    for line in two_of_a_kind():
        here.take(line)
        log.write(line)
    await asyncio.to_thread(log.close)
    await here.look()
    found, _ = campaigns_in(read_log(tmp_path / "log"), here.policy.groups)
    assert [client for client, _, _ in records.blocked] == [n for _, c in found for n in c.new]
