"""A folder of pictures is right, or refused in one line that names what is wrong."""

import hashlib
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import CLASSES, photos, stripe
from PIL import Image

import csnb
from csnb.data import describe, folders, load_dataset
from csnb.errors import InputError
from csnb.images import ALONE, Images, batches, in_turn


def refusal(folder: Path, image_size: int = 0) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(InputError) as error:
        load_dataset(folder, image_size=image_size)
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    return message


# --- what is right


def test_a_folder_for_each_class_is_divided_by_content_a_fifth_for_testing(tmp_path: Path) -> None:
    data = load_dataset(photos(tmp_path / "photos"))
    assert data.name == "photos" and data.classes == CLASSES
    assert data.counts() == {"train": (8, 8, 8), "test": (2, 2, 2)}
    every = torch.cat([data.x_train, data.x_test])
    means, labels = every.mean((1, 3)), torch.cat([data.y_train, data.y_test])
    thirds = torch.stack([means[:, :4].mean(1), means[:, 4:8].mean(1), means[:, 8:].mean(1)], 1)
    assert torch.equal(thirds.argmax(1), labels), "each picture has the label of its folder"
    assert len({hashlib.sha256(x.numpy()).digest() for x in every}) == 30, "each is there once"
    assert data.mean == pytest.approx(data.x_train.mean((0, 2, 3)).tolist(), abs=6e-5)
    assert data.std == pytest.approx(data.x_train.std((0, 2, 3)).tolist(), abs=6e-5)
    assert describe(str(tmp_path / "photos")).digests == data.digests()


def test_the_split_follows_content_and_neither_names_nor_places(tmp_path: Path) -> None:
    first = photos(tmp_path / "a")
    second = photos(tmp_path / "b")
    for file in second.rglob("*.png"):
        file.rename(file.with_name(f"x{int(file.stem):05}.png"))
    a, b = load_dataset(first), load_dataset(second)
    assert a.digests() == b.digests() and torch.equal(a.x_test, b.x_test)
    (second / "top" / "x00000.png").write_bytes((second / "top" / "x00001.png").read_bytes())
    assert load_dataset(second).digests() != a.digests()


def test_train_and_test_inside_are_kept(tmp_path: Path) -> None:
    photos(tmp_path / "p" / "train", 4)
    (tmp_path / "p" / "test" / "top").mkdir(parents=True)
    stripe(2, 999).save(tmp_path / "p" / "test" / "top" / "new.png")
    data = load_dataset(tmp_path / "p")
    assert data.counts() == {"train": (4, 4, 4), "test": (0, 0, 1)}


def form(tmp_path: Path, save: Callable[[Path], None]) -> torch.Tensor:
    """How a picture is read that stands for the first of class "top"."""
    root = photos(tmp_path / "p", 2)
    (root / "top" / "000.png").unlink()
    file = root / "top" / "000.tiff"
    save(file)
    stores = load_dataset(root)
    every = torch.cat([stores.x_train, stores.x_test])
    found = [x for x in every if not any(torch.equal(x, y) for y in reference(root, file))]
    assert len(found) == 1
    return found[0]


def reference(root: Path, but: Path) -> list[torch.Tensor]:
    """The other pictures, by another way."""
    files = [f for f in root.rglob("*.*") if f != but]
    arrays = [np.asarray(Image.open(f)).transpose(2, 0, 1) for f in files]
    return [torch.from_numpy(a.astype(np.float32) / np.float32(255)) for a in arrays]


RANDOM = np.random.default_rng(5)
RGB = RANDOM.integers(0, 256, (12, 12, 3), dtype=np.uint8)
WIDE = RANDOM.integers(0, 65536, (12, 12), dtype=np.uint16)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    alpha = np.zeros((12, 12, 1), np.uint8)
    alpha[:6] = 255
    save = lambda file: Image.fromarray(np.concatenate([RGB, alpha], 2)).save(file)  # noqa: E731
    found = form(tmp_path, save).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found[6:], 1)
    np.testing.assert_allclose(found[:6], RGB[:6] / 255, atol=1e-6)


