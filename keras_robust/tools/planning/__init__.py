"""Predicts what a training run costs: operations, memory, hours and price."""

from keras_robust.tools.planning.accelerators import ACCELERATORS, Accelerator, Devices, parse_devices
from keras_robust.tools.planning.plan import UTILIZATION, Plan, plan

__all__ = ["ACCELERATORS", "UTILIZATION", "Accelerator", "Devices", "Plan", "parse_devices", "plan"]
