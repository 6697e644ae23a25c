"""Run a graph file on OpenVINO or ONNX Runtime, as a function of NumPy arrays. Imports no torch.

``python -m robodiff.deploy.engines THREADS GRAPH PRECISION ...`` compiles graphs and runs each once. An export does so
in a separate process, because a compiler that crashes takes its process with it.
"""

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robodiff.errors import RobodiffError, first_line
from robodiff.policies.runtime import Arrays

Precision = Literal["fp32", "bf16", "int8"]
SUFFIXES = {".xml": "OpenVINO", ".onnx": "ONNX Runtime"}
"""The engine by the suffix of its files."""
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""OpenVINO's precision hints; an int8 graph says itself what is quantised, and the rest runs in this precision."""
SECONDS_TO_COMPILE = 600


@cache
def _openvino() -> Any:
    """Return the process's only OpenVINO core.

    It sets up the stack on which signals are handled. If it were freed, the stack would go with it, and Ctrl-C would
    cause a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVinoGraph:
    """A graph that OpenVINO runs on the CPU.

    It is compiled for each batch size. With a dynamic batch size, version 2026.4.1 gives wrong results in bf16 for
    networks with convolutions, and small networks take twice the time, four times in int8.
    """

    def __init__(self, path: Path, precision: Precision, threads: int) -> None:
        self._core = _openvino()
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RobodiffError(f"{path}: this processor cannot compute in bf16; export with --precision fp32 or int8")
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = self._core.read_model(path)
        self._requests: dict[int, Any] = {}  # by the number of rows, the last two
        self._run_for(1)

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        """Return the outputs, in their order."""
        rows = max(len(value) for value in inputs.values())
        return list(self._run_for(rows).infer(dict(inputs), share_inputs=True).values())

    def example(self) -> dict[str, np.ndarray]:
        """Return inputs of zeros, of one row."""
        return {
            each.any_name: np.zeros(shape, each.element_type.to_dtype())
            for each, shape in zip(self._model.inputs, self._shapes(1).values(), strict=True)
        }

    def _shapes(self, rows: int) -> dict[str, list[int]]:
        sizes = {each.any_name: each.partial_shape for each in self._model.inputs}
        return {name: [d.get_length() if d.is_static else rows for d in shape] for name, shape in sizes.items()}

    def _run_for(self, rows: int) -> Any:
        if rows not in self._requests:
            model = self._model.clone()
            model.reshape(self._shapes(rows))
            if len(self._requests) > 1:
                del self._requests[next(iter(self._requests))]
            self._requests[rows] = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        return self._requests[rows]


class OnnxGraph:
    """A graph that ONNX Runtime runs on the CPU."""

    def __init__(self, path: Path, precision: Precision, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # beside another program it costs much
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        """Return the outputs, in their order."""
        return self._session.run(None, dict(inputs))  # pyright: ignore[reportReturnType]

    def example(self) -> dict[str, np.ndarray]:
        """Return inputs of zeros, of one row."""
        dtypes = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
        return {
            each.name: np.zeros([d if isinstance(d, int) else 1 for d in each.shape], dtypes[each.type])
            for each in self._session.get_inputs()
        }


def compile_graph(path: Path, precision: Precision, threads: int) -> OpenVinoGraph | OnnxGraph:
    """Compile a graph: an .xml file with OpenVINO, an .onnx file with ONNX Runtime.

    Raises:
        RobodiffError: the engine is not installed, or cannot compile it.
    """
    try:
        return (OpenVinoGraph if path.suffix == ".xml" else OnnxGraph)(path, precision, threads)
    except ModuleNotFoundError as error:
        needed = f"{path}: needs {error.name}, which is not installed: pip install 'robodiff[export]'"
        raise RobodiffError(needed) from None
    except RobodiffError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise RobodiffError(f"{path}: {SUFFIXES[path.suffix]} cannot compile it: {first_line(error)[:200]}") from None


def first_failure(graphs: Mapping[Path, Precision], threads: int) -> tuple[Path, str] | None:
    """Compile graphs and run each once, in a separate process; return the first that fails, and why, or None."""
    words: list[Any] = [word for graph in graphs.items() for word in graph]
    command = [sys.executable, "-m", __name__, threads, *words]
    try:
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=SECONDS_TO_COMPILE)
    except subprocess.TimeoutExpired:
        raise RobodiffError(
            f"compiling did not end within {SECONDS_TO_COMPILE} s; export on a faster machine"
        ) from None
    failed = [path for path in graphs if str(path) not in ended.stdout.splitlines()]
    if not failed:
        return None
    crash = f"its compiler crashed (signal {-ended.returncode})"
    return failed[0], crash if ended.returncode < 0 else (ended.stderr.strip().splitlines() or ["it failed"])[-1]


def main(arguments: list[str]) -> None:
    """Compile and run the graphs of ``first_failure``; print the path of each that works."""
    threads, *words = arguments
    for path, precision in zip(words[::2], words[1::2], strict=True):
        graph = compile_graph(Path(path), precision, int(threads))  # pyright: ignore[reportArgumentType]
        graph(graph.example())
        print(path, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
