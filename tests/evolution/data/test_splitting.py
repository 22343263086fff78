"""Laws of splits that are made, and of what counts as the same picture."""

import hashlib
from collections import Counter, defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from evolution.data.duplicates import groups_of
from evolution.data.picture_facts import facts_of
from evolution.data.splitting import TEST, TRAIN, VALIDATION, drawn, missing, share, split_up
from evolution.data.staging import NO_SPLIT, Seen
from tests.evolution.data.drawn import SHAPES, encoded, picture

few = settings(max_examples=40)
# What each picture of a set is: its class, what it shows, and the split that its source gives.
PICTURES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(-1, 2)), min_size=1
)
UNSAID = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 200)), min_size=1, max_size=200)


def seen_of(labels, splits, names) -> Seen:
    """Pictures of which only these are known; equal names are equal bytes."""
    seen = Seen()
    for label, split, name in zip(labels, splits, names, strict=True):
        seen.labels.append(label)
        seen.ends.append(len(seen.labels))
        seen.splits.append(split)
        seen.digests += hashlib.sha256(repr(name).encode()).digest()
    return seen


def firsts(shows) -> np.ndarray:
    """The number of the first that shows the same."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(show, row) for row, show in enumerate(shows)])


def made(labels, shows, splits=None, seed=0, names=None) -> np.ndarray:
    """The split of each picture."""
    splits = [NO_SPLIT] * len(labels) if splits is None else splits
    seen = seen_of(labels, splits, range(len(labels)) if names is None else names)
    return split_up(seen, firsts(shows), drawn(seen, seed))


@few
@given(PICTURES)
def test_a_given_split_is_kept_and_what_shows_the_same_stays_on_one_side(pictures):
    labels, shows, splits = map(list, zip(*pictures, strict=True))
    found = made(labels, shows, splits)
    wanted = missing(seen_of(labels, splits, shows))
    sides = defaultdict(set)
    for given_split, split, show in zip(splits, found.tolist(), shows, strict=True):
        assert split in (TRAIN, VALIDATION, TEST)
        if given_split in (VALIDATION, TEST):
            assert split == given_split
        elif given_split == TRAIN:
            assert split == TRAIN or split in wanted
        if given_split == NO_SPLIT or (given_split == TRAIN and split != TRAIN):
            sides[show].add(split)
    for show, chosen in sides.items():
        homes = {s for s, other in zip(splits, shows, strict=True) if other == show and s > TRAIN}
        assert len(chosen) == 1, "on one side"
        assert not homes or chosen <= homes, "on the side of what the source gives"


@few
@given(UNSAID, st.integers(0, 3), st.randoms())
def test_the_same_pictures_are_split_alike_in_any_order(pictures, seed, random):
    labels, shows = map(list, zip(*pictures, strict=True))
    names = list(range(len(labels)))
    first = dict(zip(names, made(labels, shows, seed=seed, names=names).tolist(), strict=True))
    random.shuffle(names)
    other = made([labels[n] for n in names], [shows[n] for n in names], seed=seed, names=names)
    assert dict(zip(names, other.tolist(), strict=True)) == first


@few
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_each_class_has_its_share_of_each_split(sizes):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    found = made(labels, range(len(labels)))
    counts = Counter(zip(labels, found.tolist(), strict=True))
    for label, size in enumerate(sizes):
        quota = max(1, round(share(len(labels)) * size))
        assert counts[label, TEST] == min(quota, size - 1)
        assert counts[label, VALIDATION] == min(quota, size - 1 - counts[label, TEST])
        assert counts[label, TRAIN] >= 1


@few
@given(st.lists(st.integers(1, 30), min_size=3, max_size=40))
def test_groups_of_any_size_leave_something_for_each_split(groups):
    shows = [show for show, size in enumerate(groups) for _ in range(size)]
    found = made([0] * len(shows), shows)
    counts = np.bincount(found, minlength=3)
    assert counts[TRAIN] >= 1
    quota = max(1, round(share(len(shows)) * len(shows)))
    assert counts[TEST] <= quota and counts[VALIDATION] <= quota
    if sorted(groups)[0] <= quota:
        assert counts[TEST] >= 1
    if sorted(groups)[1] <= quota and sum(groups) > sorted(groups)[0] + sorted(groups)[1]:
        assert counts[VALIDATION] >= 1


def test_a_small_set_gives_a_fifth_to_each_split_and_a_large_one_less():
    assert share(50) == share(5_000) == 0.2
    assert share(10_000) * 10_000 == 1_000
    assert share(10**6) == 0.05


def test_other_seeds_draw_others():
    labels = [0] * 40
    assert (made(labels, range(40), seed=0) != made(labels, range(40), seed=1)).any()


# ---- what shows the same


def looked_at(files) -> np.ndarray:
    seen = Seen()
    for data in files:
        seen.add(data, facts_of(data), [0], None)
    return groups_of(seen)


COPIES = {
    "smaller": lambda image: encoded(image.resize((24, 24), Image.Resampling.BICUBIC)),
    "larger": lambda image: encoded(image.resize((90, 90), Image.Resampling.BICUBIC)),
    "another format": lambda image: encoded(image, "WEBP", quality=80),
    "much compressed": lambda image: encoded(image, "JPEG", quality=50),
    "a bit lighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.03)),
    "of a palette": lambda image: encoded(image.quantize(256), "GIF"),
}


def test_copies_of_a_picture_are_the_same_and_others_are_not():
    originals = [picture(kind, i, 48) for kind in SHAPES for i in range(12)]
    files = [encoded(image) for image in originals]
    alone = looked_at(files)
    assert (alone == np.arange(len(files))).all(), "different drawings"
    for name, copy in COPIES.items():
        found = looked_at([*files, *map(copy, originals)])
        same = (found[len(files) :] == np.arange(len(files))).mean()
        assert same > 0.85, name


def test_plain_pictures_that_differ_by_noise_are_not_the_same():
    rng = np.random.default_rng(1)
    sea = [
        rng.normal((20, 60, 90), 6, (64, 64, 3)).clip(0, 255).astype(np.uint8) for _ in range(60)
    ]
    found = looked_at([encoded(Image.fromarray(image)) for image in sea])
    assert len(set(found.tolist())) > 55
    assert len(set(looked_at([encoded(Image.new("RGB", (9, 9 + i))) for i in range(5)]))) == 1
