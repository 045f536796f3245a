"""Proof of work: a client who is suspected must spend processor time on each question before it is answered.

Dziedzic, Kaleem, Lu, Papernot. "Increasing the Cost of Model Extraction with Calibrated Proof of Work", ICLR 2022,
section 4. They charge by the privacy cost of a client's queries beyond that of an ordinary client, which an ensemble of
teachers computes at every query; here any detector's suspicion beyond an ordinary client's takes its place.

Costs the honest client   nothing up to the ordinary suspicion; beyond, `seconds` of processor time a row and more as
                          their suspicion rises, on a machine that hashes as fast as `hashes_per_s` says.
Does not stop             who has faster machines (processors made for hashing are far faster), or many accounts; and
                          a request is priced by what was known before it.

A question needs a nonce with so many leading zero bits that finding it takes the seconds of a row, times the rows, on
average. The work is bound to the client, the question and a time of expiry, and done once it counts once: the gate sees
to that (`gateway.work`), and a request says by `Request.work` how many bits were shown. In an audit the oracle counts
the hashes and computes none. Answers are never changed.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from portcullis_ml.core.errors import Refused
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Request
from portcullis_ml.defenses._charges import Charged, Charging

__all__ = ["ProofOfWork"]


@dataclass(frozen=True)
class ProofOfWork(Charging):
    _: KW_ONLY
    seconds: float = 0.1  # of a row of a client whose suspicion is just above the ordinary
    hashes_per_s: float = 1e6  # that a client's machine is taken to compute (`benchmarks/charges.py` measures one)
    bits: int = 36  # that are asked for at most: beyond, a client would wait for ever

    name: ClassVar[str] = "proof_of_work"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "seconds", "a positive number", lambda v: 0 < v < math.inf)
        check(self, "hashes_per_s", "a number of at least 1", lambda v: 1 <= v < math.inf)
        check(self, "bits", "an int in [1, 64]", lambda v: isinstance(v, int) and 1 <= v <= 64)

    def asked(self, suspicion: float, rows: int) -> int:
        """Leading zero bits that so many rows need at this suspicion; none up to the ordinary one."""
        if not suspicion > self.normal or not rows:
            return 0
        hashes = self.seconds * self.times(suspicion) * self.hashes_per_s * rows
        return min(max(math.ceil(math.log2(hashes)), 0), self.bits)

    def admit(self, request: Request, state: Charged) -> None:
        bits = self.asked(state.suspicion, len(request))
        if bits > request.work:
            refusal = Refused("it must show work first")
            refusal.work = bits
            raise refusal
        self.charge(request, state, 2.0**bits if bits else 0.0)
