"""[model.text] in a policy: what it says, and what is refused at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.gateway.harness import policy_text
from tests.gateway.texts import policy, victim

from portcullis_ml.gateway.admin.openapi import described
from portcullis_ml.gateway.policy.explain import example, explained
from portcullis_ml.gateway.policy.policy import PolicyError, parse_policy
from portcullis_ml.gateway.protocols import CATALOG
from portcullis_ml.gateway.protocols.texts import Hashing, TextInput

HASHING = 'rows = { unit = "hashing", dimensions = 64, ngrams = "char" }\n'
PRADA = '[[guard]]\nunit = "watch"\ndetector = { unit = "prada" }\nthen = { unit = "label_only" }\n'
URL = "http://127.0.0.1:1"


def test_a_text_is_its_hash_unless_said_otherwise(tmp_path: Path) -> None:
    found = policy(URL, tmp_path)
    assert found.served.text == found.asked.text == TextInput()
    interface = found.served.interface
    assert (interface.input_shape, interface.text, interface.bounds) == ((3,), True, (0.0, 2.0**24))


def test_hashed_words_are_numbers_with_distances(tmp_path: Path) -> None:
    more = HASHING + 'longest = 99\nnormalise = "nfc"\ncolumn = "review"\ntry = "good"\n'
    found = policy(URL, tmp_path, PRADA, text=more)
    hashing = Hashing(dimensions=64, ngrams="char")
    assert found.served.text == TextInput(
        hashing=hashing, longest=99, normalise="nfc", column="review", tried="good"
    )  # fmt: skip
    interface = found.served.interface
    assert (interface.input_shape, interface.text, interface.bounds) == ((64,), False, (-1.0, 1.0))
    x, carried = found.asked.plain_question
    assert carried.texts == ("good",)
    assert x.shape == (1, 64)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('rows = "words"', r'line \d+: rows must be "hash", or a table'),
        ("rows = { unit = 'embedding' }", "one of hashing; got {'unit': 'embedding'}"),
        ("rows = { unit = 'hashing', dimensions = 1 }", r"Hashing.dimensions must be a whole number in \[2, 65536\]"),
        ("rows = { unit = 'hashing', dimensions = 2.5 }", "dimensions must be a whole number; got 2.5"),
        ("rows = { unit = 'hashing', ngrams = 'line' }", 'Hashing.ngrams must be "word" or "char"; got \'line\''),
        ("rows = { unit = 'hashing', dimension = 9 }", "Did you mean 'dimensions'"),
        ("longest = 0", "longest must be a whole number of characters, at least 1; got 0"),
        ("longest = true", "longest must be a whole number"),
        ("normalise = 'nfd'", 'normalise must be "none" or "nfc"'),
        ("column = ''", "column must be printable text"),
        ("column = 3", "column must be printable text"),
        ("try = 5", "try must be a text that the model takes; got 5"),
        ("longer = 5", "Did you mean 'longest'"),
    ],
)
def test_a_mistake_is_refused_at_its_line(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=sentence) as refused:
        policy(URL, tmp_path, text=text)
    assert refused.value.line > 3


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("input_shape = [64]", r"input_shape must be left out, since \[model.text\] makes rows of \[3\]; got \[64\]"),
        ("bounds = [0.0, 1.0]", "bounds must be left out where the model takes texts"),
        ('datatype = "FP32"', "datatype must be left out"),
        ("missing = true", "missing must be left out"),
        ('inputs = "columns"', "inputs must be left out"),
    ],
)
def test_what_is_about_numbers_is_refused_beside_texts(line: str, sentence: str, tmp_path: Path) -> None:
    about = f'[model]\nname = "m"\nclasses = 3\n{line}\n[model.text]\n'
    written = policy_text(victim()[0], URL, tmp_path, "", about)
    with pytest.raises(PolicyError, match=sentence) as refused:
        parse_policy(written, folder=tmp_path)
    assert written.splitlines()[refused.value.line - 1] == line


def test_a_datatype_of_the_model_servers_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="datatype must be left out where the model takes texts"):
        policy("", tmp_path, more=f'[upstream]\nurl = "{URL}"\ndatatype = "FP32"\n')


def test_a_shape_that_says_the_same_is_taken(tmp_path: Path) -> None:
    about = '[model]\nname = "m"\nclasses = 3\ninput_shape = [3]\n[model.text]\n'
    assert parse_policy(policy_text(victim()[0], URL, tmp_path, "", about), folder=tmp_path).served.text


def test_detectors_of_distances_need_hashed_words(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="prada needs distances between rows of numbers; this API takes texts"):
        policy(URL, tmp_path, PRADA)


def test_hashes_that_are_close_by_chance_are_no_one_question(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="quantum must be less than 1"):
        policy(URL, tmp_path, top="quantum = 2.0\n")
    assert policy(URL, tmp_path, top="quantum = 2.0\n", text=HASHING).quantum == 2.0


@pytest.mark.parametrize("side", ["upstream", "listen"])
def test_a_protocol_that_cannot_carry_texts_is_refused(
    side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CATALOG.load("v1"), "carries", frozenset())
    more = {
        "upstream": f'[upstream]\nurl = "{URL}"\nprotocol = "v1"\n',
        "listen": '[listen]\nport = 0\nprotocols = ["v2", "v1"]\n',
    }[side]
    with pytest.raises(PolicyError, match=r"one that carries texts \(grpc, invocations, mapping, v2\)") as refused:
        policy(URL, tmp_path, more=more)
    assert refused.value.line


def test_one_text_a_request_needs_a_key(tmp_path: Path) -> None:
    more = '[listen]\nport = 0\nprotocols = ["mapping"]\n[model.mapping]\nbatch = false\nrows = "{}"\n'
    found = policy(URL, tmp_path, more=more.format("$.text") + '[upstream]\nurl = "http://h:1"\nprotocol = "mapping"\n')
    assert found.served.max_rows == 1
    assert any("Clients post /predict with one text at $.text" in line for line in explained(found))
    with pytest.raises(PolicyError, match="a key such as"):
        policy(URL, tmp_path, more=more.format("$"))
    with pytest.raises(PolicyError, match='"list" where'):
        policy(URL, tmp_path, more=more.format("$.text") + 'rows_as = "object"\n')


def test_check_says_what_the_guard_sees_of_texts(tmp_path: Path) -> None:
    said = " ".join(explained(policy(URL, tmp_path)))
    assert "takes texts of at most 10,000 characters and knows 3 classes" in said
    assert "sees each text as its hash: with one letter more it is another question. No text is written down." in said
    said = " ".join(explained(policy(URL, tmp_path, text=HASHING + 'normalise = "nfc"\n')))
    assert "in Unicode's composed form, as 64 numbers that count its runs of three letters" in said
    assert '"datatype":"BYTES"' in example(policy(URL, tmp_path), "http://gate")
    assert "hello" in example(policy(URL, tmp_path), "http://gate")


@pytest.mark.parametrize("text", ["", HASHING, 'column = "review"\n'])
def test_the_description_of_the_routes_speaks_of_texts(text: str, tmp_path: Path) -> None:
    listen = '[listen]\nport = 0\nprotocols = ["v2", "v1", "invocations", "mapping"]\n'
    tree = str(described(policy(URL, tmp_path, more=listen, text=text))["paths"])
    assert tree.count("'maxLength': 10000") >= 8
    assert "text/csv" not in tree
