"""An example of a record."""

from topgap_nb.results.records import Record

RECORD = Record(
    notebook="02_training",
    table="6",
    quantity="topgap_accuracy",
    value=0.9512345678,
    low=0.9321,
    high=0.9654,
    n=624,
    n_trainings=3,
    profile="smoke",
    settings={"dataset": "pneumonia", "architecture": "EfficientNet-Lite0", "k": 64},
    hardware="CPU, one, 2 cores",
    versions={"torch": "2.1"},
)
