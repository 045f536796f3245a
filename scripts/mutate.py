"""Mutation testing: change one thing in the code, and see whether a test notices.

DeMillo, Lipton, Sayward. "Hints on Test Data Selection: Help for the Practicing Programmer", Computer 11(4), 1978.

    python scripts/mutate.py --seed 2 --n 150 --records mutation.jsonl     run again to go on where it was stopped

Every place in FILES where `changes` finds something to change is a possible mutant; `--n` of them are drawn at random,
all with the same chance. Each is written into a copy of the tree, where the tests that TESTS names for its file run
until the first fails. A mutant is *killed* when a test fails, *timed out* when the tests use several times the
processor time that they need without it, and has *survived* otherwise. The score is the share that is killed, with its
exact interval; mutants that time out do not count as killed, and none is left out as equivalent.

Annotations, docstrings, assertions, `__all__` and texts are not changed, nor is LEFT_OUT. A process that has imported
what the tests import is forked for each mutant, so that one costs little more than its tests.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "src/portcullis_ml"
FILES = (
    "core/*.py", "measures/*.py", "detectors/*.py", "defenses/*.py", "bench/flags.py", "bench/flagged.py",
    "bench/controls.py", "gateway/state/*.py",
)  # fmt: skip
LEFT_OUT = (
    "detectors/_kernels.py"  # is compiled anew for every mutant, which takes a minute; plain twins hold its kernels
)
# File or folder -> tests that run after that of the same name. They are the cheapest that concern it, not all: a mutant
# that only a test elsewhere would notice counts as a survivor.
SETS = ("detectors/test_kernels", "detectors/test_nearest", "detectors/test_prada", "detectors/test_prada_normality")
POISONED = ("defenses/test_poisoning", "defenses/test_bad_input", "defenses/test_contract")
TESTS: dict[str, Sequence[str]] = {
    "core/attack": ("core/test_extraction", "core/test_oracle", "extraction/test_copycat"),
    "core/guard": ("defenses/test_watch", "defenses/test_contract"),
    "core/ownership": ("ownership/test_counted", "ownership/test_contract"),
    "core/privacy": ("privacy/test_contract",),
    "core/recipes": ("core/test_artifacts", "recipes/test_contract"),
    "core/settings": ("defenses/test_bad_input",),
    "core": ("core",),
    "measures/attributes": ("privacy/test_attribute_inference",),
    "measures/blind": ("measures/test_roc",),
    "measures/coherence": ("hardening/test_diverse_ensemble",),
    "measures/recovered": ("bench/test_representers",),
    "measures/screening": ("hidden_data/test_encodings", "bench/test_remember_protocol"),
    "measures": ("measures/test_roc",),
    **dict.fromkeys((f"detectors/_{n}" for n in ("compiled", "forms", "growing_sets", "nearest")), SETS),
    **dict.fromkeys((f"detectors/_{n}" for n in ("rounding", "rows", "sketches")), SETS),
    "detectors/_evaluation": ("detectors/test_coverage", "detectors/test_extraction_monitor"),
    "detectors/_foreign": ("detectors/test_contract", "defenses/test_out_of_domain", "models/test_foreign"),
    "detectors/_shares": ("detectors/test_low_confidence", "detectors/test_contract"),
    "detectors": ("detectors/test_contract",),
    **dict.fromkeys(
        (f"defenses/{n}" for n in ("_poisoned", "_extremes", "_networks", "prediction_poisoning")), POISONED
    ),
    **dict.fromkeys((f"defenses/{n}" for n in ("noise", "label_preserving_noise", "private_answers")), POISONED),
    **dict.fromkeys((f"defenses/{n}" for n in ("random_vertex", "reverse_sigmoid", "temperature")), POISONED),
    "defenses/_lookalikes": ("defenses/test_dawn",),
    "defenses/_misdirecting": ("defenses/test_deep_defense",),
    "defenses": ("defenses/test_answers", "core/test_guard", "defenses/test_bad_input", "defenses/test_contract"),
    "bench/flagged": ("bench/test_flags",),
    "bench": (),
    "gateway/state": ("gateway/test_fold", "gateway/test_sqlite_snapshots", "gateway/test_stores"),
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
LEAST_S, TIMES, WALL_S = 10, 4, 600  # processor seconds that every mutant gets, times its tests' own; real seconds


@dataclass(frozen=True)
class Mutant:
    """`was` in line `line` of `file` became `now`; `place` counts the file's possible mutants."""

    file: str
    place: int
    line: int
    was: str
    now: str


