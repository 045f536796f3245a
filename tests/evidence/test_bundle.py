"""A result bundle: what holds is verified, and whatever was altered is said in one sentence."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portcullis_ml.bench.cell import Cell
from portcullis_ml.core.errors import InputError, ProofError
from portcullis_ml.court.zipped import packed
from portcullis_ml.evidence import bundle as bundles
from portcullis_ml.evidence.bundle import DERIVED, ResultBundle, predicate_of
from portcullis_ml.evidence.envelope import new_key, open_envelope, sealed, signing_key
from portcullis_ml.evidence.rerun import chosen_cells, known_code, spec_of

from .conftest import Case, call

Files = dict[str, bytes]


def opened(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, files: Files, *more: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*files.items(), *more]:
            archive.writestr(name, data)


def repacked(path: Path, files: Files) -> None:
    """As `portcullis bundle` writes a zip."""
    path.write_bytes(packed(files, compressed=False))


def signed_anew(case: Case, files: Files) -> None:
    """Sign altered files with the owner's own key: only the numbers themselves can tell."""
    held = {name: data for name, data in files.items() if name not in (bundles.ENVELOPE, bundles.SIGNER)}
    records = [json.loads(line) for line in held["records.jsonl"].splitlines()]
    predicate = predicate_of(records, json.loads(held["meta.json"]))
    seal = sealed(held, predicate, signing_key(case.key))
    repacked(case.bundle, held | {bundles.ENVELOPE: seal, bundles.SIGNER: files[bundles.SIGNER]})


def refused(case: Case, *more: object) -> str:
    """What is said of a bundle that does not hold: one sentence, or two that belong together."""
    done = call("verify-results", case.bundle, "--public-key", case.public, *more)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_what_was_signed_is_verified(case: Case) -> None:
    done = call("verify-results", case.bundle, "--public-key", case.public, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["key_named"] is True
    assert told["records"] == len(json.loads((case.run / "meta.json").read_text())["cells"])
    assert told["numbers"] > 100
    assert "a key that you did not name" in call("verify-results", case.bundle).stdout


def test_the_bundle_holds_what_the_audit_printed(case: Case) -> None:
    files = opened(case.bundle)
    assert set(files) == {"records.jsonl", "meta.json", *DERIVED, "statement.dsse.json", "signer.pub"}
    for name in ("report.html", "report.md"):
        assert files[name] == (case.run / name).read_bytes(), name
    envelope = json.loads(files["statement.dsse.json"])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {s["name"] for s in statement["subject"]} == set(files) - {"statement.dsse.json", "signer.pub"}
    assert statement["predicate"]["victim"]["sha256"]


def test_the_same_results_give_the_same_bundle(case: Case) -> None:
    assert call("bundle", case.run, "--key", case.key, "-o", "again.zip").exit_code == 0
    assert Path("again.zip").read_bytes() == case.bundle.read_bytes()


def test_records_of_another_run_in_the_same_folder_stay_out(case: Case) -> None:
    more = case.run / "records.jsonl"
    record = json.loads(more.read_text().splitlines()[0])
    cell = {**record["cell"], "seed": 99}
    other = {**record, "cell": cell, "id": Cell.from_json(cell).id}
    with more.open("a") as file:
        file.write(json.dumps(other) + "\n")
    assert call("bundle", case.run, "--key", case.key, "-o", "again.zip").exit_code == 0
    assert Path("again.zip").read_bytes() == case.bundle.read_bytes()


# What was altered


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        assert old in files[name]
        return files | {name: files[name].replace(old, new, 1)}

    return change


def swapped(files: Files) -> Files:
    return files | {"report.md": files["report.html"], "report.html": files["report.md"]}


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {k: v for k, v in files.items() if k != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (replaced("records.jsonl", b'"queries":70', b'"queries":71'), "records.jsonl is not the file that was signed"),
        (replaced("report.json", b'"value"', b'"valve"'), "report.json is not the file that was signed"),
        (replaced("meta.json", b"digits", b"figits"), "meta.json is not the file that was signed"),
        (swapped, "report.html is not the file that was signed"),
        (without("statement.dsse.json"), "The bundle is not signed: statement.dsse.json is missing."),
        (without("signer.pub"), "The bundle is not signed: signer.pub is missing."),
        (without("report.json"), "was expected to hold records.jsonl, meta.json, report.json"),
        (replaced("statement.dsse.json", b'"sig": "', b'"sig": "AAAA'), "The signature is not of key"),
        (replaced("statement.dsse.json", b'"sig"', b'"gis"'), "The envelope does not hold a payload"),
        (lambda files: files | {"statement.dsse.json": b"[" * 100_000}, "The envelope does not hold a payload"),
    ],
    ids=["record", "number", "meta", "swapped", "no statement", "no key", "no file", "signature", "envelope", "nested"],
)
def test_an_altered_file_is_named(case: Case, change: Callable[[Files], Files], sentence: str) -> None:
    written(case.bundle, change(opened(case.bundle)))
    assert sentence in refused(case)


