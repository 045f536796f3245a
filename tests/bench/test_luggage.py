"""The files that cells need: which are found, and what happens where one is missing, there, or another one."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from portcullis_ml.bench import luggage as luggage_module
from portcullis_ml.bench.luggage import Luggage, pack, strings_in, unpack
from portcullis_ml.core.errors import InputError

from .toys import cell, work


@dataclass(frozen=True)
class Spec:
    victim: str | None = None
    folder: str | None = None
    device: str = "cpu"


def packed(out: Path, *cells, **spec) -> dict[str, bytes]:
    found = pack(partial(work, spec=Spec(**spec)), cells or [cell("draw")], out, put=lambda content: content)
    return {path: content for path, _, content in found.files}


def test_every_string_is_found_with_the_name_that_holds_it():
    spec = partial(work, spec=Spec(victim="a"), ready={"first": [Path("b")]}, n=3)
    assert list(strings_in(spec)) == [("victim", "a"), ("device", "cpu"), ("first", "b")]


def test_files_artifacts_and_named_data_sets_are_packed(tmp_path):
    made = {name: tmp_path / name for name in ("model.onnx", "art/weights", "data/toy.npz", "data/toy.classes.json")}
    for name, path in [*made.items(), ("data/other.npz", tmp_path / "data" / "other.npz")]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    stage = {"unit": "watch", "filter": f"{tmp_path / 'art'}@sha256:00"}
    cells = [replace(cell("draw"), defense=(stage,))]  # on the data set "toy"
    found = packed(tmp_path / "out", *cells, victim=str(made["model.onnx"]), folder=str(tmp_path / "data"))
    assert found == {str(path): name.encode() for name, path in made.items()}


def test_results_are_not_packed_and_words_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("draw", "out/records.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert packed(tmp_path / "out", victim=str(tmp_path / "out"), folder=str(tmp_path)) == {}


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(luggage_module, "MOST", 1)
    (tmp_path / "pictures").mkdir()
    for name in "ab":
        (tmp_path / "pictures" / f"{name}.png").write_text("")
    with pytest.raises(InputError, match=r"name 2 files, and at most 1 .* Put pictures into a \.zip"):
        packed(tmp_path / "out", folder=str(tmp_path / "pictures"))


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A file that is packed and then gone, as on a node that has none, and what was fetched."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sub" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    made = pack(partial(work, spec=Spec(victim="sub/model.onnx")), [], tmp_path / "out", put=lambda content: content)
    path.unlink()
    fetched: list[bytes] = []

    def get(content: bytes) -> bytes:
        fetched.append(content)
        return content

    return path, made, fetched, get


def test_a_missing_file_is_fetched_once(there):
    path, made, fetched, get = there
    unpack(made, get=get)
    unpack(made, get=get)
    assert path.read_bytes() == b"weights"
    assert fetched == [b"weights"]
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_another_file_at_the_path_is_left_alone(there):
    path, made, _, get = there
    path.write_bytes(b"somebody else's")
    with pytest.raises(InputError, match=r"model\.onnx on node .* is another file"):
        unpack(made, get=get)
    assert path.read_bytes() == b"somebody else's"


def test_a_path_that_cannot_be_written_is_named(there):
    path, made, _, get = there
    path.parent.rmdir()
    path.parent.write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"Node .* cannot hold .*sub.*: .*Put the file at that path on every node"):
        unpack(made, get=get)


def test_modules_are_looked_for_where_the_command_finds_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["/a"])
    monkeypatch.chdir(tmp_path)
    unpack(Luggage((), str(tmp_path / "new"), ("/b", "/a")), get=lambda content: content)
    assert sys.path == ["/a", "/b"]
    assert os.getcwd() == str(tmp_path / "new")
