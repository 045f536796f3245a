"""A prediction API as a model: what an audit needs to try its attacks on a service that is running.

Every answer is kept on disk before anybody sees it, by what was asked: a row is paid for once, by whichever attack,
repetition or examiner asks first, and a run that was stopped goes on without asking again. So a service that answers
one question differently at different times is seen as it answered first.
"""

from __future__ import annotations

import hashlib
import http.client
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from portcullis_ml.core.errors import InputError, Refused, Unreachable
from portcullis_ml.core.types import Array, Interface, Reveals
from portcullis_ml.gateway.grpc_oracle import oracle_at, told_by
from portcullis_ml.models.texts import TextInterface, Texts

__all__ = ["RemoteModel", "described"]

ENDLESS = 10**12  # rows that the model may ask; budgets are the attacks' own
PIECE = 256  # rows between two writes to the disk
AGAIN = 16  # kept rows that are asked again when a store is opened


class RemoteModel:
    """The model behind a URL. Raises what `HttpOracle` raises; InputError where it answers otherwise than it did.

    store    the file of its answers; made if it is not there, readable by its owner alone
    reveals  what it shows: "probs", "top_k" or "labels"; labels become probabilities of 1
    about    how it is asked, as keywords of `HttpOracle` (of `GrpcOracle` where the address is grpc://host:port)
    texts    where it takes texts: those that rows stand for
    """

    precision = "float64"

    def __init__(
        self,
        url: str,
        *,
        input_shape: tuple[int, ...],
        n_classes: int,
        store: Path,
        reveals: str = "probs",
        about: Mapping[str, Any],
        texts: Texts | None = None,
    ) -> None:
        self.input_shape, self.n_classes = tuple(input_shape), n_classes
        shown = Reveals.parse(reveals)
        interface = Interface(input_shape=self.input_shape, n_classes=n_classes)
        if texts is not None:
            interface = TextInterface(n_classes=n_classes, texts=texts)
        self._texts = texts
        self._oracle = oracle_at(url, interface=interface.revealing(reveals=shown), budget=ENDLESS, **about)
        self.statement = self._oracle.statement
        self._kept = _Store(store, n_classes)
        self._must_be_as_before(store)

    @property
    def asked(self) -> int:
        """Rows that were sent and answered, by everybody who shares the store."""
        return len(self._kept)

    def scores(self, x: Array) -> Array:
        """(n, *input_shape) -> (n, n_classes) probabilities, of which only those not kept yet are asked for."""
        x = np.asarray(x, np.float64)
        keys = [hashlib.sha256(row.tobytes()).digest() for row in x]
        known = self._kept.find(keys)
        missing = {key: i for i, key in enumerate(keys) if key not in known}
        for start in range(0, len(missing), PIECE):
            part = list(missing.items())[start : start + PIECE]
            at = [i for _, i in part]
            answers = self._ask(x[at])
            self._kept.add([key for key, _ in part], x[at], answers)
            known |= {key: answer for (key, _), answer in zip(part, answers, strict=True)}
        return np.array([known[key] for key in keys]).reshape(len(x), self.n_classes)

    def _ask(self, x: Array) -> Array:
        try:
            with closing(self._oracle):
                return self._oracle.query(x).soft(self.n_classes)
        except Refused as refusal:
            raise Unreachable(
                f"{self._oracle.url} refused this client: {refusal.reason}. Answers so far are kept; run the same "
                "command again when it answers."
            ) from refusal

    def _must_be_as_before(self, store: Path) -> None:
        x, before = self._kept.first(AGAIN, self.input_shape)
        if self._texts is not None:  # a random text that an earlier run drew is not known any more
            known = self._texts.known(x)
            x, before = x[known], before[known]
        if len(x) and not np.allclose(self._ask(x), before, atol=1e-6):
            raise InputError(
                f"{self._oracle.url} answers otherwise than when it was asked before. If its model was changed, remove "
                f"{store}; a service that answers by chance cannot be audited from outside."
            )


class _Store:
    """Answers by the hash of what was asked, in one SQLite file that several processes may share.

    Every call has a connection of its own: one does not survive a fork, and workers are forked.
    """

    def __init__(self, path: Path, columns: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._path, self._columns = path, columns
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, key BLOB UNIQUE, x BLOB, scores BLOB)"
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=60, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Array]:
        found = {}
        with self._open() as connection:
            for key in dict.fromkeys(keys):
                row = connection.execute("SELECT scores FROM answers WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = np.frombuffer(row[0])
        return found

    def add(self, keys: Sequence[bytes], x: Array, scores: Array) -> None:
        rows = [(key, row.tobytes(), answer.tobytes()) for key, row, answer in zip(keys, x, scores, strict=True)]
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO answers (key, x, scores) VALUES (?, ?, ?)", rows)
            connection.execute("COMMIT")

    def first(self, n: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """The questions (<= n, *shape) and answers (<= n, columns) that were kept first."""
        with self._open() as connection:
            rows = connection.execute("SELECT x, scores FROM answers ORDER BY number LIMIT ?", (n,)).fetchall()
        x = np.array([np.frombuffer(x) for x, _ in rows]).reshape(len(rows), *shape)
        return x, np.array([np.frombuffer(s) for _, s in rows]).reshape(len(rows), self._columns)


def described(url: str, model: str, headers: Mapping[str, str], timeout_s: float = 10.0) -> dict[str, Any]:
    """What a server of the Open Inference Protocol says of its model: {} where it says nothing.

    input, datatype   of its one input tensor
    scores, label     names of its outputs, by their types: floating numbers are scores
    n_classes         the length of a row of scores, where it says so
    """
    told = told_by(url, model, headers, timeout_s) if url.startswith("grpc") else _told(url, model, headers, timeout_s)
    inputs, outputs = (told.get(part) or [] if isinstance(told, dict) else [] for part in ("inputs", "outputs"))
    if len(inputs) != 1 or not outputs:
        return {}
    scores = next((o for o in outputs if str(o.get("datatype", "")).startswith("FP")), None)
    label = next((o for o in outputs if o is not scores and not str(o.get("datatype", "")).startswith("FP")), None)
    width = (scores or {}).get("shape") or [None]
    return {
        "input": inputs[0].get("name"),
        "datatype": inputs[0].get("datatype"),
        "scores": None if scores is None else scores.get("name"),
        "label": None if label is None else label.get("name"),
        "n_classes": width[-1] if isinstance(width[-1], int) and width[-1] > 1 else None,
    }


def _told(url: str, model: str, headers: Mapping[str, str], timeout_s: float) -> Any:
    """A model's metadata over HTTP."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/v2/models/{model}", headers=dict(headers))
        response = connection.getresponse()
        return orjson.loads(response.read()) if response.status == 200 else {}
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError):
        return {}
    finally:
        connection.close()
