"""How far do thieves of texts get with models that ship inside wheels, beside a stock model on the same answers?

    pip install magika py3langid alt-profanity-check
    export PORTCULLIS_DATA=...
    python benchmarks/wheels.py [--victims magika py3langid alt-profanity-check] [--seeds 3]

magika               the kind of a file, from the first 1,500 bytes of Python's own files, and of what Python writes of
                     them as JSON, CSV, HTML and so on; it shows a label
py3langid            the language of one to three words of Shakespeare; it shows 140 probabilities
alt-profanity-check  whether a line of Shakespeare is rude, a third of them with a word added that may be; it shows one
                     probability

Printed is the mean agreement with the victim on 500 texts that nobody has asked about, over the seeds, with a 95%
interval over seeds and texts (Student's t over the seeds, never narrower than within one).
`constant` is what always the most frequent answer has.
"""

from __future__ import annotations

import argparse
import csv
import html
import io
import json
import os
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from portcullis_ml.bench.experiment import Experiment, ExperimentSpec
from portcullis_ml.bench.stranger import PlainStranger
from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.extraction import ExtractionAttack
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Array, Estimate, Reveals
from portcullis_ml.extraction.active_thief import ActiveThief
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.measures.agreement import agreement
from portcullis_ml.models.tfidf import TfidfLearner
from portcullis_ml.repetitions import across

BUDGETS = (100, 400)
TEST, POOL = 500, 600  # texts
HEAD = 1500  # bytes of a file
RUDE = "damn hell bastard whore ass piss crap bloody idiot stupid sweet gentle noble fair lord".split()
ATTACKERS: dict[str, ExtractionAttack] = {
    "knockoff": Knockoff(),
    "active_thief": ActiveThief(rounds=4),
    "plain stranger": PlainStranger(),
}


@lru_cache
def _magika() -> Any:
    from magika import Magika

    return Magika()


def ask_magika(texts: list[str]) -> list[str]:
    """The label of every file, given as its bytes in Latin-1."""
    return [str(_magika().identify_bytes(text.encode("latin-1", "replace")).output.label) for text in texts]


def ask_py3langid(texts: list[str]) -> Array:
    """(n, 140) probabilities, the languages in alphabetical order."""
    import py3langid

    scores = [sorted(py3langid.rank(text)) for text in texts]
    return np.asarray(softmax([[score for _, score in row] for row in scores], axis=1))


def ask_profanity(texts: list[str]) -> Array:
    """(n,) the probability of being rude."""
    import profanity_check

    return np.asarray(profanity_check.predict_prob(texts))


