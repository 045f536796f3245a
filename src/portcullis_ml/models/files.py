"""What may not be read as a model whatever it is called, and the checks before anything parses a file.

A pickle runs code when it is read, so pickles (and joblib files, and whole objects written by torch.save) are refused.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from portcullis_ml.core.errors import InputError

__all__ = ["INSTEAD", "LIMIT", "PICKLED", "inspect_file"]

LIMIT = 2 * 2**30  # bytes
PICKLED = {".bin", ".ckpt", ".dill", ".joblib", ".p", ".pickle", ".pkl", ".pt", ".pth"}
INSTEAD = (
    "Reading one runs whatever code it holds. Save a scikit-learn model with skops.io.dump(model, 'model.skops'), "
    "torch weights with safetensors.torch.save_file(module.state_dict(), 'model.safetensors'), a torch module with "
    "torch.jit.script(module).save('model.pt') or torch.export.save(program, 'model.pt2'), any model as .onnx; "
    "or name a Python object as module:object."
)


def inspect_file(path: Path, limit: int = LIMIT, *, archive: bool = False) -> None:
    """Refuse what is absent, too large, empty, or a pickle under another name, before anything parses it.

    archive  a file that holds pickles which its own reader does not run
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}. Check the path; it is taken from the current directory.")
    size = path.stat().st_size
    if size > limit:
        raise InputError(f"{path} has {size:,} bytes; at most {limit:,} are read. Raise the limit if you trust it.")
    if size == 0:
        raise InputError(f"{path} was expected to hold a model; it is empty. Write it again.")
    with path.open("rb") as file:
        head = file.read(8)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and path.suffix.lower() != ".safetensors":
        raise InputError(f"{path} is a pickle under another name, and is not read. {INSTEAD}")
    if not archive and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as held:
            if any(name.endswith(".pkl") for name in held.namelist()):
                raise InputError(f"{path} holds a pickle (torch.save writes one), and is not read. {INSTEAD}")
