"""The protocols on faces, on four made-up people, and the contact sheets."""

from __future__ import annotations

import io
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portcullis_ml.bench.protocols import PROTOCOLS, chain_faces, inversion
from portcullis_ml.bench.protocols.contact_sheet import packed, png, unpacked
from portcullis_ml.bench.protocols.faces import SoftmaxLearner, Steps, faces_of, inverted, judged, shrunk
from portcullis_ml.bench.protocols.plans import Run
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.types import Answer, Request

pytest.importorskip("torch")

SCENE = {"data": "people", "shrink": 2, "own": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four people, ten photographs of 12x8 each: a pattern of one's own and some noise."""
    place, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    faces = np.kron(rng.uniform(60, 200, (4, 6, 4)), np.ones((2, 2)))
    y = np.repeat(np.arange(4), 10)
    x = np.clip(faces[y] + rng.normal(0, 12, (40, 12, 8)), 0, 255).astype(np.uint8)
    test = y.size - 8
    order = rng.permutation(y.size)
    x, y = x[order], y[order].astype(np.uint8)
    for name in ("people", "letters"):
        np.savez(place / f"{name}.npz", x_train=x[:test], y_train=y[:test], x_test=x[test:], y_test=y[test:])
    return str(place)


def plan_of(name: str, **changes: Any) -> dict[str, Any]:
    text = (resources.files("portcullis_ml.bench.protocols") / f"{name}.toml").read_text()
    return {**tomllib.loads(text), "repetitions": 2, "people": 2, **changes}


def rows_of(text: str) -> dict[str, str]:
    return {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("| ")}


def test_chain_faces_prints_its_tables_and_runs_nothing_twice(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = {**SCENE, "victim": {"iterations": 50, "penalty": 1e-3}}
    plan = plan_of("chain_faces", scene=scene, points=50)
    for row in plan["row"]:
        row["alpha"] = 0.5 if "alpha" in row else 10.0
    text = chain_faces.play(plan, Run(out=tmp_path, data=folder, jobs=0))
    rows = rows_of(text)
    assert set(rows) >= {row["name"] for row in plan["row"]}
    assert "| 100 [" in rows["white box on the victim"]
    assert "Not measured" not in text
    assert (tmp_path / "contact-sheet.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(chain_faces, "work", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert chain_faces.play(plan, Run(out=tmp_path, data=folder, jobs=0)) == text
    assert PROTOCOLS.load("chain-faces")


def test_inversion_prints_its_tables_and_rounding_ends_the_differences(folder: str, tmp_path: Path) -> None:
    small = {"network": "prada_2_layers", "epochs": 30, "batch": 8}
    label_only = {
        **plan_of("inversion")["label_only"], "data": "people", "pool": "letters", "victim_rows": 20, "judge_rows": 12,
        "pool_rows": 32, "victim": small, "judge": small, "attack": {"rows": 32, "samples": 3, "epochs": 1},
    }  # fmt: skip
    plan = plan_of("inversion", scene=SCENE, label_only=label_only, repetitions=1)
    text = inversion.play(plan, Run(out=tmp_path, data=folder, jobs=0))
    softmax = rows_of(text.split("## The softmax model")[1].split("## The mlp model")[0])
    assert "| 100 [" in softmax["white box"]
    assert "cost 4" in softmax["differences of .001, rounded to .1"]
    assert "| 25 [" in softmax["neutral start"]
    assert "public pictures" in rows_of(text.split("## From labels alone")[1])
    assert "Not measured" not in text
    assert len(list(tmp_path.glob("contact-sheet-*.png"))) == 3
    assert PROTOCOLS.load("inversion")


@pytest.mark.parametrize("name", ["inversion", "chain_faces"])
def test_the_quick_look_changes_settings_that_are_there(name: str) -> None:
    plan = plan_of(name)
    assert plan["quick"].keys() <= plan.keys()


def test_whoever_is_not_reached_within_the_budget_stays_at_the_neutral_start(folder: str) -> None:
    faces = faces_of({**SCENE, "victim": {"iterations": 50, "penalty": 1e-3}}, 0, folder)
    how = {"by": "differences", "iterations": 1, "step": 100.0}
    pictures, queries, ended = inverted(how, faces, copy=None, budget=26, rounded=0)  # 24 pixels: one face
    assert queries == 26
    assert pictures[0].any()
    assert not pictures[1:].any()
    assert ended["the budget"] == 3
    measures, notes = judged(pictures, faces, shown=2)
    assert measures["recognized"].n == 4
    assert unpacked(notes["pictures"]).shape == (2, 6, 4)


def test_of_several_steps_the_copys_surest_picture_is_kept(folder: str) -> None:
    faces = faces_of({**SCENE, "victim": {"iterations": 50, "penalty": 1e-3}}, 0, folder)
    sure = [
        faces.model.scores(inverted({"steps": steps, "iterations": 2}, faces, copy=faces.model, budget=1, rounded=0)[0])
        for steps in ([1e-3], [1e-3, 10.0])
    ]
    assert (np.diag(sure[1]) >= np.diag(sure[0])).all()
    assert np.diag(sure[1]).mean() > np.diag(sure[0]).mean()


def test_rounding_to_a_step_and_shrinking() -> None:
    guard = Guard(Steps(step=0.05), key=b"k" * 32)
    shown = guard.release(Request("a", np.zeros((1, 2))), Answer(np.array([0]), np.array([[0.63, 0.37]]))).answer
    assert shown.scores == pytest.approx(np.array([[0.65, 0.35]]))
    assert shrunk(np.arange(16.0).reshape(1, 4, 4), 2).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    with pytest.raises(InputError, match="divisible by 3"):
        shrunk(np.zeros((1, 4, 4)), 3)


def test_what_was_not_answered_is_not_learnt() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 2, 2)), np.eye(2)[rng.integers(2, size=60)]
    withheld = np.where(np.arange(60)[:, None] < 20, 0.0, y)
    one = SoftmaxLearner(middle=0.5).fit(x, withheld, rng=rng)
    other = SoftmaxLearner(middle=0.5).fit(x[20:], y[20:], rng=rng)
    assert one.scores(x) == pytest.approx(other.scores(x))


def test_a_contact_sheet_is_a_png_of_those_greys() -> None:
    image = pytest.importorskip("matplotlib.image")
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    assert np.rint(image.imread(io.BytesIO(png(grey)), format="png") * 255).astype(int).tolist() == grey.tolist()
    flat = np.stack([np.full((2, 2), 0.3), np.array([[0.2, 0.4], [0.25, 0.2]])])
    assert unpacked(packed(flat)).tolist() == [[[0, 0], [0, 0]], [[0, 255], [64, 0]]]
