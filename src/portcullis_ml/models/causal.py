"""A causal language model of `transformers` as a model of text.

`transformers` is asked for only when a model is loaded from a folder; a model and a tokenizer that are there already
need no more than PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError
from portcullis_ml.core.types import Array
from portcullis_ml.models.sequences import Tokens

__all__ = ["CausalModel"]


class CausalModel:
    """A module with `module(input_ids=codes).logits`, and the tokenizer that belongs to it."""

    def __init__(self, module: Any, tokenizer: Any, *, size: int, device: str = "cpu") -> None:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise InputError("A tokenizer was expected to have a token that begins or ends a text; it has neither.")
        self.module = module.to(device).eval()
        self.tokenizer, self._start, self.device = _Tokenizer(tokenizer, size), int(start), device

    @classmethod
    def load(cls, folder: str, *, device: str = "cpu") -> CausalModel:
        """The model in this folder, from safetensors; nothing is downloaded."""
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ModuleNotFoundError as error:
            raise InputError(
                "A causal language model from a folder needs transformers, which is not installed and comes with no "
                "extra of Portcullis: pip install transformers."
            ) from error
        try:
            module = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"A causal model and its tokenizer, saved by transformers as safetensors, were expected in {folder}; "
                f"transformers says: {str(error).splitlines()[0]}"
            ) from error
        return cls(module, tokenizer, size=int(module.config.vocab_size), device=device)

    def log_probs(self, contexts: Tokens) -> Array:
        """(n, t) -> (n, size); every context stands behind the token that begins a text."""
        return self._all(contexts, last=True)[:, 0]

    def token_log_probs(self, sequences: Tokens) -> Array:
        """(n, t) -> (n, t) log-probability of every token, all of a sequence in one pass."""
        parts = [np.empty((0, sequences.shape[1]))]
        for start in range(0, len(sequences), 16):
            rows = sequences[start : start + 16]
            parts.append(np.take_along_axis(self._all(rows)[:, :-1], rows[..., None], axis=2)[..., 0])
        return np.concatenate(parts)

    def _all(self, contexts: Tokens, last: bool = False) -> Array:
        import torch

        whole = np.concatenate([np.full((len(contexts), 1), self._start, np.int64), contexts], axis=1)
        with torch.inference_mode():
            logits = self.module(input_ids=torch.from_numpy(whole).to(self.device)).logits
            logits = logits[:, -1:] if last else logits
            return torch.log_softmax(logits.double(), 2).cpu().numpy()


class _Tokenizer:
    def __init__(self, tokenizer: Any, size: int) -> None:
        self.own, self.size = tokenizer, size

    def encode(self, text: str) -> Tokens:
        return np.asarray(self.own.encode(text, add_special_tokens=False), np.int64)

    def decode(self, tokens: Tokens) -> str:
        return str(self.own.decode(tokens.tolist()))
