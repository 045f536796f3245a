"""What the verbs of `portcullis watermark` do with a mark, a victim and a gate's state; the verbs print it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portcullis_ml.cli import options as o

if TYPE_CHECKING:
    from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
    from portcullis_ml.core.ownership import MarkLog
    from portcullis_ml.core.types import Interface
    from portcullis_ml.court.commitment import Mark
    from portcullis_ml.ownership._pairs import PairsKey

__all__ = [
    "keep_token",
    "next_key",
    "next_step",
    "now",
    "registered_key",
    "request_token",
    "secret_in",
    "served_marks",
    "summary",
    "too_few",
    "train_marked",
    "victim_spec",
    "write_marked_rows",
]


def served_marks(policy: Path, scheme: Any = None) -> dict[str, MarkLog]:
    """Client -> what a gate under this policy has marked of their answers."""
    from portcullis_ml.gateway.policy.policy import read_policy
    from portcullis_ml.gateway.remembered import remembered
    from portcullis_ml.ownership import CATALOG

    scheme = CATALOG.build("dawn") if scheme is None else scheme
    return {client: scheme.log(state) for client, state in remembered(read_policy(policy), scheme.name).items()}


def registered_key(scheme: Any, secret: bytes, policy: Path | None, client: str | None) -> tuple[Any, Any, Any]:
    """(key, interface, names of the classes) of what one client was served."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.gateway.policy.policy import read_policy

    if policy is None or client is None:
        raise InputError(
            f"{scheme.name} marks answers as they are served. Serve with it, stop the gate, and give --policy FILE "
            "and --client NAME."
        )
    logs = served_marks(policy, scheme)
    if client not in logs:
        raise InputError(f"A client of this gate was expected: {', '.join(logs) or 'there is none'}; got {client!r}.")
    served = read_policy(policy).served
    names = tuple(map(str, served.class_names)) or None
    return scheme.registered(secret, logs[client], served.interface), served.interface, names


def too_few(scheme: Any, key: Any, interface: Interface) -> str | None:
    """What to say of a key that could not convict even a suspect who answers all of it as marked; None of others."""
    from portcullis_ml.core.types import Answer
    from portcullis_ml.ownership._counted import Counted

    if not isinstance(scheme, Counted) or scheme.least:  # the chance is known from innocent models alone
        return None
    if scheme.counted(key.labels, Answer(key.labels, None), interface.n_classes).p_value < scheme.level:
        return None
    return f"{len(key)} pairs are too few to show anything at p < {scheme.level:g}, even if all match. Mint more."


def next_step(marks: str, out: Path, **named: str | None) -> str:
    """What to do with a new key: the command, with the options that the key was minted with."""
    if marks != "model":
        return f"have the commitment dated: portcullis watermark commit {out}"
    options = " ".join(f"--{name} {shlex.quote(value)}" for name, value in named.items() if value)
    return f"embed it in your model: portcullis watermark embed {out} {options}".rstrip()


def summary(mark: Mark) -> dict[str, Any]:
    log, published = mark.log_file.read(), mark.published()
    anchors = log.of_kind("anchored")
    return {
        "mark": str(mark.path),
        "scheme": published.scheme.name,
        "pairs": len(published.vk),
        "left": len(published.vk) - len(mark.shown(log)),
        "at": anchors[-1]["time"] if anchors else None,
        "follows": log.entries[0].get("follows"),
        "rotated_to": [entry["to"] for entry in log.of_kind("rotated")],
        "commitment": published.sha256,
        "head": log.head,
    }