def test_sixteen_bits_keep_their_shades_beside_colour(tmp_path: Path) -> None:
    found = form(tmp_path, lambda file: Image.fromarray(WIDE).save(file)).numpy()
    np.testing.assert_allclose(found, np.repeat(WIDE[None] / 65535, 3, 0), atol=1e-6)


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB).quantize(16)
    found = form(tmp_path, lambda file: picture.save(file)).permute(1, 2, 0).numpy()
    colours = np.array(picture.getpalette()).reshape(-1, 3)[np.asarray(picture)]
    np.testing.assert_allclose(found, colours / 255, atol=1e-6)


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_turns(tmp_path: Path, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = form(tmp_path, lambda file: Image.fromarray(RGB).save(file, exif=exif))
    turned = np.rot90(RGB, turn)  # counterclockwise; 6 asks for a quarter clockwise
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), turned / 255, atol=1e-6)


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    data = load_dataset(photos(tmp_path / "p", channels=1))
    assert data.image_shape == (1, 12, 12) and len(data.mean) == 1


def test_image_size_scales_all_to_one(tmp_path: Path) -> None:
    root = photos(tmp_path / "p", 3, size=(30, 20))
    flat = Image.new("RGB", (7, 90), (10, 20, 30))
    flat.save(root / "top" / "flat.png")
    assert "7x90 pixels" in refusal(root) and "image_size" in refusal(root)
    data = load_dataset(root, image_size=16)
    assert data.image_shape == (3, 16, 16)
    colour = torch.tensor([10, 20, 30]).view(3, 1, 1) / 255
    every = torch.cat([data.x_train, data.x_test])
    assert sum(torch.allclose(x, colour.expand(3, 16, 16), atol=1e-6) for x in every) == 1
    with pytest.raises(InputError, match="dataset: 'photoz' is unknown"):
        load_dataset("photoz", image_size=16)
    with pytest.raises(InputError, match="image_size: 16 with dataset digits; allowed: 0"):
        load_dataset("digits", image_size=16)


def test_classes_that_are_numbers_stand_in_their_order(tmp_path: Path) -> None:
    for k in range(11):
        (tmp_path / str(k)).mkdir()
        for i in range(2):
            stripe(k % 3, 10 * k + i).save(tmp_path / str(k) / f"{i}.png")
    assert load_dataset(tmp_path).classes == tuple(map(str, range(11)))


# --- pictures that stay in their files


def test_images_in_files_are_the_same_and_read_by_workers(tmp_path: Path, monkeypatch) -> None:
    root = photos(tmp_path / "p", 40, size=(16, 9))
    held = load_dataset(root, image_size=12)
    monkeypatch.setattr(folders, "room", lambda: 0)
    lazy = load_dataset(root, image_size=12)
    assert isinstance(lazy.x_train, Images) and len(lazy.x_train) > ALONE
    assert (lazy.mean, lazy.std, lazy.digests()) == (held.mean, held.std, held.digests())
    state = torch.get_rng_state()
    parts = torch.randperm(len(lazy.x_train), generator=torch.Generator().manual_seed(1)).split(7)
    for mine, theirs in zip(
        batches(lazy.x_train, parts), batches(held.x_train, parts), strict=True
    ):
        assert torch.equal(mine, theirs) and mine.is_contiguous()
    assert torch.equal(torch.cat(list(in_turn(lazy.x_test, 5))), held.x_test)
    assert torch.equal(torch.get_rng_state(), state), "reading draws no random number of others"
    some = lazy.x_train[torch.tensor([5, 3])]
    assert torch.equal(next(batches(some, [torch.tensor([1, 0])])), held.x_train[[3, 5]])


def test_a_picture_that_breaks_meanwhile_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "room", lambda: 0)
    data = load_dataset(photos(tmp_path / "p", 40))
    broken = Path(os.fsdecode(data.x_train.files[-1]))
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match=f"{broken}: not a readable picture") as error:
        list(in_turn(data.x_train, 16))
    assert "\n" not in str(error.value)


