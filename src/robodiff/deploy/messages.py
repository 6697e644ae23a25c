"""Messages between a server and its clients: msgpack, with arrays as openpi's clients encode them.

An array is the map ``{b"__ndarray__": true, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}``, a NumPy scalar
``{b"__npgeneric__": true, b"data": 1.5, b"dtype": "<f4"}`` (openpi-client 0.1.2, ``msgpack_numpy.py``). Dtypes come
from a list, and nothing is unpickled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np

from robodiff.data.episodes import Feature
from robodiff.documents import AtLeast, Between, Document
from robodiff.errors import RobodiffError
from robodiff.policies.runtime import Timing
from robodiff.text import brief, shortened

DTYPES = {
    np.dtype(code).str: np.dtype(code)
    for code in ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
}
"""The dtypes that an array in a message may have, by their codes."""


@dataclass(frozen=True)
class Metadata(Document):
    """A server's description of its policy, which a client is sent on connecting."""

    robodiff: str
    """Version of the server."""
    policy: str
    """The policy's path or id, as given to the server."""
    policy_hash: str | None
    """Fingerprint of its weights and configuration, if it has one."""
    features: dict[str, Feature]
    """What each key holds: the observations, and ``action``."""
    timing: Timing
    """How many steps it observes and executes, and the seconds between two steps."""
    noise_shape: tuple[Annotated[int, Between(1, 10**6)], ...]
    """Shape of the noise of one chunk, (draws, 1, ...)."""
    ranges: dict[str, list[list[float]]]
    """Minimum and maximum of each vector in the training data, (2, D)."""
    largest_message: Annotated[int, AtLeast(1)]
    """Size of the largest message that the server accepts, in bytes."""
    key_map: dict[str, str | None] = field(default_factory=dict)
    """Clients' names -> the policy's names; null for names that the policy does not use."""


def pack(values: Any) -> bytes:
    """Encode a mapping, or a document, as a message."""
    return msgspec.msgpack.encode(values, enc_hook=_packed)


def unpack(message: bytes) -> dict[str, Any]:
    """Decode a message: read-only arrays, numbers, texts and lists, by name.

    Raises:
        RobodiffError: it is not msgpack, not a mapping of names, or an array's data do not fit its shape.
    """
    try:
        values = msgspec.msgpack.decode(message)
    except (ValueError, RecursionError) as error:
        raise RobodiffError(f"expected msgpack; found {len(message)} bytes of something else: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise RobodiffError(f"expected a mapping of names, as msgpack; found {brief(values)}")
    return {name: _unpacked(name, value) for name, value in values.items()}


def _packed(value: Any) -> Mapping[bytes, Any]:
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        raise TypeError(f"expected an array of one of {', '.join(DTYPES)}; found {type(value).__name__}")
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _unpacked(name: str, value: Any) -> Any:
    """Return the array or number that a map encodes; anything else unchanged."""
    if not isinstance(value, dict) or not {b"__ndarray__", b"__npgeneric__"} & value.keys():
        return value
    data, code = value.get(b"data"), value.get(b"dtype")
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise RobodiffError(f"{_name(name)}: expected an array of one of {', '.join(DTYPES)}; found {brief(code)}")
    if b"__npgeneric__" in value:
        if not isinstance(data, int | float):
            raise RobodiffError(f"{_name(name)}: expected a number; found {brief(data)}")
        return data
    shape = value.get(b"shape")
    if not isinstance(shape, list | tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise RobodiffError(f"{_name(name)}: expected the shape of an array; found {brief(shape)}")
    try:
        return np.frombuffer(data, dtype).reshape(shape)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except (ValueError, TypeError):
        found = f"{len(data)} bytes" if isinstance(data, bytes) else brief(data)
        raise RobodiffError(f"{_name(name)}: expected the bytes of {dtype} {brief(shape)}; found {found}") from None


def _name(name: str) -> str:
    return shortened(name, 60)
