"""Quantise networks to int8 with ONNX Runtime's static quantisation; OpenVINO reads the result, too.

Weights are quantised per channel, to 7 bits: with 8 the sums overflow on processors without instructions for them (AVX2
without VNNI), and the errors grow. Activations are quantised by their range while the policy acts
on recorded observations; the denoiser is calibrated on the noisy trajectories of real denoising.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from robodiff.deploy.runtime import ExportedPolicy

LAYERS = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
"""Types of nodes that are quantised: those that take most of the time."""


def quantize(
    policy: ExportedPolicy,
    networks: list[str],
    folder: Path,
    observations: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> None:
    """Replace the graphs of some networks in a folder by quantised ones.

    Args:
        policy: the exported policy in fp32, of the same folder.
        networks: their names.
        folder: with ``<name>.onnx`` of each.
        observations: with their noise, as for ``predict_chunk``.
    """
    given = {name: _watch(policy, name) for name in networks}
    for observation, noise in observations:
        policy.predict_chunk(observation, noise=noise)
    for name, inputs in given.items():
        _quantize(folder / f"{name}.onnx", inputs)


def _watch(policy: ExportedPolicy, name: str) -> list[dict[str, np.ndarray]]:
    """Return a list to which all inputs of a network are added from now on."""
    inputs, run = list[dict[str, np.ndarray]](), policy.run[name]

    def watched(given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        inputs.append(dict(given))
        return run(given)

    policy.run[name] = watched
    return inputs


def _quantize(path: Path, inputs: list[dict[str, np.ndarray]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs: Iterator[dict[str, np.ndarray]] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            return next(self.inputs, None)

    rounded = path.with_suffix(".rounded")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            path,
            rounded,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=LAYERS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(before)
    rounded.replace(path)
