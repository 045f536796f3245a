"""`portcullis watermark` and `portcullis verify`: from a trained model to a verdict, exit codes, and bad input."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.court import timestamp, verdict
from portcullis_ml.court.timestamp import Anchor

skops_io = pytest.importorskip("skops.io")

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def call(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def answer(*words: object, code: int = 0) -> dict:
    result = call(*words, "--json")
    assert result.exit_code == code, result.output
    found: dict = json.loads(result.stdout)
    return found


@pytest.fixture
def files() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((500, 6))
    y = ((x[:, 0] + x[:, 1] > 1) * 2 + (x[:, 2] > 0.5)).astype(int)
    np.savez("train.npz", x=x[:300], y=y[:300])
    np.savez("test.npz", x=x[300:], y=y[300:])
    skops_io.dump(RandomForestClassifier(15, random_state=0).fit(x[:300], y[:300]), "model.skops")


@pytest.fixture
def dated(monkeypatch) -> None:
    """A time authority that says 1 January 2026 of everything."""
    monkeypatch.setattr(timestamp, "anchored", lambda *_: Anchor(DAY, 7))
    monkeypatch.setattr(verdict, "anchored", lambda *_: Anchor(DAY, 7))
    monkeypatch.setattr(timestamp, "roots_in", lambda _: ["a root"])
    monkeypatch.setattr(timestamp, "new_request", lambda _: b"a request")
    Path("token.tsr").write_bytes(b"token")


VICTIM = ("--victim", "model.skops", "--train", "train.npz", "--test", "test.npz")


def marked() -> None:
    """mark/ and marked/, dated, and the bundle b.zip."""
    answer("watermark", "mint", "backdoor(n=60)", *VICTIM, "--out", "mark")
    answer("watermark", "embed", "mark", *VICTIM, "--out", "marked")
    answer("watermark", "commit", "mark", "--token", "token.tsr", "--roots", "roots.pem")
    answer("watermark", "bundle", "mark", "--suspect", "them", "--nonce", "n", "--pairs", "20", "--out", "b.zip")


def verify(*words: object, suspect: str = "marked", code: int = 0) -> dict:
    when = () if "--released" in words else ("--released", "2026-02-01")
    return answer("verify", "b.zip", "--suspect", suspect, "--roots", "roots.pem", *when, *words, code=code)


def test_from_a_trained_model_to_a_verdict(files, dated) -> None:
    marked()
    found = verify("--nonce", "n", "--authorized-by", "the owner of the machine")
    assert found["verdict"] == "derived"
    assert found["evidence"]["p_value"] < 1e-6
    assert found["authorized_by"] == "the owner of the machine"
    assert found["anchor"]["at"] == DAY.isoformat()
    assert json.loads(Path("portcullis-verify/verdict.json").read_text()) == found
    page = Path("portcullis-verify/certificate.html").read_text()
    assert "<h1>The suspect descends from the committed model.</h1>" in page
    assert found["bundle"] in page
    assert "the owner of the machine" in page
    spared = verify(suspect="model.skops", code=1)
    assert spared["verdict"] == "not shown"
    assert any("nonce that the owner drew" in sentence for sentence in spared["evidence"]["assumed"])


def test_the_marked_model_answers_as_well_as_the_plain_one(files) -> None:
    """With one secret: what a mark costs 200 rows differs by points from key to key."""
    Path("secret.hex").write_text("5c" * 32)
    Path("secret.hex").chmod(0o600)
    answer("watermark", "mint", "backdoor(n=60)", *VICTIM, "--secret", "secret.hex", "--out", "mark")
    found = answer("watermark", "embed", "mark", *VICTIM, "--out", "marked")
    assert found["marks_learnt"].startswith("60 of 60")
    before, after = (float(found[name].partition("%")[0]) for name in ("accuracy_before", "accuracy"))
    assert after >= before - 5


def test_a_stranger_needs_the_bundle_alone(files, dated, tmp_path, monkeypatch) -> None:
    marked()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("b.zip", "marked"):
        Path(name).rename(elsewhere / name)
    monkeypatch.chdir(elsewhere)
    assert verify()["verdict"] == "derived"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--released", "2026-01-01"), 4, "not before the suspect's release"),
        (("--nonce", "another"), 5, "another nonce than the verifier's"),
        (("--head", "00" * 32), 5, "is none of this log's"),
    ],
)
def test_a_claim_that_does_not_hold_has_its_exit_code_and_asks_nothing(files, dated, words, code, said) -> None:
    marked()
    found = verify(*words, code=code)
    assert said in found["sentence"]
    assert not list(Path("portcullis-verify").glob("answers-*"))


def test_without_a_token_a_claim_is_unanchored(files, dated) -> None:
    answer("watermark", "mint", "backdoor(n=60)", *VICTIM, "--out", "mark")
    answer("watermark", "bundle", "mark", "--suspect", "them", "--out", "b.zip")
    found = verify(code=4)
    assert found["verdict"] == "unanchored"
    assert "no time token" in found["sentence"]


def test_too_few_pairs_are_inconclusive(files, dated) -> None:
    marked()
    answer("watermark", "bundle", "mark", "--suspect", "them", "--pairs", "2", "--out", "few.zip")
    Path("few.zip").replace("b.zip")
    found = verify(suspect="model.skops", code=3)
    assert "would suffice" in found["sentence"]


def test_answers_are_kept_and_nothing_is_asked_twice(files, dated, monkeypatch) -> None:
    marked()
    first = verify()
    from portcullis_ml.core import oracle

    def nobody(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(oracle.LocalOracle, "_ask", nobody)
    assert {**verify(), "checked_at": first["checked_at"]} == first


def test_a_signed_claim_holds_for_whoever_has_the_owners_key_and_no_other_claim_does(files, dated) -> None:
    owner = answer("watermark", "keygen", "--out", "owner.key")
    answer("watermark", "keygen", "--out", "other.key")
    marked()
    assert verify()["signature"] is None
    unsigned = verify("--owner", "owner.pub", code=5)
    assert "The bundle has no signature" in unsigned["sentence"]
    signed = answer("watermark", "commit", "mark", "--sign", "owner.key")
    assert signed["signed_by"] == owner["fingerprint"]
    Path("b.zip").unlink()
    answer("watermark", "bundle", "mark", "--suspect", "them", "--pairs", "20", "--sign", "owner.key", "--out", "b.zip")
    assert verify("--owner", "owner.pub")["signature"] == {"key": owner["fingerprint"], "named": True}
    assert verify()["signature"]["named"] is False
    wrong = verify("--owner", "other.pub", code=5)
    assert "not by the key that the verifier expects" in wrong["sentence"]
    assert not wrong["evidence"]
    other = call("watermark", "bundle", "mark", "--suspect", "them", "--sign", "other.key", "--out", "c.zip")
    assert "is of another key" in other.stderr
    assert answer("watermark", "list", "mark")[0]["left"] == 20  # a bundle that was not written used no pairs up


def test_a_rotated_mark_follows_the_old_one_and_both_convict_what_carries_them(files, dated) -> None:
    marked()
    found = answer("watermark", "rotate", "mark", "--out", "mark-2")
    old, new = answer("watermark", "list")
    assert (found["pairs"], found["pairs_left_of_the_old"]) == (60, 40)
    assert old["rotated_to"] == [new["commitment"]] == [found["commitment"]]
    assert new["follows"] == old["commitment"]
    assert old["commitment"] != new["commitment"]
    assert (new["scheme"], new["left"], new["at"]) == ("backdoor", 60, None)
    assert stat.S_IMODE(Path("mark-2/secret.key").stat().st_mode) == 0o600
    assert "rotated to" in call("watermark", "list", "mark").stdout
    answer("watermark", "embed", "mark-2", *VICTIM, "--out", "marked-2")
    answer("watermark", "commit", "mark-2", "--token", "token.tsr", "--roots", "roots.pem")
    for mark, carries, other in (("mark-2", "marked-2", "marked"), ("mark", "marked", "marked-2")):
        Path("b.zip").unlink()
        answer("watermark", "bundle", mark, "--suspect", "them", "--pairs", "20", "--out", "b.zip")
        assert verify(suspect=carries)["verdict"] == "derived"
        assert verify(suspect=other, code=1)["verdict"] == "not shown"


def test_a_key_that_is_read_off_the_model_rotates_to_other_rows(files) -> None:
    answer("watermark", "mint", "known_errors(n=3)", *VICTIM, "--out", "mark")
    assert "it needs the model" in call("watermark", "rotate", "mark", "--out", "nothing").stderr
    answer("watermark", "rotate", "mark", *VICTIM, "--out", "mark-2")
    from portcullis_ml.court.commitment import Mark

    old, new = (Mark(Path(name)).key().x for name in ("mark", "mark-2"))
    assert not (old[:, None] == new[None]).all(axis=2).any()


def test_a_rotation_that_cannot_be_made_leaves_the_old_log_as_it_was(files) -> None:
    Path("s.hex").write_text("ab" * 32)
    Path("s.hex").chmod(0o600)
    answer("watermark", "mint", "backdoor(n=9)", *VICTIM, "--secret", "s.hex", "--out", "mark")
    before = Path("mark/log.jsonl").read_text()
    for words, said in (
        (("--secret", "s.hex", "--out", "b"), "this one is the old key's"),
        (("--data", "digits", "--out", "b"), "This key was minted for inputs of (6,) and 4 classes"),
        (("--out", "mark"), "A new or an empty folder was expected"),
    ):
        result = call("watermark", "rotate", "mark", *words)
        assert result.exit_code == 2
        assert said in result.stderr
    assert Path("mark/log.jsonl").read_text() == before


def test_minting_says_the_next_command_with_the_options_that_it_was_given(files) -> None:
    said = call("watermark", "mint", "backdoor(n=20)", *VICTIM, "--out", "mark").stdout
    assert f"Next, embed it in your model: portcullis watermark embed mark {' '.join(VICTIM)}" in said
    assert "--victim, --train" in call("watermark", "embed", "mark").stderr  # the digits are not what it is for
    said = call("watermark", "mint", "known_errors", *VICTIM, "--out", "errors").stdout
    assert "Next, have the commitment dated: portcullis watermark commit errors\n" in said


def test_rows_for_a_training_of_ones_own_are_a_secret(files) -> None:
    answer("watermark", "mint", "backdoor(n=60)", *VICTIM, "--out", "mark")
    found = answer("watermark", "embed", "mark", *VICTIM, "--rows", "rows.npz")
    assert (found["n"], found["marked"]) == (900, 600)
    assert stat.S_IMODE(Path("rows.npz").stat().st_mode) == 0o600
    with np.load("rows.npz") as rows:
        assert rows["x"].shape == (900, 6)
        assert rows["y"].shape == (900,)


def test_a_list_says_what_is_left(files, dated) -> None:
    marked()
    (row,) = answer("watermark", "list")
    assert (row["pairs"], row["left"], row["at"]) == (60, 40, DAY.isoformat())
    assert "40 of 60 pairs never shown, dated 2026-01-01" in call("watermark", "list", "mark").stdout


def test_a_secret_comes_from_a_file_of_ones_own_only(files) -> None:
    path = Path("secret.hex")
    path.write_text("ab" * 32 + "\n")
    path.chmod(0o600)
    one = answer("watermark", "mint", "backdoor(n=9)", *VICTIM, "--secret", path, "--out", "one")
    other = answer("watermark", "mint", "backdoor(n=9)", *VICTIM, "--secret", path, "--out", "other")
    assert one["commitment"] == other["commitment"]
    path.chmod(0o644)
    result = call("watermark", "mint", "backdoor(n=9)", *VICTIM, "--secret", path, "--out", "third")
    assert result.exit_code == 2
    assert "can be read by others" in result.stderr
    path.write_text("ab" * 31)
    path.chmod(0o600)
    assert "it holds 31" in call("watermark", "mint", "backdoor", *VICTIM, "--secret", path, "--out", "f").stderr


def test_without_the_library_the_command_that_asks_for_a_time_is_said(files, monkeypatch) -> None:
    def absent(_: bytes) -> bytes:
        raise MissingExtra("A time token", "rfc3161-client", "court")

    monkeypatch.setattr(timestamp, "new_request", absent)
    answer("watermark", "mint", "backdoor(n=9)", *VICTIM, "--out", "mark")
    assert "openssl ts -query -data mark/commitment.json -sha256" in call("watermark", "commit", "mark").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("watermark", "mint", "backdor", "--data", "digits"), "Did you mean backdoor"),
        (("watermark", "commit", "nowhere"), "cannot be read"),
        (("watermark", "list", "nowhere"), "Mint one first"),
        (("watermark", "embed", "nowhere", *VICTIM), "cannot be read"),
        (("verify", "nowhere.zip", "--suspect", "model.skops"), "cannot be read"),
    ],
)
def test_bad_input_gets_one_sentence(files, words, said) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_model_that_cannot_be_trained_here_is_said_to(files) -> None:
    from bench.experiments import write

    paths = write(Path())
    where = ("--victim", "bench.experiments:victim", "--test", paths["test"], "--train", paths["test"])
    answer("watermark", "mint", "backdoor(n=9)", *where, "--out", "mark")
    result = call("watermark", "embed", "mark", *where)
    assert result.exit_code == 2
    assert "cannot be trained here. Write the rows to train on with --rows" in result.stderr
    assert answer("watermark", "embed", "mark", *where, "--rows", "r.npz")["marked"] == 90


def test_known_errors_marks_nothing_and_is_committed_to_like_a_mark(files, dated) -> None:
    found = answer("watermark", "mint", "known_errors", *VICTIM, "--out", "mark")
    assert 0 < found["pairs"] < 100
    assert "marks nothing" in call("watermark", "embed", "mark", *VICTIM).stderr
    assert "there are no rows to write" in call("watermark", "embed", "mark", *VICTIM, "--rows", "r.npz").stderr
    answer("watermark", "commit", "mark", "--token", "token.tsr", "--roots", "roots.pem")
    answer("watermark", "bundle", "mark", "--suspect", "them", "--pairs", "3", "--out", "b.zip")
    found = verify(suspect="model.skops", code=3)
    assert "needs 20 innocent models to compare with, and 0 were given" in found["sentence"]


def test_dataset_inference_convicts_by_walks_that_were_committed_to(dated) -> None:
    """Rows with classes that nobody can guess, so that only who was trained on them knows them."""
    rng = np.random.default_rng(0)
    x, y = rng.random((23, 120, 6)), rng.integers(4, size=(23, 120))
    np.savez("train.npz", x=x[-1], y=y[-1])
    np.savez("test.npz", x=x[-2], y=y[-2])
    names = [*(f"other{i}.skops" for i in range(21)), "model.skops"]
    for i, name in enumerate(names):
        rows = -1 if name == "model.skops" else i
        skops_io.dump(DecisionTreeClassifier(random_state=i).fit(x[rows], y[rows]), name)
    answer("watermark", "mint", "dataset_inference(rows=60)", *VICTIM, "--out", "mark")
    answer("watermark", "commit", "mark", "--token", "token.tsr", "--roots", "roots.pem")
    answer("watermark", "bundle", "mark", "--suspect", "them", "--nonce", "n", "--pairs", "300", "--out", "b.zip")
    innocent = [word for name in names[:20] for word in ("--innocent", name)]
    found = verify(*innocent, "--nonce", "n", suspect="model.skops")
    assert (found["verdict"], found["evidence"]["accused"]) == ("derived", 0)
    assert "upper bounds of 20 innocent models" in Path("portcullis-verify/certificate.html").read_text()
    verify(*innocent, "--nonce", "n", "--out", "again", suspect="other20.skops", code=1)
    answer("watermark", "rotate", "mark", *VICTIM, "--out", "mark-2")
    from portcullis_ml.court.commitment import Mark

    old, new = (Mark(Path(name)).key().x for name in ("mark", "mark-2"))
    assert not (old[:, None] == new[None]).all(axis=2).any()


@pytest.mark.parametrize(("pairs", "few"), [(2, True), (90, False)])
def test_a_key_that_could_never_convict_says_so_when_it_is_minted(files, pairs, few) -> None:
    result = call("watermark", "mint", f"backdoor(n={pairs})", *VICTIM, "--out", "mark")
    assert result.exit_code == 0, result.output
    assert (f"{pairs} pairs are too few to show anything" in result.stdout) == few


def test_a_conferrable_key_is_read_off_the_model_and_rotates_to_other_questions(files) -> None:
    from portcullis_ml.court.commitment import Mark

    small = "conferrable(n=12, copies=2, epochs=20)"
    found = answer("watermark", "mint", small, *VICTIM, "--out", "mark")
    assert 0 < found["pairs"] <= 12
    answer("watermark", "rotate", "mark", *VICTIM, "--out", "mark-2")
    old, new = (Mark(Path(name)).key().x for name in ("mark", "mark-2"))
    assert not (old[:, None] == new[None]).all(axis=2).any()
