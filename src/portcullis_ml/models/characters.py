"""Small networks that learn text character by character: a GRU, or a transformer.

They are as small as what they are for, which is to be attacked: some minutes of one core, some hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from portcullis_ml.core.errors import InputError, MissingExtra
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array
from portcullis_ml.models.sequences import Characters, Tokens
from portcullis_ml.models.torch_model import keep_memory
from portcullis_ml.models.training import seeded

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtra("A model of text", "torch") from error

__all__ = ["CharacterLearner", "CharacterModel"]

HEADS = 4  # of the transformer's attention


class Gru(nn.Module):
    """(n, t) codes -> (n, t, size) logits of what comes behind each, and the state behind the last."""

    def __init__(self, size: int, units: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, units)
        self.gru = nn.GRU(units, units, layers, batch_first=True)
        self.head = nn.Linear(units, size)

    def forward(self, codes: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        out, state = self.gru(self.embedding(codes), state)
        return self.head(out), state


class Transformer(nn.Module):
    """The same by causal attention, over `window` codes at most; it has no state."""

    def __init__(self, size: int, units: int, layers: int, window: int) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(size, units), nn.Embedding(window, units)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(units, HEADS, 4 * units, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(units), nn.Linear(units, size))

    def forward(self, codes: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        t = codes.shape[1]
        out = self.embedding(codes) + self.places(torch.arange(t, device=codes.device))
        later = torch.full((t, t), float("-inf"), device=codes.device).triu(1)
        for block in self.blocks:
            out = block(out, src_mask=later, is_causal=True)
        return self.head(out), None


class CharacterModel:
    """A trained network as a model of text. Every context stands behind the end of a document."""

    def __init__(self, module: nn.Module, tokenizer: Characters, *, window: int, device: str = "cpu") -> None:
        self.module = module.to(device).eval().requires_grad_(False)
        self.tokenizer, self.window, self.device = tokenizer, window, device

    @property
    def recurrent(self) -> bool:
        return isinstance(self.module, Gru)

    def log_probs(self, contexts: Tokens) -> Array:
        """(n, t) -> (n, size). A transformer sees the last `window` codes of a longer context."""
        codes = self._begun(contexts)
        if not self.recurrent:
            codes = codes[:, -self.window :]
        with torch.inference_mode():
            logits = self.module(codes)[0][:, -1]
            return torch.log_softmax(logits.double(), 1).cpu().numpy()

    def token_log_probs(self, sequences: Tokens) -> Array:
        """(n, t) -> (n, t) log-probability of every token, all of a sequence in one pass where it fits the window."""
        n, t = sequences.shape
        once = t if self.recurrent else min(t, self.window)
        found = np.empty((n, t))
        for start in range(0, n, 256):
            rows = slice(start, start + 256)
            with torch.inference_mode():
                logits = self.module(self._begun(sequences[rows, :once])[:, :-1])[0]
                answer = torch.log_softmax(logits.double(), 2).cpu().numpy()
            found[rows, :once] = np.take_along_axis(answer, sequences[rows, :once, None], axis=2)[..., 0]
        for end in range(once, t):
            found[:, end] = self.log_probs(sequences[:, :end])[np.arange(n), sequences[:, end]]
        return found

    def start(self, contexts: Tokens) -> Callable[[Tokens | None], Array]:
        """What follows, token by token, as `sequences.sample` asks; the GRU keeps its state on the way."""
        so_far, state = self._begun(contexts), None
        if not self.recurrent:
            so_far = so_far[:, -self.window :]

        def following(tokens: Tokens | None) -> Array:
            nonlocal so_far, state
            if tokens is not None:
                new = torch.from_numpy(tokens[:, None]).to(self.device)
                so_far = new if self.recurrent else torch.cat([so_far, new], 1)[:, -self.window :]
            with torch.inference_mode():
                logits, state = self.module(so_far, state)
                return torch.log_softmax(logits[:, -1].double(), 1).cpu().numpy()

        return following

    def _begun(self, contexts: Tokens) -> Tensor:
        whole = np.concatenate([np.zeros((len(contexts), 1), np.int64), contexts], axis=1)
        return torch.from_numpy(whole).to(self.device)


@dataclass(frozen=True, kw_only=True)
class CharacterLearner:
    """Trains a network on documents; always a new model, a function of (documents, rng)."""

    network: Literal["gru", "transformer"] = "gru"
    units: int = 128  # of every layer
    layers: int = 1
    window: int = 64  # characters of one training sequence
    batch: int = 32  # sequences in a step
    epochs: int = 10  # passes over the text
    lr: float = 3e-3  # of Adam
    device: str = "cpu"  # or "cuda"

    def __post_init__(self) -> None:
        check(self, "network", "'gru' or 'transformer'", lambda v: v in ("gru", "transformer"))
        check(self, "units", f"a multiple of {HEADS}, at least {HEADS}", lambda v: v >= HEADS and v % HEADS == 0)
        for name in ("layers", "batch", "epochs"):
            check(self, name, "an int of at least 1", lambda v: v >= 1)
        check(self, "window", "an int of at least 2", lambda v: v >= 2)
        check(self, "lr", "above 0", lambda v: v > 0)

    def fit(
        self,
        documents: Sequence[str],
        *,
        rng: np.random.Generator,
        alphabet: str | None = None,
        progress: Callable[[int, int, CharacterModel], None] | None = None,
    ) -> CharacterModel:
        """Documents in the order given, one behind the other; `alphabet` where the model must know more characters.

        progress(epoch, epochs, the model as it stands) is called behind every epoch.
        """
        if not any(documents):
            raise InputError("A model of text was expected to be trained on text; what was given is empty.")
        tokenizer = Characters(alphabet) if alphabet is not None else Characters.of(documents)
        stream = np.concatenate([np.append(tokenizer.encode(d), 0) for d in documents])
        stream = np.concatenate([[0], stream])  # every document stands behind the end of one
        if len(stream) < self.window + 2:
            raise InputError(
                f"A model of text with window={self.window} was expected to be trained on at least {self.window + 1} "
                f"characters; got {len(stream) - 1}. Give more text, or a smaller window."
            )
        keep_memory()
        with seeded(rng, self.device):
            module = self._network(tokenizer.size).to(self.device)
            self._train(module, torch.from_numpy(stream).to(self.device), tokenizer, rng, progress)
        return self._model(module, tokenizer)

    def _network(self, size: int) -> nn.Module:
        if self.network == "gru":
            return Gru(size, self.units, self.layers)
        return Transformer(size, self.units, self.layers, self.window)

    def _model(self, module: nn.Module, tokenizer: Characters) -> CharacterModel:
        return CharacterModel(module, tokenizer, window=self.window, device=self.device)

    def _train(
        self,
        module: nn.Module,
        stream: Tensor,
        tokenizer: Characters,
        rng: np.random.Generator,
        progress: Callable[[int, int, CharacterModel], None] | None,
    ) -> None:
        """Every epoch cuts the text anew, beginning somewhere in the first window."""
        optimizer = torch.optim.Adam(module.parameters(), self.lr, fused=True)
        most = len(stream) - self.window - 1
        for epoch in range(self.epochs):
            module.train().requires_grad_(True)
            places = np.arange(rng.integers(min(self.window, most + 1)), most + 1, self.window)
            for rows in np.array_split(rng.permutation(places), max(len(places) // self.batch, 1)):
                at = torch.from_numpy(rows[:, None] + np.arange(self.window + 1)).to(self.device)
                codes = stream[at]
                optimizer.zero_grad(set_to_none=True)
                logits = module(codes[:, :-1])[0]
                F.cross_entropy(logits.flatten(0, 1), codes[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
            if progress is not None:
                progress(epoch + 1, self.epochs, self._model(module, tokenizer))
