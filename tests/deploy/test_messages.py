"""Messages: what openpi's clients write is read, and what is broken is named."""

from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest

from robodiff.deploy.messages import pack, unpack
from robodiff.errors import RobodiffError

# openpi_client.msgpack_numpy.packb of openpi-client 0.1.2 on
# {"observation.state": np.array([256.0, 128.5]), "image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
#  "t": np.float32(0.5), "reset": True}
OPENPI = (
    b"\x84\xb1observation.state\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x10\x00\x00\x00\x00\x00\x00p@"
    b"\x00\x00\x00\x00\x00\x10`@\xc4\x05dtype\xa3<f8\xc4\x05shape\x91\x02\xa5image\x84\xc4\x0b__ndarray__\xc3"
    b"\xc4\x04data\xc4\x06\x00\x01\x02\x03\x04\x05\xc4\x05dtype\xa3|u1\xc4\x05shape\x93\x01\x02\x03\xa1t\x83"
    b"\xc4\r__npgeneric__\xc3\xc4\x04data\xcb?\xe0\x00\x00\x00\x00\x00\x00\xc4\x05dtype\xa3<f4\xa5reset\xc3"
)


def array(**changes: Any) -> bytes:
    """A message with an array, some of whose parts are changed."""
    parts = {"__ndarray__": True, "data": b"\x00" * 8, "dtype": "<f4", "shape": [2], **changes}
    return msgspec.msgpack.encode({"a": {name.encode(): value for name, value in parts.items()}})


def test_what_openpi_writes_is_read_and_written_alike() -> None:
    values = unpack(OPENPI)
    assert values["observation.state"].tolist() == [256.0, 128.5]
    assert values["image"].tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert (values["image"].dtype, values["t"], values["reset"]) == (np.uint8, 0.5, True)
    arrays = {"observation.state": np.array([256.0, 128.5]), "image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3)}
    assert pack(arrays)[1:] == OPENPI[1 : len(pack(arrays))]  # but for the number of entries


@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    sent = np.ones(shape, dtype)
    received = unpack(pack({"a": sent, "n": [1, None]}))
    np.testing.assert_array_equal(received["a"], sent)
    assert (received["a"].dtype, received["n"]) == (sent.dtype, [1, None])


def test_what_is_not_contiguous_is_sent_as_it_reads() -> None:
    image = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(unpack(pack({"a": image}))["a"], image)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"", "expected msgpack"),
        (b"GET / HTTP/1.1", "expected msgpack"),
        (b"\xdd\xff\xff\xff\xff", "expected msgpack"),  # a list of four billion
        (b"\x91" * 100_000, "expected msgpack"),
        (b"\x81\x81\x01\x02\x03", "expected msgpack"),  # a mapping for a key
        (OPENPI[:-1], "expected msgpack"),
        (b"\x93\x01\x02\x03", "expected a mapping of names"),
        (b"\x81\x01\x02", "expected a mapping of names"),
        (array(dtype="|O"), "expected an array of one of"),
        (array(dtype="<U2"), "expected an array of one of"),
        (array(dtype=[["a", "<f4"]]), "expected an array of one of"),
        (array(dtype=None), "expected an array of one of"),
        (array(shape=[3]), "a: expected the bytes of float32 [3]; found 8 bytes"),
        (array(shape=[-2]), "expected the shape"),
        (array(shape=[2.0]), "expected the shape"),
        (array(shape=[True, 2]), "expected the shape"),
        (array(shape=2), "expected the shape"),
        (array(shape=[2**62]), "expected the bytes"),
        (array(shape=[2**62, 2**62, 0], data=b""), "expected the bytes"),
        (array(shape=[1] * 99, data=b"\x00" * 4), "expected the bytes"),
        (array(data="text"), "expected the bytes"),
        (array(data=None), "expected the bytes"),
    ],
)
def test_what_is_broken_is_named(message: bytes, problem: str) -> None:
    with pytest.raises(RobodiffError) as error:
        unpack(message)
    assert problem in str(error.value)
    assert len(str(error.value)) < 300


def test_bytes_at_random_raise_nothing_else() -> None:
    random = np.random.default_rng(0)
    for _ in range(3000):
        message = bytearray(OPENPI)
        for place in random.integers(0, len(message), 3):
            message[place] = random.integers(256)
        with suppress(RobodiffError):
            unpack(bytes(message))
