"""The gate: one process in front of a model server, holding the very guard that the audit attacks."""

from importlib.util import find_spec

from portcullis_ml.core.errors import MissingExtra

for package in ("aiohttp", "httptools", "jinja2", "orjson", "prometheus_client", "starlette", "uvicorn"):
    if find_spec(package) is None:
        raise MissingExtra("The gate (serve, check, replay, demo)", package, "gateway")
