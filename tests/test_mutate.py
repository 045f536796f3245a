"""The mutation tool: what it changes, what it leaves alone, and how it counts."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("mutate", ROOT / "scripts" / "mutate.py")
assert spec is not None
assert spec.loader is not None
mutate = importlib.util.module_from_spec(spec)
sys.modules["mutate"] = mutate  # dataclasses look their module up
spec.loader.exec_module(mutate)


def changes(text: str) -> list[str]:
    """What each mutant of the text makes of its place."""
    return [f"{m.was} -> {m.now}" for m, _ in mutate.mutants_of("x.py", text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a <= b", ["a <= b -> a < b"]),
        ("a is None", ["a is None -> a is not None"]),
        ("a + b * c", ["a + b * c -> a - b * c", "b * c -> b / c"]),
        ("x = 5", ["5 -> 6"]),
        ("x = True", ["True -> False"]),
        ("x = not a", ["not a -> a"]),
        ("x = a and b", ["a and b -> a or b"]),
        ("if a: x()", ["a -> not a", "x() -> pass"]),
        ("def f():\n    return g(1)", ["return g(1) -> return None", "1 -> 2"]),
        ("raise E(1)", ["raise E(1) -> pass"]),
        ("x += y", ["x += y -> pass"]),
        ("'text' + x", []),
        ("__all__ = ['a', 1 + 1]", []),
        ("x: int | None = y", []),
        ("assert a < b", []),
        ("def f(a: int | str = 3) -> int | None:\n    'doc'\n    return None", ["3 -> 4"]),
    ],
)
def test_what_is_changed_and_what_is_not(text: str, found: list[str]) -> None:
    statements = [
        c for c in changes(text) if not c.endswith("-> pass") or "raise" in text or "()" in text or "+=" in text
    ]
    assert statements == found


def test_only_the_place_is_changed_and_every_mutant_can_be_parsed() -> None:
    text = "x = 'ü' + str(a * (b + c))  # kept\ny = -1\n"
    found = {m.now: new for m, new in mutate.mutants_of("x.py", text)}
    assert found["a / (b + c)"] == "x = 'ü' + str((a / (b + c)))  # kept\ny = -1\n"
    text = (ROOT / mutate.PACKAGE / "measures" / "roc.py").read_text()
    for mutant, new in mutate.mutants_of("roc.py", text):
        assert ast.dump(ast.parse(new)) != ast.dump(ast.parse(text)), mutant


def test_a_draw_repeats_and_another_seed_draws_others(capsys: pytest.CaptureFixture[str]) -> None:
    one, again, other = (mutate.drawn(30, seed, ("bench/flagged.py",)) for seed in (1, 1, 2))
    assert one == again != other
    assert len({m.place for m, _ in one}) == 30
    assert "of which 30 by seed 1" in capsys.readouterr().out


def test_every_file_has_tests_that_exist() -> None:
    for pattern in mutate.FILES:
        for path in (p for p in (ROOT / mutate.PACKAGE).glob(pattern) if not p.match(mutate.LEFT_OUT)):
            tests = mutate.tests_of(str(path.relative_to(ROOT / mutate.PACKAGE)).removesuffix(".py"))
            assert tests, path
            assert all((ROOT / t).is_file() for t in tests)
    assert mutate.tests_of("measures/roc")[0] == "tests/measures/test_roc.py"


def test_a_mutant_is_killed_survives_or_times_out(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    for name, body in {"good": "pass", "bad": "raise AssertionError", "endless": "while True: pass"}.items():
        (tmp_path / f"test_{name}.py").write_text(f"def test():\n    {body}\n")
    outcomes = [mutate.ran(tmp_path, [f"test_{n}.py"], 2)[0] for n in ("good", "bad", "endless", "missing")]
    assert outcomes == ["survived", "killed", "timed out", "failed"]


def test_what_is_on_record_is_not_run_again_and_the_table_counts_it(tmp_path: Path) -> None:
    chosen = mutate.drawn(4, 1, ("bench/flagged.py",))
    outcomes = ["killed", "killed", "timed out", "survived"]
    lines = [
        json.dumps({"seed": 1, **vars(m), "outcome": how, "seconds": 1.0})
        for (m, _), how in zip(chosen, outcomes, strict=True)
    ]
    (tmp_path / "records").write_text("\n".join(lines) + "\n")
    records = mutate.run(chosen, 1, tmp_path / "records")
    assert [r["outcome"] for r in records] == outcomes
    text = mutate.table(records)
    assert "all                  4       2          1         1   50.0% (6.8% to 93.2%)" in text
    assert "survived: bench/flagged.py:" in text
