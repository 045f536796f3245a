"""A bundle: everything that a stranger needs to check a claim, in one zip file, and no secret.

    commitment.json   the published file, byte for byte
    openings.json     the suspect's name, the nonce, and the openings of the pairs that these choose
    log.jsonl         the owner's log, whose last entry says that these pairs were shown
    token.tsr         the time token over commitment.json, where there is one; request.tsq with its nonce
    signature.json    the owner's signatures over commitment.json and all other files, where there are any

Which pairs are shown is not the owner's choice. The challenge is the SHA-256 of the commitment, the suspect's name and
the nonce, and puts those that were never shown before in an order, of which the first are opened. A pair that was shown
is used up: whoever has seen it can teach a model to forget it. So the log says that pairs are shown before the bundle
is written, and a bundle that is lost has used its pairs up too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, NotApplicable, ProofError
from portcullis_ml.court.commitment import Mark, Published, read_bytes
from portcullis_ml.court.log import Log, chosen
from portcullis_ml.court.signature import FILE as SIGNATURE
from portcullis_ml.court.signature import PublicKey, Signed, Signer, manifest
from portcullis_ml.court.zipped import packed, unpacked, write_whole
from portcullis_ml.ownership._pairs import Opening

__all__ = ["Bundle", "challenge", "show", "sign", "summary"]

FILES = ("commitment.json", "openings.json", "log.jsonl")
TIME = ("token.tsr", "request.tsq")


def challenge(commitment: str, suspect: str, nonce: str) -> bytes:
    """32 bytes that nobody chose: of the commitment's SHA-256, who is suspected, and the verifier's nonce."""
    return hashlib.sha256("\x1f".join(("portcullis challenge 1", commitment, suspect, nonce)).encode()).digest()


def sign(mark: Mark, signer: Signer) -> Signed:
    """Sign a mark's commitment, once. InputError where another key has signed it."""
    path, published = mark.path / SIGNATURE, mark.published()
    if path.is_file():
        signed = Signed.parse(read_bytes(path))
        if signed.public != signer.public:
            raise InputError(f"{path} is of another key, {signed.public.fingerprint[:16]}.... Sign with that one.")
        signed.check(published.data)
        return signed
    signed = Signed.by(signer, published.data)
    path.write_bytes(signed.data())
    return signed


