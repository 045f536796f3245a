"""What `portcullis privacy --text` measures: a model of text, the text it was trained on, canaries, and references.

Without a model of the user's, one is trained on the text with canaries planted in it; what is trained is kept in the
results' folder under the hash of what made it, and used again by the next run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portcullis_ml.bench.cell import fingerprint
from portcullis_ml.bench.planted import PlantedCanaries, canary_file, write_planted
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.settings import describe
from portcullis_ml.data.text import load_documents
from portcullis_ml.models.learners import TEXT_LEARNERS, learner_named
from portcullis_ml.models.sequences import Characters, SequenceModel
from portcullis_ml.models.text_files import load_text_model, save_text_model

__all__ = ["TextScene", "TextSource", "load_scene", "plant_text"]

HELD_BACK = 0.1  # of the documents of a text that a model is trained on here, for prompts and reference models
REFERENCES = {"small": 32, "medium": 64}  # units of the reference models that are trained here
Training = Callable[[str, int, int], None]  # (what, steps done, steps)


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Where a text, its model and what belongs to them are found.

    text, unseen     a .txt, or a name in `folder`
    model            see `load_text_model`; None trains one as `learner` says
    references       {"small": model, "medium": model}; trained on the unseen text where they are not given
    canaries         the file that belongs to the text; the one beside it where it is not said
    """

    text: str
    folder: str | None = None
    model: str | None = None
    unseen: str | None = None
    canaries: str | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    learner: str = "gru"
    repetitions: tuple[int, ...] = (1, 2, 4, 8)
    each: int = 5  # canaries for every number of repetitions
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.repetitions or min(self.repetitions) < 1 or len(set(self.repetitions)) < len(self.repetitions):
            raise InputError(
                f"--repetitions was expected to be different numbers of at least 1; got {list(self.repetitions)}. "
                "As many canaries are left out of the text anyway."
            )


@dataclass(frozen=True)
class TextScene:
    """A model and what is known of its text. `often` (n,) is how often each canary stands in it."""

    model: SequenceModel
    documents: Sequence[str]
    unseen: Sequence[str]
    canaries: PlantedCanaries | None
    often: NDArray[np.int64]
    references: Mapping[str, SequenceModel]
    names: Mapping[str, Any]  # what cells and the report say of all this
    notes: Sequence[str] = ()


def plant_text(source: TextSource, attack: Any, path: Path) -> tuple[Path, Path, PlantedCanaries]:
    """Draw canaries of the attack's form, write the text with them planted and the canaries; the two paths."""
    documents = load_documents(source.text, source.folder)
    canaries, whole = _planted(source, attack, documents)
    return *write_planted(canaries, whole, path), canaries


def load_scene(source: TextSource, attack: Any, out: Path, training: Training | None = None) -> TextScene:
    """Everything that is measured, trained where it is not there. InputError for what does not belong together."""
    documents = load_documents(source.text, source.folder)
    unseen = load_documents(source.unseen, source.folder) if source.unseen else []
    canaries: PlantedCanaries | None
    if source.model is None:
        if not unseen:
            documents, unseen = _split(documents)
        canaries, documents = _planted(source, attack, documents)
        model, path, learner = _trained_victim(source, canaries, documents, unseen, out, training)
    else:
        model, path, learner = load_text_model(source.model, device=source.device), source.model, None
        canaries = _brought(source, attack)
        _belongs(model, documents, source)
    often = np.empty(0, np.int64) if canaries is None else canaries.counted(documents)
    known, notes = _known(model, unseen)
    references, more = _references(source, model, known, out, training)
    names = {
        "model": {"name": Path(path).name, "sha256": _mark(path, model, documents)},
        "text": {"name": Path(source.text).name, "sha256": fingerprint("\0".join(documents))},
        "unseen": fingerprint("\0".join(known)),
        "canaries": None if canaries is None else fingerprint(json.dumps(canaries.to_json()), often),
        "references": {name: _mark(path, reference, documents) for name, (reference, path) in references.items()},
        "learner": learner,
    }
    others = {name: reference for name, (reference, _) in references.items()}
    return TextScene(model, documents, known, canaries, often, others, names, [*notes, *more])


