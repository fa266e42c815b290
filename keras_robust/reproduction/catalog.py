"""Where experiments and training configs are found: Python files that hold data alone."""

import importlib.util
import pathlib
from types import ModuleType
from typing import Any

from keras_robust.reproduction.experiment import Experiment, ModelSpec


def load_experiments(configs: pathlib.Path) -> dict[str, Experiment]:
    """Returns the experiments of a folder of configs by name: `EXPERIMENTS` of each file in its `experiments/`.

    Raises:
        ValueError: if there are none, two have one name, or a definition is not what it must be.
    """
    found: dict[str, Experiment] = {}
    for path in sorted((configs / "experiments").glob("*.py")):
        for name, definition in _load(path).EXPERIMENTS.items():
            if name in found:
                raise ValueError(f"Experiments have a name each. Received: {name!r} twice, again in {path}")
            found[name] = Experiment.from_definition(name, definition)
    if not found:
        raise ValueError(f"There are no experiments in configs/experiments. Received: configs={configs}")
    return found


def load_config(configs: pathlib.Path, model: ModelSpec) -> dict[str, Any]:
    """Returns the training config of a model, as plain data.

    Raises:
        ValueError: if the file or the variant does not exist.
    """
    name, _, variant = model.config.partition(":")
    path = configs / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"A config is a file of {configs}. Received: {model.config!r}")
    module = _load(path)
    config = module.get_config(variant) if variant else module.get_config()
    config.update_from_flattened_dict(dict(model.overrides))
    return config.to_dict()


def _load(path: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"A config is a Python file. Received: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
