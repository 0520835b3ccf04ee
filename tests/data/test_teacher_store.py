"""The store of a teacher's answers: what is read is what was said, through crashes, damage and changed plans."""

import dataclasses
import os
import pickle

import numpy as np
import pytest
import torch

from oculex.contracts import BadSample, UserError
from oculex.data.order import keyed
from oculex.data.randaugment import OPERATIONS, erase, rand_augment
from oculex.data.teacher_store import CHUNK, Plan, TeacherStore, fill, view_key

CLASSES, KEPT = 7, 3


class Numbers:
    """Samples of one number; every seventh cannot be read."""

    name, classes = "numbers", tuple("abcdefg")

    def __init__(self, count, first=0):
        self.count, self.first = count, first

    def fingerprint(self):
        return f"{self.first}+{self.count}"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if (self.first + index) % 7 == 6:
            raise BadSample(f"n{self.first + index}", "unlucky")
        return {"id": f"n{self.first + index}", "value": self.first + index}


def view(sample, rng):
    return {"x": np.float32(sample["value"] + rng.random())}


def classify(batch):
    return batch["x"][:, None].double() * torch.linspace(0.01, 0.3, CLASSES) % 2


def plan(samples, **changes):
    facts = {
        "teacher": "t", "data": ("d",), "view": "v", "samples": samples, "classes": CLASSES, "epochs": 2,
        "kept": KEPT, "seed": 5,
    }  # fmt: skip
    return Plan(**(facts | changes))


def said(value, epoch):
    """The slow, obvious way: the view of the epoch, and the teacher's best classes for it."""
    x = torch.tensor([np.float32(value + keyed(view_key(5, epoch, f"n{value}")).random())])
    best = classify({"x": x}).float().softmax(1).topk(KEPT)
    return best.indices[0].numpy(), best.values[0].half().numpy()


@pytest.fixture
def filled(tmp_path):
    store = TeacherStore(tmp_path, plan(40))
    fill(store, [Numbers(25), Numbers(15, first=25)], view, classify, workers=0)
    return store


def test_every_answer_of_every_epoch_is_what_the_teacher_said_of_the_replayed_view(filled):
    assert filled.complete()
    for epoch in range(2):
        for value in range(40):
            if value % 7 == 6:
                continue
            answer = filled.answer(epoch, f"n{value}")
            classes, probabilities = said(value, epoch)
            assert answer.key == view_key(5, epoch, f"n{value}")
            np.testing.assert_array_equal(answer.classes, classes)
            np.testing.assert_array_equal(answer.probabilities, probabilities)
    assert filled.answer(0, "n1").key != filled.answer(1, "n1").key


def test_its_size_is_the_predicted_one_and_small(filled):
    on_disk = sum(path.stat().st_size for path in filled.folder.glob("*.bin"))
    assert on_disk == filled.plan.bytes() == 2 * 40 * (8 + 8 + 2 * KEPT + 2 * KEPT + 4)
    assert plan(1, classes=21_841, kept=100).record().itemsize == 420
    assert plan(1, classes=70_000, kept=100).record().itemsize == 620


def test_a_sample_that_could_not_be_read_is_named_when_it_is_asked_for(filled):
    with pytest.raises(UserError, match="no answer for sample n6"):
        filled.answer(0, "n6")
    with pytest.raises(UserError, match="no answer for sample elsewhere"):
        filled.answer(0, "elsewhere")


