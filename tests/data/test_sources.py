import gc
import gzip
import hashlib
import pickle
import shutil
import struct
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits

from csnb.data import Dataset, describe, load_dataset
from csnb.data.sources import KNOWN
from csnb.errors import InputError

DOWNLOADABLE = ("mnist", "fashion_mnist", "cifar10", "cifar100")
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 5, 4), dtype=np.uint8)  # (N, H, W)
COLOUR = RANDOM.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)  # (N, H, W, C)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def arrays(x: np.ndarray = GREY, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """A valid .npz's arrays, four training and two test images, with ``changes``.

    None takes an array away.
    """
    valid = {"x_train": x[:4], "y_train": LABELS[:4], "x_test": x[4:], "y_test": LABELS[4:]}
    return {key: value for key, value in (valid | changes).items() if value is not None}


def save(file: Path, contents: dict[str, np.ndarray]) -> str:
    np.savez(file, **contents)
    return str(file)


def refusal(name: str, root: Path | None = None) -> str:
    """The one line with which a data set is refused."""
    with pytest.raises(InputError) as error:
        load_dataset(name, root)
    message = str(error.value)
    assert message and "\n" not in message
    return message


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


# --- digits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_digits_are_pixels_of_28_by_28_in_two_thirds_and_one_third(digits: Dataset) -> None:
    assert digits.image_shape == (1, 28, 28)
    assert digits.x_train.shape == (1198, 1, 28, 28) and digits.x_test.shape == (
        599,
        1,
        28,
        28,
    )  # of 1797
    assert digits.x_train.dtype == digits.x_test.dtype == torch.float32
    assert digits.y_train.dtype == digits.y_test.dtype == torch.int64
    assert digits.classes == tuple("0123456789")


def test_digits_span_zero_to_one(digits: Dataset) -> None:
    for x in (digits.x_train, digits.x_test):
        assert (x.min(), x.max()) == (0, 1)


def test_digits_are_split_by_class(digits: Dataset) -> None:
    total = np.bincount(load_digits().target)
    train, test = np.bincount(digits.y_train), np.bincount(digits.y_test)
    np.testing.assert_array_equal(train + test, total)
    assert (abs(train - total * 2 / 3) < 1).all()


def test_digits_are_scikit_learns_enlarged_bilinearly_each_once_with_its_label(
    digits: Dataset,
) -> None:
    position = np.clip(
        (np.arange(28) + 0.5) * 8 / 28 - 0.5, 0, 7
    )  # of each new row between the 8 old ones
    weights = np.maximum(0, 1 - abs(position[:, None] - np.arange(8)))
    shrink = np.linalg.pinv(weights)
    images = torch.cat([digits.x_train, digits.x_test])[:, 0].double().numpy()
    small = (shrink @ images @ shrink.T * 16).round()
    np.testing.assert_allclose(images, weights @ small @ weights.T / 16, atol=1e-6)
    labels = torch.cat([digits.y_train, digits.y_test]).numpy()
    found = np.c_[small.reshape(-1, 64), labels]
    source = load_digits()
    expected = np.c_[source.data, source.target]
    assert len(np.unique(expected, axis=0)) == 1797
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(expected, axis=0))


def test_digits_are_the_same_each_time(digits: Dataset) -> None:
    again = load_dataset("digits")
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(digits, part), getattr(again, part))


# --- .npz


@pytest.mark.parametrize(
    ("x", "nchw"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, np.moveaxis(COLOUR, 3, 1)),
        (np.moveaxis(COLOUR, 3, 1), np.moveaxis(COLOUR, 3, 1)),
    ],
    ids=["NHW", "N1HW", "NHW1", "NHWC", "NCHW"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_every_layout_becomes_nchw_in_zero_to_one(
    tmp_path: Path, x: np.ndarray, nchw: np.ndarray, dtype: type
) -> None:
    scaled = nchw.astype(np.float32) / np.float32(255)
    stored = x if dtype == np.uint8 else (x.astype(np.float32) / np.float32(255)).astype(dtype)
    data = load_dataset(save(tmp_path / "mine.npz", arrays(stored)))
    assert data.x_train.dtype == data.x_test.dtype == torch.float32
    np.testing.assert_array_equal(data.x_train, scaled[:4])
    np.testing.assert_array_equal(data.x_test, scaled[4:])
    assert data.image_shape == nchw.shape[1:]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, dtype: type) -> None:
    changes = {"y_train": LABELS[:4].astype(dtype), "y_test": LABELS[4:].astype(dtype)}
    data = load_dataset(save(tmp_path / "mine.npz", arrays(**changes)))
    assert data.y_train.dtype == data.y_test.dtype == torch.int64
    assert (data.y_train.tolist(), data.y_test.tolist()) == ([0, 1, 2, 0], [1, 2])


def test_an_npz_is_found_by_path_by_name_in_root_and_by_name_in_csnb_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "mine.npz", arrays())
    monkeypatch.delenv("CSNB_DATA", raising=False)
    found = [
        load_dataset(path),
        load_dataset("mine", tmp_path),
        load_dataset("mine", str(tmp_path)),
    ]
    monkeypatch.setenv("CSNB_DATA", str(tmp_path))
    found.append(load_dataset("mine"))
    assert {data.name for data in found} == {"mine"}
    assert all(torch.equal(data.x_train, found[0].x_train) for data in found)


def test_root_comes_before_csnb_data_and_data_after_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: tmp_path / name for name in ("root", "variable", "data")}
    for shift, folder in enumerate(folders.values()):
        folder.mkdir()
        save(folder / "mine.npz", arrays(GREY // 4 + shift))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSNB_DATA", str(folders["variable"]))
    first = [load_dataset("mine", folders["root"]), load_dataset("mine")]
    monkeypatch.delenv("CSNB_DATA")
    first.append(load_dataset("mine"))
    for shift, data in enumerate(first):
        np.testing.assert_array_equal(data.x_test[:, 0] * 255, (GREY // 4 + shift)[4:])


def test_classes_are_the_labels_of_the_training_images_unless_named(tmp_path: Path) -> None:
    assert load_dataset(save(tmp_path / "a.npz", arrays())).classes == ("0", "1", "2")
    named = load_dataset(
        save(tmp_path / "b.npz", arrays(classes=np.array(["cat", "dog", "emu", "gnu"])))
    )
    assert named.classes == ("cat", "dog", "emu", "gnu")


def test_mean_and_deviation_are_measured_on_the_training_pixels(tmp_path: Path) -> None:
    data = load_dataset(save(tmp_path / "mine.npz", arrays(COLOUR)))
    pixels = COLOUR[:4].reshape(-1, 3) / 255
    np.testing.assert_allclose(
        data.mean, pixels.mean(0), atol=6e-5
    )  # kept to four digits, as in Table I
    np.testing.assert_allclose(data.std, pixels.std(0, ddof=1), atol=6e-5)


@pytest.mark.parametrize(
    ("name", "x", "mean", "std"),
    [
        ("mnist", GREY, (0.1307,), (0.3081,)),
        ("cifar10", COLOUR, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100", COLOUR, (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
    ],
)
def test_table_i_serves_the_data_sets_it_names(
    tmp_path: Path, name: str, x: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    save(tmp_path / f"{name}.npz", arrays(x))
    data = load_dataset(name, tmp_path)
    assert (data.name, data.mean, data.std) == (name, mean, std)


def test_table_i_does_not_serve_a_file_with_other_channels(tmp_path: Path) -> None:
    save(tmp_path / "mnist.npz", arrays(COLOUR))
    np.testing.assert_allclose(
        load_dataset("mnist", tmp_path).mean, (COLOUR[:4] / 255).mean((0, 1, 2)), atol=6e-5
    )


FLOATS = GREY / 255


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_train": None}, "x_train"),
        ({"y_test": None, "x_test": None}, "x_test, y_test"),
        ({"x_train": GREY[0]}, "x_train"),
        ({"x_test": GREY[4:, None, None]}, "x_test"),
        ({"x_train": np.zeros((4, 5, 4, 2), np.uint8)}, "(4, 5, 4, 2)"),
        ({"x_train": GREY[:0], "y_train": LABELS[:0]}, "train"),
        ({"x_test": GREY[:0], "y_test": LABELS[:0]}, "test"),
        ({"x_train": GREY[:, :0][:4]}, "(4, 1, 0, 4)"),
        ({"x_test": GREY[4:, :4]}, "(1, 4, 4)"),
        ({"x_train": GREY[:3]}, "3 images but y_train 4"),
        ({"y_test": LABELS[:1]}, "2 images but y_test 1"),
        ({"y_test": np.array([1, 3])}, "labels 1 to 3"),
        ({"classes": np.array(["cat", "dog"])}, "labels 0 to 2"),
        ({"y_train": np.array([0, -1, 2, 0])}, "labels -1 to 2"),
        ({"y_train": np.array([0, 1, 2, 2**50])}, "y_train"),
        ({"y_train": np.array([0, 1, 2, 2**64 - 1], np.uint64)}, "y_train"),
        ({"y_train": LABELS[:4].astype(float)}, "float64"),
        ({"y_train": LABELS[:4].astype(str)}, "y_train"),
        ({"y_train": LABELS[:4, None]}, "(4, 1)"),
        ({"y_test": np.eye(3)[LABELS[4:]].astype(int)}, "(2, 3)"),
        ({"classes": np.array(["cat", "dog", "cat"])}, "classes"),
        ({"classes": np.array([["cat", "dog", "emu"]])}, "classes"),
        ({"classes": np.array("cat")}, "classes"),
        ({"x_train": np.where(FLOATS[:4] > 0.5, np.nan, FLOATS[:4])}, "not finite"),
        ({"x_test": np.where(FLOATS[4:] > 0.5, -np.inf, FLOATS[4:])}, "not finite"),
        ({"x_train": np.linspace(-0.5, 1, 80).reshape(4, 5, 4)}, "from -0.5 to 1"),
        ({"x_test": np.linspace(0, 1.5, 40, dtype=np.float32).reshape(2, 5, 4)}, "from 0 to 1.5"),
        ({"x_train": GREY[:4].astype(np.int64)}, "int64"),
        ({"x_train": GREY[:4] > 100}, "bool"),
        ({"x_train": GREY[:4].astype(complex)}, "complex"),
        ({"x_train": np.full((4, 5, 4), 7, np.uint8)}, "one value"),
    ],
)
def test_a_bad_npz_is_refused_in_one_line_that_names_the_thing(
    tmp_path: Path, changes: dict[str, np.ndarray | None], says: str
) -> None:
    message = refusal(save(tmp_path / "mine.npz", arrays(**changes)))
    assert "mine" in message and says in message


@pytest.mark.parametrize("key", ["x_train", "y_test", "classes"])
def test_python_objects_in_an_npz_are_refused(tmp_path: Path, key: str) -> None:
    assert "mine.npz" in refusal(
        save(tmp_path / "mine.npz", arrays(**{key: np.array([{}, [], ()], dtype=object)}))
    )


@pytest.mark.parametrize("cut", [0, 1, 3, 10, 100, -200, -22, -1])
def test_a_truncated_npz_is_refused(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "mine.npz"
    save(file, arrays())
    file.write_bytes(file.read_bytes()[:cut])
    assert "mine.npz" in refusal(str(file))
    gc.collect()  # a file left open is a ResourceWarning here


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_an_npz_with_a_damaged_byte_is_refused_or_its_arrays_are_intact(
    tmp_path: Path, write: object
) -> None:
    file = tmp_path / "mine.npz"
    write(file, **arrays())
    valid, whole = file.read_bytes(), load_dataset(str(file))
    refused = 0
    for position in range(0, len(valid), 7):
        file.write_bytes(valid[:position] + bytes([valid[position] ^ 0xFF]) + valid[position + 1 :])
        try:
            data = load_dataset(str(file))
        except InputError as error:
            refused += 1
            assert "mine.npz" in str(error) and "\n" not in str(error)
        else:
            assert torch.equal(data.x_train, whole.x_train) and torch.equal(
                data.y_test, whole.y_test
            )
    assert (
        refused > len(valid) / 7 / 3
    )  # most bytes are data, under a checksum, or say where the data is


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    for content in (b"not a zip at all", pickle.dumps({"x_train": 1}), b"\x1f\x8b\x08"):
        file.write_bytes(content)
        assert "mine.npz" in refusal(str(file))


def test_one_array_instead_of_an_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", GREY)
    file = (tmp_path / "one.npy").rename(tmp_path / "mine.npz")
    assert "mine.npz" in refusal(str(file))


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        for key in arrays():
            archive.writestr(f"{key}.npy", "no array")
    assert "mine.npz" in refusal(str(tmp_path / "mine.npz"))


def test_a_file_or_name_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    assert "no/such.npz" in refusal("no/such.npz", tmp_path)
    assert "folder.npz" in refusal(str(tmp_path / "folder.npz"))
    message = refusal("imagenet", tmp_path)
    assert "'imagenet'" in message and all(name in message for name in ("digits", *DOWNLOADABLE))


# --- copies of torchvision's data sets


def write_idx(folder: Path, count: int = 4) -> dict[str, np.ndarray]:
    """A valid MNIST of ``count`` training and two test images in ``folder``."""
    folder.mkdir(parents=True)
    made = {}
    for split, n in (("train", count), ("t10k", 2)):
        x, y = (
            RANDOM.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            RANDOM.integers(0, 10, n, dtype=np.uint8),
        )
        (folder / f"{split}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 0x803, n, 28, 28) + x.tobytes()
        )
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2I", 0x801, n) + y.tobytes()
        )
        made |= {f"x_{split}": x, f"y_{split}": y}
    return made


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "folder", "first"),
    [("mnist", "MNIST", "0"), ("fashion_mnist", "FashionMNIST", "T-shirt/top")],
)
def test_a_copy_of_mnist_is_read(tmp_path: Path, name: str, folder: str, first: str) -> None:
    made = write_idx(tmp_path / folder / "raw")
    data = load_dataset(name, tmp_path)
    np.testing.assert_array_equal(
        data.x_train[:, 0], made["x_train"].astype(np.float32) / np.float32(255)
    )
    np.testing.assert_array_equal(
        data.x_test[:, 0], made["x_t10k"].astype(np.float32) / np.float32(255)
    )
    assert (data.y_train.tolist(), data.y_test.tolist()) == (
        made["y_train"].tolist(),
        made["y_t10k"].tolist(),
    )
    assert data.image_shape == (1, 28, 28)
    assert (data.name, len(data.classes), data.classes[0]) == (name, 10, first)


def packed(raw: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """An MNIST whose files are packed as they came, by name; torchvision knows their checksums."""
    for file in raw.iterdir():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    content = {file.name: file.read_bytes() for file in raw.iterdir()}
    sums = [(name, hashlib.md5(packed).hexdigest()) for name, packed in content.items()]
    monkeypatch.setattr(getattr(torchvision.datasets, kind), "resources", sums)
    return content


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_a_copy_of_mnist_that_is_packed_is_unpacked_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    made = write_idx(tmp_path / kind / "raw")
    before = packed(tmp_path / kind / "raw", kind, monkeypatch)
    (tmp_path / "mine.txt").write_text("keep")
    for _ in range(2):
        data = load_dataset(name, tmp_path)
        assert data.y_train.tolist() == made["y_train"].tolist()
        np.testing.assert_array_equal(
            data.x_test[:, 0], made["x_t10k"].astype(np.float32) / np.float32(255)
        )
    after = {file.name: file.read_bytes() for file in (tmp_path / kind / "raw").iterdir()}
    assert before.items() <= after.items() and len(after) == 8
    assert {path.name for path in tmp_path.iterdir()} == {kind, "mine.txt"}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("kept", [("t10k",), ("train-labels",), ("images",), ("train", "t10k-l")])
@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_some_of_mnists_files_may_be_packed_and_others_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, kept: tuple[str, ...]
) -> None:
    raw = tmp_path / kind / "raw"
    made = write_idx(raw)
    for file in packed(raw, kind, monkeypatch):
        if not any(part in file for part in kept):
            (raw / file[:-3]).write_bytes(gzip.decompress((raw / file).read_bytes()))
            (raw / file).unlink()
    before = {file.name: file.read_bytes() for file in raw.iterdir()}
    data = load_dataset(name, tmp_path)
    assert data.y_train.tolist() == made["y_train"].tolist()
    assert data.y_test.tolist() == made["y_t10k"].tolist()
    np.testing.assert_array_equal(
        data.x_train[:, 0], made["x_train"].astype(np.float32) / np.float32(255)
    )
    after = {file.name: file.read_bytes() for file in raw.iterdir()}
    assert before.items() <= after.items() and {path.name for path in tmp_path.iterdir()} == {kind}


@pytest.mark.usefixtures("offline")
def test_mnist_may_have_been_packed_by_somebody_else(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    made = write_idx(raw)
    for file in list(raw.iterdir()):  # torchvision knows other checksums
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load_dataset("mnist", tmp_path).y_test.tolist() == made["y_t10k"].tolist()
    assert len(list(raw.iterdir())) == 8


def test_what_others_put_where_a_download_failed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deep" / "data"

    def download(self: object) -> None:
        (folder / "theirs.txt").write_text("keep")
        raise OSError("offline")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    assert "offline" in refusal("mnist", folder)
    assert [path.name for path in folder.iterdir()] == ["theirs.txt"]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("content", "says"), [(None, "mnist could not be read or downloaded"), (b"half", "mnist")]
)
def test_a_packed_copy_that_is_broken_or_lacks_a_file_is_refused_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, says: str
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    packed(raw, "MNIST", monkeypatch)
    file = raw / "t10k-labels-idx1-ubyte.gz"
    file.unlink() if content is None else file.write_bytes(content)
    before = {path: path.read_bytes() for path in raw.iterdir()}
    assert says in refusal("mnist", tmp_path)
    assert {path: path.read_bytes() for path in raw.iterdir()} == before


@pytest.mark.usefixtures("offline")
def test_cifars_archive_is_unpacked_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = torchvision.datasets.CIFAR10
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    for file, count in (("a", 3), ("b", 2), ("c", 0)):
        pixels = RANDOM.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        content = {"data": pixels, "labels": [0, 1, 2][:count], "label_names": ["x", "y", "z"]}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    sums = {f.name: hashlib.md5(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    monkeypatch.setattr(kind, "train_list", [["a", sums["a"]]])
    monkeypatch.setattr(kind, "test_list", [["b", sums["b"]]])
    monkeypatch.setattr(kind, "meta", {"filename": "c", "key": "label_names", "md5": sums["c"]})
    shutil.make_archive(str(tmp_path / "cifar-10-python"), "gztar", tmp_path, kind.base_folder)
    shutil.rmtree(folder)
    archive = tmp_path / kind.filename
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert load_dataset("cifar10", tmp_path).y_train.tolist() == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {kind.base_folder, kind.filename}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "file",
    [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ],
)
@pytest.mark.parametrize(
    "keep", [None, 0, 3, 8, -1], ids=["absent", "empty", "3 bytes", "8 bytes", "one byte short"]
)
def test_an_incomplete_copy_of_mnist_is_refused_and_left_as_it_is(
    tmp_path: Path, file: str, keep: int | None
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    broken = raw / file
    if keep is None:
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:keep])
    before = {path: path.read_bytes() for path in raw.iterdir()}
    assert "mnist" in refusal("mnist", tmp_path)
    assert {path: path.read_bytes() for path in raw.iterdir()} == before


@pytest.mark.usefixtures("offline")
def test_a_copy_of_mnist_with_too_few_labels_or_a_strange_one_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2I", 0x801, 3) + bytes([1, 2, 3]))
    assert "4 images but y_train 3" in refusal("mnist", tmp_path)
    labels.write_bytes(struct.pack(">2I", 0x801, 4) + bytes([1, 2, 3, 10]))
    assert "labels 1 to 10" in refusal("mnist", tmp_path)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "labels", "names"),
    [("cifar10", "labels", "label_names"), ("cifar100", "fine_labels", "fine_label_names")],
)
def test_a_copy_of_cifar_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, labels: str, names: str
) -> None:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        name
    ]
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    pixels = RANDOM.integers(
        0, 256, (5, 3 * 32 * 32), dtype=np.uint8
    )  # red, green, then blue, each row by row

    def write(file: str, contents: dict[str, object]) -> list[str]:
        (folder / file).write_bytes(pickle.dumps(contents, protocol=2))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    train = write("a", {"data": pixels[:3], labels: [0, 2, 1]})
    test = write("b", {"data": pixels[3:], labels: [2, 0]})
    meta = write("c", {names: ["cat", "dog", "emu"]})
    monkeypatch.setattr(kind, "train_list", [train])
    monkeypatch.setattr(kind, "test_list", [test])
    monkeypatch.setattr(kind, "meta", {"filename": "c", "key": names, "md5": meta[1]})
    data = load_dataset(name, tmp_path)
    expected = pixels.reshape(5, 3, 32, 32).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(torch.cat([data.x_train, data.x_test]), expected)
    assert (data.y_train.tolist(), data.y_test.tolist()) == ([0, 2, 1], [2, 0])
    assert data.classes == ("cat", "dog", "emu")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", DOWNLOADABLE)
@pytest.mark.parametrize("root", ["root", "new", "new/below/new"])
def test_without_network_and_copy_one_line_says_so_and_nothing_stays_behind(
    tmp_path: Path, name: str, root: str
) -> None:
    (tmp_path / "root").mkdir()
    message = refusal(name, tmp_path / root)
    assert name in message and "CSNB_DATA" in message
    assert list(tmp_path.rglob("*")) == [tmp_path / "root"]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_a_failed_download_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    for folder in ("MNIST/raw", "FashionMNIST/raw", "cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "mine.txt").write_text("keep")
    before = sorted(tmp_path.rglob("*"))
    refusal(name, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


class Answer:
    """A server's, with ``content``; or, where ``broken``, an error after that."""

    def __init__(self, url: str, content: bytes, broken: bool = False) -> None:
        self.url, self.chunks, self.broken = url, [content], broken
        self.length = 1000 if broken else len(content)

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *args: object) -> None: ...

    def read(self, size: int) -> bytes:
        if self.chunks:
            return self.chunks.pop()
        if self.broken:
            raise urllib.error.URLError("connection lost")
        return b""


