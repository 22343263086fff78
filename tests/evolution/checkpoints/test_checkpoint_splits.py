"""The splits that imported accuracies are said to have been measured on."""

import pytest

from evolution.checkpoints import import_state
from evolution.checkpoints.versions import splits_of
from model_store import ModelStore
from tests.evolution.published_states import write_mu2net


@pytest.mark.parametrize(
    ("task", "validation", "test"),
    [
        ("cmaterdb/bangla", "train[:20%]", "test"),
        ("cifar10", "test", "test"),
        ("imagenet_a", "test[5%:10%]", "test[:5%]"),
        ("emnist/digits", None, None),  # by the default rule: as the data set has them
        ("svhn_cropped", "train[90%:]", "test"),
        ("smallnorb/label_azimuth", "test[:50%]", "test[50%:]"),
        ("eurosat", "train[60%:80%]", "train[80%:]"),
        ("clevr/count_all", "train[90%:]", "validation"),
        ("kitti/count_vehicles/1k", "validation[:200]", "test"),
        ("smallnorb/label_azimuth/1k", "test[:200]", "test[50%:]"),
        # The first 200 of the last tenth: no expression without the size of `train`.
        ("cifar10/1k", None, "test"),
    ],
)
def test_splits_are_told_where_the_name_of_the_task_tells_them(task, validation, test):
    found = splits_of(task)
    assert (found.get("validation"), found.get("test")) == (validation, test)


def test_versions_have_their_splits(tmp_path):
    state = write_mu2net(tmp_path / "state_3_0", task_name="cmaterdb/bangla")
    store = ModelStore(tmp_path / "store", create=True)
    import_state(state, store, progress=lambda done, total: None)
    assert store.resolve("cmaterdb/bangla").path.metrics == {
        "validation": {"accuracy": 0.6, "split": "train[:20%]"},
        "test": {"accuracy": 0.5, "split": "test"},
    }
    assert store.resolve("toy/a").path.metrics["validation"] == {"accuracy": 0.75}
