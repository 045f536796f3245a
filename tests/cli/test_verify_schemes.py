"""`portcullis verify` on the command line, for every scheme of the catalog: what is hard or wrong convicts nobody.

Each case gives "false", "not shown" or "inconclusive", an exit code and one sentence, whatever the scheme counts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.harness import running
from tests.ownership.test_contract import SECRET, marked, scheme_of
from tests.ownership.toys import API, innocent

from portcullis_ml.core.types import Model
from portcullis_ml.court.commitment import Mark
from portcullis_ml.court.verdict import AGAIN
from portcullis_ml.models.load import save_model
from portcullis_ml.models.softmax import SoftmaxRegression
from portcullis_ml.ownership import CATALOG

from .test_verify_suspects import Counting, LabelsOnly, Suspect, altered
from .test_watermark import answer, call, dated

__all__ = ["dated"]

CLASSES = ("ant", "bee", "cat", "dog", "eel")
OTHERS = 20  # innocent models, as many as the schemes ask for


@dataclass(frozen=True)
class Stolen:
    """The folder with a mark and innocent models in it, and a model that descends from the marked one."""

    folder: Path
    model: Model
    pairs: int


@pytest.fixture(scope="module", params=sorted(CATALOG))
def stolen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stolen:
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    scheme = scheme_of(name)
    key, model, log = marked(name)
    pairs: Any = scheme.registered(SECRET, log, API) if name == "dawn" else key
    Mark.create(folder / "mark", scheme, pairs, API, CLASSES, at="2026-01-01T00:00:00+00:00")
    for i in range(OTHERS):
        w = 100 * innocent(10_000 + i).w.T  # type: ignore[attr-defined]
        save_model(SoftmaxRegression(w=w, b=-0.5 * w.sum(axis=1)), folder / f"innocent-{i}.npz")
    return Stolen(folder, model, len(pairs))


@pytest.fixture
def copy(stolen: Stolen, dated: None) -> Counting:
    """The model that descends from the marked one; b.zip, which opens every pair, lies in this test's own folder."""
    shutil.copytree(stolen.folder, ".", dirs_exist_ok=True)
    answer("watermark", "commit", "mark", "--token", "token.tsr", "--roots", "roots.pem")
    answer(
        "watermark", "bundle", "mark", "--suspect", "them", "--nonce", "n", "--pairs", stolen.pairs, "--out", "b.zip"
    )
    return Counting(stolen.model.scores, 4, 5)


def words(*more: object, bundle: str = "b.zip") -> tuple[object, ...]:
    others = [word for i in range(OTHERS) for word in ("--innocent", f"innocent-{i}.npz")]
    return ("verify", bundle, "--roots", "roots.pem", "--released", "2026-02-01", "--nonce", "n", *others, *more)


def judged(suspect: Any, *more: object, code: int, bundle: str = "b.zip") -> dict[str, Any]:
    with running(suspect) as url:
        return answer(*words(*more, "--suspect", url, bundle=bundle), code=code)


def test_a_copy_is_convicted_by_labels_too_and_an_innocent_model_is_not(stolen: Stolen, copy: Counting) -> None:
    assert judged(Suspect(copy), code=0)["verdict"] == "derived"
    assert copy.rows == stolen.pairs + AGAIN
    assert judged(LabelsOnly(copy), code=0)["verdict"] == "derived"
    assert judged(LabelsOnly(innocent(1)), code=1)["verdict"] == "not shown"


def test_a_scheme_without_its_innocent_models_says_that_nothing_can_be_said(stolen: Stolen, copy: Counting) -> None:
    least = Mark(Path("mark")).published().scheme.least
    with running(Suspect(copy)) as url:
        alone = words("--suspect", url)
        alone = tuple(w for w in alone if w != "--innocent" and not str(w).startswith("innocent-"))
        found = answer(*alone, code=3 if least else 0)
    if least:
        assert f"needs {least} innocent models to compare with, and 0 were given" in found["sentence"]