@pytest.mark.parametrize("name", DOWNLOADABLE)
@pytest.mark.parametrize("root", ["root", "new"])
def test_a_download_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, root: str
) -> None:
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda request: Answer(request.full_url, b"the first", True)
    )
    (tmp_path / "root").mkdir()
    assert name in refusal(name, tmp_path / root)
    assert list(tmp_path.rglob("*")) == [tmp_path / "root"]


@pytest.mark.parametrize("root", ["root", "new/below"])
def test_a_download_is_kept_and_used_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    made = write_idx(tmp_path / "server")
    served = {
        f"{file.name}.gz": gzip.compress(file.read_bytes())
        for file in (tmp_path / "server").iterdir()
    }
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in served.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    (tmp_path / "root").mkdir()
    with monkeypatch.context() as online:
        online.setattr(
            urllib.request,
            "urlopen",
            lambda request: Answer(request.full_url, served[request.full_url.rsplit("/")[-1]]),
        )
        first = load_dataset("mnist", tmp_path / root)
    monkeypatch.setattr(urllib.request, "urlopen", None)
    for data in (first, load_dataset("mnist", tmp_path / root)):
        np.testing.assert_array_equal(
            data.x_train[:, 0], made["x_train"].astype(np.float32) / np.float32(255)
        )
        assert data.y_test.tolist() == made["y_t10k"].tolist()
    assert [path.name for path in (tmp_path / root).iterdir()] == ["MNIST"]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_a_root_that_is_a_file_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("keep")
    assert name in refusal(name, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "keep"


# --- what is said of a data set without its images


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["digits", "textile", *DOWNLOADABLE])
def test_what_is_not_at_hand_is_described_without_network(tmp_path: Path, name: str) -> None:
    known = describe(name, tmp_path / "nowhere")
    assert (list(known.classes), known.digests) == (KNOWN[name]["classes"], KNOWN[name]["digests"])
    assert not list(tmp_path.iterdir())


