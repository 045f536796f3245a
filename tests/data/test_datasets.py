"""Data sets by name: what is read, how it is scaled and coded, and what a bad file gets."""

import gzip
import json
import os
import pickle

import numpy as np
import pytest

from portcullis_ml.core.errors import InputError
from portcullis_ml.data.datasets import available, load_dataset

TABLE = """age,colour,city,label
30,red,Rome,yes
41.5,green,Oslo,no
?,red,Rome,yes
18,blue,,no
25,blue,Oslo,yes
33,green,Rome,no
52,red,Bonn,yes
61,red,Oslo,no
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTCULLIS_DATA", str(tmp_path))
    return tmp_path


def arrays(n=20, m=8, classes=3, **changes):
    rng = np.random.default_rng(0)
    made = {
        "x_train": rng.integers(256, size=(n, 5, 4), dtype=np.uint8),
        "y_train": np.arange(n) % classes,
        "x_test": rng.integers(256, size=(m, 5, 4), dtype=np.uint8),
        "y_test": np.arange(m) % classes,
    }
    return {k: v for k, v in (made | changes).items() if v is not None}


def test_digits_are_always_there(monkeypatch):
    monkeypatch.delenv("PORTCULLIS_DATA", raising=False)
    one, two = load_dataset("digits"), load_dataset("digits")
    assert one.x.shape[1:] == (8, 8)
    assert (one.x.min(), one.x.max()) == (0.0, 1.0)
    assert len(one.x) + len(one.x_test) == 1797
    np.testing.assert_array_equal(one.x, two.x)
    assert np.bincount(one.y_test).min() > 30  # a mixed test set, although the source is ordered by writer
    assert (one.interface.n_classes, one.interface.input_shape) == (10, (8, 8))
    assert available() == ["digits"]
    assert str(one) == "digits: 1257 + 540 rows of (8, 8), 10 classes"


def test_8_bit_images_are_scaled_and_others_left(folder):
    made = arrays()
    np.savez_compressed(folder / "small.npz", **made, track_train=np.arange(20) // 5)
    small = load_dataset("small")
    np.testing.assert_allclose(small.x, made["x_train"] / 255)
    assert small.bounds == (0.0, 1.0)
    assert small.groups.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert small.classes == ("0", "1", "2")
    (folder / "small.classes.json").write_text(json.dumps({"classes": ["ant", "bee", "cat"]}))
    assert load_dataset("small").classes == ("ant", "bee", "cat")
    np.savez(folder / "wide.npz", **arrays(x_train=np.full((20, 5, 4), -3.0), x_test=np.full((8, 5, 4), 7.5)))
    assert load_dataset(str(folder / "wide.npz")).bounds == (-3.0, 7.5)
    assert available() == ["digits", "small", "wide"]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_table_becomes_features(folder, suffix):
    data = gzip.compress(TABLE.encode()) if suffix.endswith("gz") else TABLE.encode()
    (folder / f"people{suffix}").write_bytes(data)
    people = load_dataset("people")
    assert people.dropped == 2
    assert len(people.x) + len(people.x_test) == 6
    age, colour, city = people.features
    assert (age.name, age.low, age.high, age.categorical) == ("age", 25.0, 61.0, False)
    assert colour.values == ("blue", "green", "red")
    assert city.values == ("Bonn", "Oslo", "Rome")
    assert people.classes == ("no", "yes")
    rows = np.vstack([people.x, people.x_test])
    assert [52.0, 2.0, 0.0] in rows.tolist()  # 52, red, Bonn
    assert people.interface.features == people.features


def test_the_label_column_can_be_named(folder):
    (folder / "people.csv").write_text(TABLE)
    people = load_dataset("people", target="city")
    assert people.classes == ("Bonn", "Oslo", "Rome")
    assert [f.name for f in people.features] == ["age", "colour", "label"]
    with pytest.raises(InputError, match=r"people has no column 'colr'\. Did you mean colour"):
        load_dataset("people", target="colr")


def test_a_split_column_is_obeyed(folder):
    (folder / "t.csv").write_text("a,label,split\n1,x,train\n2,y,train\n3,x,test\n4,y,train\n")
    table = load_dataset("t", target="label")
    assert table.x[:, 0].tolist() == [1, 2, 4]
    assert table.x_test[:, 0].tolist() == [3]
    assert [f.name for f in table.features] == ["a"]


def test_unknown_names_say_where_it_looked(folder, monkeypatch):
    np.savez(folder / "fashion.npz", **arrays())
    with pytest.raises(InputError, match=rf"no data set 'fashon'; .* in {folder}\. Did you mean fashion"):
        load_dataset("fashon")
    monkeypatch.delenv("PORTCULLIS_DATA")
    with pytest.raises(InputError, match="no folder was given and PORTCULLIS_DATA is not set"):
        load_dataset("fashion")
    with pytest.raises(InputError, match=r"There is no file away\.npz"):
        load_dataset("away.npz")
    assert load_dataset("fashion", folder).n_classes == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y_test": None}, "expected to hold y_test; it holds x_test, x_train, y_train"),
        ({"y_train": np.zeros(19, int)}, r"y_train must have one label for each of 20 rows; got \(19,\)"),
        ({"x_test": np.zeros((8, 5, 5), np.uint8)}, r"one shape; got \(5, 4\) and \(5, 5\)"),
        ({"x_train": np.full((20, 5, 4), np.nan)}, "rows must be finite; got NaN or infinity"),
        ({"x_train": np.full((20, 5, 4), "a")}, "rows must be numbers"),
        ({"y_train": np.full(20, -1)}, r"labels must lie in 0\.\.2; got -1\.\.2"),
    ],
)
def test_malformed_arrays_get_a_sentence(folder, changes, sentence):
    np.savez(folder / "bad.npz", **arrays(**changes))
    with pytest.raises(InputError, match=sentence):
        load_dataset("bad")


def test_pickles_are_never_read(folder):
    class Loud:
        def __reduce__(self):
            return os.mkdir, (str(folder / "detonated"),)

    np.savez(folder / "objects.npz", **arrays(y_train=np.array([Loud()] * 20, object)))
    (folder / "plain.npz").write_bytes(pickle.dumps(Loud()))
    for name in ("objects", "plain"):
        with pytest.raises(InputError, match=r"was expected to be an \.npz of plain arrays"):
            load_dataset(name)
    assert not (folder / "detonated").exists()


def test_truncated_and_oversized_files_get_a_sentence(folder):
    np.savez_compressed(folder / "whole.npz", **arrays(x_train=np.zeros((20, 100, 100), np.uint8)))
    data = (folder / "whole.npz").read_bytes()
    (folder / "cut.npz").write_bytes(data[: len(data) // 2])
    (folder / "cut.csv.gz").write_bytes(gzip.compress(TABLE.encode())[:60])
    (folder / "latin.csv").write_bytes(b"a,b\n\xff,1\n")
    (folder / "empty.csv").write_bytes(b"")
    for name in ("cut.npz", "cut.csv.gz", "latin.csv"):
        with pytest.raises(InputError, match="it cannot be read"):
            load_dataset(str(folder / name))
    with pytest.raises(InputError, match=r"unpacks to [\d,]+ bytes; at most 50,000 are read"):
        load_dataset("whole", limit=50_000)
    (folder / "bomb.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 100_000))
    with pytest.raises(InputError, match="unpacks to more than 50,000 bytes"):
        load_dataset("bomb", limit=50_000)
    with pytest.raises(InputError, match=r"has [\d,]+ bytes; at most 100 are read"):
        load_dataset("whole", limit=100)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n3\n", "rows of 2 fields, as its header has; it has 1 in row 2"),
        ("a,b\n", "a header line and rows; it has no rows"),
        ("a,a\n1,2\n", "'a' stands twice"),
        ("a,b\n1,\n,2\n", "0 rows without a missing value; at least 2 are needed"),
        ("a,b\ninf,x\n1,y\n2,x\n", "Column 'a' must be finite; it holds infinity"),
    ],
)
def test_malformed_tables_get_a_sentence(folder, text, sentence):
    (folder / "bad.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        load_dataset("bad")


def test_openml_words_and_codes(monkeypatch):
    from sklearn.utils import Bunch

    fetched = Bunch(
        data=np.array([[1.0, 0, 1], [2.0, 1, 0], [np.nan, 1, 0], [4.0, 0, 1]], object),
        feature_names=["size", "shape", "class"],
        categories={"shape": ["round", "flat"], "class": ["b", "a"]},
    )
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *a, **k: fetched)
    table = load_dataset("openml:things")
    assert table.dropped == 1
    assert table.features[1].values == ("flat", "round")
    assert table.classes == ("a", "b")


def test_openml_without_a_network_gets_a_sentence(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    with pytest.raises(InputError, match=r"openml:iris was expected at openml\.org .* \(OSError: no route\)"):
        load_dataset("openml:iris")


@pytest.mark.skipif("PORTCULLIS_DATA" not in os.environ, reason="PORTCULLIS_DATA is not set")
@pytest.mark.parametrize(
    ("name", "rows", "classes", "shape", "dropped"),
    [
        ("usps", 7291 + 2007, 10, (16, 16), 0),
        ("steak", 331, 5, (13,), 219),  # 331: Tramèr et al., Table 3
        ("gss_happiness", 16_127, 3, (9,), 34_893),  # 16,127: the same table
        ("german_credit", 1000, 2, (20,), 0),
    ],
)
def test_the_real_sets(name, rows, classes, shape, dropped):
    real = load_dataset(name)
    assert len(real.x) + len(real.x_test) == rows
    assert (real.n_classes, real.input_shape, real.dropped) == (classes, shape, dropped)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'a,b,c\n"x, ""y""\nz",1,k\nw,2,l\n', ('w', 'x, "y"\nz')),
        (b"a;b;c\nx,y;1,5;k\nw;2;l\n", ("w", "x,y")),
        (b"a\tb\tc\nx;y\t1.5\tk\nw\t2\tl\n", ("w", "x;y")),
        ("a|b|c\r\nx|1.5|k\r\nw|2|l\r\n".encode("utf-8-sig"), ("w", "x")),
        ("a,b,c\nü,1.5,k\nw,2,l\n".encode("utf-16"), ("w", "ü")),
    ],
)  # fmt: skip
def test_tables_as_people_have_them(folder, raw, words):
    (folder / "t.csv").write_bytes(raw)
    table = load_dataset("t", target="c")
    assert table.features[0].values == words
    assert not table.features[1].categorical
    assert table.classes == ("k", "l")


def test_other_encodings_are_refused_by_the_byte(folder):
    (folder / "t.csv").write_bytes("a,b\nü,1\nw,2\n".encode("latin-1"))
    with pytest.raises(
        InputError, match=r"in UTF-8; it cannot be read \(byte 4\).*`iconv -f WINDOWS-1252 -t UTF-8 t.csv`"
    ):
        load_dataset("t")


def test_numbers_with_leading_zeros_are_text(folder):
    (folder / "t.csv").write_text("zip,n,c\n01234,1,k\n80331,0.5,l\n")
    table = load_dataset("t", target="c")
    assert table.features[0].values == ("01234", "80331")
    assert not table.features[1].categorical
