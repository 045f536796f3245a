"""`portcullis privacy --text`: what it says of a model of text, what it leaves behind, what it refuses."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from tests.report.test_page import walk
from typer.testing import CliRunner

from portcullis_ml.bench.flags import FLAGS
from portcullis_ml.cli.app import app
from portcullis_ml.models.sequences import Characters, FromFunction

pytest.importorskip("torch")

WORDS = "the king my lord good night what is this that speaks of love and death in the house".split()
NETWORK = "characters(units=8, window=12, batch=4, epochs=1)"
CANARIES = "canaries(prefix='code ', length=5, references=200)"
SAMPLES = "memorization(samples=30, length=30, strategy=top)"
ORDER = 6  # characters that the parrot looks back


def parrot() -> FromFunction:
    """A model that has learnt planted.txt by heart: what came behind the last characters comes again."""
    text = "\n\n" + Path("planted.txt").read_text()
    tokenizer, seen = Characters("".join(sorted(set(text)))), defaultdict(Counter)
    for i in range(len(text)):
        for n in range(ORDER + 1):
            seen[text[max(i - n, 0) : i]][text[i]] += 1

    def log_probs(contexts: np.ndarray) -> np.ndarray:
        p = np.full((len(contexts), tokenizer.size), 1e-3)
        for row, context in zip(p, contexts, strict=True):
            said = "\n\n" + tokenizer.decode(context)
            known = next(said[len(said) - n :] for n in range(ORDER, -1, -1) if said[len(said) - n :] in seen)
            for character, times in seen[known].items():
                row[tokenizer.alphabet.index(character) + 1] += times
        return np.log(p / p.sum(axis=1, keepdims=True))

    return FromFunction(log_probs, tokenizer)


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_text", sys.modules[__name__])
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS, 9)) for _ in range(60)]
    Path("notes.txt").write_text("\n\n".join(documents[:50]))
    Path("other.txt").write_text("\n\n".join(documents[50:]))


def call(*words: object):
    return CliRunner().invoke(app, ["privacy", *map(str, words)])


def planted(*more: object) -> None:
    result = call("--text", "notes.txt", "--plant", "planted.txt", "--attacks", CANARIES, *more)
    assert result.exit_code == 0, result.output


def measured(*more: object, attacks: str = f"{CANARIES},{SAMPLES}"):
    words = ("--text", "planted.txt", "--model", "toy_text:parrot", "--unseen", "other.txt", "--match", 15)
    return call(*words, "--attacks", attacks, *more)


def test_a_model_of_ones_own_is_planted_trained_and_measured():
    planted()
    output = json.loads(measured("--json").stdout)
    canaries, samples = output["results"]
    found = {int(n.rpartition("_")[2]): v for n, v in canaries["measures"].items() if "extrapolation" in n}
    assert list(found) == [0, 1, 2, 4, 8]
    assert min(found[times][0] for times in (1, 2, 4, 8)) > 6
    assert abs(found[0][0] - 1.44) < 1.2
    assert [v[3] for v in found.values()] == [20, 5, 5, 5, 5]
    assert (canaries["queries"], samples["queries"]) == ((200 + 40) * 5, 30 * 30 * 3)
    assert samples["measures"]["all"][1] > samples["measures"]["unseen"][2]  # the least beyond the most
    assert {"perplexity_100", "small_20", "medium_100", "zlib_100_any", "unseen"} <= set(samples["measures"])
    quoted = next(iter(samples["quoted"].values()))
    run = quoted["text"][quoted["start"] : quoted["start"] + quoted["length"]]
    assert run in Path("planted.txt").read_text().split("\n\n")[quoted["document"]]
    assert output["headline"].startswith("A secret that stands once in the text is ")
    assert {f["id"] for f in output["flags"]} <= set(FLAGS)


def test_a_model_is_trained_where_none_is_given_and_used_again():
    words = ("--text", "notes.txt", "--learner", NETWORK, "--attacks", f"{CANARIES},{SAMPLES}", "--each", 2)
    result = call(*words)
    assert result.exit_code == 0, result.output
    page = walk(Path("portcullis-privacy/report.html").read_text())
    headings = ("How far planted secrets stand out", "What looks most like training text", "Few canaries")
    assert all(part in page.text for part in ("nothing is left to guess", *headings))
    assert [a["aria-label"] for a in page.all("svg") if a.get("aria-label", "").startswith("Exposure in bits")]
    (model,) = Path("portcullis-privacy").glob("model-*.safetensors")
    kept = {p: p.stat().st_mtime_ns for p in Path("portcullis-privacy").glob("*.safetensors")}
    first = json.loads(call(*words, "--json").stdout)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert {f["id"] for f in first["flags"]} == {"few_canaries"}
    brought = call(
        "--text", model.with_suffix(".txt"), "--model", model, "--attacks", f"{CANARIES},{SAMPLES}", "--json"
    )
    again = json.loads(brought.stdout)["results"][0]
    assert again["repetitions"] == first["results"][0]["repetitions"]


@pytest.mark.parametrize(("limit", "code"), [(0.5, 3), (90, 0)])
def test_fail_over_looks_at_the_mean_exposure_of_the_worst_canaries(limit, code):
    planted()
    result = measured("--fail-over", limit, attacks=CANARIES)
    assert result.exit_code == code, result.output
    assert ("not above the limit" in result.output) == (code == 0)


def test_finished_attacks_are_not_run_again():
    planted()
    assert measured(attacks=CANARIES).exit_code == 0
    lines = Path("portcullis-privacy/records.jsonl").read_text()
    assert measured(attacks=CANARIES).exit_code == 0
    assert Path("portcullis-privacy/records.jsonl").read_text() == lines


def test_a_text_without_canaries_is_measured_by_samples_alone():
    Path("planted.txt").write_text(Path("notes.txt").read_text())
    result = measured()
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "repeat 15 characters or more of a single document" in words
    assert "none are known. Plant some with --plant before training." in words
    assert measured("--fail-over", 5).exit_code == 2


def test_without_unseen_text_what_needs_some_is_named():
    planted()
    prompts = "memorization(samples=20, length=20, strategy=prompts)"
    words = ("--text", "planted.txt", "--model", "toy_text:parrot", "--attacks", f"{SAMPLES},{prompts}", "--json")
    output = json.loads(call(*words).stdout)
    top, prompted = output["results"]
    assert top["left_out"] == ["small", "medium"]
    assert prompted["outcome"] == "not applicable"
    assert "needs texts of at least 10 tokens" in prompted["reason"]
    assert "Give more with --unseen" in output["notes"][0]


def test_documents_that_repeat_are_flagged():
    Path("notes.txt").write_text(Path("notes.txt").read_text() + "\n\nthe same end\n\nthe same end")
    planted()
    output = json.loads(measured("--json", attacks=CANARIES).stdout)
    (flag,) = [f for f in output["flags"] if f["id"] == "documents_repeat"]
    assert flag["detail"] == "1 of 127 documents stand there before"


def test_a_budget_that_is_too_small_is_an_attack_that_cannot_run():
    planted()
    output = json.loads(measured("--budget", 1_500, "--json").stdout)
    assert [r["outcome"] for r in output["results"]] == ["done", "not applicable"]
    assert "needs more than the 1,500 queries of --budget" in output["results"][1]["reason"]


TEXT = ["--text", "notes.txt"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*TEXT, "--members", "a.npz"], "--members belongs to a model of rows, and --text measures a model of text"),
        ([*TEXT, "--shadow-models", "8"], "--shadow-models belongs to a model of rows"),
        (["--model", "m.safetensors"], "--model belongs to a model of text. Name the text"),
        (["--fail-over", "2"], "--fail-over must be a share in [0, 1]"),
        (["--text", "nothing.txt"], "A text was expected at nothing.txt"),
        ([*TEXT, "--model", "nothing.safetensors"], "There is no file nothing.safetensors"),
        ([*TEXT, "--model", "other.txt"], "expected to be FILE.safetensors that Portcullis wrote"),
        ([*TEXT, "--model", "toy_text:WORDS"], "expected to give log_probs(contexts)"),
        ([*TEXT, "--plant", "p.txt", "--model", "toy_text:parrot"], "--plant comes before a model is trained"),
        ([*TEXT, "--plant", "other.txt"], "other.txt is there already"),
        ([*TEXT, "--repetitions", "1,x"], "--repetitions must be whole numbers"),
        ([*TEXT, "--repetitions", "0,1"], "different numbers of at least 1"),
        ([*TEXT, "--attacks", "canary"], "Did you mean canaries"),
        ([*TEXT, "--attacks", f"{CANARIES},canaries"], "one form of canaries"),
        ([*TEXT, "--learner", "gru(units=64, window=9999)"], "at least 10000 characters"),
        ([*TEXT, "--learner", "resnet9"], "resnet9"),
        ([*TEXT, "--attacks", "canaries(prefix='the ', symbols='kx', length=1)", "--each", "1"], "2 symbols make 2"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence):
    result = call(*words, "--json")
    assert result.exit_code == 2, result.output
    assert sentence.lower() in result.stderr.lower()
    assert "Traceback" not in result.output


def test_a_text_that_has_canaries_already_is_refused():
    planted()
    Path("notes.txt").write_text(Path("planted.txt").read_text())
    again = call("--text", "notes.txt", "--plant", "twice.txt", "--attacks", CANARIES)
    assert again.exit_code == 2
    assert "stands in the text already. Draw another." in again.stderr


def test_a_model_of_another_text_is_refused():
    from portcullis_ml.models.characters import CharacterLearner
    from portcullis_ml.models.text_files import save_text_model

    planted()
    learner = CharacterLearner(units=4, window=12, epochs=1)
    save_text_model(learner.fit(["long live the king"] * 3, rng=np.random.default_rng(0)), "m.safetensors")
    other = call("--text", "planted.txt", "--model", "m.safetensors")
    assert other.exit_code == 2
    assert "which the model does not know. Name the text that it was trained on" in other.stderr
    Path("short.txt").write_text("the king")
    short = call("--text", "short.txt", "--model", "m.safetensors")
    assert short.exit_code == 2
    assert "trained on 12 characters at a time; short.txt has 8." in short.stderr


def test_canaries_of_another_text_are_refused():
    planted()
    words = ("--model", "toy_text:parrot", "--canaries", "planted.canaries.json")
    result = call("--text", "notes.txt", *words)
    assert result.exit_code == 2
    assert "none of the 40 stands in it. Name the text that --plant wrote" in result.stderr


def test_weights_of_another_kind_are_refused():
    import torch
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, "m.safetensors")
    result = call("--text", "notes.txt", "--model", "m.safetensors")
    assert result.exit_code == 2
    assert "it holds weights of another kind. Name its transformers folder, or module:object" in result.stderr


def test_a_folder_needs_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    Path("gpt").mkdir()
    result = call("--text", "notes.txt", "--model", "gpt")
    assert result.exit_code == 2
    assert "needs transformers, which is not installed" in result.stderr
