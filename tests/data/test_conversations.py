"""LLaVA's, POPE's, VQA's and MiniGPT-4's files as sources, whole and broken."""

import io
import json
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from oculex.contracts import BadSample, UserError
from oculex.data.sources import open_source
from oculex.data.sources.captions import CaptionedImages
from oculex.data.sources.conversations import TalkedAbout
from oculex.evaluation.questions import Asked


def picture(shade=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def talk(*said):
    return [{"from": who, "value": text} for who, text in zip(("human", "gpt") * 4, said, strict=False)]


def written(folder, name, tree, pictures=()):
    for each in pictures:
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).write_bytes(picture())
    (folder / name).write_text(json.dumps(tree), encoding="utf-8")
    return open_source(str(folder / name))


def test_llavas_conversations_are_turns_with_or_without_a_picture(tmp_path):
    rows = [
        {
            "id": "a",
            "image": "coco/1.jpg",
            "conversations": talk("<image>\nWhat is it?", "A cat.", "Sure?", "Yes."),
        },
        {"id": 7, "image": "coco/2.jpg", "conversations": talk("What is it?\n<image>", "A dog.")},
        {"id": "text", "conversations": talk("Hello", "Hello!")},
    ]
    source = written(tmp_path, "llava.json", rows, ("images/coco/1.jpg", "images/coco/2.jpg"))
    assert isinstance(source, TalkedAbout)
    assert [sample["id"] for sample in source] == ["a", "7", "text"]
    first, second, text = source
    assert first["conversation"] == [
        {"role": "user", "text": "What is it?"},
        {"role": "assistant", "text": "A cat."},
        {"role": "user", "text": "Sure?"},
        {"role": "assistant", "text": "Yes."},
    ]
    assert second["conversation"][0]["text"] == "What is it?"
    assert second["image"] == picture()
    assert "image" not in text


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"conversations": "no"}, "has no list of conversations"),
        ({"conversations": [{"from": "parrot", "value": "x"}]}, "from none of human"),
        ({"conversations": [{"from": "human", "value": None}]}, "a turn without a text"),
        ({"conversations": talk("x"), "image": {"1": "1.jpg"}}, "pictures are read by name"),
        ({"conversations": talk("x"), "image": ["1.jpg", 2]}, "pictures are read by name"),
        ({"conversations": talk("x", "y"), "id": "whole"}, "is there twice"),
        (3, "has no list of conversations"),
    ],
)
def test_a_broken_conversation_is_a_bad_sample(tmp_path, row, says):
    whole = {"id": "whole", "conversations": talk("Hello", "Hello!")}
    source = written(tmp_path, "llava.json", [whole, row])
    assert len(source) == 2
    assert source[0]["id"] == "whole"
    with pytest.raises(BadSample, match=says):
        source[1]


def test_popes_own_files_are_read(real_data, tmp_path, evidence):
    """Their questions, a few of them or for the record all; their pictures are not here, and grey ones stand for them."""
    for kind in ("random", "popular", "adversarial"):
        name = f"coco_pope_{kind}.json"
        with (real_data / "pope" / "coco" / name).open(encoding="utf-8") as file:
            lines = list(islice(file, None if evidence.recording else 60))
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
        for line in lines:
            shown = tmp_path / "val2014" / json.loads(line)["image"]
            shown.parent.mkdir(exist_ok=True)
            shown.write_bytes(picture(128))
    one = open_source(str(tmp_path / "coco_pope_popular.json"))
    assert len(one) == (500 if evidence.recording else 10)
    sample = one[0]
    assert sample["id"] == "COCO_val2014_000000310196.jpg"
    assert sample["questions"][0] == {
        "question": "Is there a snowboard in the image?", "answer": "yes", "kind": "popular"}  # fmt: skip
    whole = open_source(str(tmp_path))
    kinds = [each["kind"] for each in whole[0]["questions"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {"random": 6, "popular": 6, "adversarial": 6}
    asked = [each for index in range(len(whole)) for each in whole[index]["questions"]]
    assert len(asked) == (9000 if evidence.recording else 180)
    for name in ("minigpt4", "llava"):
        evidence(name, "real_data", data="POPE's three files for COCO, as published, with stand-ins for the pictures",
                 images=len(whole), questions=len(asked), yes=sum(each["answer"] == "yes" for each in asked))  # fmt: skip


def vqa(folder, answers=("yes",) * 9 + ("no",), **changes):
    (folder / "val2014").mkdir()
    (folder / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(picture())
    asked = {"question_id": 420, "image_id": 42, "question": "Is it a cat?"}
    told = {"question_id": 420, "image_id": 42, "multiple_choice_answer": answers[0], "answer_type": "yes/no",
            "answers": [{"answer": each, "answer_id": n} for n, each in enumerate(answers)]}  # fmt: skip
    tree = {"data_subtype": "val2014", "annotations": [told | changes]}
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps(tree), encoding="utf-8")
    questions = {"data_subtype": "val2014", "questions": [asked, asked | {"question_id": 421}]}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps(questions), encoding="utf-8"
    )
    return str(folder / "v2_OpenEnded_mscoco_val2014_questions.json")


def test_vqa_finds_the_answers_beside_the_questions(tmp_path):
    path = vqa(tmp_path)
    for spec in (path, str(tmp_path)):
        source = open_source(spec)
        assert source[0]["questions"] == [{"question": "Is it a cat?", "answer": "yes", "kind": "yes/no",
                                           "answers": ["yes"] * 9 + ["no"]}]  # fmt: skip
        with pytest.raises(BadSample, match="has no answers in v2_mscoco_val2014_annotations"):
            source[1]
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(UserError, match=r"must lie beside it in v2_mscoco_val2014_annotations\.json"):
        open_source(path)


@pytest.mark.parametrize(
    ("given", "score"), [(10, 1.0), (4, 1.0), (3, (3 * 2 / 3 + 7) / 10), (1, 0.9 / 3), (0, 0.0)]
)
def test_an_answer_counts_by_the_people_who_gave_it(given, score):
    """As VQA's evaluation: each person is left out once, and three of the others make an answer right."""
    people = ("Two",) * given + ("other",) * (10 - given)
    assert Asked("", "", 0, "", "2", "", people).score("2") == pytest.approx(score)
    assert Asked("", "", 0, "", "2", "", people).score("") == 0


def test_minigpt4s_curated_pairs_are_captions(tmp_path):
    tree = {"annotations": [{"image_id": "2", "caption": "A cat. It sleeps."}, {"image_id": "3"}]}
    source = written(tmp_path, "filter_cap.json", tree, ("image/2.jpg", "image/3.jpg"))
    assert isinstance(source, CaptionedImages)
    assert source[0]["captions"] == ["A cat. It sleeps."]
    assert source[0]["image"] == picture()
    with pytest.raises(BadSample, match=r"3\.jpg has no caption"):
        source[1]
    assert open_source(str(tmp_path))[0]["captions"] == ["A cat. It sleeps."]


def test_a_file_that_only_looks_like_one_is_one_line(tmp_path):
    (tmp_path / "x.json").write_text('[{"conversations": [')
    with pytest.raises(UserError, match="cannot read"):
        open_source(str(tmp_path / "x.json"))
    with pytest.raises(UserError, match="neither conversations nor questions"):
        written(tmp_path, "y.json", [{"conversations": 3}])
