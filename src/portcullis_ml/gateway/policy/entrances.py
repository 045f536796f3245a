"""Who comes in and where: the tables [clients], [listen] and [admin] of a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portcullis_ml.gateway.policy.certificates import Certificate
from portcullis_ml.gateway.policy.clients import ApiKey, Clients, Named, Token
from portcullis_ml.gateway.policy.extras import needs_grpc
from portcullis_ml.gateway.policy.keys import KeyFile
from portcullis_ml.gateway.policy.principals import principals_of
from portcullis_ml.gateway.policy.settings import Admin, Cors, Listen
from portcullis_ml.gateway.policy.tables import Tables
from portcullis_ml.gateway.policy.toml_positions import known, made, seconds

__all__ = ["ADMIN", "CLIENTS", "Entrances"]

CLIENTS = ("anonymous", "key_header", "key", "keys_file", "token", "header", "subject", "principal", "key_prefix",
           "address_bits", "forwarded")  # fmt: skip
ADMIN = ("host", "port", "https", "operator", "cert_file", "key_file")


class Entrances(Tables):
    """Reads those tables."""

    def _clients(self) -> Clients:
        table = self._table("clients", CLIENTS)
        given = table.get("key", [])
        if not isinstance(given, list):
            raise self._wrong(("clients", "key"), 'key must be a list of { client = "...", sha256 = "..." }.')
        keys = [self._built(("clients", "key"), _api_key, k) for k in given]
        ways = [w for w in ("header", "subject") if w in table]
        named = [self._built(("clients", w), _named, table[w]) for w in ways]
        token = self._built(("clients", "token"), _token, table["token"], self.folder) if "token" in table else None
        plain = {k: self._text(("clients", k), table[k]).lower() for k in ("anonymous", "key_header") if k in table}
        kept = self._kept(table["keys_file"]) if "keys_file" in table else {}
        linked = self._built(("clients",), principals_of, table)
        return self._built(
            ("clients",), Clients, keys=tuple(keys), token=token, named=tuple(named), principals=linked, **kept, **plain
        )

    def _kept(self, name: Any) -> dict[str, Any]:
        """The file of keys that `portcullis keys` writes, found from the policy's folder, and what is in it."""
        where = ("clients", "keys_file")
        path = self.folder / self._text(where, name)
        kept = self._built(where, KeyFile(path).read)
        return {"keys_file": str(path), "kept": tuple(key.key() for key in kept)}

    def _listen(self) -> Listen:
        table = self._table("listen", tuple(f.name for f in dataclasses.fields(Listen)))
        files = self._certificate("listen", table)
        if "cors" in table:
            if not isinstance(table["cors"], dict):
                raise self._wrong(("listen", "cors"), "cors must be a table: write [listen.cors].")
            self._known(table["cors"], tuple(f.name for f in dataclasses.fields(Cors)), ("listen", "cors"))
            files["cors"] = self._built(("listen", "cors"), made, Cors, table["cors"])
        spoken = {} if self.main is None else {"protocols": list(self.main.listen.protocols)}
        found: Listen = self._built(("listen",), made, Listen, {**spoken, **table, **files})
        if found.grpc_port is not None:
            self._built(("listen", "grpc_port"), needs_grpc, "listen.grpc_port")
        return found if "protocols" not in self.tree["model"] else self._own_protocols(found)

    def _own_protocols(self, listen: Listen) -> Listen:
        """The port, with the protocols by which this one of its models is asked."""
        if "protocols" in self.tree.get("listen", {}):
            raise self._wrong(("model", "protocols"), "Say protocols in [listen] or in [model], not in both.")
        own: Listen = self._built(("model",), made, Listen, {"protocols": self.tree["model"]["protocols"]})
        return dataclasses.replace(listen, protocols=own.protocols)

    def _certificate(self, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
        """The files of a port's certificate, found from the policy's folder and seen to fit together."""
        keys = [key for key in ("cert_file", "key_file") if key in table]
        files = {key: str(self.folder / self._text((name, key), table[key])) for key in keys}
        if "cert_file" in files:
            self._built((name, "cert_file"), Certificate, files["cert_file"], files.get("key_file"))
        return files

    def _admin(self) -> Admin:
        table = self._table("admin", ADMIN)
        given, where = table.get("operator", []), ("admin", "operator")
        if not isinstance(given, list) or not all(isinstance(o, dict) and set(o) == {"name", "sha256"} for o in given):
            raise self._wrong(where, 'operator must be a list of { name = "...", sha256 = "..." }.')
        keys = [self._built(where, made, ApiKey, {"client": o["name"], "sha256": o["sha256"]}) for o in given]
        plain = {k: table[k] for k in ("host", "port", "https") if k in table} | self._certificate("admin", table)
        tokens = tuple((k.client, k.sha256.lower()) for k in keys)
        found: Admin = self._built(("admin",), made, Admin, {**plain, "tokens": tokens})
        return found


def _api_key(table: Any) -> ApiKey:
    known(table, ("client", "sha256", "until", "organisation", "payment"), "an API key")
    return made(ApiKey, {**table, "until": seconds(table.get("until"))})


def _named(table: Mapping[str, Any]) -> Named:
    found = made(Named, table)
    names = {
        name: getattr(found, name).lower() for name in ("header", "organisation", "payment") if getattr(found, name)
    }
    return dataclasses.replace(found, **names)


def _token(table: Mapping[str, Any], folder: Path) -> Token:
    found = made(Token, table)
    return dataclasses.replace(found, key_file=str(folder / found.key_file))
