"""The PLY holds what 3DGS's readers expect, byte for byte."""

import struct

import numpy as np
import pytest
import torch

from tasks.base.errors import DatasetError
from tasks.splatting.results.ply import finite, read_ply, write_ply
from tests.tasks.splatting.export_scene import splat


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_was_written_is_read_back_exactly_but_for_the_length_of_the_rotations(tmp_path, degree):
    written = splat(50, degree)
    assert write_ply(written, tmp_path / "a.ply") == 0
    found = read_ply(tmp_path / "a.ply")
    assert found.sh_degree == degree
    for name, tensor in written.tensors().items():
        expected = torch.nn.functional.normalize(tensor, dim=1) if name == "quats" else tensor
        assert torch.allclose(getattr(found, name), expected, rtol=0, atol=1e-6 if name == "quats" else 0), name


def test_the_bytes_are_those_of_3dgs(tmp_path):
    one = splat(1, 1)
    one.quats[:] = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    write_ply(one, tmp_path / "a.ply")
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    names = [line.split()[2] for line in head.decode().splitlines() if line.startswith("property")]
    assert names == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(9)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    assert head.decode().splitlines()[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 1"]
    values = struct.unpack("<26f", body)
    assert values[:3] == tuple(one.means[0].tolist())
    assert values[3:6] == (0, 0, 0)
    assert values[9:12] == tuple(one.shN[0, :, 0].tolist())  # all of red first
    assert values[15:18] == tuple(one.shN[0, :, 2].tolist())
    assert values[18] == one.opacities[0].item()
    assert values[22:] == (1, 0, 0, 0)


def test_gaussians_that_are_not_finite_are_left_out_and_counted(tmp_path):
    broken = splat(6, 1)
    broken.means[0, 1] = np.nan
    broken.shN[1, 2, 0] = np.inf
    broken.quats[2] = 0
    assert write_ply(broken, tmp_path / "a.ply") == 3
    assert torch.equal(read_ply(tmp_path / "a.ply").means, broken.means[3:])


def test_a_gaussian_is_never_in_a_graph_once_it_is_to_be_written():
    fitted = splat(3, 0)
    fitted.means.requires_grad_()
    assert not finite(fitted)[0].means.requires_grad


def test_columns_in_another_order_and_further_ones_are_understood(tmp_path):
    names = ["opacity", "x", "y", "z", "extra", "scale_0", "scale_1", "scale_2"]
    names += ["rot_0", "rot_1", "rot_2", "rot_3", "f_dc_0", "f_dc_1", "f_dc_2"]
    header = ["ply", "comment made by hand", "format binary_little_endian 1.0", "element vertex 1"]
    header += [f"property float {name}" for name in names]
    data = ("\n".join(header) + "\nend_header\n").encode() + struct.pack("<15f", *range(15))
    (tmp_path / "a.ply").write_bytes(data)
    found = read_ply(tmp_path / "a.ply")
    assert found.means.tolist() == [[1, 2, 3]]
    assert found.opacities.tolist() == [0]
    assert found.sh0.tolist() == [[[12, 13, 14]]]
    assert found.shN.shape == (1, 0, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:-4], r"is cut off: found 100 bytes of Gaussians, need 104"),
        (lambda data: b"nothing", "does not start as a PLY"),
        (lambda data: data.replace(b"binary_little_endian", b"ascii"), "is ascii, need binary_little_endian"),
        (lambda data: data.replace(b"float opacity", b"uchar opacity"), "opacity as uchar, need float"),
        (lambda data: data.replace(b"float opacity", b"float opaqueer"), "lacks opacity"),
        (lambda data: data.replace(b"element vertex", b"element corner"), "element corner 1, need one element"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_path(tmp_path, change, says):
    path = tmp_path / "a.ply"
    write_ply(splat(1, 1), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=says) as caught:
        read_ply(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_of_the_data(tmp_path):
    with pytest.raises(DatasetError, match="No such file or directory: .*no.ply"):
        read_ply(tmp_path / "no.ply")


def test_a_splat_of_nothing_is_a_file_too(tmp_path):
    write_ply(splat(0, 1), tmp_path / "a.ply")
    assert read_ply(tmp_path / "a.ply").shN.shape == (0, 3, 3)
