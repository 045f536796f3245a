"""Rows of texts and the victim that answers them: when that is what somebody brought, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from portcullis_ml.bench.endpoint import is_address
from portcullis_ml.bench.rows import LabelledRows
from portcullis_ml.bench.sources import Sources
from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.core.extraction import Extraction
from portcullis_ml.core.randomness import derive
from portcullis_ml.core.types import Interface, Labels, Model
from portcullis_ml.data.texts import TABLES, TextRows, holds_texts, read_texts
from portcullis_ml.extraction import CATALOG as ATTACKS
from portcullis_ml.models.load import peek
from portcullis_ml.models.text_victims import load_text_model, takes_texts
from portcullis_ml.models.texts import TOP, TextInterface, Texts

__all__ = ["BroughtTexts", "are_texts", "asks_texts", "must_suit_texts", "write_transfer"]

TEST_SHARE = 0.3  # of one file
CLUSTERS = 30  # of a pool
WIDTH = 2**12  # hashed words by which texts are put into clusters
RANDOM = 100  # random texts that are asked for the classes that a victim knows


def are_texts(sources: Sources, found: Any) -> bool:
    """Whether the rows are texts: somebody says so, a file says so, or the victim begins with a vectoriser."""
    if sources.text is not None or takes_texts(found):
        return True
    paths = [Path(p) for p in (sources.test, sources.pool, sources.train, sources.data) if p]
    return any(path.is_file() and holds_texts(path) for path in paths)


@lru_cache(maxsize=4)
def asks_texts(victim: str | None, text: str | None, *paths: str | None) -> bool:
    """Whether rows will be texts, before anything is loaded; False where it cannot be said yet."""
    if victim is None:
        return False
    given = Sources(victim=victim, text=text, test=next(filter(None, paths), None))
    if any(are_texts(replace(given, test=path), None) for path in paths if path):
        return True
    if is_address(victim):
        return False
    tables = any(path.endswith(TABLES) for path in paths if path)
    try:
        return tables and takes_texts(peek(victim))
    except (PortcullisError, OSError, ValueError):
        return False  # whoever loads it says what is wrong


NUMBERS = ("privacy", "then", "marks", "transfer")  # options that measure with rows of numbers


def must_suit_texts(interface: Interface, learner: Mapping[str, Any] | None, options: Any = None) -> None:
    """InputError where rows are texts and the learner learns numbers, or an option of an audit measures with them."""
    if not interface.text:
        return
    if learner is not None and getattr(ATTACKS.build(learner), "numeric", True):
        raise InputError(f"{learner['unit']} learns rows of numbers; this victim takes texts. Leave --learner out.")
    if given := [f"--{name}" for name in NUMBERS if getattr(options, name, None)]:
        raise InputError(f"{', '.join(given)} measure with rows of numbers; this victim takes texts. Leave them out.")


def write_transfer(path: Path, extraction: Extraction, interface: TextInterface) -> None:
    """What was asked and answered, one JSON object a line: texts, labels as words where there are some, and scores."""
    labels, scores = extraction.answer.labels, extraction.answer.scores
    with path.open("w", encoding="utf-8") as file:
        for i, text in enumerate(interface.texts.of(extraction.x)):
            row: dict[str, Any] = {"text": text}
            if labels is not None and labels[i] >= 0:
                row["label"] = interface.words[labels[i]] if interface.words else int(labels[i])
            if scores is not None:
                row["scores"] = [None if np.isnan(p) else p for p in scores[i].tolist()]
            file.write(json.dumps(row) + "\n")


@dataclass
class BroughtTexts:
    """Texts from files, and what they stand for."""

    sources: Sources
    texts: Texts
    found: Any = None  # the victim's object, where it was read already
    pool: list[str] = field(default_factory=list)  # texts of the pool, once they were read

    def rows(
        self,
    ) -> tuple[LabelledRows, LabelledRows | None, LabelledRows | None, tuple[float, float], str]:
        """Test rows, pool, training rows, bounds of a row, and the sentence about them."""
        s = self.sources
        if s.schema is not None:
            raise InputError("--schema is about the columns of a table; these rows are texts. Leave it out.")
        test = pool = train = None
        if s.data is not None:
            test, pool = _divided(Path(s.data).name, self._read("data set", s.data, "test"))
        test = test if s.test is None else self._read("test set", s.test, "test")
        if test is None:
            raise InputError(
                "A victim of texts needs rows to be judged on; got none. Give --test FILE (.jsonl, .csv, .npz)."
            )
        pool = pool if s.pool is None else self._read("pool", s.pool, "train")
        train = train if s.train is None else self._read("training set", s.train, "train")
        parts = [None if part is None else self._labelled(part) for part in (test, pool, train)]
        if pool is not None:
            self.pool = pool.texts
            self.texts.learn_words(pool.texts)
            parts[1] = _clustered(parts[1], pool.texts)
        held = "no pool" if pool is None else f"{len(pool.texts):,} texts of a pool"
        sentence = (
            f"The thief holds {held}; {len(test.texts):,} test texts judge. Nobody but you knows where they come from."
        )
        made = parts[0]
        assert made is not None
        return made, parts[1], parts[2], (0.0, TOP), sentence

    def model(self, test: LabelledRows) -> Model:
        """The victim."""
        s = self.sources
        random = self.texts.draw(RANDOM, derive(0, "classes of texts"))
        tried = [*self.texts.of(test.x), *self.pool, *self.texts.of(random)]
        classes = [word.strip() for word in s.classes.split(",")] if s.classes else test.classes
        return load_text_model(
            s.victim, self.texts, tried, found=self.found, classes=classes, softmax=s.softmax, output=s.output
        )

    def _read(self, what: str, path: str, part: str) -> TextRows:
        s = self.sources
        return read_texts(what, Path(path), column=s.text, target=s.target, part=part)

    def _labelled(self, rows: TextRows) -> LabelledRows:
        words = None if rows.labels is None else tuple(sorted(set(rows.labels)))
        place = {word: i for i, word in enumerate(words or ())}
        y = None if rows.labels is None else np.array([place[label] for label in rows.labels], np.int64)
        return LabelledRows(
            x=self.texts.add(rows.texts), y=y, classes=words, dropped=rows.dropped, lacking=(rows.column,),
        )  # fmt: skip


def _divided(name: str, rows: TextRows) -> tuple[TextRows, TextRows]:
    """Three in ten texts of one file for testing, drawn once and for all, and the rest."""
    n = len(rows.texts)
    if n < 2:
        raise InputError(f"{name} has {n} text; at least 2 were expected, to test with one.")
    order = derive(0, "data", name).permutation(n)
    cut = max(1, round(TEST_SHARE * n))
    return _some(rows, order[:cut]), _some(rows, order[cut:])


def _some(rows: TextRows, chosen: Labels) -> TextRows:
    labels = None if rows.labels is None else [rows.labels[i] for i in chosen]
    return TextRows(texts=[rows.texts[i] for i in chosen], labels=labels, dropped=rows.dropped, column=rows.column)


def _clustered(pool: LabelledRows | None, texts: list[str]) -> LabelledRows | None:
    """The pool with groups of texts that share words, for attacks that choose among groups."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import HashingVectorizer

    if pool is None:
        return None
    words = HashingVectorizer(n_features=WIDTH).transform(texts)
    found = MiniBatchKMeans(min(CLUSTERS, len(texts)), random_state=0, n_init=1).fit_predict(words)
    return replace(pool, groups=np.array([f"cluster {c + 1}" for c in found]))