def test_one_innocent_model_named_twenty_times_is_refused_and_nothing_is_asked(copy: Counting) -> None:
    same = [word for _ in range(OTHERS) for word in ("--innocent", "innocent-1.npz")]
    with running(Suspect(copy)) as url:
        result = call("verify", "b.zip", "--roots", "roots.pem", "--released", "2026-02-01", "--suspect", url, *same)
    assert result.exit_code == 2
    assert "innocent-1.npz is named more than once" in result.stderr
    assert copy.rows == 0


@pytest.mark.parametrize(("columns", "n_classes"), [(5, 5), (4, 6), (4, 3)], ids=["inputs", "more", "fewer"])
def test_a_suspect_of_another_interface_is_inconclusive(copy: Counting, columns: int, n_classes: int) -> None:
    other = Counting(lambda x: np.full((len(x), n_classes), 1 / n_classes), columns, n_classes)
    found = judged(Suspect(other), code=3)
    assert found["verdict"] == "inconclusive"
    assert "does not answer as a model of the key's interface" in found["sentence"]
    assert found["evidence"] is None


def test_another_order_of_the_classes_convicts_nobody_until_it_is_named(copy: Counting) -> None:
    order = [3, 0, 4, 1, 2]
    turned = Suspect(Counting(lambda x: copy.scores(x)[:, order], 4, 5))
    found = judged(turned, code=1)
    assert any("--classes names another" in sentence for sentence in found["evidence"]["assumed"])
    assert judged(turned, "--classes", ",".join(CLASSES[i] for i in order), code=0)["verdict"] == "derived"
    other = judged(turned, "--classes", "ant,bee,cat,dog,fox", code=3)
    assert "they differ in eel, fox" in other["sentence"]


def test_a_suspect_that_refuses_is_inconclusive(stolen: Stolen, copy: Counting) -> None:
    found = judged(Suspect(copy, room=0, says="we do not serve courts"), code=3)
    assert f"stopped answering after 0 of {stolen.pairs} questions (we do not serve courts)" in found["sentence"]
    assert copy.rows == 0


def test_a_suspect_that_changes_its_answers_is_not_convicted_and_is_said_to(copy: Counting) -> None:
    rng = np.random.default_rng(0)
    found = judged(Suspect(Counting(lambda x: np.eye(5)[rng.integers(5, size=len(x))], 4, 5)), code=1)
    assert f"It changed {found['changed_answers']} of its answers when asked again." in found["sentence"]
    assert found["changed_answers"] > 0


def test_a_rate_limited_suspect_is_asked_nothing_twice(stolen: Stolen, copy: Counting) -> None:
    suspect = Suspect(copy, room=1, status=429, says="too many requests")
    with running(suspect) as url:
        limited = call(*words("--suspect", url))
        assert limited.exit_code == 2
        assert "answered 429: too many requests" in limited.stderr
        assert not Path("portcullis-verify/verdict.json").exists()
        assert 0 < copy.rows < stolen.pairs
        suspect.room = 1_000
        found = answer(*words("--suspect", url))
    assert found["verdict"] == "derived"
    assert copy.rows == stolen.pairs + AGAIN


def test_too_few_pairs_are_inconclusive_for_an_innocent_model_and_for_a_copy(stolen: Stolen, copy: Counting) -> None:
    shutil.copytree(stolen.folder / "mark", "fresh")
    answer("watermark", "commit", "fresh", "--token", "token.tsr", "--roots", "roots.pem")
    answer("watermark", "bundle", "fresh", "--suspect", "them", "--nonce", "n", "--pairs", 2, "--out", "few.zip")
    for suspect in (copy, Counting(innocent(1).scores, 4, 5)):
        found = judged(Suspect(suspect), code=3, bundle="few.zip")
        assert found["verdict"] == "inconclusive"
        assert any(said in found["sentence"] for said in ("would suffice", "are needed"))


