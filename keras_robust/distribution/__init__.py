"""Distribution strategies by name, and asynchronous generation: workers attack batches while the model trains."""

from keras_robust.distribution.asynchronous import AttackedBatches, PublishWeights, asynchronous_generation
from keras_robust.distribution.crafter import Crafter
from keras_robust.distribution.crafting_queue import Crafted, CraftingQueue, Pool
from keras_robust.distribution.ray_pool import RayPool
from keras_robust.distribution.strategy import STRATEGIES, create_strategy

__all__ = [
    "STRATEGIES",
    "AttackedBatches",
    "Crafted",
    "Crafter",
    "CraftingQueue",
    "Pool",
    "PublishWeights",
    "RayPool",
    "asynchronous_generation",
    "create_strategy",
]