def test_room_is_what_a_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (used + 2**24, used + 2**24))
    assert 0 <= folders.room() <= 2**24 + 2**22


LIMITED = """
import resource, sys
import torch
import csnb

pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
data = csnb.load_dataset("photos")
assert type(data.x_train).__name__ == "Images"
run = csnb.run(csnb.Experiment(
    dataset="photos", model="net.py:Net", method="ADV", epochs=1, batch_size=16, protected_class=0,
    schedule="both", optimizer="adam", adversary="PGD(steps=1)", eps=0.1, attacks="FGSM",
    attack_images="all", runs="runs",
))
print(run.folder)
"""
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, in_channels, num_classes):
        first = nn.Sequential(nn.Conv2d(in_channels, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        super().__init__(first, nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.mark.slow
def test_a_folder_of_three_times_what_memory_allows_is_trained_on(tmp_path: Path) -> None:
    allowed, side, many = 1400 * 2**20, 256, {"train": 2700, "test": 150}
    random, classes = np.random.default_rng(0), ("dark", "light")
    assert 4 * len(classes) * sum(many.values()) * 3 * side**2 >= 3 * allowed
    for split, n in many.items():
        for bright, name in enumerate(classes):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = np.full((side, side, 3), 60 + 120 * bright, dtype=np.uint8)
                pixels[:9, :9] = random.integers(0, 256, (9, 9, 3))
                Image.fromarray(pixels).save(folder / f"{i}.png")
            for i in range(4, n):
                os.link(folder / f"{i % 4}.png", folder / f"{i}.png")
    (tmp_path / "net.py").write_text(NET)
    command = [sys.executable, "-c", LIMITED, str(allowed)]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stderr[-2000:]
    scores = csnb.runs.read_scores([made.stdout.split()[-1]]).query("measure == 'accuracy'")
    assert set(scores["total"]) == {many["test"]} and len(scores) == 4


# --- hostile folders


def bomb(file: Path, side: int) -> None:
    """A PNG of side x side grey pixels, all of them black, in few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    rows = b"".join([*(packer.compress(bytes(side + 1)) for _ in range(side)), packer.flush()])
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def first(root: Path) -> Path:
    return root / "top" / "000.png"


def cut(root: Path, share: float) -> None:
    content = first(root).read_bytes()
    first(root).write_bytes(content[: int(len(content) * share)])


def flip_a_byte(root: Path) -> None:
    content = bytearray(first(root).read_bytes())
    content[len(content) // 2] ^= 0xFF
    first(root).write_bytes(content)


def only_pictures(root: Path) -> None:
    for file in root.rglob("*.png"):
        file.rename(root / f"{file.parent.name}{file.name}")
    for name in CLASSES:
        (root / name).rmdir()


def one_class(root: Path) -> None:
    for name in ("bottom", "middle"):
        (root / name).rename(root / "top" / name)


def new_class_in_test(root: Path) -> None:
    (root / "train").mkdir()
    for name in CLASSES:
        (root / name).rename(root / "train" / name)
    (root / "test" / "tpo").mkdir(parents=True)
    stripe(0, 1).save(root / "test" / "tpo" / "0.png")


REFUSED = {
    "an empty class": (lambda r: (r / "void").mkdir(), "void: holds no picture"),
    "text as PNG": (lambda r: first(r).write_text("no"), "000.png: not a readable picture"),
    "an empty file": (lambda r: first(r).write_bytes(b""), "000.png: not a readable picture"),
    "a header alone": (lambda r: cut(r, 0.1), "000.png: not a readable picture"),
    "a truncated PNG": (lambda r: cut(r, 0.8), "000.png: not a readable picture"),
    "a damaged byte": (flip_a_byte, "000.png: not a readable picture"),
    "a bomb": (lambda r: bomb(first(r), 14_000), "000.png: too many pixels"),
    "a link to nothing": (lambda r: (r / "top" / "x.png").symlink_to(r / "y"), "x.png: not a"),
    "a folder as PNG": (lambda r: (r / "top" / "x.png").mkdir(), ""),
    "a pipe": (lambda r: os.mkfifo(r / "top" / "x.png"), "x.png: not a readable picture"),
    "a loop": (lambda r: (r / "loop").symlink_to(r), "loop: links to a folder that holds it"),
    "one class": (one_class, "holds 1 folders"),
    "no classes": (only_pictures, "holds 0 folders"),
    "train alone": (lambda r: (r / "train").mkdir(), "allowed: train and test alone"),
    "another class in test": (new_class_in_test, "class 'tpo' is not in train; allowed: bottom, "
                              "middle, top; did you mean top?"),
    "a name that does not print": (lambda r: (r / "top").rename(r / "t\x1bop"), "names that print"),
    "floats": (lambda r: Image.fromarray(np.ones((12, 12), np.float32)).save(r / "top" / "f.tiff"),
               "f.tiff: not a readable picture (pixels that are floats"),
    "other sizes": (lambda r: stripe(0, 1, size=(5, 4)).save(first(r)), "000.png: 5x4 pixels"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_folder_is_refused_in_one_line_that_names_it(tmp_path: Path, what: str) -> None:
    root, (spoil, said) = photos(tmp_path / "p", 2), REFUSED[what]
    spoil(root)
    if said:
        assert said in refusal(root)
    else:
        assert load_dataset(root).counts() == {"train": (1, 1, 1), "test": (1, 1, 1)}


def names_in_chinese(root: Path) -> None:
    (root / "top").rename(root / "局部缺陷")
    for k, file in enumerate(sorted((root / "局部缺陷").iterdir())):
        file.rename(file.with_name(f"织物 {k}.png"))


def litter(root: Path) -> None:
    (root / "top" / "Thumbs.db").write_bytes(b"x")
    (root / ".DS_Store").write_bytes(b"x")
    (root / "__MACOSX").mkdir()


def one_picture(root: Path) -> None:
    for file in sorted((root / "top").iterdir())[1:]:
        file.unlink()


def a_loop_inside(root: Path) -> None:
    (root / "top" / "loop").symlink_to(root)
    (root / "top" / "self").symlink_to(root / "top" / "self")


TAKEN = {
    "names in Chinese": (names_in_chinese, 4),
    "what systems leave": (litter, 4),
    "one picture of a class": (one_picture, 1),
    "forty megapixels": (lambda r: bomb(first(r), 6_325), 4),
    "links to folders around": (a_loop_inside, 4),
    "a class elsewhere": (lambda r: (r / "top").rename(r.parent / "t")
                          and (r / "top").symlink_to(r.parent / "t"), 4),
    "folders below": (lambda r: (r / "top" / "deep" / "er").mkdir(parents=True)
                      or first(r).rename(r / "top" / "deep" / "er" / "a.png"), 4),
}  # fmt: skip


@pytest.mark.parametrize("what", TAKEN)
def test_a_strange_folder_is_right(tmp_path: Path, what: str) -> None:
    root, (change, number) = photos(tmp_path / "p", 4), TAKEN[what]
    change(root)
    data = load_dataset(root, image_size=12)
    assert len(data.classes) == 3
    counts = np.sum(list(data.counts().values()), 0)
    assert sorted(counts.tolist()) == [number, 4, 4] if number < 4 else set(counts) == {4}


def test_files_that_are_no_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    root = photos(tmp_path / "p", 2)
    (root / "top" / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"1 files are left out, such as notes\.txt"):
        assert len(load_dataset(root).x_train) == 3


def test_a_test_picture_that_training_has_is_warned_of(tmp_path: Path) -> None:
    for split in ("train", "test"):
        photos(tmp_path / "p" / split, 2)
    with pytest.warns(UserWarning, match="6 test pictures are training pictures, too"):
        load_dataset(tmp_path / "p")