def show(
    mark: Mark, suspect: str, nonce: str, pairs: int, out: Path, *, at: str, signer: Signer | None = None
) -> list[int]:
    """Write a bundle that opens so many pairs, and return their places. The log has them first."""
    if out.exists():
        raise InputError(f"{out} is there already; its pairs are used up. Name a new file for the bundle.")
    if signer is not None:
        sign(mark, signer)
    key, published = mark.key(), mark.published()
    drawn = challenge(published.sha256, suspect, nonce)

    def entry(log: Log) -> dict[str, Any]:
        shown = mark.shown(log)
        left = [place for place in range(len(key)) if place not in shown]
        if len(left) < pairs:
            raise NotApplicable(
                f"{pairs} pairs were asked for and {len(left)} of {len(key)} were never shown. Ask for fewer, or mint "
                "a larger key next time: n is twice what one claim shows, times the claims wanted."
            )
        places = chosen(left, drawn, pairs)
        return {"kind": "shown", "at": at, "suspect": suspect, "nonce": nonce, "places": places}

    log = mark.log_file.append(entry)
    places = list(log.entries[-1]["places"])
    openings = {"suspect": suspect, "nonce": nonce, "openings": [o.to_json() for o in key.open(places)]}
    files = {
        "commitment.json": published.data,
        "openings.json": json.dumps(openings).encode(),
        "log.jsonl": log.text().encode(),
    }
    files |= {name: (mark.path / name).read_bytes() for name in TIME if (mark.path / name).is_file()}
    if signer is not None:
        files[SIGNATURE] = Signed.by(signer, published.data, files).data()
    elif (mark.path / SIGNATURE).is_file():
        files[SIGNATURE] = (mark.path / SIGNATURE).read_bytes()
    write_whole(packed(files), out)
    return places


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds; `sha256` is that of the file."""

    sha256: str
    published: Published
    suspect: str
    nonce: str
    openings: tuple[Opening, ...]
    log: Log
    token: bytes | None
    request: bytes | None
    signature: bytes | None = None
    manifest: bytes = b""  # what a signature over the bundle covers

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """The bundle in a file. InputError where it is none, ProofError where the log in it does not hold."""
        if path.is_dir():
            made = "`portcullis watermark bundle` makes one of a mark."
            raise InputError(f"A bundle was expected; {path} is a folder. {made}")
        data = read_bytes(path)
        files = unpacked(path, data, required=FILES, allowed=(*TIME, SIGNATURE))
        try:
            written = json.loads(files["openings.json"])
            openings = tuple(Opening.from_json(o) for o in written["openings"])
            suspect, nonce = str(written["suspect"]), str(written["nonce"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"openings.json in {path} is damaged ({error}). Ask for the bundle again.") from error
        return cls(
            hashlib.sha256(data).hexdigest(),
            Published.parse(files["commitment.json"]),
            suspect,
            nonce,
            openings,
            Log.read(files["log.jsonl"].decode("utf-8", "replace")),
            files.get("token.tsr"),
            files.get("request.tsq"),
            files.get(SIGNATURE),
            manifest(files),
        )

    def check(self, *, nonce: str | None = None, head: str | None = None) -> None:
        """Raise ProofError at the first link that does not hold.

        nonce   the verifier's own, which the owner had to answer; None takes the bundle's
        head    of this owner's log, as the verifier has seen it before
        """
        if nonce is not None and nonce != self.nonce:
            raise ProofError("The bundle answers another nonce than the verifier's: it was made for somebody else.")
        if head is not None:
            self.log.goes_on_from(head)
        minted = [e for e in self.log.of_kind("minted") if e.get("commitment") == self.published.sha256]
        if not minted or self.log.entries[0] != minted[0]:
            raise ProofError("The log in the bundle does not begin with this commitment: it is another key's log.")
        if not self.openings:
            raise ProofError("The bundle opens no pair, so it shows nothing. Ask for one with openings.")
        self.published.vk.check(self.openings)
        self._check_places()

    def signed_by(self, owner: PublicKey | None = None) -> PublicKey | None:
        """Whose signatures the bundle carries, or None for no one's. ProofError where one does not hold or, for a
        verifier who expects an owner's key, where one is missing or of another key."""
        if self.signature is None:
            if owner is not None:
                raise ProofError("The bundle has no signature, so it may be anybody's. Ask its owner to sign it.")
            return None
        signed = Signed.parse(self.signature)
        signed.check(self.published.data, self.manifest)
        if owner is not None:
            if signed.public != owner:
                raise ProofError(
                    f"The bundle is signed by key {signed.public.fingerprint[:16]}..., not by the key that the "
                    f"verifier expects, {owner.fingerprint[:16]}...."
                )
            if signed.bundle is None:
                raise ProofError("The commitment is signed and the bundle is not: anybody may have put it together.")
        return signed.public

    def _check_places(self) -> None:
        """The pairs are those that the challenge chooses among the ones that were never shown before."""
        entries = self.log.of_kind("shown")
        places = [o.place for o in self.openings]
        if not entries or self.log.entries[-1] != entries[-1] or list(entries[-1].get("places", ())) != places:
            raise ProofError("The log's last entry does not say that these pairs were shown: it is an older log.")
        if (entries[-1].get("suspect"), entries[-1].get("nonce")) != (self.suspect, self.nonce):
            raise ProofError("The pairs were shown for another suspect or nonce: an older bundle was used again.")
        before = {place for entry in entries[:-1] for place in entry["places"]}
        if again := sorted(before.intersection(places)):
            raise ProofError(f"Pair {again[0]} was shown before, and whoever saw it may have used it. Show fresh ones.")
        left = [place for place in range(len(self.published.vk)) if place not in before]
        wanted = chosen(left, challenge(self.published.sha256, self.suspect, self.nonce), len(places))
        if wanted != places:
            raise ProofError("The pairs shown are not those that the challenge chooses: the owner picked them.")


def summary(bundle: Bundle) -> dict[str, Any]:
    """What a bundle claims, before anything of it is checked."""
    return {
        "bundle": bundle.sha256,
        "commitment": bundle.published.sha256,
        "scheme": bundle.published.scheme.name,
        "suspect": bundle.suspect,
        "nonce": bundle.nonce,
        "pairs_shown": len(bundle.openings),
        "pairs_committed": len(bundle.published.vk),
    }
