"""A victim that somebody brought, and the rows that go with it: what it takes, what it answers, what was understood.

The victim is asked first what it knows (columns, categories, classes), and then the rows are read for it: its text
stays text, its classes are its classes. What remains open (which of several outputs, pixels of 0 to 1 or 0 to 255, the
order of nameless classes) is decided by how well the answers agree with the test labels, and said in `notes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portcullis_ml.bench.brought_notes import of_dropped, of_scores, of_words
from portcullis_ml.bench.endpoint import Endpoint
from portcullis_ml.bench.label import one_label, single, with_label
from portcullis_ml.bench.labels import doubt_of, in_order, numbered
from portcullis_ml.bench.rows import LabelledRows, as_taken
from portcullis_ml.bench.sources import Sources, rows_of, schema_of, takes_of
from portcullis_ml.bench.targets import answers_numbers, as_labels, as_numbers, judged
from portcullis_ml.bench.texts import BroughtTexts, are_texts
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Model
from portcullis_ml.models.known import KnownVictim, known_of
from portcullis_ml.models.load import load_model
from portcullis_ml.models.outputs import output_names
from portcullis_ml.models.texts import Texts

__all__ = ["Brought", "bring"]

JUDGED = 1000  # test rows that decide between two readings
CLEARLY = 0.05  # of them: by so much the unusual reading must agree better
EIGHT_BIT = 255.0


@dataclass(frozen=True, kw_only=True)
class Brought:
    """The victim, its rows in its own classes, the bounds of an input, and sentences about what was understood.

    `numbers` is whether it answers numbers and no classes; then the rows' y are targets.
    """

    model: Model
    test: LabelledRows
    pool: LabelledRows | None
    train: LabelledRows | None
    bounds: tuple[float, float]
    splits: str
    numbers: bool = False
    notes: tuple[str, ...] = ()
    texts: Texts | None = None  # what rows stand for, where they stand for texts


def bring(sources: Sources) -> Brought:
    """Read rows and victim together. Raises InputError."""
    sources = single(sources)
    known = KnownVictim() if sources.endpoint else with_label(sources, known_of(sources.victim))
    any_word = known.named is not None and any(c.words is None for c in known.named.values())
    try:
        return _bring(sources, known)
    except InputError:
        if not any_word:
            raise
        narrow = {name: replace(c, words=c.words or frozenset()) for name, c in (known.named or {}).items()}
        return _bring(sources, replace(known, named=narrow))  # it refuses words like "None": they are missing values


def _bring(sources: Sources, known: KnownVictim) -> Brought:
    notes: list[str] = []
    texts = BroughtTexts(sources, Texts(), known.found) if are_texts(sources, known.found) else None
    if texts is None:
        test, pool, train, bounds, splits = rows_of(sources, takes_of(known, schema_of(sources)))
        model = one_label(sources, known, _loaded(sources, known, test), test)
    else:
        test, pool, train, bounds, splits = texts.rows()
        model = texts.model(test) if sources.endpoint is None else _asked(sources, sources.endpoint, test, texts.texts)
    parts = {"The test rows": test, "The pool": pool, "The training rows": train}
    taken = {what: None if rows is None else as_taken(rows, model) for what, rows in parts.items()}
    if answers_numbers(sources.victim, model, test, said=sources.regression, sure=known.regressor):
        made = {what: as_numbers(rows, what) for what, rows in taken.items()}
        return _brought(model, made, bounds, splits, notes, numbers=True, victim=sources.victim)
    taken = {what: as_labels(rows, what) for what, rows in taken.items()}
    words = _classes(sources, model, taken["The test rows"], notes)
    made = {what: _labelled(rows, words, what, model.n_classes, notes) for what, rows in taken.items()}
    judging = made["The test rows"]
    assert judging is not None
    if tuple(model.input_shape) == judging.x.shape[1:] and judging.y is not None and model.n_classes > 1:
        model = _best_output(sources, known, model, judging, notes)
        model = _best_scale(model, judging, notes)
        _judge(model, judging, words, sources, notes)
    found = _brought(model, made, bounds, splits, notes)
    return found if texts is None else replace(found, texts=texts.texts)


def _brought(
    model: Model,
    made: Mapping[str, LabelledRows | None],
    bounds: tuple[float, float],
    splits: str,
    notes: list[str],
    *,
    numbers: bool = False,
    victim: str = "",
) -> Brought:
    """The victim and its rows, with the last of the sentences about them."""
    judging = made["The test rows"]
    assert judging is not None
    if numbers and tuple(model.input_shape) == judging.x.shape[1:]:
        notes += judged(model, judging, victim)
    notes += of_words(judging, model)
    for what, rows in made.items():
        notes += of_dropped(what, rows, model)
        notes += [rows.said] if rows is not None and rows.said else []
    return Brought(
        model=model, test=judging, pool=made["The pool"], train=made["The training rows"], bounds=bounds, splits=splits,
        numbers=numbers, notes=tuple(notes),
    )  # fmt: skip


def _loaded(sources: Sources, known: KnownVictim, test: LabelledRows, output: str | None = None) -> Model:
    """The victim, for rows like these. One column of scores is a binary classifier where there are two labels."""
    if sources.endpoint:
        return _asked(sources, sources.endpoint, test)
    table = test.features if test.classes is not None else None  # a file of bare arrays has no names
    numbers = sources.regression or known.regressor or (sources.column is not None and known.found is None)
    n = len(test.classes) if test.classes and not numbers else None
    given: dict[str, Any] = {"input_shape": test.x.shape[1:], "features": table, "softmax": sources.softmax}
    given |= {"output": output or sources.output, "found": known.found}
    if n is not None and not sources.victim.partition("@")[0].endswith(".safetensors"):
        graph = sources.victim.endswith(".onnx")
        n = n if n == 2 and not graph else None  # its own columns say how many it knows: a table may lack some
    model = load_model(sources.victim, n_classes=n, **given)
    if model.n_classes == 0 and not numbers and test.y is not None and set(np.unique(test.y)) <= {0, 1}:
        return load_model(sources.victim, n_classes=2, **given)
    return model


def _asked(sources: Sources, endpoint: Endpoint, test: LabelledRows, texts: Texts | None = None) -> Model:
    """The API at the victim's address, for rows like these."""
    if sources.regression:
        raise InputError(
            f"{sources.victim} is asked for classes; an API that answers numbers is asked by a function of yours "
            "(--victim module:function), which sends the rows and returns the numbers."
        )
    text = [f.name for f in test.features or () if f.categorical]
    if text:
        raise InputError(
            f"An API is asked with numbers; {', '.join(text[:4])} hold words. Give the rows as the API takes them."
        )
    named = sources.classes.split(",") if sources.classes else test.classes
    seen = None if test.y is None else int(test.y.max()) + 1
    words = tuple(word.strip() for word in sources.classes.split(",")) if sources.classes else ()
    words = () if all(word.lstrip("-").isdecimal() for word in words) else words
    return endpoint.open(sources.victim, test.x.shape[1:], len(named) if named else seen, words, texts)


