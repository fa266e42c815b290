"""Attacked images of every example, broken on the way or not: to be judged by other classifiers, or seen."""

from collections.abc import Iterator

import numpy as np

from keras_robust.attacks import Attack, IterativeAttack
from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import replace_unchecked
from keras_robust.evaluation.execution import by_batch, compile_batch_function
from keras_robust.evaluation.runner import check_inside
from keras_robust.evaluation.setting import Setting


def craft(attack: Attack, setting: Setting, *, whole: bool = False) -> Iterator[np.ndarray]:
    """Yields images that `attack` makes of all examples on the setting's source, float32, of the shape of its images.

    An attack that chooses among its restarts by itself (an `IterativeAttack`) gives one array, any other one per
    restart, since which restart is the worst depends on the classifier that judges. With `whole` it chooses, too: a
    classifier that is random would break an example in one of many looks.
    """
    source_fn = setting.source.model_fn_for(attack.compute_dtype)
    runs, single = 1, attack
    if not whole and not isinstance(attack, IterativeAttack):
        runs, single = attack.restarts, replace_unchecked(attack, restarts=1)

    def run(batch: tuple[Tensor, Tensor], seed: Tensor) -> Tensor:
        return single(source_fn, *batch, seed)

    compiled = compile_batch_function(run, setting.strategy, setting.compile_attack)

    def one_run(seed: Tensor) -> np.ndarray:
        values = (setting.images, setting.labels)
        return by_batch(lambda batch, index: compiled(batch, seeds.fold(seed, index)), values, setting.batch_size)

    for restart in range(runs):
        attacked = one_run(seeds.fold(seeds.as_seed(setting.seed), restart))
        check_inside(attack, attacked, setting.images)
        yield attacked
