"""A victim that is a running prediction API: how it is spoken to, and in whose name it is asked.

The client of an API belongs to the gateway, which this room does not import; it is loaded by name, as units are.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from portcullis_ml.catalog import Catalog
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Model
from portcullis_ml.models.texts import Texts

__all__ = ["Endpoint", "is_address"]

CLIENTS = Catalog(
    "endpoints",
    {
        "model": "portcullis_ml.gateway.remote:RemoteModel",
        "described": "portcullis_ml.gateway.remote:described",
        "loopback": "portcullis_ml.gateway.policy.clients:loopback",
    },
)
SCHEMES = ("http://", "https://", "grpc://", "grpcs://")
PROBE = "PORTCULLIS_API_KEY"  # the environment variable that is looked into where no file of a key is given


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """How an API is asked; all of it small and hashable, since every worker asks for itself.

    protocol       v2, v1, invocations, grpc, or a FILE.toml that describes a home-made API
    model          its name there
    answers        what it shows: probs, top_k or labels
    authorized_by  who allowed the audit, in writing; needed for any address but this machine's own
    key_file       FILE with the API key; else it is in the environment variable PORTCULLIS_API_KEY, or there is none
    per_second     rows asked a second at most
    store          the folder in which answers are kept
    """

    protocol: str = "v2"
    model: str = "model"
    answers: str = "probs"
    authorized_by: str | None = None
    key_file: str | None = None
    per_second: float | None = None
    store: str = "."

    def open(
        self, url: str, input_shape: tuple[int, ...], n_classes: int | None, words: tuple[str, ...] = (),
        texts: Texts | None = None,
    ) -> Model:  # fmt: skip
        """The model behind `url`. InputError where nobody says how many classes it has.

        words   what the API calls its classes, in the order of its scores, where it answers words
        texts   what rows stand for, where it takes texts
        """
        headers = self._headers()
        if not (self.authorized_by or "").strip() and not CLIENTS.load("loopback")(urlsplit(url).hostname or ""):
            raise InputError(
                f'{url} is not on this machine. Say who allowed this test, in writing: --authorized-by "...". '
                "Test only what is yours or what you were asked to test."
            )
        told = CLIENTS.load("described")(url, self.model, headers) if self.protocol in ("v2", "grpc") else {}
        classes = told.pop("n_classes", None) or n_classes
        if not classes:
            raise InputError(
                f"{url} does not say how many classes it has. Name them in the order of its scores: --classes A,B,..."
            )
        served = {key: value for key, value in told.items() if value is not None or key in ("scores", "label")}
        served |= {"class_names": words} if words else {}
        model: Model = CLIENTS.load("model")(
            url,
            input_shape=input_shape,
            n_classes=classes,
            store=Path(self.store) / f"{self._name(url)}.sqlite",
            reveals=self.answers,
            texts=texts,
            about={
                "protocol": self.protocol,
                "model": self.model,
                "authorized_by": self.authorized_by,
                "headers": headers,
                "per_second": self.per_second,
                "served": served,
            },
        )
        return model

    def _headers(self) -> dict[str, str]:
        if self.key_file is None:
            key = os.environ.get(PROBE, "").strip()
        else:
            try:
                key = Path(self.key_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{self.key_file} was expected to hold one API key; it cannot be read.") from error
            if not key or not key.isprintable():
                raise InputError(f"{self.key_file} was expected to hold one API key; it does not.")
        return {"authorization": f"Bearer {key}"} if key else {}

    def _name(self, url: str) -> str:
        """Of the file of answers: one for each address, model and kind of answer."""
        said = {k: v for k, v in asdict(self).items() if k in ("protocol", "model", "answers")}
        return hashlib.sha256(f"{url} {sorted(said.items())}".encode()).hexdigest()[:16]

    def sentence(self, url: str, asked: int) -> str:
        """For the notes: who was asked, in whose name, and how much so far."""
        by = f" authorised by {self.authorized_by}" if self.authorized_by else " on this machine"
        return (
            f"The victim is the API at {url} ({self.protocol}),{by}. {asked:,} rows were asked so far, the examiner's "
            "among them; a row is never asked twice, so answers are those that came first."
        )


def is_address(victim: str | None) -> bool:
    """Whether a victim is named by the address of an API."""
    return victim is not None and victim.startswith(SCHEMES)


def asked_of(model: Any) -> int:
    """How many rows an API was asked."""
    return int(getattr(model, "asked", 0))
