"""The embedded world: procedural 3-D scenes with ground truth, and one file per sensor that looks at them.

    scene = make_scene(seed=0, index=7)
    picture = render(scene, size=64)
    text = caption(scene, numpy.random.default_rng(0))

A scene is a pure function of (seed, index, configuration); a sensor is a pure function of the scene.
The ray caster is compiled on first use and cached.
"""

from oculex.world.camera import Survey, View, boxes, look, render, render_batch, survey, visibility
from oculex.world.domains import DOMAINS, Domain
from oculex.world.generate import concept_frequencies, make_scene
from oculex.world.graph import scene_graph
from oculex.world.language import STYLES, caption, writes
from oculex.world.objects import Object
from oculex.world.questions import KINDS, Question, questions
from oculex.world.relations import Relation, relations
from oculex.world.scene import Camera, Scene, SceneConfig, class_names, class_of, concept_index
from oculex.world.sensors import ARRAYS, SENSORS, Sensor
from oculex.world.vocabulary import colour_names, material_names, shape_names
from oculex.world.words import LANGUAGES, SYNONYMS

__all__ = [
    "ARRAYS",
    "DOMAINS",
    "KINDS",
    "LANGUAGES",
    "SENSORS",
    "STYLES",
    "SYNONYMS",
    "Camera",
    "Domain",
    "Object",
    "Question",
    "Relation",
    "Scene",
    "SceneConfig",
    "Sensor",
    "Survey",
    "View",
    "boxes",
    "caption",
    "class_names",
    "class_of",
    "colour_names",
    "concept_frequencies",
    "concept_index",
    "look",
    "make_scene",
    "material_names",
    "questions",
    "relations",
    "render",
    "render_batch",
    "scene_graph",
    "shape_names",
    "survey",
    "visibility",
    "writes",
]