def _classes(sources: Sources, model: Model, test: LabelledRows | None, notes: list[str]) -> tuple[str, ...] | None:
    """The words of the victim's classes in the order of its columns; None where nobody knows them."""
    assert test is not None
    if sources.classes is not None:
        given = tuple(word.strip() for word in sources.classes.split(","))
        if len(given) != model.n_classes or len(set(given)) < len(given):
            raise InputError(
                f"--classes must name the victim's {model.n_classes} classes, each once; got {len(given)}: "
                f"{sources.classes}."
            )
        return given
    words: Any = getattr(model, "classes", None) or _of_estimator(model)
    if not words and hasattr(model, "class_words") and tuple(model.input_shape) == test.x.shape[1:]:
        words = model.class_words(test.x[:JUDGED])
    if words:
        return tuple(map(str, words))
    if test.classes is None or model.n_classes < 2:
        return None
    guess = in_order(test.classes, model.n_classes)
    notes.append(
        f"The victim does not name its classes; its columns were taken for {', '.join(guess[:6])}"
        f"{', ...' if len(guess) > 6 else ''}, in this order. Another order: --classes."
    )
    return guess


def _of_estimator(model: Model) -> tuple[str, ...] | None:
    """The classes of a scikit-learn estimator over arrays, where its columns are its classes."""
    from portcullis_ml.models.words import word_of

    classes = getattr(getattr(model, "estimator", None), "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or len(classes) != model.n_classes:
        return None
    return tuple(map(word_of, classes.tolist()))


def _labelled(
    rows: LabelledRows | None, words: tuple[str, ...] | None, what: str, n_classes: int, notes: list[str]
) -> LabelledRows | None:
    """The rows with their labels in the victim's classes. A pool of arrays may have classes of its own."""
    if rows is None or rows.y is None or words is None:
        return rows
    known = np.arange(n_classes)
    if what == "The pool" and rows.classes is None and not np.isin(rows.y, known).all():
        notes.append("The pool's labels are not the victim's classes; they are taken for groups of the pool alone.")
        return replace(rows, y=None, groups=rows.y)
    return numbered(rows, words, what)


def _best_output(sources: Sources, known: KnownVictim, model: Model, test: LabelledRows, notes: list[str]) -> Model:
    """Of several outputs that could be scores, the one that agrees best with the test labels."""
    names = output_names(model)
    if len(names) < 2 or test.y is None:
        return model
    chosen: str = model.output  # type: ignore[attr-defined]
    if sources.output is None:
        found = {}
        for name in names:
            other = model if name == chosen else _loaded(sources, known, test, output=name)
            if other.n_classes > test.y.max() and (right := _right(other, test)) is not None:
                found[name] = right, other
        best = max(found, key=lambda name: found[name][0], default=chosen)
        if best != chosen and found[best][0] > found.get(chosen, (0.0, model))[0] + CLEARLY:
            chosen, model = best, found[best][1]
    notes.append(f"Of the outputs {', '.join(names)}, {chosen} was read. Another: --output-name.")
    return model


def _best_scale(model: Model, test: LabelledRows, notes: list[str]) -> Model:
    """Pictures as the victim takes them: 0 to 1, or 0 to 255, whichever agrees better with the test labels."""
    from portcullis_ml.models.scaled import ScaledModel

    top = float(test.x.max())
    whole = top > 1 and top <= EIGHT_BIT and test.x.min() >= 0 and bool((test.x == np.rint(test.x)).all())
    if not (test.eight_bit or (test.x.ndim > 2 and (whole or (0 <= test.x.min() and top <= 1)))):
        return model
    factor = 1 / EIGHT_BIT if whole else EIGHT_BIT
    now, then = _right(model, test), _right(ScaledModel(model, factor), test)
    if then is None or then < max(now or 0.0, _by_a_constant(test)) + CLEARLY:
        return model
    says = "0 to 1" if whole else "0 to 255"
    was = "no answer" if now is None else f"{now:.0%}"
    notes.append(f"Pixels go into the victim as {says}: {then:.0%} of the test rows are right so, {was} as they came.")
    return ScaledModel(model, factor)


def _by_a_constant(test: LabelledRows) -> float:
    """The share of test rows that the most frequent label gets right: less shows no reading of the pixels."""
    assert test.y is not None
    y = test.y[:JUDGED]
    return float(np.bincount(y[y >= 0]).max() / len(y)) if (y >= 0).any() else 0.0


def _right(model: Model, test: LabelledRows) -> float | None:
    """The share of test rows answered as they are labelled; None where they cannot be answered."""
    assert test.y is not None
    try:
        scores = model.scores(test.x[:JUDGED])
    except Exception:  # rows of another scale are a trial, and somebody's own code may raise anything
        return None
    return float((scores.argmax(axis=1) == test.y[:JUDGED]).mean()) if np.isfinite(scores).all() else None


def _judge(model: Model, test: LabelledRows, words: tuple[str, ...] | None, sources: Sources, notes: list[str]) -> None:
    """Note accuracy and doubts; InputError where a guessed order of the classes is plainly wrong."""
    assert test.y is not None
    y = test.y[:JUDGED]
    if not 0 <= y.min() <= y.max() < model.n_classes:
        return  # the caller has a sentence for that
    scores = model.scores(test.x[:JUDGED])
    if doubt := doubt_of(y, scores):
        guessed = words is not None and not getattr(model, "classes", None) and sources.classes is None
        if guessed and test.classes is not None and any("does not name its classes" in note for note in notes):
            raise InputError(
                f"The victim does not name its classes, and {', '.join((words or ())[:6])} is not their order: {doubt} "
                "Say the words for its columns, in order, with --classes."
            )
        notes.append(f"{doubt} Check the labels, and --classes.")
    notes.append(f"{(scores.argmax(axis=1) == y).mean():.1%} of {len(y):,} test rows are answered as labelled.")
    notes += of_scores(model, test.x[:JUDGED], y, scores, softmax=sources.softmax)