def _split(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what is trained on, the last tenth)."""
    kept = len(documents) - max(1, round(HELD_BACK * len(documents)))
    if kept < 1:
        raise InputError(
            "A text was expected to have at least two documents, separated by empty lines; it has one. Give more, or "
            "text of the same kind with --unseen."
        )
    return list(documents[:kept]), list(documents[kept:])


def _planted(source: TextSource, attack: Any, documents: Sequence[str]) -> tuple[PlantedCanaries, list[str]]:
    rng = derive(source.seed, "canaries")
    return PlantedCanaries.drawn(attack, documents, source.repetitions, source.each, rng=rng)


def _brought(source: TextSource, attack: Any) -> PlantedCanaries | None:
    """The canaries of a text that somebody trained on: those named, those beside it, or none."""
    beside = canary_file(Path(source.text))
    if source.canaries is None and not beside.is_file():
        return None
    return PlantedCanaries.read(Path(source.canaries or beside), attack)


def _belongs(model: SequenceModel, documents: Sequence[str], source: TextSource) -> None:
    """InputError where the model cannot have been trained on this text."""
    if not isinstance(model.tokenizer, Characters):
        return
    if unknown := sorted(set("".join(documents)) - set(model.tokenizer.alphabet)):
        raise InputError(
            f"{source.text} was expected to be the text that {source.model} was trained on; it has {unknown[0]!r}, "
            "which the model does not know. Name the text that it was trained on, the one that --plant wrote if any."
        )
    characters, window = sum(map(len, documents)), getattr(model, "window", 1)
    if characters <= window:
        raise InputError(
            f"{source.model} was trained on {window} characters at a time; {source.text} has {characters:,}. Name the "
            "text that it was trained on."
        )


def _known(model: SequenceModel, unseen: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the unseen documents that the model can read, what is to be said of the others)."""
    if not isinstance(model.tokenizer, Characters):
        return list(unseen), []
    alphabet = set(model.tokenizer.alphabet)
    known = [d for d in unseen if set(d) <= alphabet]
    left = len(unseen) - len(known)
    said = f"{left:,} of {len(unseen):,} unseen documents have characters that the model does not know; left out."
    return known, [said] if left else []


def _mark(path: str, model: SequenceModel, documents: Sequence[str]) -> str:
    """What a model is known by: the hash of its file or folder, or of its answers."""
    place = Path(path)
    if place.exists():
        return fingerprint(*([place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())))
    asked = model.tokenizer.encode(documents[0][:32])[None]
    return fingerprint(np.asarray(model.log_probs(asked)).round(6))


def _trained_victim(
    source: TextSource,
    canaries: PlantedCanaries,
    documents: Sequence[str],
    unseen: Sequence[str],
    out: Path,
    training: Training | None,
) -> tuple[SequenceModel, str, Mapping[str, Any]]:
    """(the model, its file, how it was trained); the text with its canaries stands beside it, for further runs."""
    learner = learner_named(source.learner, source.device, catalog=TEXT_LEARNERS)
    form = canaries.attack.prefix + canaries.attack.symbols
    alphabet = "".join(sorted(set("".join([*documents, *unseen])) | set(form)))
    model, path = _kept(learner, documents, alphabet, "model", source.seed, out, training)
    text = Path(path).with_suffix(".txt")
    if not text.exists():
        canary_file(text).unlink(missing_ok=True)
        write_planted(canaries, documents, text)
    return model, path, describe(learner)


def _references(
    source: TextSource, model: SequenceModel, unseen: Sequence[str], out: Path, training: Training | None
) -> tuple[dict[str, tuple[SequenceModel, str]], list[str]]:
    """(small and medium models of text with their files, why there are none): those named, or some that learn the
    unseen text."""
    found = {name: (load_text_model(spec, device=source.device), spec) for name, spec in source.references.items()}
    if len(found) == len(REFERENCES):
        return found, []
    if not isinstance(model.tokenizer, Characters):
        why = "the model does not read characters, and no reference of its tokens was given"
        return found, [f"Rankings by a small and a medium model were left out: {why}."]
    learner = learner_named("gru", source.device, catalog=TEXT_LEARNERS)
    if sum(len(d) + 1 for d in unseen) < learner.window + 1:
        why = f"they are trained on unseen text, of which there are fewer than {learner.window + 1} characters"
        return found, [f"Rankings by a small and a medium model were left out: {why}. Give more with --unseen."]
    for name, units in REFERENCES.items():
        if name not in found:
            smaller = learner_named(f"gru(units={units})", source.device, catalog=TEXT_LEARNERS)
            found[name] = _kept(smaller, unseen, model.tokenizer.alphabet, name, source.seed, out, training)
    return found, []


def _kept(
    learner: Any,
    documents: Sequence[str],
    alphabet: str,
    name: str,
    seed: int,
    out: Path,
    training: Training | None,
) -> tuple[SequenceModel, str]:
    """The model that the learner makes of these documents, from the folder where it was made before; and its file."""
    digest = fingerprint(json.dumps([describe(learner), alphabet, seed]), "\0".join(documents))
    path = out / f"{name}-{digest}.safetensors"
    if path.is_file():
        return load_text_model(str(path), device=learner.device), str(path)
    what = "the model" if name == "model" else f"the {name} reference"
    watch = (lambda epoch, epochs, _: training(what, epoch, epochs)) if training else None
    model = learner.fit(documents, rng=derive(seed, name), alphabet=alphabet, progress=watch)
    out.mkdir(parents=True, exist_ok=True)
    partial = save_text_model(model, out / f".{name}-{digest}.partial")
    partial.replace(path)  # a killed run leaves no half-written file
    return model, str(path)