def test_one_byte_anywhere_is_found(case: Case) -> None:
    data = bytearray(case.bundle.read_bytes())
    with zipfile.ZipFile(case.bundle) as archive:
        starts = [info.header_offset for info in archive.infolist()]
    places = [0, 10, *(start + n for start in starts for n in (12, 40)), archive.start_dir + 5, len(data) - 4]
    for place in [*places, *range(0, len(data), len(data) // 20)]:
        changed = data.copy()
        changed[place] ^= 1
        case.bundle.write_bytes(changed)
        with pytest.raises((InputError, ProofError)):
            ResultBundle.read(case.bundle)


def test_the_same_files_in_another_zip_are_refused(case: Case) -> None:
    written(case.bundle, opened(case.bundle))
    assert "the zip around them is not as" in refused(case)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(case: Case) -> None:
    written(case.bundle, opened(case.bundle), ("report.md", b"another"))
    assert "it holds report.md twice" in refused(case)


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "more.txt"])
def test_a_name_that_leads_elsewhere_is_refused(case: Case, name: str) -> None:
    written(case.bundle, opened(case.bundle), (name, b"x"))
    assert f"{name}" in refused(case)
    assert not (case.bundle.parent.parent / "escaped.txt").exists()


def test_a_zip_bomb_is_not_unpacked(case: Case) -> None:
    written(case.bundle, opened(case.bundle) | {"report.md": bytes(65 * 2**20)})
    assert case.bundle.stat().st_size < 2**20
    assert "unpacks to more than" in refused(case)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip"])
def test_what_is_no_zip_is_refused(case: Case, content: bytes) -> None:
    case.bundle.write_bytes(content)
    assert "is no whole zip file" in refused(case)


def test_another_key_than_the_expected_is_refused(case: Case) -> None:
    new_key(Path("other.key"))
    done = call("verify-results", case.bundle, "--public-key", "other.pub")
    assert done.exit_code == 2
    assert "not by the key that was expected" in done.stderr


def test_a_bundle_signed_by_one_key_under_the_name_of_another_is_refused(case: Case) -> None:
    files = opened(case.bundle)
    public = new_key(Path("other.key"))
    written(case.bundle, files | {"signer.pub": public.pem})
    done = call("verify-results", case.bundle)
    assert done.exit_code == 2
    assert "The signature is not of key" in done.stderr


# What its own signer made up


def test_a_number_that_does_not_follow_from_the_records_is_named(case: Case) -> None:
    files = opened(case.bundle)
    report = json.loads(files["report.json"])
    report["worst_undefended"]["agreement"][0] = 0.5
    signed_anew(case, files | {"report.json": json.dumps(report, indent=1, ensure_ascii=False).encode()})
    said = refused(case)
    assert "report.json does not follow from the records. worst_undefended.agreement[0] is 0.5 there, and " in said


def test_a_page_that_does_not_follow_from_the_records_is_named(case: Case) -> None:
    files = opened(case.bundle)
    signed_anew(case, files | {"report.md": files["report.md"] + b"\nAll is well.\n"})
    assert "report.md does not follow from the records." in refused(case)