def changed_pair(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[str], str]:
    """openings.json with something of its pairs changed."""

    def of(text: str) -> str:
        found = json.loads(text)
        change(found["openings"])
        return json.dumps(found)

    return of


def swap_labels(pairs: list[dict[str, Any]]) -> None:
    """The answers of the first two pairs that have different ones are exchanged."""
    other = next(pair for pair in pairs if pair["label"] != pairs[0]["label"])
    pairs[0]["label"], other["label"] = other["label"], pairs[0]["label"]


def flip_bit(pairs: list[dict[str, Any]]) -> None:
    """The last bit of the first number of the first question."""
    x = np.array(pairs[0]["x"])
    x.view(np.uint64)[0] ^= np.uint64(1)
    pairs[0]["x"] = x.tolist()


def flip_salt(pairs: list[dict[str, Any]]) -> None:
    salt = pairs[0]["salts"][0]
    pairs[0]["salts"][0] = f"{int(salt[0], 16) ^ 1:x}{salt[1:]}"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("openings.json", changed_pair(swap_labels), "The answer of opening"),
        ("openings.json", changed_pair(flip_bit), "The question of opening"),
        ("openings.json", changed_pair(flip_salt), "is not the one that was committed to"),
        ("openings.json", changed_pair(lambda pairs: pairs.pop()), "does not say that these pairs were shown"),
        ("openings.json", lambda t: t.replace('"nonce": "n"', '"nonce": "m"'), "another nonce than the verifier's"),
        ("log.jsonl", lambda t: "".join(t.splitlines(True)[:-1]), "does not say that these pairs were shown"),
        ("log.jsonl", lambda t: t[:-40], "it was changed or cut"),
        ("commitment.json", lambda t: t.replace('"n_classes": 5', '"n_classes": 4'), "another key's log"),
    ],
    ids=["swapped-labels", "bit", "salt", "fewer", "nonce", "log-cut", "log-cut-inside", "commitment"],
)
def test_a_bundle_of_which_a_link_is_broken_is_false_and_asks_nothing(
    copy: Counting, name: str, change: Callable[[str], str], said: str
) -> None:
    altered(name, change)
    found = judged(Suspect(copy), code=5)
    assert found["verdict"] == "false"
    assert said in found["sentence"]
    assert copy.rows == 0


def test_one_flipped_bit_anywhere_in_the_file_is_never_a_verdict_against_the_suspect(copy: Counting) -> None:
    whole = Path("b.zip").read_bytes()
    for place in np.linspace(0, len(whole) - 1, 12).astype(int):
        Path("b.zip").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        result = call(*words("--suspect", "absent.npz"))  # so no whole claim convicts either
        assert result.exit_code in (2, 5), result.output
        assert "Traceback" not in result.output


def test_the_time_of_another_file_makes_a_claim_false(stolen: Stolen, tmp_path: Path) -> None:
    """With real tokens: the authority dated something else than this commitment."""
    from tests.court.authority import Authority

    from portcullis_ml.court.timestamp import new_request

    authority = Authority(tmp_path / "authority")
    shutil.copytree(stolen.folder / "mark", "mark")
    Path("mark/request.tsq").write_bytes(new_request(b"another file"))
    authority.answer(tmp_path / "mark" / "request.tsq", tmp_path / "mark" / "token.tsr")
    kept = call("watermark", "commit", "mark", "--token", "mark/token.tsr", "--roots", authority.roots)
    assert kept.exit_code == 2
    assert "does not hold for this commitment" in kept.stderr
    answer("watermark", "bundle", "mark", "--suspect", "them", "--pairs", stolen.pairs, "--out", "b.zip")
    asks = ("verify", "b.zip", "--suspect", "absent.npz", "--roots", authority.roots, "--released", "2099-01-01")
    found = answer(*asks, code=5)
    assert "The time token does not hold for this commitment" in found["sentence"]
