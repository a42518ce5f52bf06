import numpy as np
import pytest
import torch

from csnb.data import Dataset
from csnb.data.dataset import class_indices
from csnb.errors import InputError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 5, 4), dtype=np.uint8)  # (N, H, W)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def made(classes: tuple[str, ...] = ("cat", "dog", "0"), **changes: np.ndarray) -> Dataset:
    """Four training and two test images, with ``changes``."""
    arrays = {"x_train": GREY[:4], "y_train": LABELS[:4], "x_test": GREY[4:], "y_test": LABELS[4:]}
    return Dataset.from_arrays("mine", arrays | changes, classes)


@pytest.mark.parametrize(
    ("label", "index"),
    [(0, 0), (2, 2), ("1", 1), ("cat", 0), ("dog", 1), ("0", 2), (np.int64(1), 1)],
)
def test_a_class_goes_by_its_name_or_else_by_its_index(label: int | str, index: int) -> None:
    assert made().class_index(label) == index


@pytest.mark.parametrize(
    "label", [3, 99, "3", -1, "-1", "emu", "Cat", "", " 1", "1.0", 1.0, "cat,dog", True]
)
def test_no_other_class_is_taken(label: int | str) -> None:
    with pytest.raises(InputError, match="protected_class") as error:
        made().class_index(label)
    message = str(error.value)
    assert "\n" not in message and repr(label) in message and "0 to 2 or cat, dog, 0" in message


@pytest.mark.parametrize(
    ("label", "index"), [("1", 0), ("2", 1), ("3", 2), (0, 0), (1, 1), (2, 2), ("0", 0)]
)
def test_text_is_a_name_first_and_a_number_an_index(label: int | str, index: int) -> None:
    assert made(("1", "2", "3")).class_index(label) == index


# --- what a data set is


def test_arrays_become_images_labels_and_units() -> None:
    data = made()
    assert data.image_shape == (1, 5, 4) and data.classes == ("cat", "dog", "0")
    np.testing.assert_array_equal(data.x_train[:, 0], GREY[:4].astype(np.float32) / np.float32(255))
    assert data.y_test.tolist() == [1, 2] and data.y_test.dtype == torch.int64


def test_a_data_set_shows_in_one_line_without_its_tensors() -> None:
    assert repr(made()) == "Dataset(mine: 4 training and 2 test images of 1x5x4, 3 classes)"


def test_digests_are_of_the_images_labels_and_units_that_training_and_testing_see() -> None:
    whole = made().digests()
    assert set(whole) == {"train", "test"} and all(len(d) == 16 for d in whole.values())
    assert made().digests() == whole
    brighter = GREY.copy()
    brighter[0, 0, 0] ^= 1
    test = GREY.copy()
    test[5, 4, 3] ^= 1
    changed = {
        "train": [made(x_train=brighter[:4]), made(y_train=np.array([0, 1, 2, 1]))],
        "test": [made(x_test=test[4:]), made(y_test=np.array([2, 1]))],
    }
    for split, others in changed.items():
        for other in others:
            assert {k for k, v in other.digests().items() if v != whole[k]} == {split}
    swapped = made(
        x_test=GREY[[5, 4]], y_test=LABELS[[5, 4]]
    )  # order is content: runs name images by it
    assert swapped.digests()["test"] != whole["test"]


def test_digests_do_not_depend_on_how_pixels_are_stored() -> None:
    floats = GREY.astype(np.float32) / np.float32(255)
    stored = made(x_train=floats[:4, None], x_test=np.asfortranarray(floats[4:]))
    assert stored.digests() == made().digests()


def test_digests_of_the_same_bytes_in_another_shape_differ() -> None:
    turned = made(x_train=GREY[:4].reshape(4, 4, 5), x_test=GREY[4:].reshape(2, 4, 5))
    assert turned.digests()["test"] != made().digests()["test"]


def test_digests_with_another_normalisation_differ_in_training() -> None:
    data = made()
    other = Dataset(**{**vars(data), "mean": (0.5,)})
    assert other.digests()["train"] != data.digests()["train"]
    assert other.digests()["test"] == data.digests()["test"]


