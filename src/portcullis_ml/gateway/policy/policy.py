"""The policy: one TOML file that says who a client is, what the guard does, and what happens when something fails.

    mode = "enforce"                      # or "observe": decide, count and alarm, but change nothing
    key_file = "guard.key"                # 32 secret bytes, in hexadecimal

    [upstream]
    url = "http://127.0.0.1:8080"

    [model]
    name = "digits"
    input_shape = [64]
    classes = 10

    [clients]
    key = [{ client = "alice", sha256 = "..." }]

    [[guard]]
    unit = "watch"
    detector = { unit = "prada" }
    then = { unit = "label_only" }

Every mistake is refused with its line. `portcullis check` says in sentences what a policy does.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from portcullis_ml.catalog import resolve
from portcullis_ml.core.guard import Defense
from portcullis_ml.core.types import Interface, Reveals
from portcullis_ml.gateway.policy import home_made, several
from portcullis_ml.gateway.policy.artifacts import digest, refuse_recipes
from portcullis_ml.gateway.policy.contents import Policy
from portcullis_ml.gateway.policy.entrances import Entrances
from portcullis_ml.gateway.policy.extras import needs_grpc
from portcullis_ml.gateway.policy.groups_table import GROUPS, groups_of
from portcullis_ml.gateway.policy.image_table import image_spec, pictured, sent_as
from portcullis_ml.gateway.policy.inputs import inputs_of, spoken_by
from portcullis_ml.gateway.policy.model_table import (
    asked,
    checked,
    class_names,
    feature,
    interface_of,
    output_names,
    undefended,
)
from portcullis_ml.gateway.policy.names import mapping_options
from portcullis_ml.gateway.policy.settings import (
    Alarms,
    Failure,
    Limits,
    Listen,
    QueryLog,
    State,
    Telemetry,
    UpstreamTable,
)
from portcullis_ml.gateway.policy.text_table import implied, refuse_coarse, text_input
from portcullis_ml.gateway.policy.toml_positions import PolicyError, positions
from portcullis_ml.gateway.protocols import CATALOG as PROTOCOLS
from portcullis_ml.gateway.protocols.mapping_table import DEFAULTS
from portcullis_ml.gateway.protocols.wire import DTYPES, ModelSpec

__all__ = ["Policy", "PolicyError", "parse_policy", "read_policy"]

T = TypeVar("T")
MODEL = ("name", "version", "input_shape", "classes", "task", "bounds", "datatype", "input", "scores", "label",
         "withheld", "missing", "features", "inputs", "dimensions", "mapping", "text", "image", "explanation",
         "explanation_shape", "protocols")  # fmt: skip
NAMES = ("version", "datatype", "input", "scores", "label", "withheld", "explanation")
TOP = ("mode", "key_file", "quantum", "models")
ANSWERS = ("reveals", "k", "decimals", "explains")
TABLES = ("upstream", "model", "answers", "listen", "limits", "clients", "guard", "groups", "failure", "state", "log",
          "alarms", "telemetry", "admin")  # fmt: skip


def read_policy(path: str | Path, **changes: Any) -> Policy:
    """The policy in a file; `changes` replace values of its tables, as ("upstream.url", ...) -> value."""
    return parse_policy(_text_of(path), where=str(path), folder=Path(path).parent, changes=changes)


def parse_policy(
    text: str, *, where: str = "policy", folder: Path = Path(), changes: Mapping[str, Any] = {},
    main: Policy | None = None,
) -> Policy:  # fmt: skip
    """The policy in a text; of a further model where the `main` policy is given."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        raise PolicyError(where, int(found.group(1)) if found else 0, f"This is not TOML: {error}.") from error
    for name, value in changes.items():
        table, _, key = name.partition(".")
        tree.setdefault(table, {})[key] = value
    return _Reader(tree, where, folder, positions(text), text, main)()


