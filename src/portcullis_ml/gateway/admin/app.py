"""The operators' port: health, metrics, and a dashboard that shows alarms as they happen.

Server-rendered pages, one script of forty lines and one stylesheet, all from here: nothing is built and
nothing is fetched from another host. Everything but /healthz and /readyz needs an operator's token, and
what an operator does to a client is written down with the operator's name.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from portcullis_ml.core.errors import InputError, ParameterError
from portcullis_ml.gateway.admin.choice import Choice, Gate
from portcullis_ml.gateway.admin.keys import DEEDS, KeyDesk, Keyed
from portcullis_ml.gateway.admin.metrics import exposition
from portcullis_ml.gateway.admin.openapi import described
from portcullis_ml.gateway.admin.views import counters, one, overview, summaries
from portcullis_ml.gateway.admin.webhook import told
from portcullis_ml.gateway.policy.clients import hashed
from portcullis_ml.gateway.policy.principals import RESERVED
from portcullis_ml.gateway.state.stores import StateStore
from portcullis_ml.gateway.state.streams import Down

__all__ = ["admin_app"]

PAGES = Path(__file__).parent / "pages"
COOKIE = "portcullis"
SAFE = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
EVERY_S = 1.0  # between two updates of a page
ACTIONS = ("block", "unblock", "clear")
SESSION_S = 8 * 3600
LONGEST = 160  # characters of a principal's name
MOST = 1_000  # clients or alarms that one answer tells of
LIMIT = f"limit must be a whole number from 1 to {MOST}."


def admin_app(front: Keyed, models: Sequence[tuple[Gate, StateStore]]) -> Starlette:
    """The application for the operators' port of these gates, each with its store; `front` takes the keys of all of
    them. `app.state.token` is set when the policy names no operator."""
    desk = _Desk(front, models)
    routes = [
        Route("/healthz", desk.health),
        Route("/readyz", desk.ready),
        Route("/metrics", desk.metrics),
        Route("/openapi.json", desk.openapi),
        Route("/live", desk.live),
        Route("/login", desk.login, methods=["POST"]),
        Route("/logout", desk.logout, methods=["POST"]),
        Route("/act", desk.act, methods=["POST"]),
        Route("/keys", desk.keys, methods=["GET", "POST"]),
        Route("/client", desk.client),
        Route("/clients", desk.clients),
        Route("/alarms", desk.alarms),
        Route("/", desk.front),
        Route("/{name:str}", desk.file),
    ]
    app = Starlette(routes=routes, exception_handlers={Down: _down, InputError: _unknown})  # type: ignore[dict-item]
    app.state.stop = desk.stop
    app.state.token = desk.token
    return app


class _Desk:
    def __init__(self, front: Keyed, models: Sequence[tuple[Gate, StateStore]]) -> None:
        self.gates = front  # all of them, as their keys and the main policy concern them
        self.models, self.choice = models, Choice(models)
        self.stop = asyncio.Event()
        self._keys = KeyDesk(front)
        self.token = "" if front.policy.admin.tokens else secrets.token_urlsafe(18)
        self._own = hashed(self.token) if self.token else ""
        self._sessions: dict[str, tuple[str, float]] = {}  # session -> (digest of its operator's token, until)
        self._pages = Environment(loader=FileSystemLoader(PAGES), autoescape=select_autoescape())
        self._pages.filters["when"] = lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) if at else ""

    async def health(self, request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def ready(self, request: Request) -> Response:
        """Ready when a request would be served, whichever of the models it asks."""
        trees = {gate.policy.served.id: await gate.health.look() for gate, _ in self.models}
        tree = {"ready": all(t["ready"] for t in trees.values()), "models": trees}
        if not self.choice.several:
            (tree,) = trees.values()
        return JSONResponse(tree, 200 if tree["ready"] else 503)

    async def metrics(self, request: Request) -> Response:
        if not self._operator(request):
            return _denied()
        of_models = {gate.policy.served.id if self.choice.several else "": gate.metrics for gate, _ in self.models}
        return Response(exposition(of_models), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """What clients may send and get, under the policy as it is now."""
        if not self._operator(request):
            return _denied()
        return JSONResponse(described(*(gate.policy for gate, _ in self.models)))

    async def front(self, request: Request) -> Response:
        who = self._operator(request)
        if not who:
            return self._page("login.html")
        if self.choice.several and "model" not in request.query_params:
            return self._page("models.html", who=who, models=await summaries(self.models))
        gate, store = self.choice.made(request.query_params)
        return self._page("clients.html", who=who, of=self.choice.of(gate), **await overview(gate, store))

    async def client(self, request: Request) -> Response:
        who = self._operator(request)
        if not who:
            return self._page("login.html")
        name, (gate, store) = request.query_params.get("name", ""), self.choice.made(request.query_params)
        if name not in await store.clients() and name not in gate.streams.open:
            return self._page("missing.html", status=404, who=who, name=name[:128])
        model = gate.policy.served.id
        return self._page("client.html", who=who, model=model, of=self.choice.of(gate), **await one(gate, store, name))

    async def clients(self, request: Request) -> Response:
        """Counters of each client as JSON, a page at a time: metrics have no names in their labels."""
        if not self._operator(request):
            return _denied()
        after, limit = request.query_params.get("after", ""), _limit(request)
        if limit is None:
            return JSONResponse({"error": LIMIT}, 400)
        gate, store = self.choice.made(request.query_params)
        return JSONResponse(await counters(gate, store, after=after, limit=limit), headers=SAFE)

    async def alarms(self, request: Request) -> Response:
        """The latest alarms as JSON, each with its reason code and what it rests on; of one client with ?client=."""
        if not self._operator(request):
            return _denied()
        limit = _limit(request)
        if limit is None:
            return JSONResponse({"error": LIMIT}, 400)
        who, (gate, store) = request.query_params.get("client"), self.choice.made(request.query_params)
        known = await store.alarms(limit=limit if who is None else MOST)
        contact = gate.policy.alarms.contact if gate.policy.alarms else ""
        found = [told(id, alarm, contact) for id, alarm in known if who in (None, alarm.client)]
        return JSONResponse({"alarms": found[:limit]}, headers=SAFE)

    async def live(self, request: Request) -> Response:
        """Server-sent events: the part of a page that changes, whenever it does, until the operator's session ends."""
        if not self._operator(request):
            return _denied()
        if self.choice.several and "model" in request.query_params:
            self.choice.made(request.query_params)  # so that what is not there is said at once
        return StreamingResponse(self._changes(request), media_type="text/event-stream", headers=SAFE)

    async def login(self, request: Request) -> Response:
        form = await _form(request)
        digest = hashed(form.get("token", ""))
        if not self._holder(digest):
            return self._page("login.html", status=403, wrong=True)
        session = secrets.token_urlsafe(24)
        now = time.time()
        self._sessions = {s: (w, until) for s, (w, until) in self._sessions.items() if until > now}
        self._sessions[session] = (digest, now + SESSION_S)
        answer = RedirectResponse("/", 303)
        secure = self.gates.policy.admin.https or request.url.scheme == "https"
        answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", secure=secure, max_age=SESSION_S)
        return answer

    async def logout(self, request: Request) -> Response:
        """End the session at once, and not only in the browser that it was opened in."""
        if not _same_origin(request):
            return _denied()
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(COOKIE)
        return answer

    async def act(self, request: Request) -> Response:
        """Block, unblock or clear a client; the operator's name is written down first."""
        who = self._operator(request)
        if not who or not _same_origin(request):
            return _denied()
        form = await _form(request)
        what, name = form.get("deed", ""), form.get("name", "")
        if what not in ACTIONS or not 1 <= len(name) <= LONGEST:
            return JSONResponse({"error": f"A deed is one of {', '.join(ACTIONS)}, done to a client."}, 400)
        gate, store = self.choice.made(form)
        name = await _principal(gate, store, name)
        try:
            await store.log_operation(time.time(), who, what, name)
            await gate.streams.operate(name, what, who, time.time())
        except Down as error:
            return JSONResponse({"error": str(error)}, 503)
        if request.headers.get("authorization"):
            return JSONResponse({"done": what, "client": name, "by": who})
        where = urlencode({"name": name}) + "&" * self.choice.several + self.choice.of(gate)
        return RedirectResponse(f"{request.url_for('client').path}?{where}", 303)

    async def keys(self, request: Request) -> Response:
        """The clients' keys; POST makes, rotates or revokes one, after the operator's name is written down."""
        who = self._operator(request)
        browsing = request.method == "GET" and not request.headers.get("authorization")
        if not who or (request.method == "POST" and not _same_origin(request)):
            return self._page("login.html") if browsing else _denied()
        done: dict[str, Any] = {}
        try:
            if request.method == "POST":
                done = await self._keyed(who, await _form(request))
            listed = await asyncio.to_thread(self._keys.listed)
        except (InputError, ParameterError) as error:
            if request.headers.get("authorization"):
                return JSONResponse({"error": str(error)}, 400)
            return self._page("keys.html", status=400, who=who, keys=[], wrong=str(error))
        if request.headers.get("authorization"):
            return JSONResponse(done or {"keys": listed}, headers=SAFE)
        return self._page("keys.html", who=who, keys=listed, told=done if "key" in done else None)

    async def _keyed(self, who: str, form: dict[str, str]) -> dict[str, Any]:
        deed = form.get("deed", "")
        if deed not in DEEDS:
            raise InputError(f"A deed is one of {', '.join(DEEDS)}.")
        _, store = self.models[0]  # where what concerns all models is written down
        await store.log_operation(time.time(), who, f"{deed} key", form.get("client") or form.get("which") or "")
        return await self._keys.do(deed, form)

    async def file(self, request: Request) -> Response:
        kinds = {"style.css": "text/css", "live.js": "text/javascript"}
        name = request.path_params["name"]
        if name not in kinds:
            return JSONResponse({"error": "There is nothing here."}, 404)
        return Response(
            (PAGES / name).read_bytes(), media_type=kinds[name], headers={**SAFE, "cache-control": "max-age=3600"}
        )

    async def _changes(self, request: Request) -> AsyncIterator[bytes]:
        before = ""
        while not self.stop.is_set() and self._operator(request):
            part = await self._changing(request.query_params)
            if part != before:
                before = part
                yield b"".join(b"data: " + line.encode() + b"\n" for line in part.splitlines()) + b"\n"
            else:
                yield b": still here\n\n"
            try:
                await asyncio.wait_for(self.stop.wait(), EVERY_S)
            except TimeoutError:
                continue

    async def _changing(self, asked: Mapping[str, str]) -> str:
        """The part of a page that changes."""
        if self.choice.several and "model" not in asked:
            return self._part("list.html", {"models": await summaries(self.models)})
        gate, store = self.choice.made(asked)
        if "name" in asked:
            return self._part("one.html", await one(gate, store, asked["name"]))
        return self._part("rows.html", {"of": self.choice.of(gate), **await overview(gate, store)})

    def _operator(self, request: Request) -> str | None:
        given = request.headers.get("authorization", "")
        if given[:7].lower() == "bearer ":
            return self._holder(hashed(given[7:].strip()))
        digest, until = self._sessions.get(request.cookies.get(COOKIE, ""), ("", 0.0))
        return self._holder(digest) if until > time.time() else None

    def _holder(self, digest: str) -> str | None:
        """The operator whose token has this digest, under the policy as it is now: a session ends with its token, and
        the token that was printed at the start ends once operators are named."""
        found = None
        for who, kept in self.gates.policy.admin.tokens or ([("operator", self._own)] if self._own else []):
            if hmac.compare_digest(digest, kept):
                found = who
        return found

    def _part(self, template: str, values: dict[str, Any]) -> str:
        return self._pages.get_template(template).render(**values)

    def _page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._part(template, values), status, headers=SAFE)