@pytest.mark.parametrize(
    ("changes", "classes", "says"),
    [
        ({"y_train": np.array([0.5, 1.5, 0.5, 1.5])}, ("a", "b", "c"), "y_train is float64"),
        ({"y_test": np.array([True, False])}, ("a", "b", "c"), "y_test is bool"),
        ({"y_test": np.array(["0", "1"])}, ("a", "b", "c"), "y_test is <U1"),
        ({"y_train": []}, ("a", "b", "c"), "y_train is float64 shaped"),
        ({"x_train": None}, ("a", "b", "c"), "x_train is object"),
        ({}, ("a", "a", "b"), "classes: .'a', 'a', 'b'. is not allowed"),
        ({}, "abc", "classes: 'abc' is not allowed"),
        ({}, (1, 2, 3), "names of classes, as text, each once"),
        ({}, None, "classes: None is not allowed"),
        ({}, (), "0 classes"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused_in_one_line(
    changes: dict, classes: object, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        made(classes, **changes)


@pytest.mark.parametrize(
    "units",
    [
        ((np.nan,), (1,)),
        ((0.5,), (0,)),
        ((0.5, 0.5), (1, 1)),
        ((0.5,), (np.inf,)),
        3,
        (("a",), (1,)),
    ],
)
def test_a_normalisation_is_a_mean_and_a_deviation_of_each_channel(units: object) -> None:
    arrays = {"x_train": GREY[:4], "y_train": LABELS[:4], "x_test": GREY[4:], "y_test": LABELS[4:]}
    names = ("a", "b", "c")
    with pytest.raises(InputError, match=r"mine: normalisation .* deviation above 0 for each of 1"):
        Dataset.from_arrays("mine", arrays, names, normalisation=units)
    made = Dataset.from_arrays("mine", arrays, names, normalisation=[[0.25], np.array([2.0])])
    assert (made.mean, made.std) == ((0.25,), (2.0,))
    with pytest.raises(InputError, match="no x_test; needed: x_train"):
        Dataset.from_arrays("mine", {k: v for k, v in arrays.items() if k != "x_test"}, names)
    with pytest.raises(InputError, match="name: None is not allowed"):
        Dataset.from_arrays(None, arrays, names)


# --- several classes, images held out


@pytest.mark.parametrize(
    ("label", "indices"),
    [
        (1, (1,)), ("cat", (0,)), ("cat, dog", (0, 1)), ("dog,0", (1, 2)), ("2, 0, 2", (2,)),
        ("1, cat", (0, 1)), ([1, 0], (0, 1)), (["dog", 0], (0, 1)), ((2,), (2,)),
        (np.array([2, 0]), (0, 2)), (["0", 0], (0, 2)),
    ],
)  # fmt: skip
def test_several_classes_go_by_name_or_index(label: int | str, indices: tuple[int, ...]) -> None:
    assert class_indices(label, ("cat", "dog", "0"), "mine") == indices


def test_numbers_in_a_list_are_indices_and_texts_names_first() -> None:
    numbered = made(("1", "2", "3")).classes
    for several in ([1, 2], (2, 1), np.array([1, 2])):
        assert class_indices(several, numbered, "mine") == (1, 2)
    assert class_indices(["1", "2"], numbered, "mine") == (0, 1)
    assert class_indices("1, 2", numbered, "mine") == (0, 1)


def test_a_name_with_a_comma_is_one_class() -> None:
    assert class_indices("a, b", ("a, b", "a", "b"), "mine") == (0,)
    with pytest.raises(InputError, match=r"protected_class: 'emu' is not a class of mine"):
        class_indices("cat, emu", ("cat", "dog"), "mine")


def many(counts: tuple[int, ...]) -> Dataset:
    y = np.repeat(np.arange(len(counts)), counts)
    x = RANDOM.integers(0, 256, (len(y), 5, 4), dtype=np.uint8)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:1], "y_test": y[:1]}
    return Dataset.from_arrays("mine", arrays, [f"c{i}" for i in range(len(counts))])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_of_each_class_the_same_share_is_held_out(share: float) -> None:
    data = many((40, 80, 200))
    held = data.held_out(share, seed=1)
    assert np.bincount(data.y_train[held]).tolist() == [40 * share, 80 * share, 200 * share]
    np.testing.assert_array_equal(held, data.held_out(share, seed=1))
    assert (held != data.held_out(share, seed=2)).any()
    assert (held != data.held_out(share, seed=2**63 - 1)).any()


@pytest.mark.parametrize(
    ("counts", "share"), [((1, 30), 0.5), ((3, 300), 0.01), ((4, 300), 0.99), ((2, 2), 0.1)]
)
def test_a_class_too_small_for_both_parts_is_refused(counts: tuple[int, ...], share: float) -> None:
    with pytest.raises(InputError, match=f"validation: {share} of mine's training images cannot"):
        many(counts).held_out(share, seed=0)