def _text_of(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise PolicyError(str(path), 0, f"The file cannot be read ({error.strerror}).") from error


class _Reader(Entrances):
    """One reading of one file: turns tables into settings, and errors into lines."""

    def __call__(self) -> Policy:
        self._known(self.tree, (*TOP, *TABLES), ())
        for place, sentence in several.own(self.tree, self.where) if self.main else ():
            raise self._wrong(place, sentence)
        mode = self.tree.get("mode", "enforce")
        if mode not in ("enforce", "observe"):
            raise self._wrong(("mode",), f'mode must be "enforce" or "observe"; got {mode!r}.')
        interface, served = self._model()
        upstream = self._upstream() if "upstream" in self.tree else None
        shown = self._shown(interface)
        listen = self._listen()
        self._explained(interface, shown, upstream, listen)
        known = self._built(("upstream", "mapping"), asked, served, upstream)
        known = self._built(("upstream", "image"), sent_as, served, known, upstream)
        served = self._built(("model", "image"), pictured, served, upstream, listen.protocols)
        self._built(("listen",), spoken_by, served, listen.protocols, "protocols")
        self._built(("upstream",), spoken_by, known, [upstream.protocol] if upstream else [], "protocol")
        for place, sentence in home_made.mistakes(served, known, upstream, listen):
            raise self._wrong(place, sentence)
        served = home_made.limited(served, known, upstream)
        stages = self._stages(undefended(known))
        policy = Policy(
            served=served if shown.explains else dataclasses.replace(served, explanation=None),
            asked=known,
            shown=home_made.no_more_than(shown, known.interface),
            stages=stages,
            key=self._key(),
            key_path=self.folder / self.tree["key_file"],
            clients=self._clients(),
            upstream=upstream,
            listen=listen,
            limits=self._settings(Limits, "limits"),
            failure=self._settings(Failure, "failure"),
            state=self._settings(State, "state"),
            log=self._settings(QueryLog, "log") if "log" in self.tree else None,
            alarms=self._settings(Alarms, "alarms") if "alarms" in self.tree else None,
            telemetry=self._settings(Telemetry, "telemetry") if "telemetry" in self.tree else None,
            admin=self._admin(),
            groups=self._built(("groups",), groups_of, self._table("groups", GROUPS), undefended(known), self.folder),
            mode=mode,
            quantum=self._quantum(served),
            digest=digest(self.text, stages),
            path=self.where,
        )
        return several.governed(policy, self.main) if self.main else self._with_further(policy)

    def _with_further(self, main: Policy) -> Policy:
        """The main policy, with those of the further models that it lists."""
        paths = [self.folder / name for name in self._built(("models",), several.files_of, self.tree.get("models", []))]
        further = [parse_policy(_text_of(p), where=str(p), folder=p.parent, main=main) for p in paths]
        first, *models = self._built(("models",), several.together, [main, *further])
        return dataclasses.replace(first, models=tuple(models))

    def _quantum(self, served: ModelSpec) -> float:
        value = self.tree.get("quantum", 1e-6)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self._wrong(("quantum",), f"quantum must be a number greater than 0; got {value!r}.")
        self._built((), refuse_coarse, value, served.text)
        return float(value)

    # One table each.

    def _model(self) -> tuple[Interface, ModelSpec]:
        table = self._table("model", MODEL)
        text = self._built(("model", "text"), text_input, table["text"]) if "text" in table else None
        table = self._built(("model",), implied, table, text)
        for key in ("name", "input_shape"):
            if key not in table:
                raise self._wrong(("model",), f"[model] must say {key}.")
        self._built(("model",), checked, table)
        if table.get("datatype", "FP64") not in DTYPES:
            raise self._wrong(("model", "datatype"), f"datatype must be one of {', '.join(DTYPES)}.")
        if table.get("withheld", "null") not in ("null", "one_hot"):
            raise self._wrong(("model", "withheld"), 'withheld must be "null" or "one_hot".')
        features = [self._built(("model", "features"), feature, f) for f in table.get("features", ())]
        interface = self._built(("model",), interface_of, table, tuple(features) or None, text)
        names: dict[str, Any] = {**output_names(table), **{k: table[k] for k in NAMES if k in table}}
        names |= {"class_names": class_names(table), "text": text}
        names |= self._built(("model",), inputs_of, table, self.tree.get("upstream", {}))
        shape = table.get("explanation_shape")
        if shape is not None:
            if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
                raise self._wrong(
                    ("model", "explanation_shape"), f"explanation_shape must be a list of ints; got {shape!r}."
                )
            names["explanation_shape"] = tuple(shape)
        rows = self.tree.get("limits", {}).get("rows", Limits.rows)
        options = self._mapping("model", table.get("mapping", {}))
        if "image" in table:
            options = {**options, "image": self._built(("model", "image"), image_spec, table["image"])}
        return interface, ModelSpec(name=table["name"], interface=interface, max_rows=rows, options=options, **names)

    def _upstream(self) -> UpstreamTable:
        found = self._settings(UpstreamTable, "upstream")
        if found.protocol == "grpc":
            self._built(("upstream", "protocol"), needs_grpc, "upstream.protocol")
        if found.mapping is not None:
            self._mapping("upstream", found.mapping, without=("extras",))
        return found

    def _mapping(self, name: str, options: Any, without: tuple[str, ...] = ()) -> Mapping[str, Any]:
        keys = tuple(key for key in DEFAULTS if key not in without)
        self._known(options if isinstance(options, dict) else {}, keys, (name, "mapping"))
        found: Mapping[str, Any] = self._built((name, "mapping"), mapping_options, options, name)
        return found

    def _shown(self, interface: Interface) -> Interface:
        table = self._table("answers", ANSWERS)
        changes = {"explains": False, **table}
        if type(changes["explains"]) is not bool:
            raise self._wrong(("answers", "explains"), f"explains must be true or false; got {changes['explains']!r}.")
        if "reveals" in changes:
            changes["reveals"] = self._built(("answers", "reveals"), Reveals.parse, changes["reveals"])
        return self._built(("answers",), interface.revealing, **changes)

    def _explained(
        self, interface: Interface, shown: Interface, upstream: UpstreamTable | None, listen: Listen
    ) -> None:
        """Refuse explanations that nobody gives, and those that would be lost on the way."""
        if not interface.explains:
            for where, said in ((("answers", "explains"), shown.explains),
                                (("upstream", "explanation"), upstream and upstream.explanation)):  # fmt: skip
                if said:
                    raise self._wrong(where, "[model] must name the output tensor that explains: explanation = ...")
            return
        sides = [(("upstream", "protocol"), upstream.protocol)] if upstream else []
        sides += [(("listen", "protocols"), name) for name in listen.protocols if shown.explains]
        for where, name in sides:
            if not PROTOCOLS.load(name).explains:
                raise self._wrong(where, f"The protocol {name} has no place for explanations; use v2 or mapping.")

    def _stages(self, interface: Interface) -> tuple[Defense[Any], ...]:
        """The stages of the guard. Each is bound to the model once: what it cannot be used with is refused here."""
        catalog, stages = resolve("portcullis_ml.defenses:CATALOG"), list[Defense[Any]]()
        given = self.tree.get("guard", [])
        if not isinstance(given, list):
            raise self._wrong(("guard",), "Every stage of the guard is a table of its own: write [[guard]].")
        for i, table in enumerate(given):
            where = ("guard", str(i))
            if "unit" not in table:
                raise self._wrong(where, 'A [[guard]] table must say which unit it is, such as unit = "rounding".')
            stage = self._built(where, catalog.build, table, folder=self.folder)
            if not isinstance(stage, Defense):
                raise self._wrong((*where, "unit"), f"{table['unit']!r} is not a defense; give it to a watch.")
            self._built(where, refuse_recipes, stage)
            self._built(where, stage.bind, interface)
            stages.append(stage)
        return tuple(stages)

    def _key(self) -> bytes:
        name = self.tree.get("key_file")
        if name is None:
            raise self._wrong(
                (), "key_file must name a file with the guard's secret; make one with `portcullis check --new-secret`."
            )
        self._text(("key_file",), name)
        try:
            key = bytes.fromhex((self.folder / name).read_text().strip())
        except (OSError, ValueError):
            raise self._wrong(
                ("key_file",), f"key_file must name a file of hexadecimal digits; {name!r} is none."
            ) from None
        if len(key) < 16:
            raise self._wrong(("key_file",), f"The guard's secret must be at least 16 bytes; this one is {len(key)}.")
        return key
