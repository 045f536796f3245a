"""The gate: one process in front of a model server, holding the very guard that the audit attacks.

The way of a request is in the modules at the top; what they use is in folders, none of which imports a module at the
top. Each folder imports those before it in this list at most:

    protocols/  bytes to rows, answers to bytes
    policy/     the TOML file and its settings           protocols
    http/       connections                              protocols, policy
    grpc/       calls of clients and to the model server protocols, policy, http
    state/      the journal and the guard that reads it  nothing else
    admin/      what operators see and do                protocols, policy, state
"""

from importlib.util import find_spec

from portcullis_ml.core.errors import MissingExtra

for package in ("aiohttp", "httptools", "jinja2", "orjson", "prometheus_client", "starlette", "uvicorn"):
    if find_spec(package) is None:
        raise MissingExtra("The gate (serve, check, replay, demo)", package, "gateway")
