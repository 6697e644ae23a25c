"""MuJoCo, and how it draws without a display: by EGL where there is one, else by OSMesa."""

import atexit
import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any

from robodiff.errors import RobodiffError, in_one_line

DEVICE_PLATFORM = 0x313F
"""EGL_PLATFORM_DEVICE_EXT."""
REMEDY = "apt install libegl1 libgl1-mesa-dri (Debian's packages), or libosmesa6"
CHOSEN = os.environ.get("MUJOCO_GL")
if CHOSEN:
    REMEDY = f"unset MUJOCO_GL, which is {CHOSEN}, and {REMEDY}"

_MAKING = threading.Lock()
"""Held while a renderer is made: its size is written to the model, which threads share."""

try:
    mujoco: Any = importlib.import_module("mujoco")
    """Any, for its stubs do not name what it takes over from its core."""
except (AttributeError, RuntimeError) as error:  # what MUJOCO_GL names is unknown, or not there
    raise RobodiffError(f"MuJoCo cannot be imported ({in_one_line(error)}): {REMEDY}") from None


@cache
def prepare_drawing() -> None:
    """Choose how to draw, before the first picture; where ``MUJOCO_GL`` is set, that has chosen already.

    The library that is asked for by ``MUJOCO_GL`` must be there when MuJoCo is imported, and a renderer that was made
    in vain spoils all others of the process: so EGL is tried first without MuJoCo.

    Raises:
        RobodiffError: this machine can draw by neither; it says what to install.
    """
    _load_triton()
    if CHOSEN or sys.platform != "linux":
        return
    name = "egl" if _has_egl() else "osmesa"
    try:
        context = importlib.import_module(f"mujoco.{name}").GLContext
    except (ImportError, AttributeError):  # PyOpenGL: 'NoneType' object has no attribute 'glGetError'
        raise RobodiffError(f"MuJoCo draws by EGL or OSMesa, and this machine has neither: {REMEDY}") from None
    vars(importlib.import_module("mujoco.rendering.classic.gl_context"))["GLContext"] = context


def _load_triton() -> None:
    """Load the library of torch's compiler, where it is installed, before Mesa's.

    Both bring LLVM. Mesa's is for the whole process; loaded after it, Triton's would call it, and crash.
    """
    found = importlib.util.find_spec("triton")
    with suppress(OSError):  # another layout of its files
        for folder in (found and found.submodule_search_locations) or ():
            ctypes.CDLL(f"{folder}/_C/libtriton.so")


def _has_egl() -> bool:
    """Tell whether EGL has a device that works; nothing stays in the process of one that has none."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = egl.eglGetPlatformDisplay.restype = ctypes.c_void_p
        signature = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        query_devices = signature(egl.eglGetProcAddress(b"eglQueryDevicesEXT"))
    except (OSError, AttributeError):
        return False
    devices, count = (ctypes.c_void_p * 16)(), ctypes.c_int(0)
    query_devices(16, devices, ctypes.byref(count))
    displays = [
        egl.eglGetPlatformDisplay(DEVICE_PLATFORM, ctypes.c_void_p(each), None) for each in devices[: count.value]
    ]
    return any(each and egl.eglInitialize(ctypes.c_void_p(each), None, None) for each in displays)


def make_renderer(model: Any, size: tuple[int, int]) -> Any:
    """Return what draws a model in pictures of a size.

    Raises:
        RobodiffError: this machine cannot draw; it says what to install.
    """
    with _MAKING:
        prepare_drawing()
        model.vis.global_.offheight, model.vis.global_.offwidth = size  # the buffer is as large as the picture
        try:
            return mujoco.Renderer(model, *size)
        except Exception as error:  # of MuJoCo, PyOpenGL or ctypes, by what is missing
            raise RobodiffError(f"MuJoCo cannot draw on this machine ({in_one_line(error)}): {REMEDY}") from None


class Renderers(threading.local):
    """The last renderers that a thread used, by what they draw: OpenGL's context belongs to the thread that made it.

    Args:
        make: what makes one.
    """

    def __init__(self, make: Callable[..., Any]) -> None:  # called again in every thread
        self.get = lru_cache(maxsize=4)(make)
        self._is_main = threading.current_thread() is threading.main_thread()
        self._is_freed_at_exit = False

    def __call__(self, *drawn: Any) -> Any:
        """Return what draws this in this thread."""
        renderer = self.get(*drawn)
        if self._is_main and not self._is_freed_at_exit:
            self._is_freed_at_exit = True
            atexit.register(self.get.cache_clear)  # before EGL itself ends, or MuJoCo 3.8 complains; so only now
        return renderer

    def close(self) -> None:
        """Free those of this thread if it may end before the process does: no other could free them."""
        if not self._is_main:
            self.get.cache_clear()
