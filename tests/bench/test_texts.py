"""A victim that takes texts: rows from every kind of file, pipelines and functions, an audit, and its bad input."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from portcullis_ml.bench.experiment import ExperimentSpec
from portcullis_ml.bench.run_audit import AuditOptions, run_audit
from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError
from portcullis_ml.gateway.policy.policy import read_policy
from portcullis_ml.gateway.protocols.texts import TextInput
from portcullis_ml.models.load import save_model
from portcullis_ml.report import write_policy, write_report

skops_io = pytest.importorskip("skops.io")
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import Pipeline, make_pipeline  # noqa: E402

WORDS = {"spam": "win cash prize now free offer click", "ham": "meeting lunch report monday thanks team project"}
SHARED = "the a of to we you and is"
HOSTILE = "<script>alert(1)</script> &"


def drawn(n: int, seed: int) -> tuple[list[str], list[str]]:
    """n texts of ten words, most of them of their class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = ["spam", "ham"] * (n // 2)
    texts = []
    for label in labels:
        other = WORDS["ham" if label == "spam" else "spam"]
        texts.append(" ".join(rng.choice((3 * WORDS[label] + " " + other + " " + SHARED).split(), 10)))
    return texts, labels


TRAIN, TEST, POOL = drawn(80, 0), drawn(60, 1), drawn(100, 2)
VICTIM: Pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(*TRAIN)


def csv(path: Path, texts: list[str], labels: list[str] | None = None, head: str = "text,label") -> str:
    rows = [head, *(f'"{t}",{labels[i]}' if labels else f'"{t}"' for i, t in enumerate(texts))]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    skops_io.dump(VICTIM, tmp_path / "victim.skops")
    np.savez(tmp_path / "test.npz", x=np.array(TEST[0]), y=np.array(TEST[1]))
    return {
        "victim": str(tmp_path / "victim.skops"),
        "csv": csv(tmp_path / "test.csv", *TEST),
        "jsonl": jsonl(tmp_path / "test.jsonl", [{"text": t, "label": y} for t, y in zip(*TEST, strict=True)]),
        "npz": str(tmp_path / "test.npz"),
        "pool": csv(tmp_path / "pool.csv", [f"{HOSTILE} {text}" for text in POOL[0]], head="text"),
    }


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch):
    """A function that names a Python object as module:object."""

    def name(value: Any) -> str:
        module = types.ModuleType(f"texts_{len(sys.modules)}")
        module.v = value  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"{module.__name__}:v"

    return name


def accuracy(spec: ExperimentSpec) -> float:
    experiment = spec.load()
    assert experiment.interface.text
    return float((experiment.model.scores(experiment.test_x).argmax(axis=1) == experiment.test_y).mean())


@pytest.mark.parametrize("kind", ["csv", "jsonl", "npz"])
def test_the_same_texts_from_every_kind_of_file_give_the_pipelines_own_accuracy(files, kind):
    spec = ExperimentSpec(victim=files["victim"], test=files[kind], pool=files["pool"])
    assert accuracy(spec) == VICTIM.score(*TEST)
    assert spec.load().classes == ("ham", "spam")
    assert len(spec.load().pool) == 100


@pytest.mark.parametrize(
    ("victim", "columns"),
    [
        (lambda texts: VICTIM.predict_proba(texts), 2),
        (lambda texts: VICTIM.predict_proba(texts)[:, 1], 2),
        (lambda texts: VICTIM.predict(texts), 2),
        (lambda texts: [{"label": v, "score": 0.9} for v in VICTIM.predict(texts)], 2),
        (
            lambda texts: [
                [{"label": c, "score": s} for c, s in zip(VICTIM.classes_, row, strict=True)]
                for row in VICTIM.predict_proba(texts)
            ],
            2,
        ),
        (lambda texts: VICTIM.predict_proba(texts.tolist()), 2),
        (VICTIM, 2),
    ],
    ids=["probabilities", "one column", "labels", "best label", "all labels", "takes an array", "pipeline"],
)
def test_what_a_victim_answers_is_understood(files, named, victim, columns):
    spec = ExperimentSpec(victim=named(victim), test=files["jsonl"])
    assert spec.load().model.n_classes == columns
    assert accuracy(spec) == VICTIM.score(*TEST)


def test_equal_texts_are_equal_rows_in_any_process_and_unlike_texts_are_not():
    from portcullis_ml.core.randomness import canonical
    from portcullis_ml.models.texts import Texts, rows_of_texts

    rows = rows_of_texts(["a", "b", "a", "", "\ud800"])
    assert (rows[0] == rows[2]).all()
    assert len({row.tobytes() for row in rows.astype(np.float32)}) == 4
    assert len(set(canonical(rows))) == 4
    digest = hashlib.blake2b(b"a", digest_size=9).digest()
    assert rows[0].tolist() == [int.from_bytes(digest[i : i + 3], "big") for i in (0, 3, 6)]
    with pytest.raises(InputError, match="stand for a text"):
        Texts().of(rows)


