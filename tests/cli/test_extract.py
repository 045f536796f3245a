"""What `portcullis extract` leaves, taken up again by the other verbs."""

from __future__ import annotations

import json

import numpy as np
from typer.testing import CliRunner

from portcullis_ml.cli.app import app
from portcullis_ml.models.load import load_model, save_model
from portcullis_ml.models.relu import ReluNetwork


def test_a_network_rebuilt_from_answers_is_a_victim_again() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((3, 4), (3,), (2, 3), (2, 4), (2,))]
    victim = ReluNetwork(*weights, n_classes=3)
    x = rng.normal(size=(40, 4))
    np.savez("rows.npz", x=x, y=victim.scores(x).argmax(axis=1))
    source = str(save_model(victim, "victim"))
    for _ in range(2):
        words = ["extract", "functional_equivalence", "--victim", source, "--test", "rows.npz", "--budget", "900"]
        result = CliRunner().invoke(app, [*words, "--json"])
        assert result.exit_code == 0, result.output
        source = json.loads(result.stdout)["surrogate"]
        np.testing.assert_allclose(load_model(source).scores(x), victim.scores(x), atol=1e-6)


def test_a_pool_is_drawn_down_to_the_rows_asked_for_and_it_is_said() -> None:
    rng = np.random.default_rng(0)
    victim = ReluNetwork(*(rng.normal(size=s) for s in ((3, 4), (3,), (2, 3), (2, 4), (2,))), n_classes=3)
    x = rng.random((40, 4))
    np.savez("rows.npz", x=x, y=victim.scores(x).argmax(axis=1))
    words = ["inspect", "--victim", str(save_model(victim, "victim")), "--test", "rows.npz", "--pool", "rows.npz"]
    said = "20 of 40 rows were drawn at random. More: --pool-rows."
    assert said in CliRunner().invoke(app, [*words, "--pool-rows", "20"]).output
    assert "drawn" not in CliRunner().invoke(app, words).output
