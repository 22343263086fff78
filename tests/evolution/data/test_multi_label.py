"""Sets whose pictures have any number of labels: from every kind of table, split, checked, kept."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evolution.data.adding import Request, add
from evolution.data.check import check
from evolution.data.errors import DataError
from evolution.data.own import own_data
from evolution.data.parquet_layout import METADATA, classes_in
from evolution.data.picture_facts import Facts
from evolution.data.printing import print_card
from evolution.data.rows import SPLITS
from evolution.data.splitting import drawn, split_up
from evolution.data.staging import Seen
from evolution.data.stored import Pictures, classes_of
from evolution.data.tasks import load
from tests.evolution.data.drawn import SHAPES, encoded, picture
from vit.activation import SIGMOID

LABELS = ("disc", "square", "cross")
COUNT = 36


def several(count: int = COUNT) -> list[tuple[bytes, list[str]]]:
    """Pictures that differ, with none to three labels each."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        labels = [name for name in LABELS if rng.random() < 0.4]
        found.append((encoded(picture(SHAPES[i % 3], i)), labels))
    return found


def written(folder, pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for i, (data, _) in enumerate(pictures):
        (folder / f"{i:02}.png").write_bytes(data)
    return folder


def as_json_lines(folder, pictures):
    lines = [
        json.dumps({"image": f"{i:02}.png", "labels": labels})
        for i, (_, labels) in enumerate(pictures)
    ]
    (written(folder, pictures) / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def as_csv(folder, pictures):
    lines = [f"{i:02}.png,{'|'.join(labels)}" for i, (_, labels) in enumerate(pictures)]
    (written(folder, pictures) / "t.csv").write_text("\n".join(["image,label", *lines]))
    return folder / "t.csv"


def as_blank_csv(folder, pictures):
    lines = [f"{i:02}.png,{' | '.join(labels)}" for i, (_, labels) in enumerate(pictures)]
    (written(folder, pictures) / "t.tsv").write_text(
        "\n".join(["image\tlabel", *lines]).replace(",", "\t")
    )
    return folder / "t.tsv"


def as_parquet(folder, pictures, **how):
    folder.mkdir(exist_ok=True)
    columns = {"image": [data for data, _ in pictures], "label": [labels for _, labels in pictures]}
    pq.write_table(pa.table(columns, **how), folder / "t.parquet")
    return folder / "t.parquet"


def hub_features(label):
    told = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    return {METADATA: json.dumps(told).encode()}


CLASS_LABEL = {"names": sorted(LABELS), "_type": "ClassLabel"}
FORMS = (
    {"feature": CLASS_LABEL, "_type": "Sequence"},
    {"feature": CLASS_LABEL, "length": -1, "_type": "List"},
    [CLASS_LABEL],
)


def as_hub(folder, pictures, form=FORMS[1]):
    (folder / "data").mkdir(parents=True)
    numbered = [(d, [sorted(LABELS).index(label) for label in ls]) for d, ls in pictures]
    images = [{"bytes": data, "path": None} for data, _ in numbered]
    table = pa.table({"image": images, "label": [ls for _, ls in numbered]})
    pq.write_table(
        table.replace_schema_metadata(hub_features(form)),
        folder / "data/train-00000-of-00001.parquet",
    )
    return folder


WAYS = (as_json_lines, as_csv, as_blank_csv, as_parquet, as_hub)


def kept(place, card):
    """What is stored: picture -> names of its labels."""
    names = classes_of(place, card)
    return {
        data: {names[label] for label in labels}
        for split in SPLITS
        for data, labels in Pictures(place, card.name, card.files[split]).each()
    }


def test_labels_come_in_by_every_kind_of_table(added, place, tmp_path):
    pictures, prints = several(), set()
    for way in WAYS:
        card = added(way.__name__, way(tmp_path / way.__name__, pictures))
        assert classes_of(place, card) == tuple(sorted(LABELS))
        assert kept(place, card) == {data: set(labels) for data, labels in pictures}
        assert card.multi_label and card.check.multi_label
        prints.add(card.fingerprint)
    assert len(prints) == 1, "the same pictures with the same labels are the same set"


@pytest.mark.parametrize("form", FORMS, ids=["Sequence", "List", "list"])
def test_names_of_classes_in_lists_are_read_in_all_forms_that_the_hub_has_had(form):
    schema = pa.schema({"label": pa.list_(pa.int64())}, metadata=hub_features(form))
    assert classes_in(schema, "label") == tuple(sorted(LABELS))


def test_a_set_is_stored_as_the_hub_has_it_and_can_be_added_from_there(added, place, tmp_path):
    card = added("tags", as_json_lines(tmp_path / "t", several()))
    table = pq.read_table(place.root / "tags/data/train-00000-of-00001.parquet")
    assert table.schema.field("label").type == pa.list_(pa.int64())
    told = json.loads(table.schema.metadata[METADATA])["info"]["features"]["label"]
    assert told == {"feature": CLASS_LABEL, "_type": "Sequence"}
    again = added("again", place.root / "tags")
    assert again.fingerprint == card.fingerprint and again.check.counts == card.check.counts


@pytest.mark.parametrize(("texts", "multi_label"), [
    (["a", "b"], False), (["a|b", "b"], True), (["a", "b", "a |b"], True), (["a|", ""], True),
    (["a b", "a;b"], False),
])  # fmt: skip
def test_texts_are_lists_where_one_of_them_has_a_bar(place, tmp_path, texts, multi_label):
    pictures = several(24)
    rows = [(data, [texts[i % len(texts)]]) for i, (data, _) in enumerate(pictures)]
    card, _, _, notes = add(Request("set", str(as_csv(tmp_path / "t", rows))), place)
    assert card.multi_label == multi_label
    assert any("with | in them" in note for note in notes) == multi_label


def test_texts_of_one_split_may_be_lists_in_another_only(added, place, tmp_path):
    for first, (split, texts) in enumerate(
        (("train", ["disc", "cross"]), ("test", ["disc|cross", ""]), ("validation", ["cross", ""]))
    ):
        pictures = [(encoded(picture("disc", 20 * first + i)), [texts[i % 2]]) for i in range(8)]
        as_csv(tmp_path / "t" / split, pictures)
    card = added("set", tmp_path / "t")
    assert card.multi_label and classes_of(place, card) == ("cross", "disc")
    assert card.check.counts == {"train": [4, 4], "validation": [4, 0], "test": [4, 4]}
    assert card.check.unlabelled == {"train": 0, "validation": 4, "test": 4}


def test_a_label_that_is_given_twice_counts_once_and_empty_ones_not(added, place, tmp_path):
    pictures = [(data, ["disc", "", "disc", "cross"] if i % 2 else [""])
                for i, (data, _) in enumerate(several(24))]  # fmt: skip
    card = added("set", as_csv(tmp_path / "t", pictures))
    assert Counter(map(len, kept(place, card).values())) == {0: 12, 2: 12}
    assert sum(map(sum, card.check.counts.values())) == 24


def test_without_several_labels_a_picture_without_any_cannot_be_used(added, tmp_path):
    pictures = [(data, ["disc" if i % 2 else "cross"]) for i, (data, _) in enumerate(several(24))]
    pictures[-1] = pictures[-1][0], []
    card = added("set", as_csv(tmp_path / "t", pictures), max_bad=0.1)
    assert not card.multi_label
    assert card.left_out_names == ["23.png: no class"]


@pytest.mark.parametrize("label", [{"a": 1}, [["a"]], [1.5], [None]])
def test_what_is_no_label_is_named(added, tmp_path, label):
    rows = [(data, labels) for data, labels in several(24)]
    source = as_json_lines(tmp_path / "t", [*rows, (encoded(picture("disc", 99)), label)])
    with pytest.raises(DataError, match=r"24.png: no class: expected a text or a whole number"):
        added("set", source)


def seen_of(labels) -> Seen:
    """Pictures that all differ, with these labels."""
    seen = Seen()
    for i, own in enumerate(labels):
        facts = Facts(8, 8, "PNG", "RGB", False, False, False, i, bytes(192))
        seen.add(str(i).encode(), facts, own, None)
    return seen


def sides(labels, seed=0):
    seen = seen_of(labels)
    groups = np.arange(len(seen))
    return seen, split_up(seen, groups, drawn(seen, seed))


@given(
    st.lists(st.frozensets(st.integers(0, 4), max_size=4).map(sorted), min_size=1, max_size=60),
    st.integers(0, 5),
)
@example([[1, 2], [1, 3, 4], [2, 3, 4], [4], [1, 2, 3, 4]], 3)
@example([[], [0, 4], [0, 3], [2, 4], [0, 1, 3, 4], [2], [0, 1, 3], [0, 1, 2]], 0)
@settings(max_examples=200, deadline=None)
def test_no_label_is_taken_from_training_and_none_takes_more_than_it_needs(labels, seed):
    _, splits = sides(labels, seed)
    for label in range(5):
        own = splits[[label in of for of in labels]]
        if len(own):
            assert 0 in own, "something is left to train on"
            for made in (1, 2):
                assert np.count_nonzero(own == made) <= max(len(own) / 2, 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chance", [0.02, 0.1, 0.5])
def test_every_label_has_examples_on_each_side_where_the_numbers_allow(seed, chance):
    rng = np.random.default_rng(seed)
    labels = [[i for i in range(20) if rng.random() < chance] for _ in range(400)]
    _, splits = sides(labels, seed)
    for label in range(20):
        own = splits[[label in of for of in labels]]
        if len(own) >= 3:
            assert set(own.tolist()) == {0, 1, 2}
        if len(own) >= 20:
            shares = np.bincount(own, minlength=3) / len(own)
            assert 0.1 < shares[1] < 0.35 and 0.1 < shares[2] < 0.35, "about a fifth each"
    without = splits[[not of for of in labels]]
    assert len(without) < 10 or set(without.tolist()) == {0, 1, 2}


def test_a_check_counts_positives_of_each_label_and_pictures_without_any(added, place, tmp_path):
    pictures = several()
    card = added("tags", as_json_lines(tmp_path / "t", pictures))
    report, names = card.check, classes_of(place, card)
    assert report.pictures == COUNT == sum(map(report.in_split, SPLITS))
    for number, name in enumerate(names):
        found = sum(report.counts[split][number] for split in SPLITS)
        assert found == sum(name in labels for _, labels in pictures)
    assert sum(report.unlabelled.values()) == sum(not labels for _, labels in pictures) > 0
    tested = [n / report.in_split("test") for n in report.counts["test"] if n]
    assert report.majority == pytest.approx(np.mean(tested), abs=1e-4)
    assert report.dangers == [] and report.intervals == {}


def checked(labels, classes):
    seen, splits = sides(labels)
    report = check(seen, splits, np.arange(len(seen)), classes, multi_label=True)
    return {finding.name for finding in report.dangers}, report


def test_findings_of_sets_with_several_labels():
    assert checked([[0], []] * 10, ("a",))[0] == set(), "one label that some have is a task"
    assert "one-class" in checked([[0, 1]] * 20, ("a", "b"))[0]
    assert "one-class" in checked([[]] * 20, ("a", "b"))[0]
    assert "class-without-train" in checked([[0], [1], []] * 8, ("a", "b", "c"))[0]
    names, report = checked([[0], [1], [2]] * 8 + [[3]], ("a", "b", "c", "d"))
    assert names == set()
    assert {"class-without-test", "class-without-validation"} <= {f.name for f in report.findings}
    assert "many-classes" in checked([[i] for i in range(20)], tuple(map(str, range(20))))[0]


def test_what_a_user_sees_is_in_words_of_labels(added, place, tmp_path, capsys):
    from rich.console import Console

    card = added("tags", as_csv(tmp_path / "t", several()))
    print_card(Console(width=100, highlight=False), card, classes_of(place, card))
    told = capsys.readouterr().out
    assert "36 of 3 labels" in told and "without label" in told and "class" not in told


def test_a_set_becomes_a_task_with_sigmoids(added, place, tmp_path):
    pictures = several()
    card = added("tags", as_json_lines(tmp_path / "t", pictures), licence="CC0")
    task = load("tags", ())
    assert task.activation == SIGMOID and task.labels == classes_of(place, card)
    known = {data: labels for data, labels in pictures}
    for split in (task.train, task.validation, task.test):
        rows = np.arange(len(split))
        _, labels = split.evaluation_inputs(rows, 8)
        assert labels.dtype == np.uint8 and labels.shape == (len(split), 3)
        own = own_data("tags")
        assert own is not None
        records = own.examples[split.name].encoded(rows)
        for row, record in zip(labels, records, strict=True):
            data = own.examples[split.name].parse(record)["image"]
            assert {task.labels[i] for i in np.flatnonzero(row)} == set(known[data])
        assert split.positives(len(split)) == labels.sum(0).tolist()
        assert split.positives(len(split)) == card.check.counts[split.name]
    assert task.data is not None
    told = dict(task.data)
    assert told["constant_mean_average_precision"] == card.check.majority
    assert told["pictures"] == {split: card.check.in_split(split) for split in SPLITS}
    assert told["unlabelled"] == card.check.unlabelled
    assert "majority_accuracy" not in told and "interval_95" not in told


def test_the_hubs_library_opens_a_set_and_gives_what_it_holds(added, place, tmp_path):
    datasets = pytest.importorskip("datasets")
    card = added("tags", as_json_lines(tmp_path / "t", several()))
    opened = datasets.load_dataset(str(place.root / "tags"), cache_dir=str(tmp_path / "cache"))
    assert opened["train"].features["label"].feature.names == sorted(LABELS)
    stored = Pictures(place, "tags", card.files["train"])
    assert opened["train"]["label"][:] == [list(labels) for _, labels in stored.each()]
    opened.save_to_disk(str(tmp_path / "saved"))
    again = added("again", f"hf:{tmp_path / 'saved'}")
    assert again.multi_label and again.fingerprint == card.fingerprint
    texts = opened.map(
        lambda row: {"label": "|".join(sorted(LABELS)[i] for i in row["label"])},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    texts.save_to_disk(str(tmp_path / "texts"))
    assert added("texts", f"hf:{tmp_path / 'texts'}").fingerprint == card.fingerprint
