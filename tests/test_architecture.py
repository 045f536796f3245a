"""The house rules that a reader cannot see at a glance: who may import whom, and what the front doors say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import portcullis_ml
from portcullis_ml.catalog import Catalog, resolve

SRC = Path(portcullis_ml.__file__).parent
WINGS = {"extraction", "defenses", "detectors", "ownership", "privacy", "measures"}
MAY_IMPORT = {
    "core": {"core"},
    "models": {"core", "models"},
    "data": {"core", "data"},
    **{wing: {"core", "models", wing} for wing in WINGS},
    "bench": {"core", "models", "data", "measures", "bench"},
    "gateway": {"core", "models", "gateway"},
    "report": {"core", "report"},
}
CATALOGS = [w for w in sorted(WINGS) if (SRC / w / "__init__.py").exists() and w != "measures"]


def imports(path: Path) -> list[tuple[str, str]]:
    """(room, imported name) of every import of ours in the file, the ones inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "portcullis_ml" and len(parts) > 1 and (SRC / parts[1]).is_dir():
                found.append((parts[1], name))
    return found


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_only_what_the_plan_allows(room: str) -> None:
    for path in (SRC / room).rglob("*.py"):
        for other, name in imports(path):
            catalog_only = room in ("bench", "gateway") and name.endswith(".CATALOG")
            assert other in MAY_IMPORT[room] or catalog_only, f"{path.relative_to(SRC)} imports {name}"


def test_core_uses_numpy_and_the_standard_library_only() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "portcullis_ml"}
    for path in (SRC / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert {m.split(".")[0] for m in modules} <= allowed, path
            assert not {"time", "datetime", "asyncio", "socket"} & set(modules), f"{path} reads a clock or does I/O"


@pytest.mark.parametrize("wing", CATALOGS)
def test_a_front_door_lists_exactly_the_files_of_its_folder(wing: str) -> None:
    catalog: Catalog = resolve(f"portcullis_ml.{wing}:CATALOG")
    files = {p.stem for p in (SRC / wing).glob("*.py") if not p.stem.startswith("_")}
    assert {entry.partition(":")[0] for entry in catalog.values()} <= {f"portcullis_ml.{wing}.{f}" for f in files}
    assert {e.partition(":")[0].rpartition(".")[2] for e in catalog.values()} == files, "a file is missing or extra"
    assert list(catalog) == sorted(catalog)
    for name in catalog:
        assert catalog.load(name).name == name == catalog[name].partition(":")[0].rpartition(".")[2]


def test_importing_portcullis_loads_nothing_heavy() -> None:
    code = (
        "import sys, portcullis_ml; print([m for m in ('torch', 'numpy', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_catalogs_load_without_torch() -> None:
    code = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'torch':
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Absent())
from portcullis_ml.catalog import resolve
for wing in {CATALOGS!r}:
    catalog = resolve(f'portcullis_ml.{{wing}}:CATALOG')
    for name in catalog:
        catalog.load(name)
print('ok')
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "ok", out.stderr


def test_global_seeds_are_set_nowhere() -> None:
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert name not in {"np.random.seed", "random.seed", "numpy.random.seed"}, path
            if name == "torch.manual_seed":
                assert path.relative_to(SRC).as_posix() == "models/torch.py", f"{path} seeds torch globally"
