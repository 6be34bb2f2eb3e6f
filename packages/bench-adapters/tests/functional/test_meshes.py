import numpy as np
import pytest

from bench_adapters.functional.meshes import (
    affine_texture_map,
    creased_normals,
    is_planar,
    weld_vertices,
)

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
FACES = np.array(
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
    ]
)  # fmt: skip


def test_welding_joins_the_corners_of_separate_triangles():
    soup = CUBE[FACES].reshape(-1, 3)
    vertices, triangles = weld_vertices(soup, np.arange(36).reshape(-1, 3))
    assert len(vertices) == 8
    np.testing.assert_array_equal(vertices[triangles], CUBE[FACES])


def test_welding_drops_triangles_that_collapse():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1e-9, 0]], np.float32)
    _, triangles = weld_vertices(vertices, np.array([[0, 1, 2]]))
    assert len(triangles) == 0


def test_normals_of_a_cube_stay_flat_below_its_crease():
    vertices, triangles, normals = creased_normals(CUBE, FACES, crease_deg=40.0)
    corners = vertices[triangles]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    np.testing.assert_allclose(normals[triangles], flat[:, None].repeat(3, 1), atol=1e-6)
    assert len(vertices) == 8 * 3  # the two triangles of a side share theirs


def test_smooth_corners_share_a_vertex():
    vertices, triangles, _ = creased_normals(CUBE, FACES, crease_deg=170.0)
    assert len(vertices) == 8
    np.testing.assert_array_equal(vertices[triangles], CUBE[FACES])


def test_normals_above_the_crease_equal_a_loop_over_faces():
    vertices, triangles, normals = creased_normals(CUBE, FACES, crease_deg=100.0)
    area = np.cross(*(CUBE[FACES[:, i]] - CUBE[FACES[:, 0]] for i in (1, 2)))
    normals = normals[triangles].reshape(-1, 3)
    for corner, position in enumerate(vertices[triangles].reshape(-1, 3)):
        around = [f for f in range(12) if (CUBE[FACES[f]] == position).all(1).any()]
        near = [f for f in around if area[f] @ area[corner // 3] > np.cos(np.deg2rad(100))]
        expected = area[near].sum(0)
        np.testing.assert_allclose(normals[corner], expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("linear", [True, False])
def test_affine_texture_maps_are_found_and_others_refused(linear):
    rng = np.random.default_rng(0)
    vertices = rng.normal(size=(50, 3)).astype(np.float32)
    true_map = rng.normal(size=(4, 2))
    uvs = np.c_[vertices, np.ones(50)] @ true_map
    if not linear:
        uvs[3] += 0.1
    found = affine_texture_map(vertices, uvs.astype(np.float32))
    if linear:
        np.testing.assert_allclose(np.c_[vertices, np.ones(50)] @ found, uvs, atol=1e-4)
    else:
        assert found is None


@pytest.mark.parametrize(("lift", "planar"), [(0.0, True), (1e-6, True), (0.01, False)])
def test_planes_are_told_whatever_their_direction(lift, planar):
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    vertices = rng.uniform(-1, 1, (40, 2)) @ axes[:2] + 3.0
    vertices[7] += lift * axes[2]
    assert is_planar(vertices) is planar
    assert is_planar(vertices[:3])
