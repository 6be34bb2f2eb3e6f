"""Swap the visual meshes of a SAPIEN scene for decimated ones; collision shapes stay."""

import hashlib
from typing import Any

import fast_simplification
import numpy as np
import sapien
from numpy.typing import NDArray

from bench_adapters.functional.meshes import (
    affine_texture_map,
    creased_normals,
    is_planar,
    weld_vertices,
)

PLANE_TRIANGLES = 32
"""What is left of a flat mesh."""

_MESHES: dict[str, tuple[NDArray[Any], ...]] = {}  # simplified once per process, by content


def decimate_scene(scene: Any, *, max_triangles: int) -> int:
    """Replace every visual mesh of more than ``max_triangles`` triangles.

    Rendering in software costs by the vertex, and robots come with hundreds of thousands of them.

    Args:
        scene: A ``sapien.Scene``.
        max_triangles: Triangles each link or object may keep.

    Returns:
        How many bodies were changed.
    """
    changed = 0
    for entity in scene.entities:
        body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
        if body is None or _num_triangles(body) <= max_triangles:
            continue
        replacement = sapien.render.RenderBodyComponent()
        total = _num_triangles(body)
        for shape in body.render_shapes:
            for new_shape in _decimated(shape, max_triangles / total):
                replacement.attach(new_shape)
        replacement.name = body.name
        replacement.visibility = body.visibility
        entity.remove_component(body)
        entity.add_component(replacement)
        changed += 1
    return changed


def _parts(shape: Any) -> list[Any]:
    return list(getattr(shape, "parts", []))


def _num_triangles(body: Any) -> int:
    return sum(len(part.triangles) for shape in body.render_shapes for part in _parts(shape))


def _decimated(shape: Any, ratio: float) -> list[Any]:
    if not isinstance(shape, sapien.render.RenderShapeTriangleMesh):
        return [shape.clone()]
    new_shapes = []
    for part in shape.parts:
        vertices, triangles = np.asarray(part.vertices), np.asarray(part.triangles)
        textured = part.material.base_color_texture is not None
        texture_map = (
            affine_texture_map(vertices, np.asarray(part.get_vertex_uv()))
            if textured
            else np.zeros((4, 2))
        )
        if texture_map is None:  # a wrapped texture does not survive edge collapse
            return [shape.clone()]
        vertices, triangles, normals = _simplified(
            vertices, triangles, max(4, round(len(triangles) * ratio))
        )
        new_shape = sapien.render.RenderShapeTriangleMesh(
            (vertices * shape.scale).astype(np.float32),
            triangles.astype(np.uint32),
            normals.astype(np.float32),
            (np.c_[vertices, np.ones(len(vertices))] @ texture_map).astype(np.float32),
            part.material,
        )
        new_shape.local_pose = shape.local_pose
        new_shapes.append(new_shape)
    return new_shapes


def _simplified(
    vertices: NDArray[Any], triangles: NDArray[Any], target: int
) -> tuple[NDArray[Any], ...]:
    key = hashlib.sha256(
        vertices.tobytes() + triangles.tobytes() + str(target).encode()
    ).hexdigest()
    if key not in _MESHES:
        points, faces = weld_vertices(vertices, triangles.astype(np.int64))
        if is_planar(points):  # a tessellated floor loses nothing
            target = min(target, PLANE_TRIANGLES)
        if len(faces) > target:
            points, faces = fast_simplification.simplify(
                points.astype(np.float32), faces.astype(np.int32), target_count=target
            )
        _MESHES[key] = creased_normals(points, np.asarray(faces, np.int64))
    return _MESHES[key]
