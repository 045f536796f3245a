"""Policies: mistakes are refused by line, the rest is explained in sentences."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.defenses.toys import answer_to, rows, toy_filter
from tests.gateway.harness import NUMERIC, SECRET

from portcullis_ml.core.types import Request, Reveals
from portcullis_ml.gateway.policy.clients import hashed, new_key
from portcullis_ml.gateway.policy.explain import example, explained
from portcullis_ml.gateway.policy.policy import PolicyError, parse_policy, read_policy
from portcullis_ml.gateway.policy.warn import warnings

GOOD = """\
mode = "enforce"
key_file = "guard.key"

[upstream]
url = "http://127.0.0.1:8080"
protocol = "v2"
binary = true
model = "clf"
scores = "predict_proba"

[model]
name = "digits"
input_shape = [1, 8, 8]
classes = 10
datatype = "FP32"

[answers]
reveals = "top_k"
k = 3
decimals = 2

[clients]
key = [{ client = "alice", sha256 = "KEY", until = 2030-01-01 }]

[clients.subject]
header = "X-Client-Subject"
trusted = ["10.0.0.0/8"]

[[guard]]
unit = "quota"
rows = 5000

[[guard]]
unit = "watch"
detector = { unit = "prada", threshold = 4.0 }
then = { unit = "label_only" }

[failure]
guard = "labels"

[log]
path = "log"
queries = true

[alarms]
webhook = "https://alarms.example/hook"
secret_file = "hook.key"

