"""What a training run costs before it is started: operations, memory, hours, price."""

from keras_robust.tools.planning.accelerators import ACCELERATORS, Accelerator, Devices, parse_devices
from keras_robust.tools.planning.plan import UTILIZATION, Plan, plan

__all__ = ["ACCELERATORS", "UTILIZATION", "Accelerator", "Devices", "Plan", "parse_devices", "plan"]
