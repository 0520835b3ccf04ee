"""What users bring, and what strangers send."""

import csv
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageOps

from oculex.contracts import BadSample, UserError
from oculex.data.augment import random_resized_crop, resize_center_crop
from oculex.data.convert import convert
from oculex.data.decode import opened
from oculex.data.inspect import describe
from oculex.data.order import generator
from oculex.data.sources import braces, open_source
from oculex.data.split import split


def picture(kind="PNG", size=(20, 14), colour=(200, 10, 10)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for index in range(6):
        (root / f"{index}.png").write_bytes(picture())
    return root


def rows(folder, text, name="captions.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return open_source(str(folder / name))


def read(source):
    """(samples, bad samples) of a source."""
    good, bad = [], []
    for index in range(len(source)):
        try:
            good.append(source[index])
        except BadSample as error:
            bad.append(error)
    return good, bad


def test_rows_of_one_image_are_one_sample(folder):
    source = rows(folder, "Image, Caption\n0.png,one\n1.png,two\n0.png,three\n".replace(", ", ","))
    assert len(source) == 2
    assert source[0]["captions"] == ["one", "three"]
    assert opened(source[0]["image"], "x").size == (20, 14)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.tsv", "file_name\ttext\n0.png\thello\n"),
        ("c.jsonl", '{"image": "0.png", "caption": "hello"}\n'),
        ("c.json", '[{"filename": "0.png", "captions": ["hello"]}]'),
        (
            "c.json",
            '{"images": [{"id": 5, "file_name": "0.png"}], "annotations": [{"image_id": 5, "caption": "hello"}]}',
        ),
    ],
)
def test_every_kind_of_captions_file(folder, name, text):
    assert rows(folder, text, name)[0]["captions"] == ["hello"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.csv", "a,b\n1,2\n", "one must be called image"),
        ("c.csv", "image,b\n1,2\n", "one must be called caption"),
        ("c.csv", "image,caption\n", "no rows"),
        ("c.csv", "image,caption\n0.png,\n", "no captions"),
        ("c.csv", "image,caption\nnowhere.png,x\n", "neither beside it"),
        ("c.json", "{", "cannot read"),
        ("c.json", "[" * 5000, "cannot read"),
        ("c.json", '{"images": 3, "annotations": 4}', "looks like COCO"),
        ("c.jsonl", "3\n4\n", "no captions"),
    ],
)
def test_captions_files_that_say_nothing(folder, name, text, said):
    with pytest.raises(UserError, match=said):
        rows(folder, text, name)


def test_every_row_that_cannot_be_used_is_a_named_bad_sample(folder):
    lines = [
        "image,caption",
        "0.png,one",
        ",no image",
        "1.png,",
        "2.png,  ",
        "gone.png,text",
        "0.png,two",
        "3.png",
    ]
    good, bad = read(rows(folder, "\n".join(lines)))
    assert [sample["captions"] for sample in good] == [["one", "two"]]
    assert sorted(each.key for each in bad) == [f"captions.csv line {n}" for n in (3, 4, 5, 8)] + ["gone.png"]
    text = (
        '{"image": "0.png", "caption": "x"}\n{"image": "1.pn\n\n7\n{"image": "2.png", "caption": ["a", 5]}\n'
    )
    good, bad = read(rows(folder, text + '{"image": "3.png", "caption": "half \\ud83d"}', "c.jsonl"))
    assert len(good) == 1
    assert [each.key for each in bad] == [f"c.jsonl line {n}" for n in (2, 4, 5, 6)]


def test_cells_and_lines_may_hold_line_breaks(folder):
    assert rows(folder, 'image,caption\n0.png,"one\ntwo \u2028three"\n')[0]["captions"] == [
        "one\ntwo \u2028three"
    ]
    text = '{"image": "0.png", "caption": "one\u2028two"}\n'
    assert rows(folder, text, "c.jsonl")[0]["captions"] == ["one\u2028two"]


def test_names_are_escaped_where_they_could_forge_a_line(tmp_path):
    for name in ("a\nb", "a\x1b[31mb"):
        (tmp_path / f"{name}.png").write_bytes(picture())
    source = open_source(str(tmp_path))
    assert [source[i]["id"] for i in range(2)] == ["a\\nb.png", "a\\x1b[31mb.png"]
    assert str(BadSample("a\nb", "why\r\x07")) == "a\\nb: why\\r\\x07"
    assert str(UserError("no\n  \x1b[2J\ud800")) == "no \\x1b[2J\\ud800"


def test_no_picture_outside_of_the_folder_is_opened(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    names = [
        "0.png",
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "loop.png",
        "a\x00b",
        ".",
        "x" * 5000,
    ]
    with (folder / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *([name, "x"] for name in names)])
    source = open_source(str(folder / "c.csv"))
    assert source[0]["id"] == "0.png"
    for index in range(1, len(source)):
        with pytest.raises(BadSample):
            source[index]


