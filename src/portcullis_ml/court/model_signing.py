"""A signature over a whole bundle in the format of OpenSSF Model Signing, for who checks files with those tools.

Portcullis' own verification neither needs it nor looks at it: see `signature`. Anybody with the owner's public key
checks it without Portcullis:

    model_signing verify key bundle.zip --signature bundle.sig --public-key owner.pub
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.court.signature import Signer

__all__ = ["ready", "sign"]


def ready(key: Path | None, out: Path) -> Path:
    """The key's file, when `sign` could use it now; asked before pairs are used up."""
    if key is None:
        raise InputError("--model-signing needs the owner's private key: give --sign FILE, as `keygen` writes it.")
    Signer.read(key)
    if out.exists():
        raise InputError(f"{out} is there already. Choose another name for the signature.")
    _library()
    return key


def sign(bundle: Path, key: Path, out: Path) -> None:
    """Write the signature of this key over the file `bundle` to `out`."""
    _library().Config().use_elliptic_key_signer(private_key=key).sign(bundle, out)


def _library() -> Any:
    try:
        from model_signing import signing
    except ModuleNotFoundError as error:
        raise MissingExtra("--model-signing", "model-signing", "model-signing") from error
    return signing
