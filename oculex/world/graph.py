"""Scene graphs laid out as in Visual Genome (objects, attributes, boxes, relationships), plus 3-D facts."""

from __future__ import annotations

import math
from typing import Any

from oculex.world.camera import survey
from oculex.world.relations import relations
from oculex.world.scene import Scene
from oculex.world.words import MATERIAL_WORD


def scene_graph(scene: Scene, size: int = 64) -> dict[str, Any]:
    """JSON-ready description of a scene; boxes are x, y, w, h in pixels of a picture ``size`` wide.

    Every object is listed; ``visible`` tells whether a person would see it in the picture.
    """
    seen = survey(scene)
    things = []
    for i, thing in enumerate(scene.objects):
        x0, y0, x1, y1 = (round(edge * size, 2) for edge in seen.boxes[i])
        u, v, depth = scene.camera.project(thing.x, thing.y, 0.5 * thing.height)
        attributes = [thing.size, thing.colour, MATERIAL_WORD[thing.material]]
        things.append(
            {
                "object_id": i,
                "names": [thing.shape],
                "attributes": attributes + ([thing.pattern] if thing.pattern != "plain" else []),
                "x": x0, "y": y0, "w": round(x1 - x0, 2), "h": round(y1 - y0, 2),
                "visible": seen.visible(i),
                "visibility": round(seen.visibility[i], 4),
                "label": thing.label,
                "label_legible": bool(thing.label) and seen.legible(i),
                "position": [round(thing.x, 5), round(thing.y, 5), 0.0],
                "rotation": round(math.degrees(thing.yaw) % 360.0, 3),
                "velocity": [round(thing.vx, 5), round(thing.vy, 5)],
                "pixel_coords": [round((u + 1) * size / 2, 2), round((1 - v) * size / 2, 2), round(depth, 4)],
                "height": round(thing.height, 4),
                "mass": round(thing.mass, 3),
                "temperature": thing.temperature,
            }
        )  # fmt: skip
    links = [
        {"relationship_id": k, "predicate": r.name, "subject_id": r.subject, "object_id": r.object}
        for k, r in enumerate(relations(scene))
    ]
    return {
        "image_id": f"world-{scene.split}-{scene.seed}-{scene.index}",
        "width": size, "height": size,
        "floor": scene.ground.kind, "domain": scene.domain.name, "time": scene.time,
        "objects": things, "relationships": links,
    }  # fmt: skip
