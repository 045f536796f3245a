"""Zip files from strangers: a fixed set of names, each once, and never more bytes than a limit.

Nothing is written to disk on reading, so a name cannot lead out of a folder; another name than those that are allowed
is refused all the same.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from portcullis_ml.core.errors import InputError
from portcullis_ml.court.commitment import LIMIT

__all__ = ["packed", "unpacked", "write_whole"]

UNIX = 3  # which system a zip says that it was made on


def packed(files: Mapping[str, bytes], *, compressed: bool = True) -> bytes:
    """The files as a zip; the same files in the same order give the same bytes, on every machine if not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.create_system = UNIX
            archive.writestr(info, data, zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED)
    return buffer.getvalue()


def write_whole(data: bytes, out: Path) -> None:
    """Write the file, whole or not at all."""
    unfinished = out.with_name(out.name + "-new")
    unfinished.write_bytes(data)
    os.replace(unfinished, out)


def unpacked(path: Path, data: bytes, *, required: Collection[str], allowed: Collection[str] = ()) -> dict[str, bytes]:
    """The files in a zip by name; InputError for other files, doubles, and more bytes than LIMIT in all."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if len(set(names)) != len(names) or not set(required) <= set(names) <= {*required, *allowed}:
                raise InputError(f"{path} was expected to hold {', '.join(required)}; it holds {_said(names)}.")
            if sum(info.file_size for info in infos) > LIMIT:
                raise InputError(f"{path} unpacks to more than {LIMIT:,} bytes, and is not read.")
            return {name: archive.read(name) for name in names}
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{path} is no whole zip file ({error}). Ask for the bundle again.") from error


def _said(names: list[str]) -> str:
    """The names in a line; one that stands twice first."""
    twice = [f"{name} twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    return ", ".join([*twice, *names])[:200] or "nothing"
