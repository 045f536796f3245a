"""Small models of text trained with differential privacy: what they may remember of one document is bounded.

Abadi et al. "Deep Learning with Differential Privacy", CCS 2016, the algorithm DP-SGD. Every document's gradient is cut
to one norm, the gradients of the documents drawn for a step are added up with noise, and Opacus' accountant says what
that spends.

The unit is one document: (epsilon, delta) bound what the weights tell of a document that stands once in the text. One
that stands k times is k documents, and protected k times less. They hold for an attacker who does not know the noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portcullis_ml.core.errors import InputError, MissingExtra, ParameterError
from portcullis_ml.core.settings import check
from portcullis_ml.models.characters import CharacterLearner, CharacterModel, Gru
from portcullis_ml.models.sequences import Characters
from portcullis_ml.models.torch_model import keep_memory
from portcullis_ml.models.training import seeded

try:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise MissingExtra("A private model of text", "torch") from error

__all__ = ["PrivateCharacterLearner", "document_gradients"]

CHUNK = 64  # documents whose gradients are held at a time


@dataclass(frozen=True, kw_only=True)
class PrivateCharacterLearner(CharacterLearner):
    """Trains a GRU of one layer document by document; `batch` is how many documents a step draws on average."""

    batch: int = 64
    epsilon: float | None = 8.0  # privacy spent in all; None adds no noise
    delta: float = 1e-4  # the probability that is left out; below 1 / documents
    clip: float | None = 1.0  # the norm to which every document's gradient is cut; None cuts nothing
    longest: int = 200  # characters of a document that are learnt; the rest is left out

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "epsilon", "above 0, or None", lambda v: v is None or v > 0)
        check(self, "clip", "above 0, or None", lambda v: v is None or v > 0)
        check(self, "delta", "in (0, 0.1)", lambda v: 0 < v < 0.1)
        check(self, "longest", "an int of at least 2", lambda v: v >= 2)
        if self.network != "gru" or self.layers != 1:
            raise ParameterError(
                "network", "a GRU of one layer, where documents are trained on privately", self.network
            )
        if self.epsilon is not None and self.clip is None:
            raise ParameterError("clip", "a norm where epsilon bounds what is spent", None)

    def fit(
        self,
        documents: Sequence[str],
        *,
        rng: np.random.Generator,
        alphabet: str | None = None,
        progress: Callable[[int, int, CharacterModel], None] | None = None,
    ) -> CharacterModel:
        """As `CharacterLearner.fit`. The characters of the text are not hidden: name an alphabet that is no secret."""
        if not any(documents):
            raise InputError("A model of text was expected to be trained on text; what was given is empty.")
        tokenizer = Characters(alphabet) if alphabet is not None else Characters.of(documents)
        codes, lengths = padded([tokenizer.encode(d[: self.longest]) for d in documents])
        rate = min(self.batch / len(documents), 1.0)
        steps = max(math.ceil(1 / rate), 1)
        noise = 0.0 if self.epsilon is None else noise_for(self.epsilon, self.delta, rate, steps * self.epochs)
        keep_memory()
        with seeded(rng, "cpu"):
            module = Gru(tokenizer.size, self.units, 1)
            optimizer = torch.optim.Adam(module.parameters(), self.lr)
            for epoch in range(self.epochs):
                for _ in range(steps):
                    drawn = np.flatnonzero(rng.random(len(documents)) < rate)
                    module.requires_grad_(True)
                    self._step(module, optimizer, codes[drawn], lengths[drawn], noise)
                if progress is not None:
                    progress(epoch + 1, self.epochs, self._model(module, tokenizer))
        return self._model(module, tokenizer)

    def _step(self, module: Gru, optimizer: Any, codes: Tensor, lengths: Tensor, noise: float) -> None:
        """One step: documents' gradients cut and added up, noise, and the mean over `batch` documents."""
        total = [torch.zeros_like(p) for p in module.parameters()]
        for start in range(0, len(codes), CHUNK):
            rows = slice(start, start + CHUNK)
            each = document_gradients(module, codes[rows, : int(lengths[rows].max())], lengths[rows])
            norms = torch.stack([g.flatten(1).square().sum(1) for g in each]).sum(0).sqrt()
            weight = torch.ones_like(norms) if self.clip is None else (self.clip / norms).clamp(max=1.0)
            for part, g in zip(total, each, strict=True):
                part += torch.einsum("b,b...->...", weight, g)
        for parameter, part in zip(module.parameters(), total, strict=True):
            if noise:
                part += noise * (self.clip or 0.0) * torch.randn_like(part)
            parameter.grad = part / self.batch
        optimizer.step()