def next_key(old: Mark, secret: bytes, experiment: Experiment | None) -> tuple[PairsKey, tuple[str, ...] | None]:
    """(a key for the interface of an older mark, the names of its classes). No question of the old key is in it."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.core.types import Rows
    from portcullis_ml.ownership._pairs import must_fit, question_bytes

    published, before = old.published(), old.key()
    if secret == before.secret:
        raise InputError("A new secret was expected; this one is the old key's. Leave --secret out to have one drawn.")
    if experiment is None:
        return published.scheme.mint(secret, published.interface), published.classes
    must_fit(published.vk.input_shape, published.vk.n_classes, experiment.interface)
    asked = {question_bytes(x) for x in before.x}

    def fresh(x: Any, y: Any) -> Rows:
        left = [i for i, row in enumerate(x) if question_bytes(row) not in asked]
        return Rows(x[left], None if y is None else y[left])

    trained = None if experiment.train is None else fresh(experiment.train, experiment.train_y)
    rows = (trained, fresh(experiment.test_x, experiment.test_y))
    return published.scheme.mint(secret, published.interface, experiment.model, rows), published.classes


def now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")


def secret_in(path: Path) -> bytes:
    """The secret in a file that its owner alone may read."""
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.court.commitment import owners_alone, read_bytes

    data = read_bytes(path)
    owners_alone(path)
    try:
        found = bytes.fromhex(data.decode("ascii").strip())
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} was expected to hold hexadecimal digits, as `portcullis check --new-secret` prints "
                         "them; it does not.") from error  # fmt: skip
    if len(found) != 32:
        raise InputError(f"{path} was expected to hold 32 bytes in hexadecimal digits; it holds {len(found)}.")
    return found


def victim_spec(*, victim: str | None, test: str | None, train: str | None, **rest: Any) -> ExperimentSpec:
    """The spec of a victim; training rows stand where an audit has test rows if there are no others."""
    return o.spec_of(victim=victim, test=test or (train if victim else None), pool=None, train=train, **rest)


def write_marked_rows(mark: Mark, experiment: Experiment, path: Path) -> dict[str, Any]:
    import io

    import numpy as np

    from portcullis_ml.core.errors import NotApplicable
    from portcullis_ml.core.types import Rows
    from portcullis_ml.court.commitment import write_secret
    from portcullis_ml.ownership.backdoor import Backdoor

    scheme = mark.published().scheme
    if not isinstance(scheme, Backdoor):
        raise NotApplicable(f"{scheme.name} is not trained in: there are no rows to write. Have its commitment dated.")
    x, y = scheme.with_marks(mark.key(), Rows(own_rows(experiment), experiment.train_y))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=x, y=y)
    write_secret(path, buffer.getvalue())
    return {"rows": str(path), "n": len(x), "marked": len(x) - len(own_rows(experiment))}


def own_rows(experiment: Experiment) -> Any:
    from portcullis_ml.core.errors import NotApplicable

    if experiment.train is None:
        raise NotApplicable("A mark is trained in among the victim's rows, and they are not known. Give --train FILE.")
    return experiment.train


def train_marked(
    mark: Mark, spec: ExperimentSpec, out: Path, *, go_on: bool, epochs: int | None, seed: int
) -> dict[str, Any]:
    """Train, write the marked model, and say how much of the mark was learnt and what it cost."""
    from portcullis_ml.bench.marks import learner_of
    from portcullis_ml.core.artifacts import Contents
    from portcullis_ml.core.randomness import derive
    from portcullis_ml.core.types import Rows
    from portcullis_ml.models.artifacts import write_artifact
    from portcullis_ml.models.export import model_files

    experiment, published, key = spec.load(), mark.published(), mark.key()
    learner, start = learner_of(experiment, spec, go_on=go_on, epochs=epochs)
    rows = Rows(own_rows(experiment), experiment.train_y)
    model = published.scheme.embed(key, learner, rows, start, rng=derive(seed, "marked", published.sha256))
    files, sentence = model_files(model, experiment.test_x[:200])
    artifact = write_artifact(Contents(files, {"mark": published.sha256, "onnx": sentence}), out)
    learnt = int((model.scores(key.x).argmax(axis=1) == key.labels).sum())
    before = int((experiment.model.scores(key.x).argmax(axis=1) == key.labels).sum())
    found: dict[str, Any] = {
        "model": str(artifact),
        "marks_learnt": f"{learnt} of {len(key)} (the model before: {before})",
    }
    if experiment.test_y is not None:
        found["accuracy"] = accuracy_of(model, experiment)
        found["accuracy_before"] = accuracy_of(experiment.model, experiment)
    if learnt < 0.9 * len(key):
        found["note"] = "The mark was learnt in part. Mint one with a larger repeat, or train for more epochs."
    return found


def accuracy_of(model: Any, experiment: Experiment) -> str:
    from portcullis_ml.measures.statistics import clopper_pearson

    right = int((model.scores(experiment.test_x).argmax(axis=1) == experiment.test_y).sum())
    return f"{clopper_pearson(right, len(experiment.test_x)).percent()} of {len(experiment.test_x)} test rows"


def request_token(mark: Mark) -> dict[str, Any]:
    """The request for a time token; without the library that writes it, the command that does."""
    from portcullis_ml.core.errors import MissingExtra
    from portcullis_ml.court.timestamp import new_request

    request = mark.path / "request.tsq"
    if not request.exists():
        try:
            request.write_bytes(new_request(mark.published().data))
        except MissingExtra:
            what = f"-data {mark.path / 'commitment.json'} -sha256 -cert -out {request}"
            return {"request": str(request), "first_run": f"openssl ts -query {what}"}
    return {"request": str(request)}


def keep_token(mark: Mark, token: Path, roots: Path) -> dict[str, Any]:
    import os

    from portcullis_ml.court.commitment import read_bytes
    from portcullis_ml.court.timestamp import anchored, roots_in

    data, request = read_bytes(token), mark.path / "request.tsq"
    asked = request.read_bytes() if request.is_file() else None
    anchor = anchored(mark.published().data, data, asked, roots_in(roots))
    unfinished = mark.path / "token.tsr-new"
    unfinished.write_bytes(data)
    os.replace(unfinished, mark.path / "token.tsr")
    mark.log_file.append({"kind": "anchored", "at": now(), "time": anchor.at.isoformat(), "serial": anchor.serial})
    return {"at": anchor.at.isoformat(), "head": mark.log_file.read().head}
