"""What the gate does not speak, by the words that people ask for it with, each with one sentence that says why."""

from __future__ import annotations

from portcullis_ml.core.errors import ParameterError
from portcullis_ml.gateway.protocols import CATALOG

__all__ = ["WORDS", "spoken"]

CHAT = (
    "Chat and completion routes do not pass: their answers are texts, and a guard of scores and classes finds nothing "
    "in them to limit."
)
STREAM = (
    "Streamed answers do not pass: the guard decides on a whole answer before the first byte of it leaves. Ask the "
    "server's route that answers at once."
)
JOBS = (
    "Jobs do not pass: the answer would be fetched on another route, past the guard. Ask the server's route that "
    "answers at once."
)
WORDS = {
    **dict.fromkeys(("openai", "chat", "completions", "responses", "ollama", "anthropic"), CHAT),
    **dict.fromkeys(("sse", "stream", "streaming", "ws", "wss", "websocket", "websockets"), STREAM),
    **dict.fromkeys(("async", "batch", "job", "jobs", "queue"), JOBS),
}


def spoken(setting: str, name: object) -> None:
    """Refuse what is no protocol of the gate: ParameterError with the reason where it is one that people know."""
    if name not in CATALOG:
        reason = WORDS.get(name.lower(), "") if isinstance(name, str) else ""
        raise ParameterError(setting, f"one of {', '.join(CATALOG)}", name, reason)