def mutants_of(file: str, text: str) -> list[tuple[Mutant, str]]:
    """Every possible mutant of a file, with the file's new text."""
    found = []
    for place, (node, replacement) in enumerate(changes(ast.parse(text))):
        was, now = ast.unparse(node), ast.unparse(replacement)
        start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        fits = f"({now})" if isinstance(node, ast.expr) else now
        found.append((Mutant(file, place, start[0], _short(was), _short(now)), _replaced(text, start, end, fits)))
    return found


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(node, what takes its place) for every mutation, in the order of the text."""
    for node in _mutable(tree):
        if isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                ops = [SWAPS[type(op)]() if i == j else o for j, o in enumerate(node.ops)]
                yield node, ast.Compare(node.left, ops, node.comparators)
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not _text(node.left) and not _text(node.right):
            yield node, ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
        elif isinstance(node, ast.BoolOp):
            yield node, ast.BoolOp(SWAPS[type(node.op)](), node.values)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            yield node, node.operand
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            yield node, ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
        elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
            yield node.test, ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Return) and node.value is not None and not _none(node.value):
            yield node, ast.Return(ast.Constant(None))
        elif isinstance(node, ast.Raise | ast.AugAssign | ast.Delete | ast.Continue | ast.Break) or (
            isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom)
        ):
            yield node, ast.Pass()


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below that is code: no annotation, base, decorator, assertion, formatted text, nor `__all__`."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert | ast.JoinedStr):
                continue
            if isinstance(child, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in child.targets
            ):
                continue
            yield child
            if not isinstance(child, ast.Raise):
                yield from _mutable(child)


def _text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."


def _replaced(text: str, start: tuple[int, int], end: tuple[int, int], new: str) -> str:
    """The text with what stands between two places (line from 1, byte in it) exchanged."""
    lines = text.encode().splitlines(keepends=True)
    before = b"".join(lines[: start[0] - 1]) + lines[start[0] - 1][: start[1]]
    after = lines[end[0] - 1][end[1] :] + b"".join(lines[end[0] :])
    return (before + new.encode() + after).decode()


def tests_of(file: str) -> list[str]:
    """The tests to run for a file of the package, without its ending: that of the same name, then those of TESTS."""
    wanted = next(TESTS[key] for key in (file, file.rpartition("/")[0]) if key in TESTS)
    room, _, name = file.rpartition("/")
    own = ROOT / "tests" / room.removesuffix("/state") / f"test_{name.lstrip('_')}.py"
    paths = [own, *(ROOT / "tests" / f"{name}.py" if "test_" in name else ROOT / "tests" / name for name in wanted)]
    files = [f for p in paths for f in (sorted(p.glob("test_*.py")) if p.is_dir() else [p]) if f.exists()]
    return [str(f.relative_to(ROOT)) for f in dict.fromkeys(files)]


def ran(tree: Path, tests: Sequence[str], limit_s: int) -> tuple[str, float]:
    """How the tests end in this tree, killed, survived or timed out, and their processor seconds."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _test(tree, tests, limit_s)
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - begin > WALL_S:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.05)
    seconds = used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status):
        return ("timed out" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "killed"), seconds
    return {0: "survived", 1: "killed", 2: "killed"}.get(os.WEXITSTATUS(status), "failed"), seconds