def test_a_folder_of_pictures_that_links_elsewhere_is_not_followed(folder, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    (root / "images").symlink_to(folder)
    with pytest.raises(UserError, match="keep the pictures"):
        rows(root, "image,caption\n0.png,x\n")


def make_captions(root):
    (root / "0.png").write_bytes(picture())
    (root / "c.csv").write_text("image,caption\n0.png,x\n")
    return root / "c.csv", root / "0.png"


def make_images(root):
    (root / "0.png").write_bytes(picture())
    return root, root / "0.png"


def make_texts(root):
    (root / "0.png").write_bytes(picture())
    (root / "0.txt").write_text("x")
    return root, root / "0.txt"


def make_tar(root):
    tar(root / "s.tar", [("0.png", picture())])
    return root / "s.tar", root / "s.tar"


def make_parquet(root):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [picture()]}), root / "s.parquet")
    return root / "s.parquet", root / "s.parquet"


def make_hub(root):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"image": [{"bytes": picture()}], "text": ["x"]}).save_to_disk(str(root / "d"))
    return root / "d", next((root / "d").glob("*.arrow"))


@pytest.mark.parametrize(
    "make",
    [make_captions, make_images, make_texts, make_tar, make_parquet, make_hub],
    ids=lambda f: f.__name__,
)
def test_changed_data_changes_the_fingerprint(tmp_path, make):
    spec, changed = make(tmp_path)
    before = open_source(str(spec)).fingerprint()
    assert open_source(str(spec)).fingerprint() == before
    os.utime(changed, ns=(1, 1))
    assert open_source(str(spec)).fingerprint() != before


def test_folders_of_classes_and_texts(tmp_path):
    for name in ("sea_horse/a.png", "cat/b.png", "cat/c.png"):
        (tmp_path / "k" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "k" / name).write_bytes(picture())
    source = open_source(str(tmp_path / "k"))
    assert source.classes == ("cat", "sea horse")
    assert [source[i]["label"] for i in range(3)] == [0, 0, 1]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.png").write_bytes(picture())
    (tmp_path / "t" / "a.txt").write_text("first\nsecond\n")
    assert open_source(str(tmp_path / "t"))[0]["captions"] == ["first", "second"]


@pytest.mark.parametrize(("make", "said"), [
    (lambda p: None, "does not exist"),
    (lambda p: p.mkdir(), "has no images"),
    (lambda p: p.write_text("x"), "give a folder"),
])  # fmt: skip
def test_nothing_to_read_is_one_line(tmp_path, make, said):
    make(tmp_path / "it")
    with pytest.raises(UserError, match=said):
        open_source(str(tmp_path / "it"))


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def test_tars_have_random_access_and_survive_pickling(tmp_path):
    import pickle

    for shard in range(2):
        pairs = [(f"{i}.png", picture()) for i in range(3)] + [
            (f"{i}.txt", f"text {shard} {i}".encode()) for i in range(3)
        ]
        tar(tmp_path / f"s-{shard:03d}.tar", pairs)
    source = open_source(str(tmp_path / "s-{000..001}.tar"))
    assert len(source) == 6
    assert source[4]["captions"] == ["text 1 1"]
    again = pickle.loads(pickle.dumps(source))
    assert again[5]["captions"] == ["text 1 2"]
    assert open_source(str(tmp_path))[0]["captions"] == ["text 0 0"]


def test_a_hostile_tar_gives_its_whole_members_and_names_the_others(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        for name in ("a.png", "../../escape.png", "z.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture())
            file.addfile(member, io.BytesIO(picture()))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"z.png") + 520])
    source = open_source(str(path))
    good, bad = read(source)
    assert [sample["id"] for sample in good] == ["x.tar/a", "x.tar/../../escape"]
    assert [(each.key, each.reason) for each in bad] == [
        ("x.tar/b", "is a link"),
        ("x.tar/z", "the tar ends before it does"),
    ]
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "y.tar").write_bytes(b"\x07" * 5000)
    with pytest.raises(UserError):
        open_source(str(tmp_path / "y.tar"))


def test_parquet_with_bytes_and_hub_structs(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "image": [{"bytes": picture(), "path": "x"}] * 5,
            "caption": [f"c{i}" for i in range(5)],
            "label": range(5),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "a.parquet"))
    assert [source[i]["captions"] for i in (4, 0)] == [["c4"], ["c0"]]
    assert source[3]["label"] == 3
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + b"\0" * 50)
    with pytest.raises(UserError, match="cannot read"):
        open_source(str(tmp_path / "b.parquet"))


