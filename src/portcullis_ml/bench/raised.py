"""What a victim's own code raises, as a sentence with its last line: nobody wants a traceback of somebody else's model.

Where an exception comes from is read off its frames. The last of ours stands in an adapter, which calls the victim and
reads what it gives, or in whatever looks up `module:object`; or a model of the user's own raised it in its `scores`.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import portcullis_ml
from portcullis_ml.core.errors import InputError, PortcullisError

__all__ = ["last_line", "victims_own"]

OURS = Path(portcullis_ml.__file__).parent
ADAPTERS = (
    "booster", "exported", "function", "keras_files", "module_values", "objects", "one_label", "onnx", "outputs",
    "sklearn", "table", "torch_model",
)  # fmt: skip
MOST = 200  # characters of the victim's own words


@contextmanager
def victims_own(victim: str | None) -> Iterator[None]:
    """Turns what the victim raises into InputError; a mistake of ours stays what it is."""
    try:
        yield
    except PortcullisError:
        raise
    except Exception as error:
        if victim is None or not _by_victim(error):
            raise
        raise InputError(
            f"{victim} raised {type(error).__name__}: {last_line(error)}. Its own code said so when it was loaded or "
            "asked about the test rows; try it on them yourself, as an array with one row for each question."
        ) from error


def last_line(error: Exception) -> str:
    """The last line of what an exception says, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:MOST].rstrip(".") if lines else "nothing more is known"


def _by_victim(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [i for i, frame in enumerate(frames) if Path(frame.filename).is_relative_to(OURS)]
    if not ours:
        return False
    last = frames[ours[-1]]
    path = Path(last.filename)
    if path == OURS / "catalog.py":
        return last.name == "resolve"
    if path.parent == OURS / "models" and path.stem in ADAPTERS:
        return True
    return ours[-1] + 1 < len(frames) and frames[ours[-1] + 1].name == "scores"
