"""What we write the safetensors library reads, and the other way round."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lars_agent.files import write_atomically
from lars_agent.ops.safetensors_io import read_tensors, tensor_file

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "signed": torch.tensor([-128, 127], dtype=torch.int8),
    "whole": torch.tensor(2**40),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "name with \u00fc and / in it": torch.ones(1),
}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def test_what_is_written_is_what_the_library_reads(tmp_path):
    write_atomically(tmp_path / "x.safetensors", tensor_file(TENSORS))
    assert same(load_file(tmp_path / "x.safetensors"), TENSORS)
    assert same(read_tensors(tmp_path / "x.safetensors"), TENSORS)


def test_what_the_library_writes_is_read(tmp_path):
    contiguous = {key: tensor.contiguous() for key, tensor in TENSORS.items()}
    save_file(contiguous, tmp_path / "x.safetensors")
    assert same(read_tensors(tmp_path / "x.safetensors"), TENSORS)


def test_no_tensors_are_a_file_too(tmp_path):
    write_atomically(tmp_path / "x.safetensors", tensor_file({}))
    assert read_tensors(tmp_path / "x.safetensors") == {}


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(SafetensorError):
        read_tensors(tmp_path / "x.safetensors")


def test_the_pieces_are_the_tensors_own_memory():
    tensor = torch.zeros(4)
    _, piece = tensor_file({"x": tensor})
    tensor[0] = 1.0
    assert bytes(piece[:4]) == torch.tensor(1.0).numpy().tobytes()
