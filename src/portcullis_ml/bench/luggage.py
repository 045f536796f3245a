"""The files that cells need, found in what describes the work, and brought to machines that lack them.

A file keeps its path. Where one of the same content is there already, as on a shared file system, nothing is sent;
where another one is, nothing is overwritten and the sentence says so.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError

__all__ = ["Luggage", "pack", "strings_in", "unpack"]

MOST = 10_000  # files


@dataclass(frozen=True)
class Luggage:
    """(path, SHA-256, what fetches the content) of every file, and where this process looks for files and modules."""

    files: tuple[tuple[str, str, Any], ...]
    folder: str
    modules: tuple[str, ...]


def pack(work: Any, cells: Sequence[Any], out: Path, *, put: Callable[[bytes], Any]) -> Luggage:
    """Everything on disk that the work or a cell names. `put` stores a content and returns what fetches it.

    Of a folder in which files bear names that stand in the description (data sets), those are taken, of others all.
    `out` itself is not.
    """
    said = {value for _, value in [*strings_in(work), *strings_in(list(cells))]}
    found = sorted({path for value in said for path in _named(value, said, out.resolve())})
    if len(found) > MOST:
        raise InputError(
            f"The cells name {len(found):,} files, and at most {MOST:,} are sent to a node. Put pictures into a .zip."
        )
    files = []
    for path in found:
        content = path.read_bytes()
        files.append((str(path), hashlib.sha256(content).hexdigest(), put(content)))
    return Luggage(tuple(files), os.getcwd(), tuple(sys.path))


def unpack(luggage: Luggage, *, get: Callable[[Any], bytes]) -> None:
    """Bring this process to where the command runs: its folder, its modules, and every file that is not there yet.

    Raises InputError where a file of another content stands at a path, or where a path cannot be written.
    """
    try:
        Path(luggage.folder).mkdir(parents=True, exist_ok=True)
        os.chdir(luggage.folder)
        for path, digest, content in luggage.files:
            _bring(Path(path), digest, content, get)
    except OSError as error:
        raise InputError(
            f"Node {socket.gethostname()} cannot hold {error.filename}: {error.strerror}. Put the file at that path on "
            "every node, or run from a folder that exists there."
        ) from error
    sys.path += [place for place in luggage.modules if place not in sys.path]


def strings_in(thing: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every string and path within, with the name of the field, argument or key that holds it."""
    if isinstance(thing, str | Path):
        yield name, str(thing)
    elif isinstance(thing, partial):
        yield from strings_in([thing.keywords, list(thing.args)])
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from strings_in(value, str(key))
    elif isinstance(thing, list | tuple | set | frozenset):
        for value in thing:
            yield from strings_in(value, name)
    elif is_dataclass(thing) and not isinstance(thing, type):
        for field in fields(thing):
            yield from strings_in(getattr(thing, field.name, None), field.name)


def _named(value: str, said: set[str], out: Path) -> Iterator[Path]:
    """The files that a string names; of "PATH@sha256:HEX" those of the path."""
    text, marked, _ = value.partition("@sha256:")
    if not ("/" in text or "." in text) or len(text) > 4096 or "\0" in text:
        return
    path = Path(os.path.abspath(text))
    if path.is_file():
        yield path
    elif path.is_dir() and path not in (out, *out.parents):
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        asked = [] if marked else [file for file in files if file.name.partition(".")[0] in said]
        yield from asked or files


def _bring(path: Path, digest: str, content: Any, get: Callable[[Any], bytes]) -> None:
    if path.exists():
        about = path.stat()
        if _digest(str(path), about.st_mtime_ns, about.st_size) != digest:
            raise InputError(
                f"{path} on node {socket.gethostname()} is another file than the one where the command runs. Make them "
                "equal, or name yours differently."
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(get(content))
    new.replace(path)


@cache
def _digest(path: str, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
