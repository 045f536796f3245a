"""A result bundle: an audit's records and everything that follows from them, in one signed zip file.

    records.jsonl         the records of the audit, one a line, in the order in which they were shown
    meta.json             the command, victim, data, versions, flags: see bench/records.py
    report.json           every number of the report
    report.html, .md      the report
    report.sarif          the findings, with security frameworks as taxonomies
    oscal.json            the same as assessment results
    statement.dsse.json   the signed statement: SHA-256 of each file above, and what they are about
    signer.pub            the public key of whoever signed

Everything between records.jsonl with meta.json and the statement can be made again from those two, which is how a
verifier checks it. The zip is not compressed: there is one way to write it, so that no byte of it can be altered
unseen. A key that comes with a bundle says only that whoever made it has the other half.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portcullis_ml.bench.cell import Cell
from portcullis_ml.bench.records import read_records
from portcullis_ml.bench.run import called
from portcullis_ml.core.errors import InputError, PortcullisError, ProofError
from portcullis_ml.court.commitment import read_bytes
from portcullis_ml.court.zipped import packed, unpacked, write_whole
from portcullis_ml.evidence.envelope import Verifier, open_envelope, sealed, signing_key

__all__ = ["DERIVED", "Derive", "ResultBundle", "predicate_of", "run_of", "write_bundle"]

SOURCES = ("records.jsonl", "meta.json")
DERIVED = ("report.json", "report.html", "report.md", "report.sarif", "oscal.json")
ENVELOPE, SIGNER = "statement.dsse.json", "signer.pub"
Derive = Callable[[list[dict[str, Any]], Mapping[str, Any]], dict[str, bytes]]  # (records, meta) -> DERIVED by name


def run_of(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(records, meta) of the last audit in a folder of results."""
    for name in SOURCES:
        if not (folder / name).is_file():
            raise InputError(f"A folder of `portcullis audit` was expected; {folder} has no {name}.")
    meta = _meta(read_bytes(folder / "meta.json"))
    found = {r["id"]: r for r in read_records(folder / "records.jsonl")}
    if "cells" not in meta:
        raise InputError(f"{folder} is of an older Portcullis. Run the audit again: finished cells are not run again.")
    if lost := [c["id"] for c in meta["cells"] if c["id"] not in found]:
        raise InputError(f"records.jsonl lacks cell {lost[0]} of the last audit. Run the audit again.")
    return [_named(found[c["id"]], c["names"]) for c in meta["cells"]], meta