def test_random_texts_are_made_of_the_pools_words(files):
    experiment = ExperimentSpec(victim=files["victim"], test=files["csv"], pool=files["pool"]).load()
    rows = experiment.interface.uniform(20, np.random.default_rng(0))
    texts = experiment.interface.texts.of(rows)  # type: ignore[attr-defined]
    pool = {word for text in (HOSTILE, *POOL[0]) for word in text.split()}
    assert {word for text in texts for word in text.split()} <= pool
    assert len(set(texts)) > 15


def test_an_audit_of_texts_steals_the_pipeline_and_says_what_does_not_apply(files, tmp_path, monkeypatch):
    spec = ExperimentSpec(victim=files["victim"], test=files["csv"], pool=files["pool"])
    attacks = ("knockoff", "knockoff_adaptive", "active_thief", "copycat", "jacobian")
    defenses = ("rounding(decimals=1)", "quota(rows=30)", "watch(detector=prada)", "watch(detector=low_confidence)")
    options = AuditOptions(
        spec=spec, attacks=attacks, defenses=defenses, budgets=(50, 100), seeds=1, learner="tfidf(vectors=('words',))"
    )
    records, meta = run_audit(options, out=tmp_path / "out", jobs=0)
    assert meta["interface"]["text"]
    top = [r for r in records if r["cell"]["budget"] in (0, 100)]
    plain = {r["attack"]: r for r in top if r["defense"] == "none"}
    for attack in (*attacks[:4], "plain_stranger"):
        assert plain[attack]["outcome"] == "done", plain[attack]["reason"]
        assert plain[attack]["measures"]["agreement"]["value"] > 0.85
        assert plain[attack]["queries"] == 100
    assert plain["shuffled"]["measures"]["agreement"]["value"] < 0.7
    assert plain["random_queries"]["outcome"] == plain["no_api"]["outcome"] == "done"
    assert plain["jacobian"]["reason"] == "jacobian needs rows of numbers; this API takes texts. Leave it out."
    behind = {r["defense"]: r for r in records if r["attack"] == "knockoff"}
    assert behind["quota(rows=30)"]["queries"] == 30
    assert "distances" in behind["watch(detector=prada)"]["reason"]
    assert behind["watch(detector=low_confidence)"]["outcome"] == behind["label_only"]["outcome"] == "done"
    again, _ = run_audit(options, out=tmp_path / "out", jobs=0)
    assert [r["seconds"] for r in again if r["final"]] == [
        r["seconds"] for r in records if r["final"]
    ]  # none run again
    monkeypatch.setattr("portcullis_ml.report.policy.settings", lambda audit: '[[guard]]\nunit = "rounding"\n')
    written = write_policy(records, meta, tmp_path / "portcullis.toml")
    assert read_policy(written).served.text == TextInput()
    page = write_report(records, meta, tmp_path / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; " in page


def test_a_copy_is_saved_and_is_itself_a_victim(files, tmp_path):
    from portcullis_ml.models.tfidf import TfidfLearner

    experiment = ExperimentSpec(victim=files["victim"], test=files["csv"], pool=files["pool"]).load()
    x = experiment.pool
    learner = TfidfLearner().knowing(experiment.interface)
    copy = learner.fit(x, experiment.model.scores(x), rng=np.random.default_rng(0))
    path = save_model(copy, tmp_path / "copy")
    again = ExperimentSpec(victim=str(path), test=files["csv"]).load()
    assert again.model.classes == ("ham", "spam")
    assert np.array_equal(again.model.scores(again.test_x), copy.scores(experiment.test_x))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [{"text": "a b", "label": 1}, {"text": 3, "label": 1}],
            "line 2: 'text' was expected to be a text; it is a number",
        ),
        ([{"text": "a b", "label": 1}, {"body": "x"}], "line 2: a key 'text' was expected; it has body"),
        ([{"text": "a b", "label": [1]}], "line 1: 'label' was expected to be one label; it is a list"),
        ([["a"]], 'line 1: {"text": "..."} was expected; it holds a list'),
        ([{"text": "  "}, {"text": None}], "at least one text"),
    ],
    ids=["mixed types", "no key", "several labels", "no object", "empty"],
)
def test_bad_lines_are_named_by_their_number(files, tmp_path, rows, sentence):
    path = jsonl(tmp_path / "bad.jsonl", rows)
    with pytest.raises(InputError) as caught:
        ExperimentSpec(victim=files["victim"], test=path).load()
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', "broken.jsonl, line 2: JSON was expected; it is broken"),
        ("latin.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "UTF-8; line 2 is not"),
        ("latin.csv", b"text,label\ncaf\xe9,spam\n", "UTF-8"),
        ("numbers.csv", b"text,label\n1.5,spam\n2,ham\n", "it holds numbers"),
        ("other.csv", b"id,body,more,label\n1,a,b,spam\n2,c,d,ham\n", "Name the column of texts with --text"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(files, tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        ExperimentSpec(victim=files["victim"], test=str(tmp_path / name)).load()
    assert sentence in str(caught.value)


def test_a_pool_with_another_column_of_texts_is_asked_for_its_name(files, tmp_path):
    pool = csv(tmp_path / "other.csv", POOL[0], head="body")
    with pytest.raises(InputError, match=r"other\.csv was expected to have a column 'text'; it has body\. Rename it\."):
        ExperimentSpec(victim=files["victim"], test=files["csv"], pool=pool, text="text").load()
    assert ExperimentSpec(victim=files["victim"], test=files["csv"], pool=pool).load().pool is not None  # its only one


def test_numbers_in_an_array_are_refused_where_texts_are_taken(files, tmp_path):
    np.savez(tmp_path / "n.npz", x=np.zeros((5, 3)), y=np.zeros(5, int))
    with pytest.raises(InputError, match="expected to hold strings, as the victim takes texts; it holds float64"):
        ExperimentSpec(victim=files["victim"], test=str(tmp_path / "n.npz")).load()


def test_rows_without_a_text_are_left_out_and_counted(files, tmp_path):
    path = jsonl(tmp_path / "t.jsonl", [{"text": t, "label": y} for t, y in zip(*TEST, strict=True)] + [{"text": ""}])
    experiment = ExperimentSpec(victim=files["victim"], test=path).load()
    assert len(experiment.test_x) == 60
    assert any("lost 1 of 61 rows" in note for note in experiment.notes)


@pytest.mark.parametrize(
    ("victim", "sentence"),
    [
        (lambda texts: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda texts: np.zeros((3, 2)), r"was expected to answer \(8, classes\) for 8 texts; it answered \(3, 2\)"),
        (3, "A victim of texts was expected"),
    ],
    ids=["raises", "wrong shape", "no function"],
)
def test_a_victim_that_cannot_answer_texts_is_one_sentence(files, named, victim, sentence):
    with pytest.raises(InputError, match=sentence):
        ExperimentSpec(victim=named(victim), test=files["jsonl"]).load()


def test_what_measures_with_numbers_is_refused_for_texts(files, tmp_path):
    spec = ExperimentSpec(victim=files["victim"], test=files["csv"], pool=files["pool"])
    for more in ({"transfer": True}, {"then": ("evasion",)}, {"learner": "auto"}):
        options = AuditOptions(spec=spec, attacks=("knockoff",), defenses=(), budgets=(50,), seeds=1, **more)
        with pytest.raises(InputError, match="texts"):
            run_audit(options, out=tmp_path / "out", jobs=0)


@pytest.mark.parametrize("zipmap", [False, True])
def test_an_onnx_graph_with_a_string_input_answers_like_its_pipeline(files, tmp_path, zipmap):
    skl2onnx = pytest.importorskip("skl2onnx")
    kind = skl2onnx.common.data_types.StringTensorType([None, 1])
    cased = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression(C=10)).fit(*TRAIN)
    graph = skl2onnx.to_onnx(cased, initial_types=[("text", kind)], options={"zipmap": zipmap})
    (tmp_path / "victim.onnx").write_bytes(graph.SerializeToString())
    experiment = ExperimentSpec(victim=str(tmp_path / "victim.onnx"), test=files["jsonl"]).load()
    assert experiment.classes == ("ham", "spam")
    assert np.abs(experiment.model.scores(experiment.test_x) - cased.predict_proba(TEST[0])).max() < 1e-4


def test_extract_writes_what_was_asked_and_a_copy_that_is_a_victim(files, tmp_path):
    out, options = tmp_path / "out", ["--learner", "tfidf(vectors=('words',))", "--json"]
    asked = ["--victim", files["victim"], "--test", files["csv"], "--pool", files["pool"], "--answers", "labels"]
    result = CliRunner().invoke(app, ["extract", "knockoff", *asked, "--budget", "40", "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    lines = [json.loads(line) for line in Path(made["transfer_set"]).read_text().splitlines()]
    texts = [line["text"] for line in lines]
    assert len(texts) == 40
    assert set(texts) <= {f"{HOSTILE} {text}" for text in POOL[0]}
    assert [line["label"] for line in lines] == VICTIM.predict(texts).tolist()
    copy = ["--victim", made["surrogate"], "--test", made["transfer_set"]]
    seen = CliRunner().invoke(app, ["inspect", *copy, "--json"])
    assert seen.exit_code == 0, seen.output
    assert json.loads(seen.stdout)["understood"]["inputs"]["taken"] == "texts"


def test_an_option_names_the_column_of_texts(files, tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text("id,body,kind\n" + "".join(f"{i},{t},{y}\n" for i, (t, y) in enumerate(zip(*TEST, strict=True))))
    asked = ["inspect", "--victim", files["victim"], "--test", str(path), "--json"]
    result = CliRunner().invoke(app, [*asked, "--text", "body", "--target", "kind"])
    assert result.exit_code == 0, result.output
    assert "answered as labelled" in json.loads(result.stdout)["understood"]["test rows"]["taken"]
    without = CliRunner().invoke(app, asked)
    assert without.exit_code == 2
    assert "with --text" in without.output
