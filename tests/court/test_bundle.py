"""A bundle: what a stranger accepts, and every way in which a claim does not hold."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from portcullis_ml.core.errors import InputError, NotApplicable, PortcullisError, ProofError
from portcullis_ml.court.bundle import Bundle, challenge, show
from portcullis_ml.court.commitment import Mark, Published, write_secret
from portcullis_ml.court.log import Log, LogFile

from .conftest import AT, Case, minted


def test_a_fresh_bundle_holds_and_keeps_the_secret(case: Case, tmp_path: Path) -> None:
    bundle = case.bundled(20, nonce="the verifier's")
    bundle.check(nonce="the verifier's", head=Log.read(case.mark.log_file.read().text()).links[0])
    assert len(bundle.openings) == 20
    key = case.mark.key()
    packed = b"".join(
        zipfile.ZipFile(tmp_path / "0.zip").read(n) for n in ("commitment.json", "openings.json", "log.jsonl")
    )
    assert key.secret not in packed
    assert key.secret.hex().encode() not in packed


def test_pairs_that_were_shown_are_never_shown_again(case: Case) -> None:
    seen: set[int] = set()
    for number in range(3):
        bundle = case.bundled(20, nonce=str(number))
        bundle.check()
        places = {o.place for o in bundle.openings}
        assert not places & seen
        seen |= places
    with pytest.raises(NotApplicable, match="1 pairs were asked for and 0 of 60 were never shown"):
        case.bundled(1)


def test_bundles_made_at_one_time_share_no_pair(case: Case, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        names = [tmp_path / f"at once {i}.zip" for i in range(3)]
        found = list(pool.map(lambda out: show(case.mark, "suspect", "n", 20, out, at=AT), names))
    assert sorted(place for places in found for place in places) == list(range(60))


def test_the_log_says_that_pairs_are_shown_before_the_bundle_is_written(case: Case, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        show(case.mark, "suspect", "n", 20, tmp_path / "absent" / "bundle.zip", at=AT)
    assert len(case.mark.shown()) == 20


def test_the_challenge_depends_on_everything_and_decides_which_pairs_are_shown(case: Case, tmp_path: Path) -> None:
    parts = ("c", "s", "n")
    assert (
        len({challenge("c", "s", "n"), challenge("d", "s", "n"), challenge("c", "t", "n"), challenge("c", "s", "m")})
        == 4
    )
    assert challenge(*parts) != challenge("cs", "", "n")
    one = {o.place for o in case.bundled(20, nonce="a").openings}
    other = minted(tmp_path / "other")
    show(other, "suspect", "b", 20, tmp_path / "other.zip", at=AT)
    assert one != {o.place for o in Bundle.read(tmp_path / "other.zip").openings}


def altered(bundle: Bundle, entries: list[dict], **changes) -> Bundle:
    log = Log()
    for entry in entries:
        log = log.grown(entry)
    return replace(bundle, log=log, **changes)


def test_an_owner_who_picks_the_pairs_is_found_out(case: Case) -> None:
    bundle = case.bundled(20)
    key = case.mark.key()
    picked = list(range(20))
    entries = [*bundle.log.entries[:-1], {**bundle.log.entries[-1], "places": picked}]
    with pytest.raises(ProofError, match="the owner picked them"):
        altered(bundle, entries, openings=tuple(key.open(picked))).check()


def test_an_opening_shown_before_is_refused_though_the_challenge_chooses_it(case: Case) -> None:
    """Replay: the pairs of the first bundle under the log of the second."""
    first, second = case.bundled(20), case.bundled(20)
    entry = {**first.log.entries[-1]}
    with pytest.raises(ProofError, match="was shown before"):
        altered(first, [*second.log.entries, entry]).check()
    with pytest.raises(ProofError, match="an older log"):
        replace(second, log=first.log).check()
    with pytest.raises(ProofError, match="an older log"):
        replace(first, log=second.log).check()


def test_a_bundle_made_for_another_is_refused(case: Case) -> None:
    bundle = case.bundled(nonce="for somebody else")
    with pytest.raises(ProofError, match="another nonce than the verifier's"):
        bundle.check(nonce="mine")
    with pytest.raises(ProofError, match="another suspect or nonce"):
        replace(bundle, nonce="mine").check(nonce="mine")
    with pytest.raises(ProofError, match="another suspect or nonce"):
        replace(bundle, suspect="another").check()


def test_one_flipped_bit_anywhere_is_noticed(case: Case, tmp_path: Path) -> None:
    """Every byte of the three files in turn is too many: one in each 97 is flipped, and the claim never holds."""
    case.bundled(20, nonce="mine")
    source = zipfile.ZipFile(tmp_path / "0.zip")
    files = {name: source.read(name) for name in source.namelist()}
    good = json.loads(files["commitment.json"])
    for name, data in files.items():
        for at in range(0, len(data), 97):
            wrong = {**files, name: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]}
            path = tmp_path / "flipped.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for file, content in wrong.items():
                    archive.writestr(file, content)
            try:
                bundle = Bundle.read(path)
                bundle.check(nonce="mine")
            except PortcullisError:
                continue
            assert json.loads(wrong["commitment.json"]) == good  # what was flipped carries no meaning, as a blank
            assert bundle.openings == Bundle.read(tmp_path / "0.zip").openings


def test_another_keys_log_is_refused(case: Case, tmp_path: Path) -> None:
    bundle, other = case.bundled(20), minted(tmp_path / "other", seed=2)
    entries = [*other.log_file.read().entries, bundle.log.entries[-1]]
    with pytest.raises(ProofError, match="does not begin with this commitment"):
        altered(bundle, entries).check()
    with pytest.raises(ProofError, match="is none of this log's"):
        bundle.check(head=other.log_file.read().head)


def test_a_bundle_without_openings_shows_nothing(case: Case) -> None:
    with pytest.raises(ProofError, match="opens no pair"):
        replace(case.bundled(), openings=()).check()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"no zip at all"])
def test_what_is_no_zip_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no whole zip file"):
        Bundle.read(path)


def test_the_folder_of_a_mark_is_no_bundle(case: Case) -> None:
    with pytest.raises(InputError, match=r"is a folder\. `portcullis watermark bundle` makes one of a mark"):
        Bundle.read(case.mark.path)


def test_a_zip_of_other_files_is_refused(case: Case, tmp_path: Path) -> None:
    case.bundled()
    path = tmp_path / "0.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../etc/cron", "x")
    with pytest.raises(InputError, match=r"was expected to hold commitment\.json, openings\.json, log\.jsonl"):
        Bundle.read(path)


def test_a_scheme_that_is_not_of_the_catalog_is_not_loaded(case: Case) -> None:
    written = json.loads(case.mark.published().data)
    written["scheme"] = {"unit": "os:system"}
    with pytest.raises(InputError, match="A scheme of `portcullis list ownership` was expected; got 'os:system'"):
        Published.parse(json.dumps(written).encode())
    written["scheme"] = {"unit": "backdoor", "n": {"unit": "os:getcwd"}}
    with pytest.raises(InputError, match="settings were expected to be numbers or words"):
        Published.parse(json.dumps(written).encode())


@pytest.mark.parametrize("data", [b"{}", b"[]", b"not json", b'{"format": "portcullis commitment 2"}'])
def test_what_is_no_commitment_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"commitment.json was expected to be what"):
        Published.parse(data)


def test_a_secret_is_readable_by_its_owner_alone_and_never_written_over(case: Case, tmp_path: Path) -> None:
    path = case.mark.path / "secret.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="a secret is never written over"):
        write_secret(path, b"other")
    os.chmod(path, 0o644)
    with pytest.raises(InputError, match="can be read by others"):
        case.mark.key()


def test_a_key_that_is_not_the_committed_one_is_noticed(case: Case, tmp_path: Path) -> None:
    other = minted(tmp_path / "other", seed=2)
    path = case.mark.path / "secret.key"
    path.write_bytes((other.path / "secret.key").read_bytes())
    with pytest.raises(ProofError, match=r"is not the one that commitment\.json beside it was made of"):
        case.mark.key()


def test_a_mark_is_written_into_an_empty_folder_only(case: Case) -> None:
    with pytest.raises(InputError, match="A new or an empty folder was expected"):
        minted(case.mark.path)
    with pytest.raises(InputError, match="cannot be read"):
        Mark(case.mark.path / "absent").published()


def test_a_bundle_is_not_written_over_another(case: Case, tmp_path: Path) -> None:
    case.bundled()
    with pytest.raises(InputError, match="is there already"):
        show(case.mark, "s", "n", 1, tmp_path / "0.zip", at=AT)
    assert isinstance(case.mark.log_file, LogFile)
    assert len(case.mark.shown()) == 20