def test_digits_are_what_is_known_of_them(digits: Dataset) -> None:
    # Their pixels are computed and may differ by a rounding; what decides is the split.
    labels = hashlib.sha256(digits.y_train.numpy().tobytes() + digits.y_test.numpy().tobytes())
    assert labels.hexdigest()[:16] == "1ba7f7508e1758a2"
    assert list(digits.classes) == KNOWN["digits"]["classes"]
    assert digits.digests() == KNOWN["digits"]["digests"]


@pytest.mark.usefixtures("offline")
def test_a_copy_that_is_at_hand_is_described_as_it_is(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    first = describe("mnist", tmp_path)
    assert first.digests == load_dataset("mnist", tmp_path).digests() != KNOWN["mnist"]["digests"]
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2I", 0x801, 2) + bytes([3, 3]))
    changed = describe("mnist", tmp_path)
    assert changed.digests["train"] == first.digests["train"]
    assert changed.digests["test"] != first.digests["test"]


def test_an_npz_is_described_by_content_wherever_it_lies(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", arrays())
    other = save(tmp_path / "yours.npz", dict(reversed(arrays().items())))
    found = [describe(path), describe("mine", tmp_path), describe(other)]
    assert found[0].digests == load_dataset(path).digests()
    assert found.count(found[0]) == 3
    save(tmp_path / "mine.npz", arrays(y_test=LABELS[:2]))
    assert describe(path).digests["test"] != found[0].digests["test"]


def test_a_function_in_a_file_of_ones_own_makes_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTION)
    data = load_dataset(f"{file}:halves(images=6)", tmp_path / "root")
    assert len(data.x_train) == 6 and data.classes == ("dark", "bright")
    assert describe(f"{file}:halves(images=6)").digests == data.digests()
    assert describe(f"{file}:halves").digests["train"] != data.digests()["train"]


FUNCTION = """
import numpy as np
import csnb

@csnb.dataset
def halves(root, *, images: int = 4):
    \"\"\"Dark and bright images.\"\"\"
    y = np.arange(images) % 2
    x = np.zeros((images, 12, 12), np.uint8) + (200 * y + 20)[:, None, None].astype(np.uint8)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]}
    return csnb.Dataset.from_arrays("halves", arrays, ["dark", "bright"])

@csnb.dataset
def wrong(root):
    return 3
"""


def test_a_function_that_gives_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTION)
    assert "wrong gives a int; allowed: csnb.Dataset" in refusal(f"{file}:wrong")
    assert "did you mean halves?" in refusal(f"{file}:halve")