def files(rng: np.random.Generator) -> list[str]:
    """The first bytes of files, of some dozen kinds."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py"))
    found = [text for path in sources for text in _kinds(path.read_text("utf-8", "replace"), path.stem, rng)]
    return [text.encode("latin-1", "replace").decode("latin-1") for text in found]


def _kinds(source: str, name: str, rng: np.random.Generator) -> Iterator[str]:
    """A source file from a random place on, and its lines as one file of another kind."""
    lines = [line for line in source.split("\n") if line.strip()]
    at = int(rng.integers(max(len(lines) - 20, 1)))
    some = lines[at : at + 40]
    yield "\n".join(some)[:HEAD]
    table = io.StringIO()
    csv.writer(table).writerows([i, len(line), line.strip()[:40]] for i, line in enumerate(some))
    as_json = json.dumps([{"line": i, "text": line} for i, line in enumerate(some)])
    as_html = (
        f"<html><body><h1>{name}</h1>" + "".join(f"<p>{html.escape(line)}</p>" for line in some) + "</body></html>"
    )
    as_xml = '<?xml version="1.0"?><file>' + "".join(f"<l>{html.escape(line)}</l>" for line in some) + "</file>"
    as_shell = "#!/bin/sh\n" + "\n".join(f"echo '{len(line)}' >> {name}.txt" for line in some)
    as_ini = f"[{name}]\n" + "\n".join(f"key{i} = {len(line)}" for i, line in enumerate(some))
    as_c = (
        "#include <stdio.h>\nint main(void) {\n" + "".join(f'  printf("%d", {len(line)});\n' for line in some) + "}\n"
    )
    as_sql = "".join(f"INSERT INTO {name} VALUES ({i}, {len(line)});\n" for i, line in enumerate(some))
    words = " ".join(word for line in some for word in line.split() if word.isalpha())
    kinds = (table.getvalue(), as_json, as_html, as_xml, as_shell, as_ini, as_c, as_sql, words)
    yield kinds[int(rng.integers(len(kinds)))][:HEAD] or name


def _lines() -> list[str]:
    text = (Path(os.environ["PORTCULLIS_DATA"]) / "tinyshakespeare.txt").read_text("utf-8")
    return [line for line in text.split("\n") if line.strip() and not line.endswith(":")]


def snippets(rng: np.random.Generator) -> list[str]:
    """One to three words from every line."""
    return [" ".join(rng.permutation(line.split())[: rng.integers(1, 4)]) for line in _lines()]


def insults(rng: np.random.Generator) -> list[str]:
    """Lines, a third of them with a word added."""
    return [f"{line} {rng.choice(RUDE)}" if rng.random() < 1 / 3 else line for line in _lines()]


VICTIMS: dict[str, tuple[str, Callable[[np.random.Generator], list[str]], tuple[str, ...]]] = {
    "magika": ("ask_magika", files, ("labels",)),
    "py3langid": ("ask_py3langid", snippets, ("probs", "labels")),
    "alt-profanity-check": ("ask_profanity", insults, ("probs", "labels")),
}


def experiment_of(name: str, folder: Path) -> Experiment:
    """The victim, 500 texts to judge with and a pool of 600, no text twice."""
    function, make, _ = VICTIMS[name]
    rng = np.random.default_rng(0)
    texts = [text for text in dict.fromkeys(make(rng)) if text.strip()]
    chosen = rng.permutation(len(texts))[: TEST + POOL]
    paths = [folder / f"{name}-{part}.jsonl" for part in ("test", "pool")]
    for path, rows in zip(paths, (chosen[:TEST], chosen[TEST:]), strict=True):
        path.write_text("".join(json.dumps({"text": texts[i]}) + "\n" for i in rows), encoding="utf-8")
    classes = ",".join(_magika().get_output_content_types()) if name == "magika" else None
    spec = ExperimentSpec(victim=f"wheels:{function}", test=str(paths[0]), pool=str(paths[1]), classes=classes)
    return spec.load()


def agreed(who: ExtractionAttack, experiment: Experiment, shown: str, budget: int, seed: int) -> Estimate:
    """The share of the test texts on which the copy answers like the victim."""
    interface = experiment.interface.revealing(reveals=Reveals.parse(shown))
    oracle = LocalOracle(experiment.model, interface, budget=budget)
    knowledge = Knowledge(pool=experiment.pool, learner=TfidfLearner().knowing(interface))
    copy = who(oracle, knowledge, rng=np.random.default_rng(seed)).model
    x = experiment.test_x
    return agreement(experiment.model.scores(x).argmax(axis=1), copy.scores(x).argmax(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", nargs="+", choices=list(VICTIMS), default=list(VICTIMS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| victim | answers | constant | queries |", " | ".join(ATTACKERS), "| n |")
    print("| --- | --- | --- | --- |" + " --- |" * len(ATTACKERS) + " --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.victims:
            experiment = experiment_of(name, Path(folder))
            labels = experiment.model.scores(experiment.test_x).argmax(axis=1)
            constant = 100 * np.bincount(labels).max() / len(labels)
            for shown in VICTIMS[name][2]:
                for budget in BUDGETS:
                    cells = []
                    for who in ATTACKERS.values():
                        found = [agreed(who, experiment, shown, budget, seed) for seed in range(options.seeds)]
                        e = across(found)
                        cells.append(f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]")
                    row = (name, shown, f"{constant:.1f}", f"{budget}", *cells, f"{options.seeds} seeds")
                    print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
