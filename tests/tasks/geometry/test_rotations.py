"""Rotations of numbers, arrays and tensors agree with those of scipy; so do harmonics of many directions and of one."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tasks.geometry.harmonics import sh_basis, sh_basis_at
from tasks.geometry.rotations import quaternion_of, rotation_matrices, rotation_matrix

N = 50
QUATS = Rotation.random(N, random_state=0).as_quat(scalar_first=True)
MATRICES = Rotation.from_quat(QUATS, scalar_first=True).as_matrix()


def test_matrices_are_those_of_scipy():
    np.testing.assert_allclose([rotation_matrix(quat) for quat in QUATS], MATRICES, atol=1e-12)
    of_any_length = torch.from_numpy(QUATS * np.linspace(0.1, 9, N)[:, None])
    np.testing.assert_allclose(rotation_matrices(of_any_length), MATRICES, atol=1e-12)


@pytest.mark.parametrize("index", range(N))
def test_a_quaternion_comes_back_with_w_not_negative(index):
    found = quaternion_of(MATRICES[index])
    np.testing.assert_allclose(found, QUATS[index] * np.sign(QUATS[index][0]), atol=1e-9)


@pytest.mark.parametrize("degree", range(4))
def test_harmonics_of_many_directions_are_those_of_each(degree):
    found = sh_basis_at(MATRICES[:, 0], degree)
    assert found.shape == (N, (degree + 1) ** 2)
    for direction, row in zip(MATRICES[:, 0], found, strict=True):
        one = np.zeros(16)
        sh_basis(*direction, degree, one)
        np.testing.assert_array_equal(row, one[: len(row)])