def changed_record(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    lines = files["records.jsonl"].splitlines()
    for n, line in enumerate(lines):
        record = json.loads(line)
        if (record["attack"], record["outcome"]) == ("equation_solving", "done"):
            change(record)
            lines[n] = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()
            return files | {"records.jsonl": b"\n".join(lines) + b"\n"}
    raise AssertionError


def test_a_record_under_the_name_of_another_cell_is_refused(case: Case) -> None:
    def bolder(record: dict[str, Any]) -> None:
        record["cell"]["budget"] = 7

    signed_anew(case, changed_record(opened(case.bundle), bolder))
    assert "is not of the cell that it holds" in refused(case)


def test_a_report_of_better_records_is_refused_with_the_worse_ones(case: Case) -> None:
    def better(record: dict[str, Any]) -> None:
        record["measures"]["agreement"]["value"] = 0.123

    signed_anew(case, changed_record(opened(case.bundle), better))
    assert "does not follow from the records" in refused(case)


# Cells that are run again


def test_a_cell_runs_again_to_the_same_value_and_an_invented_one_does_not(case: Case) -> None:
    from portcullis_ml.cli.derived import derived

    files = opened(case.bundle)
    theft: dict[str, Any] = {}

    def better(record: dict[str, Any]) -> None:
        record["measures"]["agreement"]["value"] -= 0.25
        theft.update(record)

    invented = changed_record(files, better)
    records = [json.loads(line) for line in invented["records.jsonl"].splitlines()]
    invented |= derived(records, json.loads(files["meta.json"]))
    done = call("verify-results", case.bundle, "--rerun", theft["id"])
    assert done.exit_code == 0, done.output
    assert f"Run again to the same values: {theft['id']}." in done.stdout
    signed_anew(case, invented)  # consistent in itself: only running it tells
    assert call("verify-results", case.bundle, "--public-key", case.public).exit_code == 0
    said = refused(case, "--rerun", theft["id"])
    assert f"Cell {theft['id']}" in said
    assert "agreement is" in said


def test_other_rows_than_those_of_the_records_are_refused(case: Case) -> None:
    files = opened(case.bundle)
    meta = json.loads(files["meta.json"])
    meta["experiment"]["rows"] = 100
    from portcullis_ml.cli.derived import derived

    records = [json.loads(line) for line in files["records.jsonl"].splitlines()]
    changed = {"meta.json": json.dumps(meta, ensure_ascii=False).encode(), **derived(records, meta)}
    signed_anew(case, files | changed)
    assert "The data of cell" in refused(case, "--rerun", "1")


@pytest.mark.parametrize("word", ["abc", "0123456789abcdef", "many"])
def test_a_cell_that_is_not_there_is_said(case: Case, word: str) -> None:
    assert "--rerun takes a number of cells, or the id of one" in refused(case, "--rerun", word)


def test_cells_are_drawn_among_those_done() -> None:
    import random

    records = [{"id": f"{n:016x}", "outcome": "done" if n % 2 else "failed"} for n in range(8)]
    drawn = chosen_cells(records, "3", random.Random(0))
    assert len({r["id"] for r in drawn}) == 3
    assert {r["outcome"] for r in drawn} == {"done"}
    assert len(chosen_cells(records, "99", random.Random(0))) == 4


@pytest.mark.parametrize(
    "told",
    [
        {"unit": "subprocess:Popen", "args": ["true"]},
        {"unit": "watch", "then": {"unit": "os:system"}},
        "watch(detector=shutil:rmtree, then=log)",
        {"unit": "portcullis_ml.core.state:json"},
        {"unit": "portcullis_ml.catalog:resolve"},
    ],
)
def test_code_that_a_bundle_names_is_not_run(told: Any) -> None:
    with pytest.raises(InputError, match="names code that is not Portcullis' own"):
        known_code([told], [])


def test_our_own_units_artifacts_and_named_modules_may_run() -> None:
    known_code([{"unit": "rounding", "decimals": 2}, {"filter": f"a/b@sha256:{'0' * 64}"}], [])
    known_code([{"unit": "portcullis_ml.extraction.copycat:Copycat"}], [])
    known_code([{"unit": "my_attack:Mine"}], ["my_attack"])


def test_a_victim_in_a_module_must_be_named_by_the_verifier() -> None:
    with pytest.raises(InputError, match=r"app:model.*--import app"):
        spec_of({"experiment": {"victim": "app:model"}})
    assert spec_of({"experiment": {"victim": "app:model"}}, victim="model.onnx").victim == "model.onnx"
    with pytest.raises(InputError, match="is an API"):
        spec_of({"experiment": {"victim": "http://127.0.0.1:9000"}})
    with pytest.raises(InputError, match="an option that this version does not know: magic"):
        spec_of({"experiment": {"magic": 1}})


# Bad input to `bundle`


@pytest.mark.parametrize("missing", ["records.jsonl", "meta.json"])
def test_a_folder_without_an_audit_is_refused_before_a_key_is_made(case: Case, missing: str) -> None:
    (case.run / missing).unlink()
    done = call("bundle", case.run, "--key", "new.key", "--new-key")
    assert done.exit_code == 2
    assert f"has no {missing}" in done.stderr
    assert not Path("new.key").exists()


def test_an_older_folder_a_lost_record_and_a_wrong_key_are_said(case: Case) -> None:
    Path("loose.key").write_bytes(case.key.read_bytes())
    Path("loose.key").chmod(0o644)
    assert "can be read by others" in call("bundle", case.run, "--key", "loose.key").stderr
    assert "cannot be read" in call("bundle", case.run, "--key", "nowhere.key").stderr
    assert "is there already" in call("bundle", case.run, "--key", case.key, "--new-key").stderr
    meta = json.loads((case.run / "meta.json").read_text())
    meta["cells"].append({"id": "0" * 16, "names": {}})
    (case.run / "meta.json").write_text(json.dumps(meta))
    assert "lacks cell 0000000000000000" in call("bundle", case.run, "--key", case.key).stderr
    del meta["cells"]
    (case.run / "meta.json").write_text(json.dumps(meta))
    assert "is of an older Portcullis" in call("bundle", case.run, "--key", case.key).stderr


def test_a_key_of_another_kind_is_refused(case: Case) -> None:
    assert call("watermark", "keygen", "--out", "owner.key").exit_code == 0
    assert "expected to hold an Ed25519 key" in call("bundle", case.run, "--key", "owner.key").stderr
    assert "expected to hold an Ed25519 key" in call("verify-results", case.bundle, "--public-key", "owner.pub").stderr


def test_the_envelope_is_that_of_dsse(case: Case) -> None:
    """The encoding that is signed, as section "Signature definition" of DSSE v1.0.2 writes it."""
    from portcullis_ml.evidence.envelope import _encoded

    assert _encoded("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    files = {"a": b"1"}
    key = signing_key(case.key)
    from portcullis_ml.evidence.envelope import Verifier

    verifier = Verifier(key.public_key())
    assert open_envelope(sealed(files, {"x": 1}, key), files, verifier) == {"x": 1}
