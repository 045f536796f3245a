"""Things on disk are known by their content: what changes there is seen, and said."""

import hashlib

import numpy as np
import pytest

from portcullis_ml.catalog import identity
from portcullis_ml.core.artifacts import Artifact, Contents
from portcullis_ml.core.errors import InputError
from portcullis_ml.models.artifacts import pack_arrays, unpack_arrays, write_artifact


def test_a_files_hash_is_its_sha256(tmp_path):
    (tmp_path / "key").write_bytes(b"secret")
    artifact = Artifact.at("key", tmp_path)
    assert artifact.sha256 == hashlib.sha256(b"secret").hexdigest()
    assert Artifact.at(str(artifact)) == artifact


def test_a_folder_is_known_by_names_and_contents(tmp_path):
    hashes = set()
    for name, data in (("a", b"1"), ("b", b"1"), ("a", b"2")):
        folder = tmp_path / f"{name}{data.decode()}"
        write_artifact(Contents({name: data}), folder)
        hashes.add(Artifact.at(str(folder)).sha256)
    assert len(hashes) == 3


def test_the_same_content_elsewhere_is_the_same_setting(tmp_path):
    one = write_artifact(Contents({"w": b"1"}, {"n": 1}), tmp_path / "one")
    two = write_artifact(Contents({"w": b"1"}, {"n": 1}), tmp_path / "two")
    assert str(one) != str(two)
    assert identity({"unit": "u", "parts": [str(one)]}) == identity({"unit": "u", "parts": [str(two)]})
    assert identity("plain words @sha256:short") == "plain words @sha256:short"


def test_changed_content_is_refused_in_a_sentence(tmp_path):
    artifact = write_artifact(Contents({"w": b"1"}), tmp_path / "it")
    (tmp_path / "it" / "w").write_bytes(b"2")
    with pytest.raises(InputError, match="was expected to hold what has the SHA-256"):
        artifact.read()
    with pytest.raises(InputError, match="name the new one without its hash"):
        Artifact.at(str(artifact))
    assert Artifact.at(artifact.path).read().files == {"w": b"2"}


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_nothing_there_is_said_in_a_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there is none\. Check the path"):
        Artifact.at(name, tmp_path)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").write_text("here")
    with pytest.raises(InputError, match="Name a new or an empty folder"):
        write_artifact(Contents({"w": b"1"}), tmp_path / "full")
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "old"]


def test_arrays_come_back_and_a_file_cut_short_is_refused():
    arrays = {"w": np.arange(6.0).reshape(2, 3), "n": np.array([1, 2])}
    data = pack_arrays(arrays)
    found = unpack_arrays(data)
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in arrays.items()}
    with pytest.raises(InputError, match="safetensors"):
        unpack_arrays(data[:-4])