[admin]
port = 9001
operator = [{ name = "ops", sha256 = "KEY" }]
""".replace("KEY", hashed("key"))


@pytest.fixture(autouse=True)
def secret(tmp_path: Path) -> None:
    (tmp_path / "guard.key").write_text(SECRET.hex())
    (tmp_path / "guard.key").chmod(0o600)


def test_a_policy_is_read_into_settings(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(GOOD)
    policy = read_policy(tmp_path / "p.toml", **{"upstream.url": "http://127.0.0.1:9", "listen.port": 0})
    assert policy.upstream is not None
    assert (policy.upstream.url, policy.listen.port) == ("http://127.0.0.1:9", 0)
    assert (policy.served.name, policy.asked.name, policy.asked.scores) == ("digits", "clf", "predict_proba")
    assert policy.served.interface.input_shape == (1, 8, 8)
    assert (policy.shown.reveals, policy.shown.k, policy.shown.decimals) == (Reveals.TOP_K, 3, 2)
    assert [s.name for s in policy.stages] == ["quota", "watch"]
    assert policy.stages[1].detector.threshold == 4.0  # type: ignore[attr-defined]
    assert policy.clients.keys[0].until == 1_893_542_400.0  # through the end of that day
    assert policy.clients.named[0].header == "x-client-subject"
    assert policy.admin.tokens == (("ops", hashed("key")),)


def test_a_policy_is_explained_in_sentences(tmp_path: Path) -> None:
    text = " ".join(explained(parse_policy(GOOD, folder=tmp_path)))
    for sentence in (
        "The model 'digits' takes 1 x 8 x 8 numbers (FP32) and knows 10 classes; "
        "the gate asks the model server at http://127.0.0.1:8080 in v2.",
        "Stage 1: at most 5000 rows in 86400 seconds.",
        "Stage 2: watch each client with prada (threshold 4.0,",
        "from an alarm on, label only.",
        "Everybody is shown the 3 best scores, rounded to 2 decimals.",
        "The header x-client-subject names the client when it comes from 10.0.0.0/8, else 403.",
        "Whoever has no name is refused with 401.",
        "When a stage fails, the class alone is served.",
        "Alarms are told to https://alarms.example/hook, signed, until it takes them.",
    ):
        assert sentence in text
    assert list(warnings(parse_policy(GOOD, folder=tmp_path))) == []


@pytest.mark.parametrize("name", [name for name in NUMERIC if name != "grpc"])  # curl does not speak it
def test_an_example_is_a_question_that_the_gate_answers(name: str, tmp_path: Path) -> None:
    policy = parse_policy(GOOD.replace("[1, 8, 8]", "[4]") + f'[listen]\nprotocols = ["{name}"]\n', folder=tmp_path)
    words = shlex.split(example(policy, "http://gate"))
    headers = dict(words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H")
    assert (words[0], headers["x-api-key"]) == ("curl", "KEY")
    (wire,) = policy.wires()
    assert wire.route("POST", words[1].removeprefix("http://gate"), policy.served) == "infer"
    assert wire.read(policy.served, headers, words[-1].encode()).x.shape == (1, 4)


def test_an_example_of_a_long_row_is_told_of(tmp_path: Path) -> None:
    text = example(parse_policy(GOOD.replace("[1, 8, 8]", "[28, 28]"), folder=tmp_path), "http://gate")
    assert "-d @question.json" in text
    assert text.endswith("... 28 x 28 numbers ...")
    assert len(text) < 400


def test_what_is_allowed_and_unwise_is_noted(tmp_path: Path) -> None:
    text = (
        'key_file = "guard.key"\n[model]\nname = "m"\ninput_shape = [4]\nclasses = 3\n[clients]\nanonymous = "shared"\n'
    )
    text += '[admin]\nhost = "0.0.0.0"\n[failure]\nstate = "open"\n[state]\nurl = "redis://:secret@redis:6379/0"\n'
    policy = parse_policy(text, folder=tmp_path)
    found = " ".join(warnings(policy))
    for word in ("one thief among them", "0.0.0.0", "No operator is named", "decides for itself", "No stage watches"):
        assert word in found
    assert "secret" not in " ".join(explained(policy))


MISTAKES = {
    'protocol = "v2"': [('protocol = "v3"', "must be one of grpc, invocations, mapping, pictures, v1, v2; got 'v3'"),
                        ('protocol = "grpc"', 'must be "grpc" with a grpc:// address; got'),
                        ('protocl = "v2"', "'protocl' is not known here. Did you mean 'protocol'?")],
    'url = "http://127.0.0.1:8080"': [('url = "127.0.0.1"', "http://host:port")],
    'mode = "enforce"': [('mode = "on"', '"enforce" or "observe"')],
    'key_file = "guard.key"': [('key_file = "nothing.key"', "hexadecimal"), ("", "key_file must name a file")],
    "input_shape = [1, 8, 8]": [("input_shape = [0]", "positive ints"), ("", "must say input_shape")],
    "classes = 10": [("classes = 1", "at least 2")],
    'datatype = "FP32"': [('datatype = "BYTES"', "datatype must be one of")],
    'reveals = "top_k"': [('reveals = "everything"', "labels, top_k, probs")],
    "decimals = 2": [("decimals = -1", r"an int in \[0, 12\]")],
    "rows = 5000": [("rows = 0", r"Quota\.rows must be an int of at least 1; got 0"), ("row = 1", "settings among")],
    'unit = "quota"': [('unit = "quotas"', "Did you mean quota"), ('unit = "prada"', "settings among|Did you mean"),
                       ("", "which unit it is")],
    "detector = { unit = \"prada\", threshold = 4.0 }": [
        ("detector = { unit = \"prada\", threshold = 0.5 }", "greater than 1"),
        ("detector = { unit = \"rounding\" }", "a detector")],
    'guard = "labels"': [('guard = "maybe"', '"closed", "labels" or "open"')],
    'trusted = ["10.0.0.0/8"]': [('trusted = ["10.0.0.0/99"]', "networks such as")],
    'webhook = "https://alarms.example/hook"': [('webhook = "mail"', "http://host/path")],
    "port = 9001": [("port = 90010", r"\[0, 65535\]"), ("port = ", "This is not TOML")],
}  # fmt: skip


@pytest.mark.parametrize(("line", "wrong", "sentence"), [(k, *m) for k, ms in MISTAKES.items() for m in ms])
def test_a_mistake_is_refused_by_its_line(line: str, wrong: str, sentence: str, tmp_path: Path) -> None:
    number = GOOD.splitlines().index(line) + 1
    with pytest.raises(PolicyError, match=sentence) as error:
        parse_policy(GOOD.replace(line, wrong, 1), where="p.toml", folder=tmp_path)
    found = error.value.line
    assert found == 0 if line.startswith("key_file") and not wrong else number - 14 <= found <= number


def test_a_mistake_of_one_line_is_placed_on_that_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="line 6: 'protocl'"):
        parse_policy(GOOD.replace("protocol", "protocl", 1), folder=tmp_path)
    with pytest.raises(PolicyError, match=r"line 31: Quota\.rows"):
        parse_policy(GOOD.replace("rows = 5000", "rows = 0"), folder=tmp_path)


def test_a_short_secret_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "guard.key").write_text("00" * 8)
    with pytest.raises(PolicyError, match="at least 16 bytes; this one is 8"):
        parse_policy(GOOD, folder=tmp_path)
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(tmp_path / "nothing.toml")


def test_what_a_recipe_has_trained_is_found_beside_the_policy_and_known_by_its_content(tmp_path: Path) -> None:
    trained = toy_filter()
    shutil.copytree(trained.path, tmp_path / "filter")
    (tmp_path / "guard.key").write_text(SECRET.hex())
    head = 'key_file = "guard.key"\n[model]\nname = "m"\ninput_shape = [4]\nclasses = 5\n'
    text = head + '[[guard]]\nunit = "out_of_domain"\nfilter = "filter@sha256:{}"\n'
    policy = parse_policy(text.format(trained.sha256), folder=tmp_path)
    guard = policy.guard()
    guard.bind(policy.served.interface)
    assert guard.heavy
    assert guard.release(Request("a", rows(60)), answer_to(rows(60))).altered.any()
    with pytest.raises(PolicyError, match=r"line 6: .* was expected to hold what has the SHA-256"):
        parse_policy(text.format("0" * 64), folder=tmp_path)
    with pytest.raises(PolicyError, match=r"line 6: .*there is none\. Check the path"):
        parse_policy(text.replace("@sha256:{}", "s"), folder=tmp_path)


def test_a_new_key_matches_its_digest() -> None:
    key, digest = new_key()
    assert hashed(key) == digest
    assert len(key) > 24


AUDITED = {
    "title": "Digits of\n[ours]",
    "interface": {"reveals": "top_k", "k": 2, "decimals": None, "precision": "float32", "input_shape": [2],
                  "n_classes": 3, "bounds": [-3.0, 3.0], "missing": True,
                  "features": [{"name": "age", "low": 0.0, "high": 9.0, "values": ()},
                               {"name": "sex", "low": 0.0, "high": 1.0, "values": ("f", 'm"')}]},
}  # fmt: skip


def test_the_audit_writes_a_policy_that_is_checked_and_served(tmp_path: Path) -> None:
    from tests.gateway.harness import Softmax, gate, running, served_of
    from tests.report.fakes import audit
    from typer.testing import CliRunner

    from portcullis_ml.cli.app import app
    from portcullis_ml.gateway.modelserver import ModelServer
    from portcullis_ml.report import write_policy

    folder = tmp_path / "audit"
    folder.mkdir()
    path = write_policy(audit(), AUDITED, folder / "portcullis.toml")
    assert path is not None
    secret = folder / "guard.key"
    assert secret.stat().st_mode & 0o077 == 0
    before = secret.read_text()
    assert write_policy(audit(), AUDITED, path) == path
    assert secret.read_text() == before  # the same guard, not another
    told = CliRunner().invoke(app, ["check", str(path)])
    assert told.exit_code == 0, told.output
    assert "watch each client with prada normality" in told.output
    policy = read_policy(path)
    assert policy.served.name == "digits-of-ours"
    assert [f.values for f in policy.served.interface.features or ()] == [(), ("f", 'm"')]
    assert (policy.shown.reveals, policy.shown.k) == (Reveals.TOP_K, 2)
    assert policy.served.datatype == "FP32"
    assert policy.guard().describe()[0]["then"] == {"unit": "log"}  # a table: until it is calibrated
    assert 'as audited: { unit = "other_class" }' in path.read_text()
    model = Softmax(d=2)
    with running(ModelServer(model, served_of(model))) as upstream:
        changes = {"upstream.url": upstream, "listen.port": 0, "admin.port": 0, "state.url": f"{tmp_path}/state.db"}
        with gate(read_policy(path, **changes)) as server:
            assert server.url.startswith("http://127.0.0.1:")
    assert write_policy([], AUDITED, path) is None  # nothing can be recommended: nothing old is left to be taken for it
    assert not path.exists()


VALUES = [
    "1", "-1", "1.5", '"x"', '""', "true", "[]", "[1]", '["a"]', "{}", "{ a = 1 }", "nan", "-inf", "1979-05-27",
    "07:32:00", "[{}]", '[{ unit = "x" }]', "{ unit = 3 }", '"a\\u0000b"', '"http://h:99999"', '"http://[::1"',
]  # fmt: skip


@settings(max_examples=400, deadline=5_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_taken_or_refused_in_a_sentence(data: st.DataObject, tmp_path: Path) -> None:
    """The policy of the documentation, spoiled; whatever is taken can be explained and made into a guard."""
    page = (Path(__file__).parents[2] / "docs" / "gateway" / "policy.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0].replace('sha256 = "..."', f'sha256 = "{"ab" * 32}"')
    lines = [line.removeprefix("# ") if "= {" in line else line for line in text.splitlines()]
    assert list(explained(parse_policy("\n".join(lines), folder=tmp_path)))
    place = data.draw(st.sampled_from([i for i, line in enumerate(lines) if "=" in line]))
    keys = re.findall(r"(\w+) = ", lines[place])
    key, value = data.draw(st.sampled_from(keys or ["mode"])), data.draw(st.sampled_from(VALUES))
    spoiled = re.sub(rf"\b{key} = (\{{.*\}}|\[.*\]|[^,}}\]]+)", lambda m: f"{key} = {value} ", lines[place], count=1)
    try:
        policy = parse_policy("\n".join([*lines[:place], spoiled, *lines[place + 1 :]]), folder=tmp_path)
    except PolicyError:
        return
    assert [*explained(policy), *warnings(policy)]
    assert policy.guard()
    assert policy.wires()