def test_a_hub_dataset_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
    data = datasets.Dataset.from_dict({"image": pictures, "text": ["a", "b", "c"]})
    data.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "d"))
    source = open_source(str(tmp_path / "d"))
    assert source[2]["captions"] == ["c"]
    assert opened(source[2]["image"], "x").size == (8, 8)


def test_splits_of_a_hub_dataset_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"image": [{"bytes": picture()}] * 2, "text": ["a", "b"]})
    datasets.DatasetDict({"train": part}).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "two"))
    assert open_source(str(tmp_path / "one"))[1]["captions"] == ["b"]
    with pytest.raises(UserError, match="has the splits train, test; give one of them"):
        open_source(str(tmp_path / "two"))
    assert len(open_source(str(tmp_path / "two" / "test"))) == 2


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_conversion_keeps_labels_and_class_names(tmp_path, to):
    for name in ("sea_horse/a.png", "cat/b.png"):
        (tmp_path / "k" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "k" / name).write_bytes(picture())
    convert(open_source(str(tmp_path / "k")), tmp_path / "out", to=to)
    copy = open_source(str(tmp_path / "out"))
    assert copy.classes == ("cat", "sea horse")
    assert [copy[i]["label"] for i in range(2)] == [0, 1]


def test_compressed_tars_say_how_to_unpack_them(tmp_path):
    import gzip

    tar(tmp_path / "s.tar", [("0.png", picture())])
    packed = gzip.compress((tmp_path / "s.tar").read_bytes())
    (tmp_path / "packed").mkdir()
    for name, said in (("x.tar", "gzip -d"), ("x.tar.gz", "unpack it once")):
        (tmp_path / "packed" / name).write_bytes(packed)
        with pytest.raises(UserError, match=said):
            open_source(str(tmp_path / "packed" / name))
    (tmp_path / "packed" / "x.tar").unlink()
    with pytest.raises(UserError, match=r"compressed tars \(x.tar.gz\)"):
        open_source(str(tmp_path / "packed"))


def test_training_names_samples_without_image_or_caption():
    from oculex.data.views import image_view, text_view

    rng = np.random.default_rng(0)
    labelled = {"id": "x", "image": picture(), "label": 3}
    with pytest.raises(
        BadSample, match="x: has no caption, which this system trains on: give a captions file"
    ):
        text_view(labelled, rng, None, 8)
    with pytest.raises(BadSample, match="x: has no image"):
        image_view({"id": "x", "caption": "a"}, rng, 8, (0.9, 1.0))
    assert text_view(labelled, None, None, 8) == image_view({"id": "x"}, None, 8, (0.9, 1.0)) == {}


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_conversion_keeps_bytes_captions_and_names_what_it_leaves_out(folder, tmp_path, to):
    text = "image,caption\n" + "".join(f"{i}.png,text {i}\n{i}.png,more {i}\n" for i in range(6))
    source = rows(folder, text)
    (folder / "2.png").write_bytes(b"not a picture")
    done = convert(source, tmp_path / "out", to=to, shard=4)
    assert (done["samples"], done["shards"], [key for key, _ in done["skipped"]]) == (5, 2, ["2.png"])
    copy = open_source(str(tmp_path / "out"))
    assert len(copy) == 5
    assert copy[4]["captions"] == ["text 5", "more 5"]
    assert copy[4]["image"] == source[5]["image"]


@pytest.mark.parametrize("content", [
    b"", b"GIF89a", picture()[:40], picture("JPEG")[:200], b"\xff\xd8\xff\xe0" + b"\0" * 100, b"<svg/>",
    picture("PNG", (9000, 9000)),
])  # fmt: skip
def test_what_is_no_whole_picture_is_a_bad_sample(content):
    with pytest.raises(BadSample):
        opened(content, "it")