def _limit(request: Request) -> int | None:
    """How many entries are asked for; None where that is no number from 1 to MOST."""
    text = request.query_params.get("limit", "200")
    return int(text) if text.isdecimal() and 1 <= int(text) <= MOST else None


async def _principal(gate: Gate, store: StateStore, name: str) -> str:
    """Whom a deed is done to: where limits are those of a principal, an account's name stands for its own."""
    streams, linked = gate.streams.open, gate.policy.clients.principals.principal
    if not linked or name.startswith(RESERVED) or name in streams or name in await store.clients():
        return name
    found = gate.policy.clients.principal_of(name)
    return found or next((p for p, stream in streams.items() if name in stream.accounts), name)


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > 4_096:
            return {}
    return {k: v[0] for k, v in parse_qs(body.decode("utf-8", "replace")).items()}


def _same_origin(request: Request) -> bool:
    """A browser's form must come from this very page; a script with a token sends no Origin."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


async def _unknown(request: Request, error: InputError) -> Response:
    return JSONResponse({"error": str(error)}, 404, headers=SAFE)


async def _down(request: Request, error: Down) -> Response:
    return JSONResponse({"error": str(error)}, 503)


def _denied() -> Response:
    return JSONResponse({"error": "An operator's token is needed."}, 401, headers={"www-authenticate": "Bearer"})
