"""Package metadata; the tools' settings are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "keras_robust/version.py").read_text())[1]

setuptools.setup(
    name="keras_robust",
    version=VERSION,
    description="Train, honestly evaluate and ship Keras image classifiers that withstand adversarial examples.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["keras_robust", "keras_robust.*"]),
    package_data={
        "keras_robust": ["py.typed"],
        "keras_robust.data.mnist_small": ["*.npz", "*.md"],
        "keras_robust.reports": ["*.html"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.23",
        "keras>=3.12,<3.16",
        "tensorflow-datasets>=4.9.10",
        "absl-py>=2.1",
        "ml-collections>=1.0",
        "matplotlib>=3.9",
        "Jinja2>=3.1",
        "tqdm>=4.66",
        "etils[epath]>=1.10",
        # Imported, but not declared, by keras.callbacks.TensorBoard and by tensorflow-datasets 4.9.10.
        "tensorboard>=2.20",
        "importlib_resources>=6.0",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ray>=2.40",
            "ruff>=0.11",
            "mypy>=1.15",
            "PyYAML>=6",
        ],
        "async": ["ray>=2.40"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
