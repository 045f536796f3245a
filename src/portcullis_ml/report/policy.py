"""The recommended guard as a whole policy: a file that `portcullis check` explains and `portcullis serve` runs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from portcullis_ml.report.recommend import inline, settings
from portcullis_ml.report.results import Audit

__all__ = ["HEAD", "logs_first", "policy", "policy_text", "until_calibrated"]

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

[clients]                    # detectors, quotas and alarms are of one client, so each needs a name of its own:
# key = [{{ client = "alice", sha256 = "..." }}]      # portcullis check --new-key makes one; docs: tokens, certificates
anonymous = "shared"         # until then all are one client; "refuse" before you enforce, or a thief stops everyone

{guard}
"""
LOGS = """# This watch only logs until its threshold fits your own clients: {why}.
# Record some days of them ([log] path = "log", queries = true), then: portcullis calibrate log --policy FILE --write
# Behind a threshold that fits, as audited: {then}
then = {{ unit = "log" }}"""
THEN, DETECTOR = re.compile(r"^then = .*$", re.M), re.compile(r"^detector = .*$", re.M)
PICTURES = ("prada", "prada_normality")  # whose defaults were chosen on pictures, and hold on others


def policy(audit: Audit, meta: Mapping[str, Any]) -> str | None:
    """The file's text; None where no defense can be recommended, or where an old run did not say what the model
    takes."""
    guard, seen = settings(audit), meta.get("interface") or {}
    if guard is None or "input_shape" not in seen:
        return None
    return policy_text(guard, str(meta.get("title", "")), seen, HEAD)


def policy_text(guard: str, title: str, seen: Mapping[str, Any], head: str) -> str:
    """A whole policy: this guard, as TOML, before the model of an interface as an audit's meta data describes it."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "model"
    model: dict[str, Any] = {"name": name}
    model |= {"text": {"rows": "hash"}} if seen.get("text") else {"input_shape": seen["input_shape"]}  # as audited
    model |= {"classes": seen["n_classes"]} if seen["n_classes"] else {"task": "regression"}
    if not seen.get("text"):
        model |= {key: seen[key] for key in ("bounds", "missing", "features") if seen.get(key)}
    if seen.get("precision") == "float32":
        model["datatype"] = "FP32"
    answers = {key: seen[key] for key in ("reveals", "k", "decimals") if seen.get(key) is not None}
    guard = until_calibrated(guard, seen["input_shape"])
    return TEXT.format(head=head, model=_lines(model), answers=_lines(answers), guard=guard)


def until_calibrated(guard: str, input_shape: Sequence[int]) -> str:
    """The stages, with every watch that only logs where its default threshold is not known to hold for such inputs."""
    return re.sub(r"^\[\[guard\]\]$.*?(?=^\[\[guard\]\]$|\Z)", lambda m: _logging(m[0], input_shape), guard,
                  flags=re.M | re.S)  # fmt: skip


def logs_first(watch: Mapping[str, Any], input_shape: Sequence[int]) -> bool:
    """Whether a watch is not to act before it is calibrated: its defaults are known for pictures, if for anything."""
    return len(input_shape) < 2 or watch["detector"]["unit"] not in PICTURES


def _logging(stage: str, input_shape: Sequence[int]) -> str:
    watch = tomllib.loads(stage)["guard"][0]
    if "detector" not in watch or not logs_first(watch, input_shape):
        return stage
    name = watch["detector"]["unit"]
    why = f"the default of {name} is not known to hold for any clients but your own"
    if name in PICTURES:
        why = f"the default of {name} was chosen on pictures and calls honest clients of tables"
    text = LOGS.format(why=why, then=inline(watch.get("then", {"unit": "block"})))
    return (THEN if "then" in watch else DETECTOR).sub(lambda m: text if "then" in watch else f"{m[0]}\n{text}", stage)


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {inline(value)}" for key, value in table.items())
