"""Models of text from files and from Python, and character models to files.

    FILE.safetensors    a character model that `save_text_model` wrote
    FOLDER              a causal model of `transformers` with its tokenizer, saved as safetensors
    module:object       a SequenceModel, or a function without arguments that makes one

Everything that rebuilds a character model stands in the file: the weights, and in its header the alphabet, the kind of
network and the window. No file runs code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portcullis_ml.catalog import resolve
from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.models.files import inspect_file
from portcullis_ml.models.sequences import Characters, FromFunction, SequenceModel

if TYPE_CHECKING:
    from portcullis_ml.models.characters import CharacterModel

__all__ = ["load_text_model", "save_text_model"]

NETWORKS = {"gru": "Gru", "transformer": "Transformer"}
KIND = "portcullis_text"  # the key of the header
MOST_LAYERS = 64


def save_text_model(model: CharacterModel, path: str | Path) -> Path:
    """Write the weights, and what rebuilds the network, as .safetensors; the suffix is put right by itself."""
    from safetensors.torch import save_file

    network = "gru" if model.recurrent else "transformer"
    about = {"network": network, "alphabet": model.tokenizer.alphabet, "window": model.window}
    path = Path(path).with_suffix(".safetensors")
    save_file({k: v.contiguous() for k, v in model.module.state_dict().items()}, path, {KIND: json.dumps(about)})
    return path


def load_text_model(spec: str, *, device: str = "cpu") -> SequenceModel:
    """The model that `spec` names: see the head of this file. InputError for anything else."""
    path = Path(spec)
    if path.is_dir():
        from portcullis_ml.models.causal import CausalModel

        return CausalModel.load(spec, device=device)
    if path.suffix.lower() == ".safetensors":
        inspect_file(path)
        return _from_safetensors(path, device)
    if ":" in spec and not path.exists():
        return _from_object(spec, resolve(spec))
    if path.is_file():
        inspect_file(path)  # a pickle is named as one
    raise InputError(
        f"A model of text was expected to be FILE.safetensors that Portcullis wrote, a folder that transformers wrote, "
        f"or module:object; got {spec!r}. Name one that is there."
    )


def _from_safetensors(path: Path, device: str) -> CharacterModel:
    try:
        import torch
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingExtra("A model of text", "torch") from error
    from portcullis_ml.models.characters import CharacterModel

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(KIND, "null"))
            state = {key: file.get_tensor(key).float() for key in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"{path} was expected to hold safetensors; it cannot be read ({error}). "
            "It may be cut short: write it again."
        ) from error
    if not isinstance(about, dict):
        raise InputError(
            f"{path} was expected to hold a character model that Portcullis wrote; it holds weights of another kind. "
            "Name its transformers folder, or module:object of a model that gives log_probs."
        )
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise InputError(f"The weights in {path} were expected to be finite numbers; some are not. Train it again.")
    try:
        tokenizer, window = Characters(str(about["alphabet"])), int(about["window"])
        module = _module(about["network"], state, tokenizer, window)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{path} was expected to hold the weights that its header describes; they do not fit it. Write it again."
        ) from error
    return CharacterModel(module, tokenizer, window=window, device=device)


def _module(network: str, state: dict[str, Any], tokenizer: Characters, window: int) -> Any:
    """The network with these weights, its sizes read off them; nothing is allocated for weights that are not there."""
    import torch

    from portcullis_ml.models import characters

    size, units = state["embedding.weight"].shape
    if size != tokenizer.size or len(set(tokenizer.alphabet)) != len(tokenizer.alphabet) or window < 2:
        raise ValueError
    counted = "gru.weight_ih_l" if network == "gru" else "blocks."
    layers = len({key.removeprefix(counted).partition(".")[0] for key in state if key.startswith(counted)})
    if not 1 <= layers <= MOST_LAYERS:
        raise ValueError
    with torch.device("meta"):
        made = getattr(characters, NETWORKS[network])
        module = made(size, units, layers) if network == "gru" else made(size, units, layers, window)
    module.load_state_dict(state, assign=True)
    return module


def _from_object(spec: str, found: Any) -> SequenceModel:
    """A model, or what a factory makes. Answers of one without faster ways are checked: see `FromFunction`."""
    if callable(found) and (isinstance(found, type) or not hasattr(found, "log_probs")):
        try:
            found = found()
        except TypeError as error:
            raise InputError(
                f"{spec} was expected to be a model of text or to make one without arguments; {error}. Name a function "
                "without arguments that returns FromFunction(your_function, Characters(alphabet))."
            ) from error
    if not isinstance(found, SequenceModel):
        raise InputError(
            f"{spec} was expected to give log_probs(contexts) and to have a tokenizer; a {type(found).__name__} does "
            "not. Name a function without arguments that returns FromFunction(your_function, Characters(alphabet))."
        )
    return found if hasattr(found, "token_log_probs") else FromFunction(found.log_probs, found.tokenizer)
