"""Triangle meshes for cheap rendering: fewer triangles, the same look."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.int64]


def weld_vertices(
    vertices: FloatArray, triangles: IndexArray, *, tolerance: float = 1e-5
) -> tuple[FloatArray, IndexArray]:
    """Merge vertices that share a position and drop triangles that collapse.

    Render meshes repeat a vertex for every face normal and texture coordinate. Edge collapse needs
    them joined, or the pieces drift apart.

    Args:
        vertices: ``(v, 3)`` in metres.
        triangles: ``(f, 3)`` vertex indices.
        tolerance: Positions are rounded to this many metres.

    Returns:
        Welded ``(vertices, triangles)``.
    """
    cells = np.round((vertices - vertices.min(axis=0)) / tolerance).astype(np.int64)
    # One integer per cell sorts ten times faster than rows do; 21 bits an axis are 20 m.
    keys = (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    joined = inverse[triangles]
    distinct = (
        (joined[:, 0] != joined[:, 1])
        & (joined[:, 1] != joined[:, 2])
        & (joined[:, 2] != joined[:, 0])
    )
    return vertices[first], joined[distinct]


def creased_normals(
    vertices: FloatArray, triangles: IndexArray, *, crease_deg: float = 40.0
) -> tuple[FloatArray, IndexArray, FloatArray]:
    """Give each face corner a normal that is smooth within a crease angle.

    The normal of a corner is the area-weighted mean of the normals of the faces around its vertex
    that bend by less than ``crease_deg`` from the corner's own face. Corners that agree on position
    and normal share a vertex: a software renderer pays by the vertex.

    Args:
        vertices: ``(v, 3)``.
        triangles: ``(f, 3)``.
        crease_deg: Edges sharper than this angle, in degrees, stay sharp.

    Returns:
        Vertices ``(w, 3)``, triangles ``(f, 3)`` and unit normals ``(w, 3)``, w from v to 3 f.
    """
    corners = vertices[triangles]
    area_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(area_normals, axis=1, keepdims=True)
    unit = area_normals / np.maximum(lengths, 1e-20)

    # Corners sorted by vertex: all pairs of faces that meet at a vertex are in one run.
    vertex_of_corner = triangles.reshape(-1)
    face_of_corner = np.repeat(np.arange(len(triangles)), 3)
    order = np.argsort(vertex_of_corner, kind="stable")
    counts = np.bincount(vertex_of_corner, minlength=len(vertices))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    valence = counts[vertex_of_corner]
    corner = np.repeat(np.arange(len(vertex_of_corner)), valence)
    offset = np.arange(valence.sum()) - np.repeat(np.cumsum(valence) - valence, valence)
    neighbour = face_of_corner[order[starts[vertex_of_corner[corner]] + offset]]

    smooth = np.einsum("ij,ij->i", unit[face_of_corner[corner]], unit[neighbour]) > np.cos(
        np.deg2rad(crease_deg)
    )
    normals = np.zeros((len(vertex_of_corner), 3))
    np.add.at(normals, corner[smooth], area_normals[neighbour[smooth]])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    keys = np.c_[vertex_of_corner, np.round(normals * 1e4)]
    _, kept, index = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return (
        corners.reshape(-1, 3)[kept].astype(np.float32),
        index.reshape(-1, 3).astype(np.int64),
        normals[kept].astype(np.float32),
    )


def is_planar(vertices: FloatArray, *, tolerance: float = 1e-4) -> bool:
    """Return whether all ``vertices`` ``(v, 3)`` lie in one plane.

    Args:
        vertices: Positions.
        tolerance: Largest distance from the plane, as a share of the largest extent.
    """
    centred = vertices.astype(np.float64) - vertices.mean(axis=0)
    if len(centred) < 4:
        return True
    *_, axes = np.linalg.svd(centred, full_matrices=False)
    extent = np.ptp(centred, axis=0).max()
    return bool(np.abs(centred @ axes[-1]).max() <= tolerance * extent)


def affine_texture_map(
    vertices: FloatArray, uvs: FloatArray, *, tolerance: float = 1e-3
) -> NDArray[np.float64] | None:
    """Find the map from position to texture coordinate, where one affine map fits them all.

    Args:
        vertices: ``(v, 3)``.
        uvs: ``(v, 2)``.
        tolerance: Largest error allowed, in texture units.

    Returns:
        ``(4, 2)`` so that ``[x, y, z, 1] @ map`` is the coordinate, or None when none fits.
    """
    positions = np.concatenate([vertices, np.ones((len(vertices), 1))], axis=1)
    coefficients, *_ = np.linalg.lstsq(positions, uvs.astype(np.float64), rcond=None)
    error = np.abs(positions @ coefficients - uvs).max(initial=0.0)
    return coefficients if error <= tolerance else None
