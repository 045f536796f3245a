"""The house rules that a reader cannot see at a glance: who may import whom, and what the front doors say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import portcullis_ml
from portcullis_ml.catalog import Catalog, resolve

SRC = Path(portcullis_ml.__file__).parent
WINGS = {
    "extraction",
    "defenses",
    "detectors",
    "recipes",
    "hardening",
    "ownership",
    "privacy",
    "sequences",
    "hidden_data",
    "measures",
}
MAY_IMPORT = {
    "core": {"core"},
    "models": {"core", "models"},
    "data": {"core", "data"},
    **{wing: {"core", "models", wing} for wing in WINGS},
    "court": {"core", "models", "ownership", "court"},
    "bench": {"core", "models", "data", "measures", "bench"},
    "gateway": {"core", "models", "gateway"},
    "report": {"core", "report"},
    "evidence": {"core", "court", "bench", "evidence"},
}
GATEWAY_FOLDERS = {
    "protocols": {"protocols"},
    "policy": {"protocols", "policy"},
    "http": {"protocols", "policy", "http"},
    "grpc": {"protocols", "policy", "http", "grpc"},
    "state": {"state"},
    "admin": {"protocols", "policy", "state", "admin"},
}
PATH = re.compile(r"portcullis_ml(\.\w+)+:\w*")  # how a string names something that is loaded later
CATALOGS = [w for w in sorted(WINGS) if (SRC / w / "__init__.py").exists() and w != "measures"]


def imports(source: str) -> list[str]:
    """Dotted names of ours that this code imports or resolves, inside functions and for type checkers included.

    A string "portcullis_ml.module:name" counts like an import wherever it stands, but for the entries of a `Catalog`:
    those are loaded when somebody asks for one. Names that are put together at run time are not seen.
    """
    tree = ast.parse(source)
    entries = {id(part) for node in ast.walk(tree) if called(node) == "Catalog" for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"write imports in full: {ast.unparse(node)}"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif called(node) in ("resolve", "import_module"):
            found += [text(argument) for argument in node.args]
        elif PATH.fullmatch(text(node)) and id(node) not in entries:
            found.append(text(node))
    return [name.replace(":", ".") for name in found if name.split(".")[0] == "portcullis_ml"]


def called(node: ast.AST) -> str:
    """The last word of what a call calls; "" for anything else."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def text(node: ast.AST) -> str:
    """A string that stands in the code; "" for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """module -> the other modules that it imports, from module -> code."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        graph[module] = set()
        for name in imports(source):
            while name and name not in sources:  # what is no module is a name in one
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {module, ""}
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Circles, each as "a -> b -> a". The first import of each is left out of the search for the next."""
    graph = {module: set(graph[module]) for module in sorted(graph)}
    found = []
    while True:
        try:
            TopologicalSorter({module: sorted(others) for module, others in graph.items()}).prepare()
            return found
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib lists what is imported first
            graph[circle[0]].remove(circle[1])
            found.append(" -> ".join(circle))


def test_no_modules_import_each_other_in_a_circle() -> None:
    sources = {}
    for path in SRC.rglob("*.py"):
        parts = ("portcullis_ml", *path.relative_to(SRC).with_suffix("").parts)
        sources[".".join(parts).removesuffix(".__init__")] = path.read_text()
    found = circles(import_graph(sources))
    assert not found, "modules import each other in a circle:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "import portcullis_ml.b",
        "from portcullis_ml import b",
        "from portcullis_ml.b import Name",
        "def late():\n    from portcullis_ml.b import Name",
        "if TYPE_CHECKING:\n    from portcullis_ml.b import Name",
        "settings.resolve('portcullis_ml.b')",
        "NAMED = {'name': 'portcullis_ml.b:Name'}",
    ],
)
def test_a_circle_is_found_however_a_module_imports(code: str) -> None:
    sources = {"portcullis_ml.a": code, "portcullis_ml.b": "import portcullis_ml.c", "portcullis_ml.c": ""}
    assert circles(import_graph(sources)) == []
    sources["portcullis_ml.c"] = "from portcullis_ml.a import thing"
    (circle,) = circles(import_graph(sources))
    steps = [module.rpartition(".")[2] for module in circle.split(" -> ")]
    assert set(pairwise(steps)) == {("a", "b"), ("b", "c"), ("c", "a")}


def test_the_entries_of_a_catalog_are_no_imports() -> None:
    assert imports("CATALOG = Catalog('wing', {'b': 'portcullis_ml.wing.b:B'})") == []


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_only_what_the_plan_allows(room: str) -> None:
    for path in (SRC / room).rglob("*.py"):
        for name in imports(path.read_text()):
            other = name.split(".")[1] if "." in name else ""
            if not other or not (SRC / other).is_dir():  # a module beside the rooms, which all may import
                continue
            # A scheme that marks answers builds its stage of a guard by name.
            from_catalog = ("bench", "gateway", *(["ownership"] if other == "defenses" else []))
            catalog_only = room in from_catalog and name.endswith(".CATALOG")
            assert other in MAY_IMPORT[room] or catalog_only, f"{path.relative_to(SRC)} imports {name}"


def test_the_gateway_lists_its_folders() -> None:
    assert {p.parent.name for p in (SRC / "gateway").glob("*/__init__.py")} == set(GATEWAY_FOLDERS)


@pytest.mark.parametrize("folder", sorted(GATEWAY_FOLDERS))
def test_folders_of_the_gateway_import_no_module_above_them(folder: str) -> None:
    for path in (SRC / "gateway" / folder).rglob("*.py"):
        for name in imports(path.read_text()):
            parts = name.split(".")
            if parts[1] == "gateway":
                assert parts[2] in GATEWAY_FOLDERS[folder], f"{path.relative_to(SRC)} imports {name}"


def test_core_can_be_read_in_an_afternoon() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (SRC / "core").glob("*.py"))
    assert lines <= 1_900, "see docs/architecture.md"


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
    assert not set(catalog) & set(catalog.presets)
    for preset, words in catalog.presets.items():
        assert catalog.build(preset).name == words.partition("(")[0]
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