def padded(rows: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Codes (n, t) behind and before the end of a document, filled with zeros; and how many of each count."""
    longest = max(map(len, rows)) + 2
    codes = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        codes[i, 1 : len(row) + 1] = row
    return torch.from_numpy(codes), torch.tensor([len(row) + 2 for row in rows])


def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise over the clipping norm with which so many steps spend (epsilon, delta), as Opacus accounts for it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from opacus.accountants.utils import get_noise_multiplier

            return float(
                get_noise_multiplier(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp"
                )
            )
    except ModuleNotFoundError as error:
        raise MissingExtra("A private model of text", "opacus", extra="private") from error
    except ValueError as error:  # no noise is large enough
        raise InputError(
            f"Privacy of epsilon {epsilon:g} cannot be reached in {steps:,} steps ({error}). Allow more, or train less."
        ) from error


def document_gradients(module: Gru, codes: Tensor, lengths: Tensor) -> list[Tensor]:
    """For each parameter (n, *its shape): the gradient of every document's mean loss a character.

    One pass over all documents gives the gradients at the inputs of every linear map, character by character; what a
    document adds to a matrix is their product with what went in, summed over its characters.
    """
    gru: Any = module.gru
    size = module.head.out_features
    weights = [w.detach() for w in (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)]
    inputs, goals = codes[:, :-1], codes[:, 1:]
    n, t = inputs.shape
    embedded = F.embedding(inputs, module.embedding.weight.detach())  # (n, t, units)
    from_input = (embedded @ weights[0].T + weights[2]).requires_grad_()  # (n, t, 3 units)
    state, states, from_state = torch.zeros(n, gru.hidden_size), [], []
    for i in range(t):
        states.append(state)
        from_state.append(state @ weights[1].T + weights[3])
        if not from_state[-1].requires_grad:
            from_state[-1].requires_grad_()  # the first, in front of which no gradient goes
        (reset, update, new), (reset_s, update_s, new_s) = from_input[:, i].chunk(3, 1), from_state[-1].chunk(3, 1)
        gate = torch.sigmoid(update + update_s)
        state = (1 - gate) * torch.tanh(new + torch.sigmoid(reset + reset_s) * new_s) + gate * state
    outs = torch.stack([*states[1:], state], 1)
    logits = outs @ module.head.weight.detach().T + module.head.bias.detach()
    losses = F.cross_entropy(logits.transpose(1, 2), goals, reduction="none")
    counts = torch.arange(t) < (lengths - 1)[:, None]
    total = ((losses * counts).sum(1) / (lengths - 1)).sum()
    at_logits, at_input, *at_state = torch.autograd.grad(total, [logits, from_input, *from_state])
    at_states, before = torch.stack(at_state, 1), torch.stack(states, 1).detach()
    chosen = F.one_hot(inputs, size).float()
    return [
        chosen.transpose(1, 2) @ (at_input @ weights[0]),
        at_input.transpose(1, 2) @ embedded,
        at_states.transpose(1, 2) @ before,
        at_input.sum(1),
        at_states.sum(1),
        at_logits.transpose(1, 2) @ outs.detach(),
        at_logits.sum(1),
    ]
