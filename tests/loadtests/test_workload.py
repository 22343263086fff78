"""Laws of the workload: shares, arrival times, seeds, bounds on what may be asked for."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtests import workload
from loadtests.errors import OptionError
from loadtests.workload import Load, Popularity

TASKS = tuple(f"task/{index}" for index in range(8))
POPULARITIES = ("identical", "distinct", "uniform", "zipf:0.5", "zipf:1.1", "zipf:3")


def load(**options) -> Load:
    """A valid load, but for what `options` change."""
    values = {"url": "http://127.0.0.1:3000", "rate": 100, "seconds": 60, "popularity": "uniform"}
    values |= options
    values["popularity"] = Popularity.parse(values["popularity"])
    return Load(**values)


def arrivals(seed: int = 0, **options) -> list[workload.Arrival]:
    return workload.schedule(np.random.default_rng(seed), load(**options), TASKS, images=5)


@pytest.mark.parametrize("text", POPULARITIES)
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_shares_are_ranked_and_sum_to_one(text: str, count: int) -> None:
    shares = workload.probabilities(Popularity.parse(text), count)
    assert shares.shape == (count,)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all() and (shares >= 0).all()


def test_zipf_shares_fall_with_the_power_of_the_rank() -> None:
    shares = workload.probabilities(Popularity.parse("zipf:2"), 3)
    assert shares == pytest.approx(np.array([36, 9, 4]) / 49)


@pytest.mark.parametrize("text", POPULARITIES)
def test_tasks_are_asked_for_according_to_their_shares(text: str) -> None:
    sent = arrivals(popularity=text)
    shares = workload.probabilities(Popularity.parse(text), len(TASKS))
    counts = np.array([sum(one.task == task for one in sent) for task in TASKS])
    spread = np.sqrt(len(sent) * shares * (1 - shares))
    assert (abs(counts - len(sent) * shares) <= 5 * spread + 1).all()


def test_distinct_never_repeats_a_task_before_all_had_their_turn() -> None:
    sent = [one.task for one in arrivals(popularity="distinct")]
    assert all(len(set(sent[at : at + 8])) == 8 for at in range(len(sent) - 8))


def test_arrivals_are_a_poisson_process_inside_the_horizon() -> None:
    times = np.array([one.time_s for one in arrivals()])
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0 and times[-1] < 60
    # 6,000 expected: both bounds are about five standard deviations away.
    assert len(times) == pytest.approx(6000, abs=400)
    gaps = np.diff(times)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.07)


def test_images_are_all_used() -> None:
    assert {one.image for one in arrivals()} == set(range(5))


def test_the_seed_decides_everything() -> None:
    assert arrivals(seed=3, popularity="zipf:1.1") == arrivals(seed=3, popularity="zipf:1.1")
    assert arrivals(seed=3) != arrivals(seed=4)
    first, again, other = (
        workload.pictures(None, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_synthetic_images_are_different_valid_pngs() -> None:
    made = workload.pictures(None, np.random.default_rng(0))
    assert len({picture.data for picture in made}) == workload.SYNTHETIC_IMAGES
    with Image.open(io.BytesIO(made[0].data)) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")


def test_a_folder_is_read_with_its_subfolders_and_nothing_but_images(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.png", "b/a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    made = workload.pictures(tmp_path, np.random.default_rng(0))
    assert [(one.data, one.content_type) for one in made] == [
        (b"b/a.JPG", "image/jpeg"),
        (b"z.png", "image/png"),
    ]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="found none"):
        workload.pictures(tmp_path, np.random.default_rng(0))


@pytest.mark.parametrize("text", POPULARITIES)
def test_popularity_reads_what_it_writes(text: str) -> None:
    assert str(Popularity.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:nan", "zipf:inf", "uniform:2", "even"]
)
def test_other_popularities_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="popularity"):
        Popularity.parse(text)


@pytest.mark.parametrize(
    "url",
    ["http://localhost:3000", "http://127.8.9.1:80/", "http://[::1]:3000", "http://127.0.0.1"],
)
def test_loopback_hosts_are_accepted(url: str) -> None:
    assert load(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:3000",
        "http://0.0.0.0:3000",
        "http://example.org",
        "http://localhost.example.org",
        "http://127.0.0.1@192.0.2.1/",
        "http://127.0.0.1:99999",
        "http://[::1",
        "https://127.0.0.1",
        "127.0.0.1:3000",
        "",
    ],
)
def test_other_hosts_are_refused(url: str) -> None:
    with pytest.raises(OptionError, match="loopback"):
        load(url=url)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"seconds": -1},
        {"seconds": 3601},
        {"rate": 1e6, "seconds": 2},
        {"deadline_ms": 0},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="checking options"):
        load(**options)