def _test(tree: Path, tests: Sequence[str], limit_s: int) -> None:
    """In the child: pytest on the copy, in silence."""
    import pytest

    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": f"{tree}:{tree / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(tree), str(tree / "src")]
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        os._exit(pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-m", "not slow", *tests]))
    finally:
        os._exit(3)  # an error of pytest itself


def preload() -> None:
    """Import what the tests import and no mutant changes."""
    import aiohttp  # noqa: F401
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import scipy.optimize
    import scipy.stats  # noqa: F401
    import sklearn.datasets
    import sklearn.ensemble
    import sklearn.linear_model  # noqa: F401
    import starlette.applications  # noqa: F401
    import torch  # noqa: F401


def copied(folder: Path) -> Path:
    """A copy of what git knows of the tree, with its changes."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def drawn(n: int, seed: int, patterns: Sequence[str] = FILES) -> list[tuple[Mutant, str]]:
    """n possible mutants, drawn without replacement from all."""
    everything = [
        mutant
        for pattern in patterns
        for path in sorted((ROOT / PACKAGE).glob(pattern))
        if not path.match(LEFT_OUT)
        for mutant in mutants_of(str(path.relative_to(ROOT / PACKAGE)), path.read_text())
    ]
    print(f"{len(everything):,} possible mutants, of which {min(n, len(everything))} by seed {seed}", flush=True)
    return random.Random(seed).sample(everything, min(n, len(everything)))


def run(chosen: Sequence[tuple[Mutant, str]], seed: int, records: Path) -> list[dict[str, object]]:
    """One record a mutant, each written when it is known; those in the file already are not run again."""
    known = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    done = {(r["seed"], r["file"], r["place"], r["now"]): r for r in known}
    with tempfile.TemporaryDirectory(prefix="mutate-") as name, records.open("a") as file:
        tree, usual = copied(Path(name)), dict[str, float]()
        for i, (mutant, text) in enumerate(chosen):
            key = (seed, mutant.file, mutant.place, mutant.now)
            if key not in done:
                done[key] = {"seed": seed, **asdict(mutant), **_outcome(tree, mutant, text, usual)}
                file.write(json.dumps(done[key]) + "\n")
                file.flush()
                print(f"{i + 1:4} {done[key]['outcome']:9} {_line(done[key])}", flush=True)
    return [done[seed, m.file, m.place, m.now] for m, _ in chosen]


def _outcome(tree: Path, mutant: Mutant, text: str, usual: dict[str, float]) -> dict[str, object]:
    """One test file after the other, each first without the mutant to see that it passes and what it takes."""
    path, outcome, total = tree / PACKAGE / mutant.file, "survived", 0.0
    original = path.read_text()
    for test in tests_of(mutant.file.removesuffix(".py")):
        if test not in usual:
            how, usual[test] = ran(tree, [test], 600)
            if how != "survived":
                raise SystemExit(f"{test} was expected to pass without a mutant; it {how}. Mend it first.")
        path.write_text(text)
        try:
            outcome, seconds = ran(tree, [test], round(LEAST_S + TIMES * usual[test]))
        finally:
            path.write_text(original)
        total += seconds
        if outcome != "survived":
            break
    return {"outcome": outcome, "seconds": round(total, 1)}


def _line(r: dict[str, object]) -> str:
    return f"{r['file']}:{r['line']}  {r['was']}  ->  {r['now']}"


def table(records: Sequence[dict[str, object]]) -> str:
    """What was killed, by room and in all, with exact intervals, and every survivor."""
    from portcullis_ml.measures.statistics import clopper_pearson

    rooms: dict[str, Counter[str]] = {}
    for r in records:
        for room in (str(r["file"]).rpartition("/")[0], "all"):
            rooms.setdefault(room, Counter())[str(r["outcome"])] += 1
    lines = [f"{'':14}{'mutants':>8}{'killed':>8}{'timed out':>11}{'survived':>10}   score (95%)"]
    for room in sorted(rooms, key=lambda name: (name == "all", name)):
        n, count = rooms[room].total(), rooms[room]
        share = clopper_pearson(count["killed"], n)
        shown = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
        lines.append(f"{room:14}{n:8}{count['killed']:8}{count['timed out']:11}{count['survived']:10}   {shown}")
    for outcome in ("timed out", "survived"):
        lines += [f"{outcome}: {_line(r)}" for r in records if r["outcome"] == outcome]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=150, help="mutants to draw")
    parser.add_argument(
        "--records", type=Path, default=Path("mutation.jsonl"), help="one line a mutant; what it holds is not run again"
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], help="rooms to draw from; those of gateway/state start servers"
    )
    arguments = parser.parse_args()
    os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    chosen = drawn(arguments.n, arguments.seed, [f for f in FILES if f.startswith(tuple(arguments.only))])
    preload()
    records = run(chosen, arguments.seed, arguments.records)
    only = f" --only {' '.join(arguments.only)}" if any(arguments.only) else ""
    print(f"$ python scripts/mutate.py --seed {arguments.seed} --n {arguments.n}{only}\n{table(records)}")


if __name__ == "__main__":
    main()
