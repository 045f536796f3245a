"""`portcullis serve`: the gate in front of a model server, or a demonstration of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["serve"]


def serve(
    policy: Annotated[str | None, typer.Option(help="The policy, a TOML file. None starts the demonstration.")] = None,
    upstream: Annotated[str | None, typer.Option(help="The model server's address, instead of the policy's.")] = None,
    port: Annotated[int | None, typer.Option(help="Where clients come in, instead of the policy's.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="The operators' port, instead of the policy's.")] = None,
    state: Annotated[
        str | None, typer.Option(help="sqlite:///FILE, or redis://HOST:PORT/0 when several replicas run.")
    ] = None,
) -> None:
    """Guard a live prediction API.

    Example:  portcullis serve --upstream http://127.0.0.1:8080 --policy portcullis.toml

    Without arguments: a digits model in a process of its own, a gate before it, and a dashboard.
    """
    # First of all, before anything is imported that takes a second.
    _say("starting", f"reading the policy {policy}" if policy else "a digits model, and a gate before it")
    from portcullis_ml.core.errors import InputError
    from portcullis_ml.gateway.server import run

    given = {"upstream.url": upstream, "listen.port": port, "admin.port": admin_port, "state.url": state}
    changes = {name: value for name, value in given.items() if value is not None}
    if policy is not None:
        run(policy, say=_say, announce=_announce, **changes)
    elif upstream is not None:
        raise InputError("A gate before a model server of your own needs a policy: give --policy portcullis.toml.")
    else:
        _demonstration(changes)


def _demonstration(changes: dict[str, Any]) -> None:
    from portcullis_ml.gateway.demo import start_model_server, write_demo
    from portcullis_ml.gateway.server import run

    process, address = start_model_server()
    try:
        path, keys = write_demo(address)
        _say("model server", f"{address}  (digits, no guard)")
        _say("policy", str(path))
        for name, key in keys.items():
            _say("API key", f"{key}  ({name})")
        run(path, say=_say, announce=_announce_demo, **changes)
    finally:
        process.terminate()
        process.wait(10)


def _say(what: str, about: str) -> None:
    typer.echo(f"{what:12}  {about}")


def _announce(server: Any) -> None:
    from portcullis_ml.gateway.policy.explain import example

    _say("gate", server.url)
    if server.grpc:
        _say("gRPC", server.grpc.address)
    _say("dashboard", server.admin_url)
    if server.admin.state.token:
        _say("token", server.admin.state.token)
    for policy in (server.policy, *server.policy.models):
        _say("try", example(policy, server.url))


def _announce_demo(server: Any) -> None:
    _announce(server)
    typer.echo(f"\nNow steal it, from another terminal:  portcullis demo attack --url {server.url}")
