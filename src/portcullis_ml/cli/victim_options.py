"""The victim, as `audit`, `inspect` and `extract` are told of it: what is attacked, and what its API shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portcullis_ml.cli import options as o
from portcullis_ml.cli.reading_options import LabelOption, PoolRowsOption, RegressionOption, StrictPoolOption

if TYPE_CHECKING:
    from portcullis_ml.bench.endpoint import Endpoint
    from portcullis_ml.bench.experiment import ExperimentSpec

__all__ = ["Api", "Shown", "Victim"]


@dataclass(frozen=True, kw_only=True)
class Victim:
    """What is attacked, the rows that judge and those that a thief has, and how both are read."""

    victim: o.VictimOption = None
    data: o.DataOption = None
    data_folder: o.FolderOption = None
    test: o.TestOption = None
    pool: o.PoolOption = None
    pool_rows: PoolRowsOption = 20_000
    strict_pool: StrictPoolOption = False
    train: o.TrainOption = None
    target: o.TargetOption = None
    text: o.TextOption = None
    schema: o.SchemaOption = None
    softmax: o.SoftmaxOption = False
    classes: o.ClassesOption = None
    output_name: o.OutputOption = None
    regression: RegressionOption = False
    label: LabelOption = None

    def spec(
        self, api: Api, shown: Shown | None = None, *, device: str = "cpu", outside: str | None = None
    ) -> ExperimentSpec:
        """The spec that these options name. Raises InputError for files without a victim."""
        shown = shown or Shown()
        return o.spec_of(
            victim=self.victim, data=self.data, folder=self.data_folder, test=self.test, pool=self.pool,
            pool_rows=self.pool_rows, strict_pool=self.strict_pool, train=self.train, target=self.target,
            text=self.text, schema=self.schema, softmax=self.softmax,
            classes=self.classes, output=self.output_name, regression=self.regression, label=self.label,
            incomplete=shown.incomplete, explain=shown.explain,
            leaves=api.answers == "leaves", device=device, outside=outside,
            endpoint=api.endpoint(self.victim), any_kind=True,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Api:
    """How much the API answers; and how it is asked, where the victim is the address of one."""

    answers: o.AnswersOption = "probs"
    protocol: o.ProtocolOption = "v2"
    model_name: o.ModelNameOption = "model"
    authorized_by: o.AuthorizedOption = None
    api_key: o.ApiKeyOption = None
    per_second: o.PerSecondOption = None

    @property
    def reveals(self) -> str:
        """What an answer shows: a tree that shows the confidence of its leaves shows probabilities."""
        return "probs" if self.answers == "leaves" else self.answers

    def endpoint(self, victim: str | None) -> Endpoint | None:
        """How the API is asked that `victim` is the address of; None where it is no address."""
        return o.endpoint_of(
            victim, answers=self.answers, protocol=self.protocol, model_name=self.model_name,
            authorized_by=self.authorized_by, api_key=self.api_key, per_second=self.per_second,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What else an answer shows, and what a question may lack."""

    k: o.KOption = 1
    decimals: o.DecimalsOption = None
    precision: o.PrecisionOption = None
    incomplete: o.IncompleteOption = False
    explain: o.ExplainOption = None
