"""What a gateway kept is labelled by a person, and becomes a data set."""

import csv
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from evolution.data.command import app
from evolution.data.errors import DataError
from evolution.data.own import own_data
from evolution.data.places import FolderPlace
from evolution.data.stored import card_of, classes_of
from service.samples.places import open_place
from service.samples.writer import Writer
from tests.evolution.data.drawn import SHAPES, encoded, picture
from tests.service.samples.kept import LABELS, sample

README = (Path(__file__).parents[3] / "evolution/data/README.md").read_text()
GIB = 2**30
SURE, DOUBTFUL = (9.0, 0.0, 0.0), (0.2, 0.1, 0.0)


def image(number: int) -> bytes:
    """A picture of the shape number % 3."""
    return encoded(picture(SHAPES[number % 3], number))


def keep(place: Path | str, *samples) -> None:
    """As a gateway does, in one file."""
    writer = Writer(open_place(str(place)), GIB, lambda outcome, n: None)
    writer.start()
    for one in samples:
        writer.offer(one)
    writer.stop()


@pytest.fixture
def munet(place):
    """Runs a command of `munet data`; what it prints."""

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception:
            raise done.exception
        return done.output

    return run


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def commands(heading: str) -> list[str]:
    """Of a section of the README, without their comments."""
    section = re.split(r"^## ", README.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    (block,) = re.findall(r"^```\n(.*?)^```$", section, re.M | re.S)
    return [re.sub(r"\s+# .*", "", line) for line in block.strip().splitlines()]


def test_the_commands_of_the_readme(munet, place, tmp_path, monkeypatch):
    """A person corrects some labels, leaves a picture out, and adds the rest."""
    monkeypatch.chdir(tmp_path)
    serve, label, add, evolve = commands("Pictures that a gateway kept")
    keep("samples", *(sample(image(n), *DOUBTFUL) for n in range(30)))
    assert "MUNET_SAMPLES_TO=samples" in serve
    told = munet(*label.split()[2:])
    assert "30 pictures" in told and add in told.replace("NAME", "photos-2")
    rows = table(tmp_path / "to-label")
    truth = {f"pictures/{path.name}": path for path in (tmp_path / "to-label/pictures").iterdir()}
    number_of = {image(n): n for n in range(30)}
    for row in rows:
        assert row["label"] == "leaves" and row["version"] == "1"
        row["label"] = SHAPES[number_of[truth[row["image"]].read_bytes()] % 3]
    write(tmp_path / "to-label", rows[1:])
    assert "added photos-2" in munet(*add.split()[2:])
    card = card_of(FolderPlace(tmp_path / "sets"), "photos-2")
    assert card is not None and card.check.pictures == 29 and card.left_out == 0
    assert set(classes_of(place, card)) == set(SHAPES)
    data = own_data("photos-2")  # what `munet evolve` reads
    assert data is not None and not data.multi_label
    assert evolve.split()[:3] == ["munet", "evolve", "photos-2"]


def test_the_least_sure_answers_come_first_with_their_probability_and_time(munet, tmp_path):
    keep(
        tmp_path / "kept",
        sample(image(0), *SURE),
        sample(image(1), *DOUBTFUL, version=7),
        sample(image(2), 2.0, 1.0, 0.0),
        sample(image(3), task="another"),
    )
    munet("label", "photos", "--samples", tmp_path / "kept", "--to", tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [float(row["probability"]) for row in rows] == [0.367, 0.665, 1.0]
    assert rows[0]["version"] == "7"
    assert {row["time"] for row in rows} == {
        datetime.fromtimestamp(1.8e9, UTC).isoformat(timespec="seconds")
    }
    first = tmp_path / "out" / rows[0]["image"]
    assert first.read_bytes() == image(1) and first.suffix == ".png"
    assert len(list((tmp_path / "out/pictures").iterdir())) == 3


def test_of_equal_pictures_the_last_answer_counts(munet, tmp_path):
    for time, logits in ((3e8, SURE), (5e8, (0.0, 9.0, 0.0)), (4e8, SURE)):
        keep(tmp_path / "kept", sample(image(0), *logits, time=time))
    munet("label", "photos", "--samples", tmp_path / "kept", "--to", tmp_path / "out")
    assert [row["label"] for row in table(tmp_path / "out")] == [LABELS[1]]


def test_several_labels_are_told_apart_by_a_bar(munet, place, tmp_path):
    several = {"activation": "sigmoid"}
    keep(
        tmp_path / "kept",
        *(sample(image(n), 1.0, n % 2 - 0.5, -1.0, **several) for n in range(20)),
        sample(image(20), -1.0, -1.0, -1.0, **several),
    )
    munet("label", "photos", "--samples", tmp_path / "kept", "--to", tmp_path / "out")
    counts = Counter(row["label"] for row in table(tmp_path / "out"))
    assert counts == {"leaves": 10, "leaves|boards": 10, "": 1}
    munet("add", "tags", "--from", tmp_path / "out", "--allow", "class-without-train")
    card = card_of(place, "tags")
    assert card is not None and card.multi_label and sum(card.check.unlabelled.values()) == 1


def test_answers_that_nobody_corrected_are_added_only_if_that_is_allowed(munet, place, tmp_path):
    keep(tmp_path / "kept", *(sample(image(n), *SURE[n % 3 :], *SURE[: n % 3]) for n in range(30)))
    add = ("add", "own", "--from", "samples:photos", "--samples", tmp_path / "kept")
    with pytest.raises(DataError, match=r"(?s)munet data label photos --to.*--allow uncorrected"):
        munet(*add)
    munet(*add, "--allow", "uncorrected")
    card = card_of(place, "own")
    assert card is not None and card.check.pictures == 30
    assert [one.name for one in card.check.dangers] == ["uncorrected"]
    assert set(classes_of(place, card)) == set(LABELS)
    with pytest.raises(SystemExit):
        munet("check", "own")


def test_the_variable_of_the_gateway_names_the_place(munet, tmp_path, monkeypatch):
    keep(tmp_path / "kept", sample(image(0)))
    monkeypatch.setenv("MUNET_SAMPLES_TO", str(tmp_path / "kept"))
    assert "1 picture," in munet("label", "photos", "--to", tmp_path / "out")


def test_samples_in_a_bucket(munet, s3, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    url = s3.url(f"{tmp_path.name}/kept")
    keep(url, sample(image(0)), sample(image(1)))
    munet("label", "photos", "--samples", url, "--to", tmp_path / "out")
    assert {path.read_bytes() for path in (tmp_path / "out/pictures").iterdir()} == {
        image(0),
        image(1),
    }


def test_a_broken_file_is_named_and_takes_no_other_away(munet, tmp_path):
    keep(tmp_path / "kept", sample(image(0)))
    (whole,) = (tmp_path / "kept").iterdir()
    data = whole.read_bytes()
    (tmp_path / "kept/samples-20200101T000000000Z-000000000000.parquet").write_bytes(data[:-9])
    told = munet("label", "photos", "--samples", tmp_path / "kept", "--to", tmp_path / "out")
    assert "left out, as it cannot be read: samples-20200101" in told and "1 picture," in told


def test_a_name_that_leads_elsewhere_is_not_written_to(munet, tmp_path):
    keep(tmp_path / "kept", sample(image(0)), sample(image(1)))
    (file,) = (tmp_path / "kept").iterdir()
    read = pq.read_table(file)
    rows = read.to_pylist()
    rows[0]["image"]["path"] = "../escaped.png"
    pq.write_table(type(read).from_pylist(rows, read.schema), file)
    munet("label", "photos", "--samples", tmp_path / "kept", "--to", tmp_path / "out")
    assert len(table(tmp_path / "out")) == 1
    assert not (tmp_path / "out/escaped.png").exists()


@pytest.mark.parametrize(
    ("task", "samples", "expected"),
    [
        ("photos", "", "give it with --samples, or set MUNET_SAMPLES_TO"),
        ("photos", "nowhere", "expected a folder of samples, found none"),
        ("pears", "kept", "expected samples of the task pears, found those of photos"),
        ("photos", "empty", "found no samples"),
    ],
)
def test_what_is_missing_is_told(munet, tmp_path, monkeypatch, task, samples, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUNET_SAMPLES_TO", raising=False)
    (tmp_path / "empty").mkdir()
    keep("kept", sample(image(0)))
    with pytest.raises(DataError) as error:
        munet("label", task, "--samples", samples, "--to", "out")
    assert expected in str(error.value) and not Path("out").exists()


def test_a_folder_with_something_in_it_stays_as_it_is(munet, tmp_path):
    keep(tmp_path / "kept", sample(image(0)))
    with pytest.raises(DataError, match="expected an empty folder or none"):
        munet("label", "photos", "--samples", tmp_path / "kept", "--to", tmp_path / "kept")


def test_a_class_that_a_table_cannot_hold_is_named(munet, tmp_path):
    keep(tmp_path / "kept", sample(image(0), 1.0, labels=("a|b",)))
    with pytest.raises(DataError, match=r"class 'a\|b': expected names without"):
        munet("label", "photos", "--samples", tmp_path / "kept", "--to", tmp_path / "out")
