"""Ways in which whoever trains a model can hide the training data in it: each hides bytes, and reads them again."""

from portcullis_ml.catalog import Catalog

__all__ = ["CATALOG"]

CATALOG = Catalog(
    "hidden_data",
    {
        "correlated_values": "portcullis_ml.hidden_data.correlated_values:CorrelatedValues",
        "label_capacity": "portcullis_ml.hidden_data.label_capacity:LabelCapacity",
        "low_bits": "portcullis_ml.hidden_data.low_bits:LowBits",
        "signs": "portcullis_ml.hidden_data.signs:Signs",
    },
)
