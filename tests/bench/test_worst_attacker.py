"""A small audit from the options to the sentences: nobody is credited with less than they could have had."""

from __future__ import annotations

import numpy as np
import pytest

from portcullis_ml.bench.run_audit import AuditOptions, run_audit
from portcullis_ml.report import render
from portcullis_ml.report.results import NONE, Audit, read

from .experiments import spec

ROUNDING, WATCH = "rounding(decimals=1)", "watch(detector=prada_normality, then=block)"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, str]:
    folder = tmp_path_factory.mktemp("audit")
    options = AuditOptions(
        spec=spec(folder), attacks=("equation_solving", "copycat"), defenses=(ROUNDING, WATCH), budgets=(60,), seeds=1
    )
    records, meta = run_audit(options, out=folder / "out", jobs=0)
    assert not [r["reason"] for r in records if r["outcome"] == "failed"]
    return read(records), render(records, meta)


def test_the_stranger_and_labels_only_are_tried_wherever_they_say_something(audited: tuple[Audit, str]) -> None:
    audit, _ = audited
    everywhere = {NONE, "label_only", ROUNDING, WATCH}
    assert {p.defense for p in audit.controls if p.attack == "plain_stranger"} == everywhere
    assert {p.defense for p in audit.controls if p.attack == "random_queries"} == everywhere
    assert set(audit.labels) == {(a, WATCH) for a in ("copycat", "plain_stranger", "random_queries")}
    assert all(len(p.done) == 1 for p in audit.labels.values())


def test_the_worst_attacker_is_no_weaker_than_any_who_was_tried_with_as_much_or_less(
    audited: tuple[Audit, str],
) -> None:
    audit, page = audited
    bare = audit.worst_copy("label_only")
    assert bare is not None
    assert audit.unasked is not None
    for defense in (NONE, ROUNDING, WATCH):
        worst = audit.worst_copy(defense)
        assert worst is not None
        found = [e.value for a in audit.columns if (e := audit.stolen(a, defense))]
        assert worst.value >= max([*found, audit.unasked.value, *([] if defense == WATCH else [bare.value])])
        assert f"{worst.value:.0%}" in page
    assert not np.isnan(bare.value)
