"""Pictures through a whole gate: policy, guard, model servers of several kinds, and an audit that asks it."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway.asgi import ALICE, FakeUpstream, Here
from tests.gateway.harness import KEYS, SECRET, Softmax, alarms_of, gate, policy_of, running
from tests.gateway.test_openapi import fits
from tests.gateway.test_pictures import GRAY, JPEG, as_base64, as_form, as_raw, chunk, file, header

from portcullis_ml.core.attack import Knowledge
from portcullis_ml.core.errors import InputError
from portcullis_ml.core.guard import Guard
from portcullis_ml.core.oracle import LocalOracle
from portcullis_ml.core.types import Interface
from portcullis_ml.extraction.knockoff import Knockoff
from portcullis_ml.gateway.admin.openapi import described
from portcullis_ml.gateway.demo import MlpLearner
from portcullis_ml.gateway.modelserver import ModelServer
from portcullis_ml.gateway.oracle import HttpOracle
from portcullis_ml.gateway.policy.explain import example, explained
from portcullis_ml.gateway.policy.policy import Policy, PolicyError
from portcullis_ml.gateway.policy.warn import warnings
from portcullis_ml.gateway.protocols.image_spec import ImageSpec
from portcullis_ml.gateway.protocols.pictures import Pictures
from portcullis_ml.gateway.protocols.wire import ModelSpec
from portcullis_ml.gateway.querylog import read_log
from portcullis_ml.gateway.replay import replay
from portcullis_ml.gateway.spoken import spoken

IMAGE = '[model.image]\nform = ["base64", "multipart", "raw"]\n'
MODEL = '[model]\nname = "m"\ninput_shape = [8, 8]\nclasses = 3\n'
BOTH = '[listen]\nport = 0\nprotocols = ["pictures", "v2"]\n'
ONLY = '[listen]\nport = 0\nprotocols = ["pictures"]\n'
NOISE = '[[guard]]\nunit = "noise"\neps = 0.1\n'
QUOTA = '[[guard]]\nunit = "quota"\nrows = 3\nper = 86400\n'


class Eye(Softmax):
    """Softmax of pictures of 8 x 8."""

    def __init__(self) -> None:
        super().__init__(64)
        self.w /= 4
        self.input_shape = (8, 8)

    def scores(self, x: np.ndarray) -> np.ndarray:
        return super().scores(np.asarray(x, np.float64).reshape(len(x), 64))


def to(protocol: str, url: str = "http://127.0.0.1:1", more: str = "") -> str:
    return f'[upstream]\nurl = "{url}"\nprotocol = "{protocol}"\n{more}'


def policy(folder: Path, more: str, stages: str = "") -> Policy:
    return policy_of(Eye(), "http://127.0.0.1:1", folder, stages, more)


class Place(Here):
    """A gate for pictures of 8 x 8 in this process."""

    def __init__(self, folder: Path, stages: str = "", listen: str = BOTH, image: str = IMAGE, more: str = "") -> None:
        super().__init__(folder, stages, MODEL + image + listen + more)
        self.upstream = self.gate.upstream = FakeUpstream(Eye())

    async def show(self, body: tuple[dict[str, str], bytes], path: str = "/predict") -> tuple[int, Any]:
        status, _, tree = await self.send("POST", path, body[1], {**ALICE, **body[0]})
        return status, tree


PNG = file(GRAY)
FORMS = [as_base64(PNG), as_base64(PNG, head="data:image/png;base64,"), as_form(PNG), as_raw(PNG)]


async def test_one_picture_is_one_question_in_every_form(tmp_path: Path) -> None:
    here = Place(tmp_path, NOISE)
    found = [await here.show(body) for body in FORMS]
    assert {status for status, _ in found} == {200}
    assert all(tree == found[0][1] for _, tree in found)  # the same noise
    for x in here.upstream.x:
        np.testing.assert_array_equal(x, GRAY[None] / 255)
    tensor = {"name": "input", "shape": [1, 8, 8], "datatype": "FP64", "data": (GRAY / 255).ravel().tolist()}
    _, _, told = await here.send(body=json.dumps({"inputs": [tensor]}).encode())
    scores = next(o["data"] for o in told["outputs"] if o["name"] == "probabilities")
    assert scores == found[0][1]["scores"]


async def test_a_quota_counts_pictures(tmp_path: Path) -> None:
    here = Place(tmp_path, QUOTA)
    statuses = [(await here.show(body))[0] for body in FORMS]
    assert statuses == [200, 200, 200, 429]
    assert (await here.show(as_raw(b"GIF89a")))[0] == 415


async def test_a_list_of_pictures_is_as_many_rows(tmp_path: Path) -> None:
    here = Place(tmp_path, QUOTA, image='[model.image]\nfield = "$.images"\nbatch = true\n')
    status, tree = await here.show(as_base64(PNG, file(255 - GRAY), name="images"))
    assert (status, len(tree["scores"])) == (200, 2)
    assert (await here.show(as_base64(PNG, PNG, name="images")))[0] == 429  # one row is left


async def test_files_are_decoded_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, on = Place(tmp_path), list[str]()
    read = Pictures.read

    def noted(*given: Any) -> Any:
        on.append(threading.current_thread().name)
        return read(*given)

    monkeypatch.setattr(Pictures, "read", noted)
    await asyncio.gather(*(here.show(body) for body in FORMS))
    assert len(on) == 4
    assert all(name.startswith("reading") for name in on)


async def test_a_bomb_is_refused_and_costs_no_row(tmp_path: Path) -> None:
    here = Place(tmp_path, QUOTA)
    bomb = header(60_000, 60_000) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    status, tree = await here.show(as_raw(bomb))
    told = "A picture may have at most 25,000,000 pixels; got 60000 x 60000."
    assert (status, tree) == (413, {"error": told})
    assert [(await here.show(FORMS[0]))[0] for _ in range(3)] == [200] * 3
    assert len(here.upstream.x) == 3


@pytest.mark.parametrize("form", ["base64", "data_url", "multipart", "raw"])
def test_every_protocol_meets_every_form_of_a_server_of_pictures(form: str, tmp_path: Path) -> None:
    model = Eye()
    interface = Interface(input_shape=(8, 8), n_classes=3)
    spec = ImageSpec(path="/classify", form=(form,), field="picture")
    far = ModelSpec(name="m", interface=interface, options={"image": spec})
    with running(ModelServer(model, far, protocols=("pictures",))) as upstream:
        own = f'[upstream.image]\npath = "/classify"\nform = "{form}"\nfield = "picture"\n'
        with gate(policy(tmp_path, MODEL + IMAGE + BOTH + to("pictures", upstream, own))) as server:
            headers = {"x-api-key": KEYS["alice"]}
            for protocol, served in (("v2", {}), (write(tmp_path, IMAGE), {})):
                oracle = HttpOracle(
                    server.url,
                    interface=interface,
                    budget=10,
                    protocol=protocol,
                    model="m",
                    headers=headers,
                    served=served,
                    rows_per_request=1,
                )
                x = np.stack([GRAY, 255 - GRAY]) / 255
                np.testing.assert_array_equal(oracle.query(x).scores, model.scores(x))
                between = np.random.default_rng(1).random((1, 8, 8))
                np.testing.assert_array_equal(oracle.query(between).scores, model.scores(np.rint(between * 255) / 255))
                oracle.close()


def test_pictures_reach_a_server_of_tensors(tmp_path: Path) -> None:
    model = Eye()
    model.scores = lambda x: Softmax.scores(model, x.reshape(-1, 64) / 255)  # type: ignore[method-assign]
    interface = Interface(input_shape=(8, 8), n_classes=3, bounds=(0, 255))
    about = '[model]\nname = "m"\ninput_shape = [8, 8]\nclasses = 3\nbounds = [0, 255]\ndatatype = "UINT8"\n'
    with running(ModelServer(model, ModelSpec(name="m", interface=interface, datatype="UINT8"))) as upstream:
        with gate(policy(tmp_path, about + IMAGE + ONLY + to("v2", upstream))) as server:
            oracle = HttpOracle(
                server.url,
                interface=interface,
                budget=10,
                protocol=write(tmp_path, IMAGE),
                headers={"x-api-key": KEYS["alice"]},
            )
            x = np.stack([GRAY, 255 - GRAY]).astype(float)
            np.testing.assert_array_equal(oracle.query(x).scores, model.scores(x))
            oracle.close()


def write(folder: Path, text: str) -> str:
    (folder / "api.toml").write_text(text)
    return str(folder / "api.toml")


STAGES = {
    "prada": '[[guard]]\nunit = "watch"\ndetector = { unit = "prada", threshold = 1.1}\n'
    'then = { unit = "block" }\n' + NOISE,
    "doubt": '[[guard]]\nunit = "watch"\ndetector = { unit = "low_confidence", threshold = 0.001 }\n'
    'then = { unit = "label_only" }\n[[guard]]\nunit = "quota"\nrows = 150\n',
}


@pytest.mark.parametrize("stages", STAGES)
def test_the_same_attack_steals_the_same_model(stages: str, tmp_path: Path) -> None:
    model, interface = Eye(), Interface(input_shape=(8, 8), n_classes=3)
    pool = np.random.default_rng(2).integers(0, 256, (200, 8, 8)) / 255
    known, attack = Knowledge(pool=pool, learner=MlpLearner(iterations=10)), Knockoff(batch=40)
    far = ModelSpec(name="m", interface=interface, options={"image": ImageSpec(form=("multipart",))})
    with running(ModelServer(model, far, protocols=("pictures",))) as upstream:
        log = f'[log]\npath = "{tmp_path}/log"\nqueries = true\n'
        more = MODEL + '[model.image]\nform = "multipart"\n' + ONLY + to("pictures", upstream) + log
        found = policy(tmp_path, more, STAGES[stages])
        with gate(found) as server:
            online = HttpOracle(
                server.url,
                interface=interface,
                budget=180,
                protocol=write(tmp_path, '[image]\nform = "multipart"\n'),
                headers={"x-api-key": KEYS["thief"]},
            )
            over_http = attack(online, known, rng=np.random.default_rng(3))
            online.close()
            alarms = [(a.stage, a.row, a.suspicion) for a in alarms_of(server)]
    offline = LocalOracle(model, interface, budget=180, guard=Guard(*found.stages, key=SECRET))
    here = attack(offline, known, rng=np.random.default_rng(3))
    assert over_http.queries == here.queries
    assert over_http.stopped == here.stopped
    np.testing.assert_array_equal(over_http.x, here.x)
    np.testing.assert_array_equal(over_http.answer.labels, here.answer.labels)
    np.testing.assert_array_equal(over_http.answer.scores, here.answer.scores)
    assert alarms == [(a.stage, a.row, a.suspicion) for a in offline.alarms]
    assert alarms
    again = replay(read_log(tmp_path / "log"), found)
    assert (again.requests > 100, again.different) == (True, [])


async def test_answers_stand_where_the_mapping_says(tmp_path: Path) -> None:
    """Words for classes, scores by name, in an object a picture."""
    named = MODEL.replace("classes = 3", 'classes = ["cat", "dog", "eel"]')
    answers = '[model.mapping]\nscores = "$.found[*].scores"\nscores_as = "object"\nlabels = "$.found[*].is"\n'
    image = '[model.image]\nform = "base64"\nbatch = true\n'
    interface, options = Interface(input_shape=(8, 8), n_classes=3), {"image": ImageSpec(batch=True)}
    given = {"scores": "$.found[*].scores", "scores_as": "object", "labels": "$.found[*].is"}
    far = ModelSpec(name="m", interface=interface, options={**given, **options}, class_names=("cat", "dog", "eel"))
    with running(ModelServer(Eye(), far, protocols=("pictures",))) as upstream:
        with gate(policy(tmp_path, named + image + answers + ONLY + to("pictures", upstream))) as server:
            tree = json.loads(post(server.url + "/predict", as_base64(PNG, file(255 - GRAY))))
    scores = Eye().scores(np.stack([GRAY, 255 - GRAY]) / 255)
    assert [list(part["scores"].values()) for part in tree["found"]] == scores.tolist()
    assert [part["is"] for part in tree["found"]] == [["cat", "dog", "eel"][k] for k in scores.argmax(axis=1)]


def post(url: str, body: tuple[dict[str, str], bytes]) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, body[1], {**ALICE, **body[0]}), timeout=20) as answer:
        return answer.read()  # type: ignore[no-any-return]


# The policy.

BAD = {
    "no table": (MODEL + ONLY, "[model]", "a table [model.image] for the protocol pictures"),
    "no table for the server": (
        MODEL + to("pictures"),
        "[model]",
        "a table [model.image] for the protocol pictures",
    ),
    "no picture": (MODEL.replace("8, 8", "64") + IMAGE, "[model.image]", "with 1 or 3 channels"),
    "two channels": (MODEL.replace("8, 8", "8, 8, 2") + IMAGE, "[model.image]", "with 1 or 3 channels"),
    "unknown key": (MODEL + IMAGE + "size = 8\n", "[model.image]", "'size' is not known"),
    "unknown form": (MODEL + '[model.image]\nform = "gif"\n', "form =", "some of base64"),
    "wrong kind": (MODEL + IMAGE + "most_pixels = 1.5\n", "most_pixels", "a whole number"),
    "no path": (MODEL + IMAGE + 'path = "predict"\n', "path =", "a path such as /predict"),
    "no field": (MODEL + IMAGE + 'field = "$.a[0]"\n', "field =", "written"),
    "no name of a part": (MODEL + IMAGE + 'field = "\\u00e4"\n', "field =", "printable ASCII"),
    "not a table": (MODEL + 'image = "x"\n', "image =", "a table such as"),
    "raw lists": (MODEL + IMAGE + "batch = true\n", "batch =", "false where"),
    "beyond the bounds": (MODEL + IMAGE + "scale = [0, 255]\n", "scale =", "within the model's bounds"),
    "no whole levels": (MODEL + 'datatype = "UINT8"\n' + IMAGE + ONLY, "scale|[model", "255 apart"),
    "two forms upstream": (
        MODEL + IMAGE + to("pictures", more='[upstream.image]\nform = ["raw"]\n'),
        "form =",
        "one of base64",
    ),
    "key upstream": (
        MODEL + IMAGE + to("pictures", more="[upstream.image]\nresize = 1\n"),
        "[upstream.image]",
        "some of path, form",
    ),
    "extras": (
        MODEL + IMAGE + ONLY + '[model.mapping]\nextras = ["$.lang"]\n',
        "extras =",
        "a question of pictures holds nothing else",
    ),
    "path of another": (
        MODEL + IMAGE + '[listen]\nport = 0\nprotocols = ["pictures", "mapping"]\n',
        "[model.image]",
        "belongs to the protocol",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_refused_at_its_line(case: str, tmp_path: Path) -> None:
    from tests.gateway.harness import policy_text

    from portcullis_ml.gateway.policy.policy import parse_policy

    more, place, words = BAD[case]
    text = policy_text(Eye(), "http://127.0.0.1:1", tmp_path, "", more)
    with pytest.raises(PolicyError) as error:
        parse_policy(text, folder=tmp_path)
    assert words in str(error.value)
    line = text.splitlines()[error.value.line - 1]
    assert error.value.line > 0
    assert any(word in line for word in place.split("|")), error.value


def test_without_pillow_a_policy_of_pictures_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith("portcullis_ml.gateway.protocols.picture")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(PolicyError, match=r"The protocol pictures needs pillow, .* extra 'gateway'"):
        policy(tmp_path, MODEL + IMAGE + ONLY)


def test_check_explains_pictures(tmp_path: Path) -> None:
    own = '[upstream.image]\nform = "multipart"\npath = "/classify"\n'
    found = list(explained(policy(tmp_path, MODEL + IMAGE + ONLY + to("pictures", more=own))))
    assert any("one picture as base64 or multipart or raw (PNG or JPEG, at most 25,000,000 pixels)" in s for s in found)
    assert any("of another size than 8 x 8 is refused. It is inspected as gray pixels from 0 to 1." in s for s in found)
    assert any(
        "a PNG that the gate makes of exactly these pixels, as multipart at /classify, one a question" in s
        for s in found
    )
    unused = list(warnings(policy(tmp_path, MODEL + IMAGE)))
    assert "Nobody speaks the protocol pictures: [model.image] is not used." in unused


@pytest.mark.parametrize("form", ["base64", "data_url", "multipart", "raw"])
async def test_the_example_of_check_is_a_question_that_is_answered(form: str, tmp_path: Path) -> None:
    here = Place(tmp_path, image=f'[model.image]\nform = "{form}"\nfield = "$.picture"\n', listen=ONLY)
    words = shlex.split(example(here.policy, "http://gate"))
    assert words[1] == "http://gate/predict"
    headers = dict(words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H")
    if form == "multipart":
        assert words[words.index("-F") + 1] == "picture=@picture.png"
    elif form == "raw":
        assert (headers["content-type"], words[-1]) == ("image/png", "@picture.png")
    else:
        assert (await here.show(({**headers, **ALICE}, words[-1].encode())))[0] == 200


async def test_the_description_says_how_pictures_are_sent(tmp_path: Path) -> None:
    here = Place(tmp_path)
    content = described(here.policy)["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert list(content) == ["application/json", "multipart/form-data", "image/png", "image/jpeg"]
    assert fits(json.loads(as_base64(PNG)[1]), content["application/json"]["schema"])
    forms = described(Place(tmp_path, image='[model.image]\nform = "multipart"\n').policy)["paths"]["/predict"]["post"]
    assert list(forms["requestBody"]["content"]) == ["multipart/form-data"]
    assert "415" in forms["responses"]


def test_a_file_that_describes_an_api_of_pictures(tmp_path: Path) -> None:
    for text in (
        '[image]\nform = "raw"\n[mapping]\nscores = "$.p"\n',
        '[model.image]\nform = "raw"\n[model.mapping]\nscores = "$.p"\n',
    ):
        name, options, _ = spoken(write(tmp_path, text))
        assert (name, options["image"].form, options["scores"]) == ("pictures", ("raw",), "$.p")
    for text in ("[image]\nform = 3\n", "[image]\nsize = 3\n", 'image = "x"\n', '[image]\n[mapping]\nscores = "p"\n'):
        with pytest.raises(InputError, match=r"api\.toml: "):
            spoken(write(tmp_path, text))


async def test_a_jpeg_is_decoded_once(tmp_path: Path) -> None:
    """Asking with the PNG of what was inspected is asking the same question."""
    here = Place(tmp_path, image=IMAGE + 'resize = "bilinear"\n')
    status, tree = await here.show(as_raw(JPEG, "image/jpeg"))
    again = Pictures().ask(here.policy.served, here.upstream.x[0])
    assert (status, tree) == await here.show((dict(again.headers), again.body))
