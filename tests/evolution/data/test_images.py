"""What training and evaluation see of a file is what the gateway sees, and nothing else."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from evolution.data import own
from evolution.data.images import StreamedSplit, TaskError, decode_image
from evolution.data.splits import decoding_rules
from evolution.data.tasks import Split, load
from service.images import decode as served
from tests.data import DATA
from tests.evolution.files import examples, file_task
from tests.service.pictures.kinds import FILES, PICTURE, REFUSED
from tests.service.pictures.made import noise, saved
from vit.contract import Contract
from vit.decode import DECODINGS, TENSORFLOW, VIEWER, decode
from vit.preprocess import resample

SIZE = 12
HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("rules", DECODINGS)
def test_evaluation_sees_what_the_gateway_sees_bit_for_bit(rules):
    decoding, files = DECODINGS[rules], list(FILES.values())
    streamed = StreamedSplit("test", examples(files, [0] * len(files), decoding), 16)
    for split in (streamed, streamed.in_memory()):
        inputs, _ = split.evaluation_inputs(np.arange(len(files)), SIZE)
        for name, file, found in zip(FILES, files, inputs, strict=True):
            expected = served(file, [SIZE], max_pixels=10**6, decoding=decoding)
            assert np.array_equal(found, expected[SIZE].pixels), name


def test_training_sees_the_same_pixels_before_it_augments_them():
    files = [file for file in FILES.values() if decode(file).shape[:2] == (24, 40)]
    assert len(files) > 20
    shown = replace(examples(files, [0] * len(files), VIEWER), shape=(24, 40, 3))
    one_size = StreamedSplit("train", shown, 0)
    images, _ = one_size.in_memory().training_images(np.arange(len(files)))
    for file, found in zip(files, images, strict=True):
        assert np.array_equal(found, np.broadcast_to(decode(file), (24, 40, 3)))


def photographs(*sizes: tuple[int, int]) -> list[bytes]:
    """JPEG files of these widths and heights, and one PNG of the first."""
    files = [saved(noise(*size), "JPEG", quality=90) for size in sizes]
    return [*files, saved(noise(*sizes[0]), "PNG")]


@pytest.mark.parametrize("sizes", [[(260, 200), (90, 700), (40, 30)], [(260, 200)] * 3])
@pytest.mark.parametrize("contract", [None, Contract(20, "bicubic", 24, HALF, HALF)])
def test_reduced_files_are_evaluated_as_the_gateway_serves_them(sizes, contract):
    """Of many sizes and of one, streamed and in memory, for an input and for a smaller one."""
    rules, files = replace(VIEWER, reduced=True), photographs(*sizes)
    shown = examples(files, [0] * len(files), rules)
    if len(set(sizes)) == 1:
        shown = replace(shown, shape=(200, 260, 3))
    streamed = StreamedSplit("test", shown, 2 * SIZE)
    for split in (streamed, streamed.in_memory(), StreamedSplit("test", shown, 200).in_memory()):
        for size in (SIZE, 5):
            prepared = replace(split, contract=contract)
            target = size if contract is None else contract.at(size)
            inputs, _ = prepared.evaluation_inputs(np.arange(len(files)), size)
            for file, found in zip(files, inputs, strict=True):
                expected = served(file, [target], max_pixels=10**6, decoding=rules)
                assert np.array_equal(found, expected[target].pixels)


def test_training_pixels_are_reduced_as_far_as_those_of_the_input():
    rules, files = replace(VIEWER, reduced=True), photographs((260, 200))
    shown = replace(examples(files, [0, 0], rules), shape=(200, 260, 3))
    split = StreamedSplit("train", shown, 2 * SIZE).in_memory()
    assert split.shape == (2 * SIZE, 2 * SIZE, 3)
    for file, found in zip(files, split.training_images(np.arange(2))[0], strict=True):
        pixels = decode(file, rules, SIZE)
        assert np.array_equal(found, np.rint(resample(pixels, 2 * SIZE)).astype(np.uint8))
    whole = split.by(VIEWER)
    assert whole.decoding == VIEWER and whole.shape == (200, 260, 3)


@pytest.mark.parametrize(
    ("modes", "reduced"),
    [({"JPEG RGB": 3, "PNG RGB": 2}, True), ({"JPEG L": 2, "JPEG RGB": 1}, True),
     ({"PNG RGB": 5}, False), ({"JPEG RGB": 2, "PNG RGB": 2}, False)],
)  # fmt: skip
def test_a_new_set_is_reduced_if_most_of_its_files_are_jpeg(modes, reduced):
    check = SimpleNamespace(modes=modes, pictures=sum(modes.values()))
    assert own.decoding_rules(SimpleNamespace(check=check)) == replace(VIEWER, reduced=reduced)


def test_a_contract_says_how_large_training_pixels_are():
    shown = examples(list(FILES.values()), [0] * len(FILES), VIEWER)
    plain = StreamedSplit("train", shown, 16)
    assert plain.shape == (16, 16, 3)
    cut = replace(plain, contract=Contract(20, "bicubic", 24, HALF, HALF))
    assert cut.shape == (20, 20, 3) and cut.bytes_in_memory == len(FILES) * 20 * 20 * 3


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_cannot_be_trained_on(kind):
    data, text = REFUSED[kind]
    files = [saved(PICTURE, "PNG"), data]
    split = StreamedSplit("train", examples(files, [0, 0], VIEWER), 16)
    with pytest.raises(TaskError, match=f"example 1 of made up: .*{text}"):
        split.in_memory()


def test_channels_are_those_that_a_data_set_declares():
    grey = saved(PICTURE.convert("L"), "PNG")
    assert decode_image(grey, 1).shape == (24, 40, 1)
    assert np.array_equal(decode_image(grey, 3), decode_image(grey, 1).repeat(3, -1))
    coloured_grey = saved(PICTURE.convert("L").convert("RGB"), "PNG")
    assert np.array_equal(decode_image(coloured_grey, 1), decode_image(grey, 1))
    with pytest.raises(ValueError, match="expected a grey image"):
        decode_image(saved(PICTURE, "PNG"), 1)


def test_a_split_is_read_again_by_other_rules():
    task = file_task("files/ink")
    assert task.decoding == VIEWER
    for split in (task.train, task.test):
        assert split.by(VIEWER).decoding == VIEWER
        black, _ = split.by(TENSORFLOW).evaluation_inputs(np.arange(5), SIZE)
        assert (black == -1).all()
    with pytest.raises(TaskError, match="expected files to decode by rules 'tensorflow'"):
        Split("made up", np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int32)).by(TENSORFLOW)


def test_data_sets_of_tensorflow_are_decoded_by_its_rules_where_that_matters():
    assert decoding_rules("food101") == TENSORFLOW
    assert decoding_rules("cmaterdb") == VIEWER
    test = load("cmaterdb/telugu", (DATA,)).test
    assert isinstance(test, Split)
    rows = np.arange(len(test))
    first, *others = (test.by(rules).training_images(rows)[0] for rules in DECODINGS.values())
    assert all(np.array_equal(first, other) for other in others)


def test_the_files_that_tests_turn_are_turned():
    """A file of class x shows its dark square above on the left, with every flag."""
    task = file_task("files/turned")
    inputs, labels = task.test.evaluation_inputs(np.arange(len(task.test)), 8)
    darkest = [np.argmin([image[:4, :4].mean(), image[:4, 4:].mean(), image[4:, :4].mean()])
               for image in inputs]  # fmt: skip
    assert darkest == labels.tolist()
