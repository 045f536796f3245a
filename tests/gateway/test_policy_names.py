"""Names, paths and keys of a policy that could never work: each is refused with its line when the policy is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.gateway.harness import SECRET

from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.policy import Policy, PolicyError, parse_policy
from portcullis_ml.gateway.policy.warn import warnings

GOOD = f"""\
key_file = "guard.key"

[upstream]
url = "http://127.0.0.1:8080/base"
protocol = "mapping"
model = "clf"
version = "2"

[model]
name = "fraud-1.2_b@x"
input_shape = [4]
classes = 3
bounds = [0, 1]
scores = "p (all)"

[model.mapping]
path = "/score/v1:fast"
rows = "$.data.the rows"
scores = "$.result.p"
labels = "$.result.y"

[listen]
host = "127.0.0.1"
protocols = ["v2", "mapping"]

[clients]
key_header = "X-Api-Key"
key = [{{ client = "alice", sha256 = "{hashed("key")}" }}]

[state]
url = "sqlite:///state.db"
"""

MISTAKES = {
    'name = "fraud-1.2_b@x"': {
        'name = ""': "such as infer or versions; got ''",
        'name = "a/versions/1"': "a word of a server's routes, such as infer or versions; got 'a/versions/1'",
        'name = "a/infer"': "a word of a server's routes",
        'name = "a//b"': "with a slash between them",
        'name = "a/"': "with a slash between them",
        'name = "a/../b"': "with a slash between them",
        'name = "/a"': "with a slash between them",
        'name = " "': "with a slash between them",
        'name = ".."': "with a slash between them",
        'name = "a b"': "with a slash between them",
        'name = "a%2Fb"': "with a slash between them",
        'name = "für"': "with a slash between them",
        'name = "a?b"': "with a slash between them",
        'name = "a:predict"': "with a slash between them",
        "name = 3": "name must be text",
    },
    'model = "clf"': {'model = ""': "with a slash between them", 'model = "a/ready"': "a word of a server's routes"},
    'version = "2"': {'version = "2/3"': "without a slash", "version = 2": "must be text"},
    'scores = "p (all)"': {
        'scores = ""': "scores must be the name of a tensor",
        'scores = "label"': "scores must be a name of its own",
        'input = " "': "input must be the name of a tensor",
        'label = "probabilities"': "label must be a name of its own",
        "missing = 1": "missing must be true or false",
        'features = "age"': "features must be a list of tables",
        'features = [{ nme = "age" }]': "'nme' is not known in a feature. Did you mean 'name'",
        'features = ["age"]': "must be a table such as",
        "features = [{ low = 1 }]": "a feature's name must be printable text",
    },
    "input_shape = [4]": {
        "input_shape = 4": "a list of positive ints",
        "input_shape = [4.5]": "a list of positive ints",
        "input_shape = [true]": "a list of positive ints",
        'input_shape = "4"': "a list of positive ints",
    },
    "classes = 3": {"classes = -1": "at least 2", "classes = 2.5": "a whole number, or a list of the classes' names"},
    "bounds = [0, 1]": {
        "bounds = [1]": "bounds must be two numbers",
        'bounds = "01"': "bounds must be two numbers",
        "bounds = [0, inf]": "bounds must be two numbers",
        "bounds = [1, 0]": "low < high",
    },
    'path = "/score/v1:fast"': {
        'path = "score"': "a path such as /predict",
        'path = ""': "a path such as /predict",
        'path = "/a?b=1"': "a path such as /predict",
        'path = "/a b"': "a path such as /predict",
        'path = "/a%20b"': "a path such as /predict",
        'path = "//a"': "a path such as /predict",
        'path = "/a/../b"': "a path such as /predict",
        'path = "/a/.."': "a path such as /predict",
        'path = "http://host/a"': "a path such as /predict",
        "path = 5": "path must be text",
        'path = "/v2/models/fraud-1.2_b@x/infer"': "belongs to the protocol v2",
        'pth = "/a"': "'pth' is not known here. Did you mean 'path'",
    },
    'rows = "$.data.the rows"': {
        'rows = "rows"': r'rows must be written "\$\.key"',
        'rows = "$.a..b"': r'rows must be written "\$\.key"',
        'rows = "$.a[0]"': r'rows must be written "\$\.key"',
        'rows = "$.*"': r'rows must be written "\$\.key"',
        'rows = "$.a[*].b"': r'rows must be written "\$\.key"',
        "rows = [1]": "rows must be text",
        'rows_as = "record"': "rows_as must be one of list, object",
        'rows_as = "object"': r"'list\" where \[model\] features does not name the columns".replace("'", '"'),
        "batch = 1": "batch must be true, or false where",
        'scores_as = "number"': "scores_as must be one of list, object, top and pairs for 3 classes",
        'extras = "$.lang"': "extras must be a list of paths",
        "extras = [1]": "extras must be a list of paths",
        'extras = ["lang"]': r'extras must be written "\$\.key"',
        'extras = ["$.a[*].b"]': r'extras must be written "\$\.key"',
        'extras = ["$.inputs"]': r"extras must be paths beside the rows at \$\.inputs",
        'extras = ["$.inputs.lang"]': r"extras must be paths beside the rows at \$\.inputs",
        'extras = ["$"]': r"extras must be paths beside the rows",
        'extras = ["$.a", "$.a.b"]': "extras must be paths of which none lies within another",
        f"extras = {[f'$.k{i}' for i in range(33)]}": "extras must be at most 32 paths; got 33",
        'row = "$.a"': "'row' is not known here. Did you mean 'rows'",
    },
    'labels = "$.result.y"': {
        'labels = "$.result.p"': "another place than that of scores",
        'labels = "$.result"': "another place than that of scores",
        'labels = "$.result.p.y"': "another place than that of scores",
        'labels = "$.result[*].y"': "another place than that of scores",
        'labels = "$"': "another place than that of scores",
        'labels = "$.a[*].b[*]"': "for that of each object in a list",
        'scores_as = "top"\nlabels = ""': 'list, object and number where labels = ""',
    },
    'url = "http://127.0.0.1:8080/base"': {
        'url = "http://127.0.0.1:80800"': "http://host:port",
        'url = "http://127.0.0.1:port"': "http://host:port",
        'url = "http://[::1"': "http://host:port",
        'url = "http://host/a b"': "http://host:port",
        'url = "http://host/#a"': "http://host:port",
        'protcol = "v2"': "'protcol' is not known here. Did you mean 'protocol'",
    },
    'host = "127.0.0.1"': {'host = ""': "an address of this machine"},
    'protocols = ["v2", "mapping"]': {'protocols = ["v2", "v2"]': "each once"},
    'key_header = "X-Api-Key"': {'key_header = ""': "name of a header", 'key_header = "a b"': "name of a header"},
    f'key = [{{ client = "alice", sha256 = "{hashed("key")}" }}]': {
        'key = "abc"': "key must be a list",
        'key = ["abc"]': "an API key must be a table",
        'key = [{ client = "alice" }]': "ApiKey must say sha256",
        'key = [{ client = "alice", sha = "ab" }]': "'sha' is not known in an API key",
        'header = { header = "X A", trusted = ["10.0.0.0/8"] }': "name of a header",
        'header = { header = "X", trustd = ["10.0.0.0/8"] }': "Did you mean 'trusted'",
        'header = "X"': "must be a table",
        'token = { key_file = "k" }': "Token must say algorithms",
        'token = { key_file = "k", algorithms = ["RS256"], clam = "sub" }': "Did you mean 'claim'",
    },
    'url = "sqlite:///state.db"': {
        'url = "sqlite://state.db"': "sqlite:///FILE or redis",
        'url = "postgres://db"': "sqlite:///FILE or redis",
        'url = "redis:/host"': "sqlite:///FILE or redis",
        'url = ""': "sqlite:///FILE or redis",
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def secret(tmp_path: Path) -> None:
    (tmp_path / "guard.key").write_text(SECRET.hex())
    (tmp_path / "guard.key").chmod(0o600)


def read(text: str, folder: Path) -> Policy:
    return parse_policy(text, where="p.toml", folder=folder)


def test_unusual_names_that_work_are_taken(tmp_path: Path) -> None:
    policy = read(GOOD, tmp_path)
    assert policy.asked.options["path"] == "/score/v1:fast"
    assert list(warnings(policy))[:-1] == ["No operator is named; each start prints a token of its own."]


@pytest.mark.parametrize(
    ("line", "wrong", "sentence"), [(k, w, s) for k, ms in MISTAKES.items() for w, s in ms.items()]
)
def test_what_cannot_work_is_refused_by_its_line(line: str, wrong: str, sentence: str, tmp_path: Path) -> None:
    number = GOOD.splitlines().index(line) + 1
    with pytest.raises(PolicyError, match=sentence) as error:
        read(GOOD.replace(line, wrong), tmp_path)
    assert error.value.line == number
    assert "__init__" not in str(error.value)


def test_a_mapping_that_is_no_table_is_refused(tmp_path: Path) -> None:
    text = "\n".join(
        line for line in GOOD.splitlines() if line[:4] not in ("path", "rows", "labe") and "$." not in line
    )
    with pytest.raises(PolicyError, match=r"mapping must be a table: write \[model.mapping\]"):
        read(text.replace("[model.mapping]", 'mapping = "x"'), tmp_path)


def test_missing_inputs_need_numbers_that_can_be_missing(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="FP32 or FP64 where inputs may be missing"):
        read(GOOD.replace("classes = 3", 'classes = 3\nmissing = true\ndatatype = "INT64"'), tmp_path)


def test_what_works_and_helps_nobody_is_noted(tmp_path: Path) -> None:
    text = GOOD.replace('protocol = "mapping"', "").replace('["v2", "mapping"]', '["v2"]')
    text = "\n".join(line for line in text.splitlines() if not line.startswith("key = "))
    notes = " ".join(warnings(read(text, tmp_path)))
    assert "every request gets 401" in notes
    assert "[model.mapping] is not used" in notes
