"""How far does `auto` get on text, beside stock models of scikit-learn that see the same answers?

    export PORTCULLIS_DATA=...
    python benchmarks/text.py [--seeds 3]

A document is eight lines of Shakespeare's plays, and its class the quarter of the file that it comes from. Columns are
its 1,000 most frequent words, as counts or as weights (tf-idf). A third of the documents trains the victim, a third is
the thief's pool, of which the first 300 or 1,000 are asked about, and on the last third copies are compared with it.
Printed are mean agreements in percent, and `auto` minus each stranger, pair by pair, with a 95% interval (Student's t).
"""

from __future__ import annotations

import argparse
import os
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import ComplementNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from portcullis_ml.core.types import Array, Labels
from portcullis_ml.measures.statistics import mean_over_seeds
from portcullis_ml.models.auto import AutoLearner

LINES, WORDS, CLASSES = 8, 1000, 4
VICTIMS: dict[str, tuple[bool, Any]] = {  # whether on tf-idf, and what
    "logistic on tf-idf": (True, lambda: LogisticRegression(C=10, max_iter=500)),
    "naive Bayes on counts": (False, MultinomialNB),
    "network on counts": (False, lambda: MLPClassifier((32,), alpha=1e-2, max_iter=60, random_state=0)),
}
STRANGERS: dict[str, Any] = {
    "logistic": lambda: LogisticRegression(C=10, max_iter=500),
    "linear SVM": LinearSVC,
    "complement naive Bayes": ComplementNB,
    "network": lambda: MLPClassifier((64,), max_iter=100, random_state=0),
    "logistic on tf-idf": lambda: make_pipeline(TfidfTransformer(), LogisticRegression(C=10, max_iter=500)),
    "linear SVM on tf-idf": lambda: make_pipeline(TfidfTransformer(), LinearSVC()),
}
FROM_SCORES: dict[str, Any] = {
    "ridge on log-ratios": lambda: Ridge(alpha=1.0),
    "ridge on log-ratios, tf-idf": lambda: make_pipeline(TfidfTransformer(), Ridge(alpha=1.0)),
}
SHOWN = (("labels", 300), ("labels", 1000), ("probs", 300))


def rows(*, weighted: bool) -> tuple[Array, Labels]:
    """(n, 1000) words of every document, and (n,) the quarter that it is from."""
    text = (Path(os.environ["PORTCULLIS_DATA"]) / "tinyshakespeare.txt").read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line.strip() and not line.endswith(":")]
    starts = range(0, len(lines) - LINES, LINES)
    x = CountVectorizer(max_features=WORDS).fit_transform([" ".join(lines[i : i + LINES]) for i in starts])
    x = TfidfTransformer().fit_transform(x) if weighted else x
    return x.toarray().astype(float), np.arange(x.shape[0]) * CLASSES // x.shape[0]


def thefts(name: str, shown: str, budget: int, seed: int) -> dict[str, float]:
    """Agreement in percent of every copy."""
    weighted, make = VICTIMS[name]
    x, y = rows(weighted=weighted)
    train, pool, test = np.array_split(np.random.default_rng(seed).permutation(len(x)), 3)
    victim, asked = make().fit(x[train], y[train]), pool[:budget]
    truth, labels, p = victim.predict(x[test]), victim.predict(x[asked]), victim.predict_proba(x[asked])
    found = {who: stock().fit(x[asked], labels).predict(x[test]) for who, stock in STRANGERS.items()}
    logs = np.log(np.clip(p, 1e-6, 1))
    logs -= logs.mean(axis=1, keepdims=True)
    for who, stock in FROM_SCORES.items() if shown == "probs" else ():
        found[who] = stock().fit(x[asked], logs).predict(x[test]).argmax(axis=1)
    targets = p if shown == "probs" else np.eye(CLASSES)[labels]
    found["auto"] = AutoLearner().fit(x[asked], targets, rng=np.random.default_rng(seed)).scores(x[test]).argmax(axis=1)
    return {who: 100 * float((guess == truth).mean()) for who, guess in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| shown | queries | who | agreement | auto minus it | n |\n| --- | --- | --- | --- | --- | --- |")
    for shown, budget in SHOWN:
        cells = [thefts(name, shown, budget, seed) for name, seed in product(VICTIMS, range(options.seeds))]
        for who in cells[0]:
            lead = [cell["auto"] - cell[who] for cell in cells]
            e = mean_over_seeds(lead, within=(-100, 100))
            words = "" if who == "auto" else f"{e.value:+.1f} [{e.low:.1f}, {e.high:.1f}]"
            mean = np.mean([cell[who] for cell in cells])
            print(f"| {shown} | {budget:,} | {who} | {mean:.1f} | {words} | {len(cells)} |", flush=True)


if __name__ == "__main__":
    main()