def write_bundle(folder: Path, out: Path, key: Path, derive: Derive) -> dict[str, Any]:
    """Write the bundle of a folder of results, and return what its statement says."""
    records, meta = run_of(folder)
    private = signing_key(key)
    lines = [json.dumps(r, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n" for r in records]
    files = {"records.jsonl": "".join(lines).encode(), "meta.json": json.dumps(meta, ensure_ascii=False).encode()}
    files |= derive(records, meta)
    predicate = predicate_of(records, meta)
    signed = {ENVELOPE: sealed(files, predicate, private), SIGNER: Verifier(private.public_key()).pem}
    write_whole(packed(files | signed, compressed=False), out)
    return predicate


def predicate_of(records: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the statement says of the files: who was audited, with whose rows, how, by which versions."""
    keys = ("title", "command", "started", "victim", "data", "versions", "deployed", "fail_over")
    return {**{key: meta.get(key) for key in keys}, "records": len(list(records))}


@dataclass(frozen=True)
class ResultBundle:
    """A bundle whose signature, hashes and form hold."""

    sha256: str
    records: list[dict[str, Any]]
    meta: dict[str, Any]
    files: dict[str, bytes]
    signer: Verifier

    @classmethod
    def read(cls, path: Path, expected: Verifier | None = None) -> ResultBundle:
        """The bundle in a file. InputError where it is none; ProofError where a link does not hold.

        expected   the key that it must be signed by; None takes the bundle's own
        """
        data = read_bytes(path)
        files = unpacked(path, data, required=(*SOURCES, *DERIVED), allowed=(ENVELOPE, SIGNER))
        canonical = packed(files, compressed=False) == data
        envelope, pem = files.pop(ENVELOPE, None), files.pop(SIGNER, None)
        if envelope is None or pem is None:
            raise ProofError(f"The bundle is not signed: {ENVELOPE if envelope is None else SIGNER} is missing.")
        signer = Verifier.parse(pem, SIGNER)
        if expected is not None and expected.fingerprint != signer.fingerprint:
            raise ProofError(
                f"The bundle is signed by key {signer.fingerprint[:16]}..., not by the key that was expected, "
                f"{expected.fingerprint[:16]}...."
            )
        predicate = open_envelope(envelope, files, signer)
        records, meta = _records(files["records.jsonl"]), _meta(files["meta.json"])
        if dict(predicate) != json.loads(json.dumps(predicate_of(records, meta))):
            raise ProofError("The signed statement says something else of the audit than meta.json does.")
        if not canonical:
            raise ProofError(
                "The files are as signed, and the zip around them is not as `portcullis bundle` writes it."
            )
        return cls(hashlib.sha256(data).hexdigest(), records, meta, files, signer)

    def derive_again(self, derive: Derive) -> int:
        """How many numbers report.json holds, if each file that follows from the records follows again. ProofError."""
        try:
            made = derive(self.records, self.meta)
        except PortcullisError:
            raise
        except Exception as error:
            raise ProofError(f"No report follows from the records ({type(error).__name__}: {error}).") from error
        for name in DERIVED:
            if made[name] != self.files[name]:
                raise ProofError(_difference(name, self.files[name], made[name], self.meta))
        return _numbers(json.loads(self.files["report.json"]))


def _difference(name: str, held: bytes, made: bytes, meta: Mapping[str, Any]) -> str:
    from portcullis_ml import __version__

    where = ""
    if name.endswith((".json", ".sarif")):
        try:
            where = _first(json.loads(held), json.loads(made), "")
        except ValueError:
            where = " It is no JSON."
    by = (meta.get("versions") or {}).get("portcullis")
    other = f" It was made by version {by}, this is {__version__}." if by != __version__ else ""
    return f"{name} does not follow from the records.{where}{other}"


def _first(held: Any, made: Any, path: str) -> str:
    """The first place at which two JSON values differ, as a sentence; "" where they do not."""
    if isinstance(held, dict) and isinstance(made, dict):
        pairs = ((f"{path}.{k}", held.get(k), made.get(k)) for k in dict.fromkeys([*held, *made]))
    elif isinstance(held, list) and isinstance(made, list) and len(held) == len(made):
        pairs = ((f"{path}[{n}]", a, b) for n, (a, b) in enumerate(zip(held, made, strict=True)))
    else:
        same = held == made
        return "" if same else f" {path.lstrip('.')} is {_short(held)} there, and {_short(made)} by the records."
    return next((found for where, a, b in pairs if (found := _first(a, b, where))), "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _numbers(tree: Any) -> int:
    """How many numbers stand in a JSON value."""
    if isinstance(tree, dict | list):
        return sum(_numbers(part) for part in (tree.values() if isinstance(tree, dict) else tree))
    return int(isinstance(tree, int | float) and not isinstance(tree, bool))


def _records(data: bytes) -> list[dict[str, Any]]:
    """The records in a bundle. ProofError where one's name is not the hash of its cell."""
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            record = json.loads(line)
            cell = Cell.from_json(record["cell"])
            claimed = str(record["id"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"records.jsonl was expected to hold a record in every line; line {number} does not."
            ) from error
        if cell.id != claimed:
            raise ProofError(f"Record {claimed} is not of the cell that it holds, which is {cell.id}.")
        found.append(record)
    return found


def _meta(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"meta.json was expected to hold JSON ({error}). Run the audit again.") from error
    if not isinstance(found, dict):
        raise InputError("meta.json was expected to hold an object. Run the audit again.")
    return found


def _named(record: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The record under the names that the last audit gave its cell."""
    return called(record, Cell.from_json({**record["cell"], "names": dict(names)}))
