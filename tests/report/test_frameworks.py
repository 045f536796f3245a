"""Ids of security frameworks: every one is in the pinned copy, and none is claimed that the framework does not list."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.report.fakes import META, audit, estimate, record

from portcullis_ml.core.errors import InputError
from portcullis_ml.defenses import CATALOG as DEFENSES
from portcullis_ml.hardening import CATALOG as HARDENING
from portcullis_ml.privacy import CATALOG as PRIVACY_ATTACKS
from portcullis_ml.report import frameworks, render
from portcullis_ml.report.frameworks import GATE, PRIVACY, STAGES, THEFT, entry, mapped, pinned, stage_ids
from portcullis_ml.report.markdown import markdown
from portcullis_ml.report.oscal import OSCAL, oscal
from portcullis_ml.report.raised import Limit
from portcullis_ml.report.results import Audit, read
from portcullis_ml.report.sarif import sarif

EXTRACTION = "AML.T0024.002"
NOT_FOR_EXTRACTION = ("AML.M0003", "AML.M0006", "AML.M0015", "AML.M0019")
WATCH = {"unit": "watch", "detector": {"unit": "prada"}, "then": {"unit": "label_only"}}


@pytest.fixture(scope="module")
def audited() -> Audit:
    return read(audit())


def known() -> set[str]:
    return {id for held in pinned().values() for id in held["entries"]}


def test_the_pinned_copy_says_where_it_comes_from() -> None:
    for name, held in pinned().items():
        assert held["version"], name
        assert held["source"].startswith("https://"), name
        assert held["licence"], name
    assert pinned()["atlas"]["sha256"] == "8a5693df51135721796607b8f29cba8ed33d745d5592ed80efbaaab0fba978f2"
    assert entry(EXTRACTION).name == "Extract AI Model"
    assert entry("AML.M0004").name == "Restrict Number of AI Model Queries"
    assert not entry("NISTAML.031").checked


def test_every_id_that_is_used_is_in_the_pinned_copy() -> None:
    used = {id for table in (STAGES, GATE, PRIVACY) for ids in table.values() for id in ids} | {*THEFT}
    used |= {frameworks.EVASION, *re.findall(r'"(AISVS-[\d.]+)"', Path(frameworks.__file__).read_text())}
    assert used <= known()


def test_every_unit_has_its_place() -> None:
    assert set(STAGES) == {*DEFENSES, *HARDENING}
    assert set(PRIVACY) == set(PRIVACY_ATTACKS)


def mitigations(ids: Any) -> set[str]:
    return {id for id in ids if id.startswith("AML.M")}


def test_mitigations_are_those_that_atlas_lists_for_extraction() -> None:
    listed = {id for id, techniques in pinned()["atlas"]["mitigates"].items() if EXTRACTION in techniques}
    assert listed == {"AML.M0002", "AML.M0004", "AML.M0024"}
    assert not listed & set(NOT_FOR_EXTRACTION)
    for table in (STAGES, GATE):
        for name, ids in table.items():
            assert mitigations(ids) <= listed, name


@pytest.mark.parametrize("wrong", NOT_FOR_EXTRACTION)
def test_a_mitigation_of_something_else_would_be_found(wrong: str) -> None:
    assert wrong in known(), "it exists, so that only the list of techniques tells"
    assert EXTRACTION not in pinned()["atlas"]["mitigates"][wrong]


def test_an_id_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match=r"MITRE ATLAS 5.6.1.*got 'AML.T0099'"):
        entry("AML.T0099")


def test_a_watch_that_only_logs_is_no_response() -> None:
    assert "AISVS-11.3.4" in stage_ids(WATCH)
    assert "AISVS-11.3.4" not in stage_ids(WATCH | {"then": {"unit": "log"}})


def test_a_price_that_follows_a_detector_is_a_response() -> None:
    assert "AISVS-11.3.4" in stage_ids({"unit": "proof_of_work", "detector": {"unit": "prada"}})
    assert stage_ids({"unit": "priced", "detector": None}) == ("AML.M0004", "AISVS-11.2.2")


def states(records: Any, deployed: str, limit: float | None = None, **meta: Any) -> dict[str, str]:
    found = read(records)
    held = None if limit is None else Limit(deployed, limit, found.worst(deployed))
    return {m.entry.id: m.state for m in mapped(found, META | {"deployed": deployed, **meta}, held)}


def test_states_are_of_the_guard_in_use() -> None:
    free, watched = states(audit(), "none"), states(audit(), "watch(prada, block)")
    assert {free[f"AISVS-11.3.{n}"] for n in (1, 2, 4)} == {"not-satisfied"}
    assert (watched["AISVS-11.3.1"], watched["AISVS-11.3.4"]) == ("satisfied", "satisfied")
    assert states(audit(), "label_only")["AISVS-11.3.2"] == "satisfied"
    assert states(audit(), "none", interface={"reveals": "labels"})["AISVS-11.3.2"] == "satisfied"


def test_a_quota_counts_where_the_theft_behind_it_is_under_the_limit() -> None:
    stage = {"unit": "quota", "rows": 50}
    records = [record("knockoff", "none"), record("knockoff", "quota", final_agreement=0.4)]
    records[1]["cell"]["defense"] = [stage]
    assert states(records, "quota")["AISVS-11.2.2"] == "not-satisfied"
    assert states(records, "quota", 0.9)["AISVS-11.2.2"] == "satisfied"
    assert states(records, "quota", 0.1)["AISVS-11.2.2"] == "not-satisfied"
    assert states(records, "none", 0.99)["AISVS-11.2.2"] == "not-satisfied"


@pytest.mark.parametrize(
    ("area", "half", "state"),
    [(0.50, 0.03, "satisfied"), (0.56, 0.11, ""), (0.60, 0.05, "not-satisfied")],
    ids=["a guess", "too wide to tell", "members are found"],
)
def test_membership_needs_an_interval_that_tells(area: float, half: float, state: str) -> None:
    leak = record("loss_threshold", "none", role="privacy", measures={"auc": estimate(area, half)})
    leak["cell"]["attack"] = {"unit": "loss_threshold"}
    found = states([*audit(), leak], "none")
    assert found["AISVS-11.2.5"] == state
    assert "AML.T0024.000" in found


def test_page_and_markdown_show_the_table(audited: Audit) -> None:
    page = render(audit(), META)
    assert '<section id="frameworks">' in page
    assert "<code>AML.T0024.002</code>" in page
    assert "(name not verified)" in page
    text = markdown(audited, META)
    assert "| AML.T0024.002 | Extract AI Model | tried |" in text


# SARIF 2.1.0, sections 3.19 (toolComponent), 3.49 (reportingDescriptor), 3.52 and 3.53 (references, relationships)

COMPONENT = {"name", "version", "informationUri", "shortDescription", "isComprehensive", "taxa"}
TAXON = {"id", "name", "shortDescription", "properties"}


def test_sarif_has_a_taxonomy_for_every_framework(audited: Audit) -> None:
    worst = audited.worst(META["deployed"])
    (run,) = json.loads(sarif(audited, META, Limit(META["deployed"], 0.1, worst)))["runs"]
    names = [t["name"] for t in run["taxonomies"]]
    assert names == [held["name"] for held in pinned().values()]
    assert run["tool"]["driver"]["supportedTaxonomies"] == [{"name": n, "index": i} for i, n in enumerate(names)]
    ids = set()
    for taxonomy in run["taxonomies"]:
        assert set(taxonomy) == COMPONENT
        for taxon in taxonomy["taxa"]:
            assert set(taxon) == TAXON
            ids.add((taxonomy["name"], taxon["id"]))
    (rule,) = (r for r in run["tool"]["driver"]["rules"] if r["id"] == "theft_over_limit")
    targets = [relationship["target"] for relationship in rule["relationships"]]
    assert EXTRACTION in [t["id"] for t in targets]
    for relationship in rule["relationships"]:
        assert relationship["kinds"] == ["relevant"]
        target = relationship["target"]
        assert (target["toolComponent"]["name"], target["id"]) in ids


# OSCAL 1.2.1, assessment results: what its schema requires

REQUIRED = {
    "assessment-results": {"uuid", "metadata", "import-ap", "results"},
    "metadata": {"title", "last-modified", "version", "oscal-version"},
    "result": {"uuid", "title", "description", "start", "reviewed-controls"},
    "observation": {"uuid", "description", "methods", "collected"},
    "finding": {"uuid", "title", "description", "target"},
}
TOKEN = re.compile(r"[A-Za-z_][\w.\-]*")


def test_oscal_holds_what_its_schema_requires(audited: Audit) -> None:
    whole = json.loads(oscal(audited, META))["assessment-results"]
    assert REQUIRED["assessment-results"] <= set(whole)
    assert REQUIRED["metadata"] <= set(whole["metadata"])
    assert whole["metadata"]["oscal-version"] == OSCAL
    assert datetime.fromisoformat(whole["metadata"]["last-modified"]).tzinfo is not None
    resources = {r["uuid"] for r in whole["back-matter"]["resources"]}
    assert whole["import-ap"]["href"].removeprefix("#") in resources
    (result,) = whole["results"]
    assert REQUIRED["result"] <= set(result)
    seen = {o["uuid"] for o in result["observations"]}
    assert len(seen) == len(result["observations"])
    for observation in result["observations"]:
        assert REQUIRED["observation"] <= set(observation)
        assert uuid.UUID(observation["uuid"]).version == 5
    for finding in result["findings"]:
        assert REQUIRED["finding"] <= set(finding)
        assert finding["target"]["status"]["state"] in ("satisfied", "not-satisfied")
        assert TOKEN.fullmatch(finding["target"]["target-id"])
        assert {r["observation-uuid"] for r in finding["related-observations"]} <= seen


def test_oscal_is_the_same_for_the_same_records(audited: Audit) -> None:
    assert oscal(audited, META) == oscal(read(audit()), META)


def test_an_audit_without_a_copy_or_a_cell_is_still_a_file() -> None:
    whole = json.loads(oscal(read([]), {}))["assessment-results"]
    assert whole["results"][0]["description"]