def test_alpha_is_laid_on_white_and_orientation_applied():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(buffer, "PNG")
    assert np.asarray(opened(buffer.getvalue(), "x")).min() == 255
    turned = Image.new("RGB", (30, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif)
    assert opened(buffer.getvalue(), "x").size == (10, 30)


def test_crops_have_torchvisions_geometry():
    transforms = pytest.importorskip("torchvision.transforms")
    import torch

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((240, 180))
    torch.manual_seed(0)
    areas = {"ours": [], "theirs": []}
    from oculex.data.augment import draw_box

    for index in range(400):
        box = draw_box(image.size, generator(1, index), (0.3, 1.0), (3 / 4, 4 / 3))
        areas["ours"].append((box[2] - box[0]) * (box[3] - box[1]))
        _, _, h, w = transforms.RandomResizedCrop.get_params(image, (0.3, 1.0), (3 / 4, 4 / 3))
        areas["theirs"].append(h * w)
        assert 0 <= box[0] < box[2] <= 240
        assert 0 <= box[1] < box[3] <= 180
    assert np.mean(areas["ours"]) == pytest.approx(np.mean(areas["theirs"]), rel=0.05)
    plain = transforms.Compose(
        [transforms.Resize(64, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(64)]
    )
    theirs = np.asarray(plain(image)).transpose(2, 0, 1).astype(int)
    assert np.abs(resize_center_crop(np.asarray(image), 64).astype(int) - theirs).mean() < 2.0


def test_training_crops_have_torchvisions_pixels():
    functional = pytest.importorskip("torchvision.transforms.functional")
    from torchvision.transforms import InterpolationMode

    from oculex.data.augment import cropped
    from oculex.data.decode import Encoded

    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    for side, least in ((400, 2), (1200, 24)):  # decoded whole: rounding; and at half its size
        buffer = io.BytesIO()
        small.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
        x0, y0, x1, y1 = box = (9, 4, side - 25, side * 3 // 4 - 3)
        whole = opened(buffer.getvalue(), "x")
        theirs = functional.resized_crop(
            whole, y0, x0, y1 - y0, x1 - x0, [224, 224], InterpolationMode.BICUBIC
        )
        encoded = Encoded(buffer.getvalue(), "x")
        apart = np.abs(
            cropped(encoded, box, 224).astype(int) - np.asarray(theirs).transpose(2, 0, 1).astype(int)
        )
        assert apart.max() <= least
        assert apart.mean() < 1.0


def test_a_jpeg_keeps_its_pixels_and_orientation_without_its_metadata():
    rng = np.random.default_rng(0)
    turned = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((40, 30))
    for orientation in range(1, 9):  # scans are counted in the progressive ones
        exif = turned.getexif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        turned.save(
            buffer,
            "JPEG",
            progressive=orientation % 2 == 0,
            exif=exif,
            comment=b"c" * 50,
            icc_profile=b"p" * 90_000,
        )
        theirs = ImageOps.exif_transpose(Image.open(buffer))
        assert np.array_equal(np.asarray(opened(buffer.getvalue(), "x")), np.asarray(theirs))


def test_views_are_deterministic_in_their_generator():
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3)).astype(np.uint8)
    one, two, other = (
        random_resized_crop(image, 16, generator(*key), (0.2, 0.5)) for key in ((1, 2), (1, 2), (1, 3))
    )
    assert one.shape == (3, 16, 16)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_the_held_out_part_and_the_training_part_share_nothing(folder):
    source = rows(folder, "image,caption\n" + "".join(f"{i}.png,t{i}\n" for i in range(6)))
    train, held = split(source, 0.34)
    names = [{part[i]["id"] for i in range(len(part))} for part in (train, held)]
    assert len(held) == 2
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 6


def test_braces():
    assert braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert braces("plain") == ["plain"]


def test_the_world_is_rendered_once_and_test_scenes_are_others():
    source = open_source("world:scenes=12,size=16")
    sample = source[3]
    assert sample["image"].shape == (16, 16, 3)
    assert len(sample["captions"]) == 3
    held = source.held_out()
    assert held.world.split == "test"
    assert not np.array_equal(held[3]["image"], sample["image"])
    again = open_source("world:scenes=12,size=16")
    assert np.array_equal(again[3]["image"], sample["image"])
    assert json.dumps(again[3]["captions"]) == json.dumps(sample["captions"])


def test_real_files_are_read(real_data):
    flickr = open_source(str(real_data / "flickr8k_thumbs"))
    assert len(flickr) == 700
    assert len(flickr[0]["captions"]) == 5
    assert min(opened(flickr[0]["image"], "x").size) > 50
    for coco in ("tiny_coco", "tiny_coco/annotations", "tiny_coco/annotations/captions_train2017.json"):
        assert len(open_source(str(real_data / coco))[0]["captions"]) >= 5
    cifar = open_source(str(real_data / "cifar10" / "train.tar"))
    assert len(cifar.classes) == 10
    assert len({cifar[i]["label"] for i in range(0, len(cifar), 50)}) == 10
    for name, count in (
        ("imagenet_sample", 110),
        ("emoji_bilingual", 186),
        ("clevr_mini", 19),
        ("rgbd_7scenes", 50),
    ):
        good, bad = read(open_source(str(real_data / name)))
        assert (len(good), bad) == (count, [])
        assert all(min(opened(sample["image"], "x").size) >= 72 for sample in good[:20])
    assert len(open_source(str(real_data / "infrared_roadscene")).classes) == 2
    facts = describe(flickr)
    assert facts["samples"] == 700
    assert not facts["unreadable"]