@pytest.mark.parametrize("cut", [1, 21, 33, 100])
def test_a_build_that_was_killed_goes_on_at_the_last_whole_record(tmp_path, filled, cut):
    whole = {path.name: path.read_bytes() for path in filled.folder.glob("*.bin")}
    path = filled.path(1)
    os.truncate(path, path.stat().st_size - cut)
    store = TeacherStore(tmp_path, plan(40))
    assert not store.complete()
    asked = []

    def counted(batch):
        asked.append(len(batch["x"]))
        return classify(batch)

    fill(store, [Numbers(25), Numbers(15, first=25)], view, counted, workers=0)
    assert {path.name: path.read_bytes() for path in store.folder.glob("*.bin")} == whole
    lost = -(-cut // store.type.itemsize)
    assert sum(asked) == sum(value % 7 != 6 for value in range(40 - lost, 40))


def test_garbage_at_the_end_is_cut_away(tmp_path, filled):
    path = filled.path(0)
    data = bytearray(path.read_bytes())
    data[-3 * filled.type.itemsize + 9] ^= 1  # a page that never reached the disk, inside the last chunk
    path.write_bytes(data)
    assert TeacherStore(tmp_path, plan(40)).rows(0) == 37


def test_a_damaged_record_is_found_when_it_is_read(tmp_path, filled):
    size, row = filled.type.itemsize, 10
    data = bytearray(filled.path(1).read_bytes())
    data[row * size + 20] ^= 4
    filled.path(1).write_bytes(data)
    store = TeacherStore(tmp_path, plan(40))
    store.answer(1, "n9")
    with pytest.raises(UserError, match=r"damaged at sample n10; delete it"):
        store.answer(1, "n10")


@pytest.mark.parametrize(
    ("field", "value"),
    [("teacher", "u"), ("view", "w"), ("seed", 6), ("kept", 2), ("data", ("e",)), ("epochs", 3)],
)
def test_another_plan_is_refused_by_name_and_has_another_digest(tmp_path, filled, field, value):
    other = dataclasses.replace(plan(40), **{field: value})
    assert other.digest() != filled.plan.digest()
    with pytest.raises(UserError, match=f"for another {field}"):
        TeacherStore(tmp_path, other)


def test_ids_that_are_not_unique_over_the_sources_are_refused(tmp_path):
    store = TeacherStore(tmp_path, plan(10))
    fill(store, [Numbers(5), Numbers(5)], view, classify, workers=0)
    with pytest.raises(UserError, match="have the same id"):
        store.answer(0, "n1")


def test_many_chunks_and_a_worker_process_give_the_same(tmp_path):
    count = CHUNK + 50
    stores = [TeacherStore(tmp_path / str(workers), plan(count, epochs=1)) for workers in (0, 1)]
    for workers, store in enumerate(stores):
        fill(store, [Numbers(count)], view, classify, workers=workers)
    assert stores[0].path(0).read_bytes() == stores[1].path(0).read_bytes()


def test_a_worker_process_maps_the_files_itself(filled):
    filled.answer(0, "n1")
    again = pickle.loads(pickle.dumps(filled))
    assert len(pickle.dumps(filled)) < 5000
    np.testing.assert_array_equal(again.answer(1, "n2").classes, filled.answer(1, "n2").classes)


# ------------------------------------------------------------------------------------- encoded augmentations


def picture(size=48):
    ramp = np.linspace(0, 255, size * size * 3).reshape(3, size, size).astype(np.uint8)
    return ramp ^ np.arange(size, dtype=np.uint8)


def test_a_key_replays_every_pixel_and_another_key_does_not():
    def drawn(key):
        rng = keyed(key)
        return erase(rand_augment(picture(), rng, 9.0), rng, 0.25, (0.5,) * 3, (0.2,) * 3)

    keys = [view_key(0, epoch, "a") for epoch in range(64)]
    pictures = [drawn(key) for key in keys]
    for key, seen in zip(keys, pictures, strict=True):
        np.testing.assert_array_equal(drawn(key), seen)
    assert len({seen.tobytes() for seen in pictures}) > 48  # some keys draw operations that change nothing


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_operations_are_timms(name, sign):
    peer = pytest.importorskip("timm.data.auto_augment")
    from PIL import Image

    theirs = {
        "auto_contrast": ("AutoContrast", peer.auto_contrast), "equalize": ("Equalize", peer.equalize),
        "invert": ("Invert", peer.invert), "rotate": ("Rotate", peer.rotate),
        "posterize": ("PosterizeIncreasing", peer.posterize), "solarize": ("SolarizeIncreasing", peer.solarize),
        "solarize_add": ("SolarizeAdd", peer.solarize_add), "colour": ("ColorIncreasing", peer.color),
        "contrast": ("ContrastIncreasing", peer.contrast), "brightness": ("BrightnessIncreasing", peer.brightness),
        "sharpness": ("SharpnessIncreasing", peer.sharpness), "shear_x": ("ShearX", peer.shear_x),
        "shear_y": ("ShearY", peer.shear_y), "translate_x": ("TranslateXRel", peer.translate_x_rel),
        "translate_y": ("TranslateYRel", peer.translate_y_rel),
    }  # fmt: skip
    key, operation = theirs[name]
    image = Image.fromarray(picture().transpose(1, 2, 0))
    for magnitude in (
        0.0,
        4.3,
        9.0,
        10.0 if name != "posterize" else 9.9,
    ):  # Pillow refuses to keep no bit at all
        level = peer.LEVEL_TO_ARG[key]
        arguments = level(magnitude, {}) if level is not None else ()
        ours = OPERATIONS[name](image, magnitude / 10, sign)
        both = [operation(image, *arguments, resample=Image.BICUBIC, fillcolor=(124, 116, 104))]
        if arguments:  # timm draws the sign inside
            flipped = (
                2.0 - arguments[0]
                if "Increasing" in key and isinstance(arguments[0], float)
                else -arguments[0]
            )
            if isinstance(arguments[0], float):
                both.append(operation(image, flipped, resample=Image.BICUBIC, fillcolor=(124, 116, 104)))
        assert any(np.array_equal(np.asarray(ours), np.asarray(other)) for other in both), magnitude


def test_both_signs_occur_and_half_of_the_operations_are_done():
    flat = np.zeros((3, 8, 8), np.uint8)
    flat[:, :, 4:] = 200
    changed = sum(not np.array_equal(rand_augment(flat, keyed(k), 9.0, count=1), flat) for k in range(1, 600))
    assert 0.3 * 600 < changed < 0.5 * 600  # half are done, and some of those change nothing here


def test_erasing_has_its_probability_and_its_area():
    image = np.full((3, 64, 64), 128, np.uint8)
    erased = [erase(image, keyed(k), 0.25, (0.5,) * 3, (0.2,) * 3) for k in range(1, 800)]
    share = np.array([(each != image).any(0).mean() for each in erased])
    assert 0.2 < (share > 0).mean() < 0.3
    assert share.max() <= 1 / 3 + 0.02
    assert (image == 128).all()
