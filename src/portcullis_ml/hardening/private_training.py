"""Private training: a victim whose weights say little about any one of its training rows. No defense against theft.

Abadi et al. "Deep Learning with Differential Privacy", CCS 2016, the section on the SGD algorithm (DP-SGD) and the
accounting of its privacy. Opacus does both; it comes with the extra `private`.

Threat model   whoever asks the model, or holds it, wants to know whether a row was among those that it was trained on.
               Nobody can be much surer of that than without the answers: by a factor of e^epsilon, but for delta.
Does not stop  extraction. It hides rows, not the function: a model that has learned nothing is perfectly private, and
               copied with a few questions (Tramer et al., USENIX Security 2016, the section on differential privacy).
               Where a copy agrees with it less, that is because it is worse itself.
Cost           a training in which every row's gradient is cut and noise is added: accuracy, the more so the fewer rows
               there are. Serving it costs nothing.

(epsilon, delta) hold for one training, for rows that are drawn at random for each step, and for an attacker who does
not know the noise: train with a seed that nobody guesses. What was spent is in the artifact's notes. Inputs are not
brought to one scale, since that would read the rows without accounting for it: give rows that lie about 0 to 1. Every
choice of settings by the accuracy on the same rows tells something more that is not accounted for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from portcullis_ml.core.errors import InputError, MissingExtra, NotApplicable
from portcullis_ml.core.recipes import Hardening
from portcullis_ml.core.settings import check
from portcullis_ml.core.types import Array, Learner, Model, Rows
from portcullis_ml.hardening._given import network_learner, several_classes

__all__ = ["PrivateTraining"]


@dataclass(frozen=True, kw_only=True)
class PrivateTraining(Hardening):
    epsilon: float = 8.0  # privacy spent in all; less hides rows better and costs more accuracy
    delta: float = 1e-5  # the probability that is left out; well below 1 / rows
    clip: float = 1.0  # the norm to which every row's gradient is cut
    lr: float = 0.1  # the step of SGD with momentum 0.9

    name: ClassVar[str] = "private_training"
    needs_outside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self, "epsilon", "a number above 0", lambda v: 0 < v < np.inf)
        check(self, "delta", "in (0, 0.1)", lambda v: 0 < v < 0.1)
        check(self, "clip", "a number above 0", lambda v: 0 < v < np.inf)
        check(self, "lr", "a number above 0", lambda v: 0 < v < np.inf)

    def fit(
        self,
        given: Learner,
        rows: Rows,
        outside: Array | None,
        *,
        rng: np.random.Generator,
        watch: Callable[[int, int], None],
    ) -> Model:
        """A TorchModel of the learner's network, after its epochs and with its batch; `notes` say what was spent."""
        from portcullis_ml.models.networks import build_network
        from portcullis_ml.models.torch import TorchModel
        from portcullis_ml.models.training import seeded

        classes, given = several_classes(self.name, rows), network_learner(self.name, given)
        shape = tuple(rows.x.shape[1:])
        with seeded(rng, "cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of random numbers that are not those of a cryptographer, among others
            module = build_network(given.network, shape, classes, dropout=given.dropout).train()
            spent = self._train(module, rows, given, rng, watch)
            found = TorchModel(module, shape, classes, network=given.network)
        found.notes = spent  # type: ignore[attr-defined]
        return found

    def _train(
        self, module: Any, rows: Rows, given: Any, rng: np.random.Generator, watch: Callable[[int, int], None]
    ) -> dict[str, float]:
        """Train the module in place. Returns what was spent."""
        import torch
        from torch.nn import functional as F

        x, y = torch.tensor(rows.x, dtype=torch.float32), torch.tensor(np.asarray(rows.y, np.int64))
        draws, noise = (torch.Generator().manual_seed(int(rng.integers(2**63))) for _ in range(2))
        data = torch.utils.data.TensorDataset(x, y)
        engine, private, optimizer, batches = self._made_private(
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), self.lr, momentum=0.9),
            data_loader=torch.utils.data.DataLoader(data, batch_size=min(given.batch, len(x)), generator=draws),
            epochs=given.epochs,
            noise_generator=noise,
        )
        for epoch in range(given.epochs):
            for part, right in batches:
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(private(part), right).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            watch(epoch + 1, given.epochs)
        private.remove_hooks()
        spent = {"epsilon": float(engine.get_epsilon(self.delta)), "delta": self.delta}
        return {**spent, "noise_multiplier": float(optimizer.noise_multiplier)}

    def _made_private(self, *, module: Any, epochs: int, **parts: Any) -> tuple[Any, Any, Any, Any]:
        """The accountant, and Opacus' module, optimizer and batches. MissingExtra, NotApplicable or InputError."""
        try:
            from opacus import PrivacyEngine
            from opacus.validators import ModuleValidator
        except ModuleNotFoundError as error:
            raise MissingExtra("private_training", "opacus", extra="private") from error
        if faults := ModuleValidator.validate(module, strict=False):
            fault = " ".join(str(faults[0]).split())
            raise NotApplicable(f"private_training needs a network whose rows do not meet in a batch: {fault}")
        engine = PrivacyEngine(accountant="rdp")
        try:
            made = engine.make_private_with_epsilon(
                module=module,
                target_epsilon=self.epsilon,
                target_delta=self.delta,
                epochs=epochs,
                max_grad_norm=self.clip,
                **parts,
            )
        except ValueError as error:  # no noise is large enough
            raise InputError(
                f"private_training cannot reach epsilon {self.epsilon:g} with these rows in {epochs} epochs ({error}). "
                "Allow more, or train on more rows or for fewer epochs."
            ) from error
        return (engine, *made)
