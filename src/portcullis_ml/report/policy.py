"""The recommended guard as a whole policy: a file that `portcullis check` explains and `portcullis serve` runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from portcullis_ml.report.recommend import inline, settings
from portcullis_ml.report.results import Audit

__all__ = ["HEAD", "policy", "policy_text"]

HEAD = "# A policy for the gate, written by an audit. What it does, in sentences: portcullis check portcullis.toml"
TEXT = """\
{head}
# Say where your model server is and what it calls its tensors; run it with: portcullis serve --policy portcullis.toml

mode = "observe"             # counts and alarms, changes no answer; "enforce" when you know what honest clients meet
key_file = "guard.key"       # the guard's secret, made beside this file; keep it out of version control

[upstream]
url = "http://127.0.0.1:8080"
protocol = "v2"              # v2, v1, invocations, mapping

[model]
{model}

[answers]                    # as audited
{answers}

[clients]
anonymous = "shared"         # everyone is one client: give each a key before you enforce: portcullis check --new-key

{guard}
"""


def policy(audit: Audit, meta: Mapping[str, Any]) -> str | None:
    """The file's text; None where no defense can be recommended, where the model takes texts, which the gate does not
    speak, or where an old run did not say what the model takes."""
    guard, seen = settings(audit), meta.get("interface") or {}
    if guard is None or "input_shape" not in seen or seen.get("text"):
        return None
    return policy_text(guard, str(meta.get("title", "")), seen, HEAD)


def policy_text(guard: str, title: str, seen: Mapping[str, Any], head: str) -> str:
    """A whole policy: this guard, as TOML, before the model of an interface as an audit's meta data describes it."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "model"
    model = {"name": name, "input_shape": seen["input_shape"]}
    model |= {"classes": seen["n_classes"]} if seen["n_classes"] else {"task": "regression"}
    model |= {key: seen[key] for key in ("bounds", "missing", "features") if seen.get(key)}
    if seen.get("precision") == "float32":
        model["datatype"] = "FP32"
    answers = {key: seen[key] for key in ("reveals", "k", "decimals") if seen.get(key) is not None}
    return TEXT.format(head=head, model=_lines(model), answers=_lines(answers), guard=guard)


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {inline(value)}" for key, value in table.items())
