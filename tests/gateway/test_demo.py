"""The demonstration: a thief with and without the guard, and two sentences on the difference."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.gateway.harness import gate, running
from typer.testing import CliRunner

from portcullis_ml.cli import demo as verb
from portcullis_ml.cli.app import app
from portcullis_ml.core.errors import InputError, PortcullisError
from portcullis_ml.gateway.demo import Theft, behind_gate, behind_policy, digits_model, write_demo
from portcullis_ml.gateway.modelserver import ModelServer, main
from portcullis_ml.gateway.policy.policy import read_policy


def attacked(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["demo", "attack", "--budget", "600", *words])
    return done.exit_code, done.stdout


def test_without_a_gate_the_thief_meets_the_same_guard_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "GATE", "http://127.0.0.1:9")
    code, text = attacked()
    assert code == 0
    rows = {name: float(share) for name, share in re.findall(r"^(asks .*?)  .*?([\d.]+)% \[", text, re.M)}
    own, free, held = (
        rows[n] for n in ("asks nobody", "asks the model without a guard", "asks the model behind the guard")
    )
    assert own < held < free
    first, second = text.strip().splitlines()[-2:]
    assert f"agrees with the model on {free}% of 497 digits, and on {held}% behind it" in first
    assert "stopped after 400 answers (its quota of rows is used up)" in first
    kept = round(100 * (free - held) / (free - own))
    assert abs(int(re.search(r"the guard kept (\d+)% of", second)[1]) - kept) <= 1  # type: ignore[index]


def test_the_plain_server_takes_the_port_that_it_is_told(tmp_path: Path) -> None:
    with running(ModelServer(*digits_model())) as url, pytest.raises(PortcullisError, match="Choose another port"):
        main("portcullis_ml.gateway.modelserver:digits", url.rpartition(":")[2])


def test_a_gate_that_was_named_and_does_not_answer_is_an_error() -> None:
    code, text = attacked("--url", "http://127.0.0.1:9")
    assert code != 0
    assert "agrees" not in text


def test_at_a_gate_the_thief_comes_as_far_as_behind_its_guard_and_no_further_the_second_time(tmp_path: Path) -> None:
    offline = behind_policy(budget=600, rng=np.random.default_rng(3))
    with running(ModelServer(*digits_model())) as upstream:
        path, keys = write_demo(upstream, str(tmp_path))
        with gate(read_policy(path, **{"listen.port": 0, "admin.port": 0})) as server:
            online = behind_gate(server.url, keys["thief"], budget=600, rng=np.random.default_rng(3))
            code, text = attacked("--url", server.url, "--key", keys["thief"])
    assert online == offline
    assert online.answered == 400
    assert code != 0
    assert "agrees with the model on" not in text


def test_a_policy_that_is_named_is_the_guard_that_the_thief_meets(tmp_path: Path) -> None:
    path, _ = write_demo("http://127.0.0.1:1", str(tmp_path))
    path.write_text(path.read_text().replace("rows = 400\n", "rows = 150\n"))
    code, text = attacked("--policy", str(path))
    assert code == 0
    held = behind_policy(path, budget=600, rng=np.random.default_rng(3))
    assert held.answered == 150
    assert f"asks behind {path}" in text
    assert f"on {100 * held.agreed / held.of:.1f}% behind it, where it was stopped after 150 answers" in text


def test_what_a_policy_shows_of_the_answers_is_what_the_thief_sees(tmp_path: Path) -> None:
    path, _ = write_demo("http://127.0.0.1:1", str(tmp_path))
    path.write_text(path.read_text().replace('[[guard]]\nunit = "label_only"\n', '[answers]\nreveals = "labels"\n'))
    shown = [behind_policy(p, budget=300, rng=np.random.default_rng(3)) for p in (None, path)]
    assert shown[0] == shown[1]


def test_a_policy_for_another_model_or_beside_an_address_is_refused(tmp_path: Path) -> None:
    path, _ = write_demo("http://127.0.0.1:1", str(tmp_path))
    code, text = attacked("--policy", str(path), "--url", "http://127.0.0.1:9")
    assert (code != 0, text) == (True, "")
    path.write_text(path.read_text().replace("input_shape = [64]", "input_shape = [63]"))
    with pytest.raises(InputError, match=r"64 inputs and 10 classes; it is for inputs of shape \[63\] and 10 classes"):
        behind_policy(path, budget=10, rng=np.random.default_rng(3))


@pytest.mark.parametrize(
    ("own", "free", "held", "said"),
    [
        (80, 90, 85, "the guard kept 50% of what the answers add"),
        (80, 90, 92, "the guard kept nothing of what the answers add"),
        (80, 78, 70, "the model gave nothing away that a guard could keep"),
    ],
)
def test_what_is_said_follows_the_numbers(own: int, free: int, held: int, said: str) -> None:
    thefts = (
        Theft(n, agreed, 100, why) for n, agreed, why in ((0, own, ""), (600, free, "budget"), (600, held, "budget"))
    )
    first, second = verb._difference(*thefts)
    assert first.endswith(f"and on {held}.0% behind it, where it got all of its 600 answers.")
    assert said in second
