"""Accelerators by name, and the times of operations and of all-reduces in closed form."""

import pytest

from keras_robust.tools.planning import ACCELERATORS, Accelerator, Devices, parse_devices
from keras_robust.tools.planning.accelerators import NETWORK
from keras_robust.tools.planning.costs import Operation

pytestmark = pytest.mark.graph

TOY = Accelerator("toy", {"float32": 100.0}, bandwidth=10.0, memory=1e3, link=5.0, group=4, source="here")


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("8xH100", "H100", 8),
        ("128xv100-16gb", "V100-16GB", 128),
        ("tpu-v5e-64", "TPU v5e", 64),
        ("tpu-v6e-8", "TPU v6e", 8),
        ("tpu-v4-8", "TPU v4", 4),
        ("tpu-v3-32", "TPU v3", 16),
        ("4xtpu-v4", "TPU v4", 4),
    ],
)
def test_devices_by_name(text, name, count):
    """Slices of TPU v2, v3, v4 and v5p are named by cores, of which a chip has two."""
    devices = parse_devices(text)
    assert (devices.accelerator.name, devices.count, devices.replicas) == (name, count, count)


def test_cpu_cores_are_one_replica():
    devices = parse_devices("2xcpu")
    assert (devices.accelerator, devices.count, devices.replicas) == (None, 2, 1)
    assert devices.all_reduce_seconds(1e9) == 0


@pytest.mark.parametrize("text", ["", "H100", "8xH1000", "0xH100", "tpu-v4-3", "tpu-v9-8", "tpu-h100-8", "-1xcpu"])
def test_what_is_no_number_of_accelerators_is_refused(text):
    with pytest.raises(ValueError, match=f"Received: accelerators='{text}'"):
        parse_devices(text)


@pytest.mark.parametrize("name", ACCELERATORS)
def test_peaks_are_in_the_order_that_precision_and_memory_have(name):
    accelerator = ACCELERATORS[name]
    low = {dtype: peak for dtype, peak in accelerator.flops.items() if dtype != "float32"}
    assert low
    assert accelerator.flops["float32"] <= min(low.values())
    assert 10 < accelerator.flops["float32"] / accelerator.bandwidth < 1000  # operations per byte
    assert accelerator.link < accelerator.bandwidth
    assert accelerator.source


@pytest.mark.parametrize(
    ("name", "flops", "bandwidth", "memory", "both_ways"),
    [
        ("v100-16gb", {"float32": 15.7, "float16": 125}, 900, 16, 300),
        ("v100-32gb", {"float32": 15.7, "float16": 125}, 900, 32, 300),
        ("a100-40gb", {"float32": 156, "float16": 312, "bfloat16": 312}, 1555, 40, 600),
        ("a100-80gb", {"float32": 156, "float16": 312, "bfloat16": 312}, 2039, 80, 600),
        ("h100", {"float32": 989 / 2, "float16": 1979 / 2, "bfloat16": 1979 / 2}, 3350, 80, 900),
        ("tpu-v5e", {"float32": 197, "bfloat16": 197}, 819, 16, 400),
    ],
)
def test_numbers_are_those_of_the_data_sheets(name, flops, bandwidth, memory, both_ways):
    """TFLOP/s, GB/s, GB, and GB/s of the links as the sheets sum them up over both ways.

    Of GPUs, the SXM columns of NVIDIA's sheets of the V100, A100 (its TF32 for float32) and H100 (half of TF32 989 and
    BFLOAT16 1,979, which are with sparsity), without PCIe; of the TPU, docs.cloud.google.com/tpu/docs/v5e.
    """
    accelerator = ACCELERATORS[name]
    assert {dtype: peak / 1e12 for dtype, peak in accelerator.flops.items()} == pytest.approx(flops, rel=1e-3)
    sizes = (accelerator.bandwidth, accelerator.memory, 2 * accelerator.link)
    assert sizes == pytest.approx((bandwidth * 1e9, memory * 1e9, both_ways * 1e9))


def test_an_operation_takes_as_long_as_its_arithmetic_or_its_traffic():
    """100 operations or 10 bytes a second, at half of these."""
    arithmetic, traffic, copy = Operation(300, 20, "float32"), Operation(100, 20, "float32"), Operation(0, 50, "")
    assert TOY.seconds([arithmetic, traffic, copy], utilization=0.5) == pytest.approx((3 + 2 + 5) / 0.5)


def test_a_dtype_without_a_peak_is_named():
    with pytest.raises(ValueError, match=r"Received: .* in \['bfloat16'\]"):
        TOY.seconds([Operation(1, 1, "bfloat16")], utilization=1.0)


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(1, 0), (2, 2 * 1 / 2 / 5), (4, 2 * 3 / 4 / 5), (8, 2 * 3 / 4 / 5 + 2 * 1 / 2 / NETWORK)],
)
def test_an_all_reduce_goes_round_in_rings(count, seconds):
    """Groups of 4 with 5 bytes a second each way inside, and the network between them."""
    assert Devices(TOY, count).all_reduce_seconds(1.0) == pytest.approx(seconds)
