"""Captions, questions and graphs say what is so."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from oculex.contracts import UserError
from oculex.world import (
    KINDS,
    SYNONYMS,
    SceneConfig,
    caption,
    colour_names,
    make_scene,
    questions,
    scene_graph,
    shape_names,
    survey,
)
from oculex.world.content import observe
from oculex.world.english import placed
from oculex.world.german import describe as german
from oculex.world.relations import Relation, relations
from oculex.world.scene import Scene
from oculex.world.vocabulary import SHAPE
from oculex.world.words import DE_COLOUR, DE_SHAPE, MATERIAL_WORD, ZH_COLOUR, ZH_SHAPE, plural

PLACES = "left of|right of|in front of|behind|next to|beside"
SCENES = [make_scene(31, i) for i in range(150)]
VIEWS = [*SCENES, *(s.seen_from(130.0, 12.0) for s in SCENES)]
PHRASE = re.compile(
    rf"\b(small |large )?(striped |checkered |dotted )?({'|'.join(colour_names())}) "
    rf"({'|'.join(MATERIAL_WORD.values())})? ?({'|'.join(shape_names())})\b"
)


def visible(scene: Scene):
    seen = survey(scene)
    return [(i, o) for i, o in enumerate(scene.objects) if seen.visible(i)]


def mentioned(text: str):
    return [tuple(part.strip() for part in found) for found in PHRASE.findall(text)]


def fits(phrase, thing) -> bool:
    size, pattern, colour, material, shape = phrase
    return (
        thing.colour == colour
        and thing.shape == shape
        and size in ("", thing.size)
        and pattern in ("", thing.pattern)
        and material in ("", MATERIAL_WORD[thing.material])
    )


@pytest.mark.parametrize("style", ["alt", "detailed"])
def test_captions_are_true_and_speak_of_visible_things_only(style):
    for n, scene in enumerate(VIEWS):
        shown = visible(scene)
        text = caption(scene, np.random.default_rng(n), style)
        phrases = mentioned(text)
        assert bool(phrases) == bool(shown)
        for phrase in phrases:
            assert any(fits(phrase, thing) for _, thing in shown), text
        if style == "detailed":
            for _, thing in shown:
                assert any(fits(phrase, thing) for phrase in phrases), text


def test_told_places_are_true():
    """In "A left of B" some A and B stand so."""
    told = 0
    names = {"left of": "left of", "right of": "right of", "in front of": "in front of", "behind": "behind"}
    for n, scene in enumerate(VIEWS):
        text = caption(scene, np.random.default_rng(n))
        for name in names:
            if f" {name} " not in text:
                continue
            first, second = (mentioned(part) for part in text.split(f" {name} ", 1))
            found = relations(scene)
            assert any(
                fits(first[-1], scene.objects[i]) and fits(second[0], scene.objects[j]) and r == name
                for i, r, j in found
            ), text
            told += 1
    assert told > 40


def test_placed_captions_are_true_and_tell_every_place_that_is_known():
    told = Counter()
    for n, scene in enumerate(VIEWS):
        text = caption(scene, np.random.default_rng(n), "placed")
        assert holds(text, scene), text
        places = observe(scene, np.random.default_rng(n)).places
        told[len(places) > 1 and places[1] is not None, bool(re.search(f" ({PLACES}) ", text))] += 1
    assert told[True, True] > 150
    assert not told[True, False]
    assert not told[False, True]


def test_placed_captions_tell_of_either_thing_first():
    """So who is told of first says neither which is the subject nor which is nearer."""
    told, subject = Counter(), Counter()
    for n, scene in enumerate(SCENES):
        content = observe(scene, np.random.default_rng(n))
        things = [thing.concept for thing in content.objects[:2]]
        if len(set(things)) < 2 or content.places[1] is None:
            continue
        for draw in range(20):
            text = placed(content, np.random.default_rng((n, draw)))
            told.update(re.findall(PLACES, text))
            subject[text.index(things[0]) < text.index(things[1])] += 1
    for one, other in ((told["in front of"], told["behind"]), (subject[True], subject[False])):
        assert one + other > 400
        assert abs(one - other) < 3 * (one + other) ** 0.5


def holds(text: str, scene: Scene) -> bool:
    """Whether every phrase, and the place if one is told, is true of the scene."""
    phrases = mentioned(text)
    if not all(any(fits(p, o) for o in scene.objects) for p in phrases):
        return False
    for name in ("left of", "right of", "in front of", "behind"):
        if f" {name} " in text:
            first, second = (mentioned(part) for part in text.split(f" {name} ", 1))
            return any(
                Relation(i, name, j) in relations(scene)
                for i, a in enumerate(scene.objects)
                for j, b in enumerate(scene.objects)
                if fits(first[-1], a) and fits(second[0], b)
            )
    return True


def test_wrong_captions_are_wrong_and_read_alike():
    reversed_places = 0
    for n, scene in enumerate(VIEWS):
        assert holds(caption(scene, np.random.default_rng(n)), scene)
        text = caption(scene, np.random.default_rng(n), "wrong")
        assert not holds(text, scene), text
        reversed_places += all(any(fits(p, o) for o in scene.objects) for p in mentioned(text))
    assert reversed_places > 15


def test_labels_are_told_only_where_they_can_be_read():
    told = 0
    for n, scene in enumerate(VIEWS):
        for label in re.findall(
            r"the label (\S+) printed", caption(scene, np.random.default_rng(n), "detailed")
        ):
            seen = survey(scene)
            assert any(o.label == label and seen.legible(i) for i, o in visible(scene))
            told += 1
    assert told > 10


def test_synonyms_replace_words_without_changing_what_is_meant():
    every = [w for words in SYNONYMS.values() for w in words]
    assert len(every) == len(set(every))
    assert not set(every) & {*colour_names(), *shape_names()}
    for n, scene in enumerate(SCENES):
        text = caption(scene, np.random.default_rng(n), "synonyms")
        assert not mentioned(text)
        thing = scene.subject
        assert any(w in text for w in SYNONYMS[thing.shape])
        assert any(w in text for w in SYNONYMS[thing.colour])


def test_noise_is_noisy_and_sometimes_says_something():
    texts = [caption(s, np.random.default_rng(n), "noisy") for n, s in enumerate(SCENES)]
    assert len(set(texts)) > 100
    relevant = sum(any(word in t.lower() for word in shape_names()) for t in texts)
    assert 0.5 < relevant / len(texts) < 0.95


def test_german_and_chinese_name_the_subject():
    for n, scene in enumerate(SCENES):
        thing = scene.subject
        for style in ("alt", "detailed"):
            text = caption(scene, np.random.default_rng(n), style, "de")
            assert DE_SHAPE[thing.shape].word in text
            assert DE_COLOUR[thing.colour] in text
            text = caption(scene, np.random.default_rng(n), style, "zh")
            assert ZH_SHAPE[thing.shape][1] in text
            assert ZH_COLOUR[thing.colour] in text
            assert not re.search(r"[a-z]", text)


def test_german_declension():
    thing = replace(SCENES[0].subject, size="small", colour="red", material="metal", pattern="plain")
    said = {
        (shape, case): german(replace(thing, shape=shape), case, True, True, True)
        for shape in ("cube", "sphere", "heart")
        for case in ("nominative", "dative")
    }
    assert said == {
        ("cube", "nominative"): "ein kleiner roter Würfel aus Metall",
        ("cube", "dative"): "einem kleinen roten Würfel aus Metall",
        ("sphere", "nominative"): "eine kleine rote Kugel aus Metall",
        ("sphere", "dative"): "einer kleinen roten Kugel aus Metall",
        ("heart", "nominative"): "ein kleines rotes Herz aus Metall",
        ("heart", "dative"): "einem kleinen roten Herz aus Metall",
    }


def test_captions_are_a_function_of_scene_and_rng():
    texts = [caption(SCENES[3], np.random.default_rng(5), style) for style in ("alt", "noisy", "detailed")]
    assert texts == [
        caption(SCENES[3], np.random.default_rng(5), style) for style in ("alt", "noisy", "detailed")
    ]


@pytest.mark.parametrize(("style", "language"), [("rude", "en"), ("alt", "fr"), ("noisy", "de")])
def test_unknown_styles_are_named(style, language):
    with pytest.raises(UserError, match="world: "):
        caption(SCENES[0], np.random.default_rng(0), style, language)


def asked(count: int) -> dict[str, Counter]:
    answers: dict[str, Counter] = defaultdict(Counter)
    for i in range(count):
        for q in questions(make_scene(41, i), np.random.default_rng(i), len(KINDS)):
            answers[q.kind][q.answer] += 1
    return answers


def test_a_blind_guesser_gains_nothing():
    answers = asked(700)
    assert set(answers) == set(KINDS)
    limit = {"count": 0.36, "colour": 0.16, "shape": 0.13, "material": 0.30, "label": 0.15}
    for kind, tally in answers.items():
        n, best = sum(tally.values()), max(tally.values())
        assert best / n < limit.get(kind, 0.5 + 2.6 * np.sqrt(0.25 / n)), (kind, tally.most_common(3))
        if kind in ("exist", "relation", "compare", "size"):
            assert set(tally) == {"yes", "no"}


def test_scenes_of_few_concepts_are_asked_for_no_others():
    """What such scenes never have would be answered by whoever has heard the questions."""
    few = SceneConfig(objects=(1, 3), colours=("red", "blue"), shapes=("cube", "cone", "sphere"))
    others = (set(colour_names()) - set(few.colours)) | (set(shape_names()) - set(few.shapes))
    others |= {plural(shape) for shape in others & set(shape_names())}
    answers: dict[str, Counter] = defaultdict(Counter)
    for n in range(400):
        for q in questions(make_scene(43, n, few), np.random.default_rng(n), len(KINDS), few):
            assert not set(re.findall(r"\w+", q.question)) & others, q
            answers[q.question][q.answer] += 1
    exist = {question: tally for question, tally in answers.items() if question.startswith("Is there a")}
    assert len(exist) == 6
    for tally in exist.values():
        assert 0.3 < tally["yes"] / tally.total() < 0.7


def test_answers_are_right():
    for n, scene in enumerate(SCENES):
        for q in questions(scene, np.random.default_rng(n), 9):
            things = scene.objects
            if q.kind == "exist":
                colour, shape = re.search(r"an? (\w+) (\w+) in", q.question).groups()
                assert (q.answer == "yes") == any(o.concept == f"{colour} {shape}" for o in things)
            elif q.kind in ("colour", "shape", "material") and "the object" not in q.question:
                words = re.search(r"the (.+?)( made of)?\?", q.question).group(1).split()
                hits = [
                    o
                    for o in things
                    if all(w in (o.colour, o.shape, MATERIAL_WORD[o.material], "object") for w in words)
                ]
                assert len(hits) == 1
                assert q.answer == getattr(hits[0], q.kind)
            elif q.kind == "label":
                assert q.answer in [o.label for o in things]


def test_graph_is_json_and_matches_the_scene():
    for scene in SCENES[:30]:
        graph = json.loads(json.dumps(scene_graph(scene, 128)))
        assert [o["names"][0] for o in graph["objects"]] == [o.shape for o in scene.objects]
        ids = {o["object_id"] for o in graph["objects"]}
        for link in graph["relationships"]:
            assert {link["subject_id"], link["object_id"]} <= ids
        for box in graph["objects"]:
            assert 0 <= box["x"] <= box["x"] + box["w"] <= 128


def test_a_material_is_asked_only_where_the_picture_tells_it():
    """Rubber, plastic and metal differ by their highlights, which flat faces rarely show."""
    asked = Counter()
    for n, scene in enumerate(SCENES):
        for q in questions(scene, np.random.default_rng(n), len(KINDS)):
            words = set(re.findall(r"\w+", q.question))
            if q.kind == "material" and "the object" not in q.question:
                fits = [o for o in scene.objects if MATERIAL_WORD[q.answer] == MATERIAL_WORD[o.material]]
                asked["of curved"] += any(not SHAPE[o.shape].flat for o in fits)
                asked["of flat"] += any(o.shape in words and SHAPE[o.shape].flat for o in fits)
            if q.kind == "count":
                assert not words & {"rubber", "plastic", "metal"}
    assert asked["of flat"] == 0
    assert asked["of curved"] > 50
