#!/usr/bin/env bash
# tensorflow-datasets: test sets of one size come in one and the same shuffled order, whatever the data set.
#
# Versions   tensorflow-datasets 4.9.10, tensorflow 2.21.0, Python 3.11
# Behaviour  A builder that yields examples 0, 1, 2, ... writes them sorted by a hash of this number, salted with the name
#            of the split alone. So "the first 1,000 of test" are not the first 1,000 of the official files, and all data
#            sets whose builders number their examples, such as MNIST and the corruptions of CIFAR-10, share one
#            permutation per split name and size.
# Otherwise  one expects shuffle_files=False to mean the order of the source, as its files have one, or a
#            permutation of each data set's own.
# Seen       2026-11-30:  of the first 100 of 1,000: 9 are among the official first 100; same order in both: True
#
# Exits with 0 if that is still so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow-datasets==4.9.10 tensorflow==2.21.0 numpy==2.4.6 importlib_resources==6.5.2
cat > "$folder/show.py" <<'PYTHON'
import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds


class Numbered(tfds.core.GeneratorBasedBuilder):
    """Examples that carry their official place."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(sys.argv[1])
    SKIP_REGISTERING = True
    OFFSET = 0

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"place": np.int64, "value": np.int64}))

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for place in range(1000):
            yield place, {"place": place, "value": place + self.OFFSET}


class First(Numbered):
    pass


class Second(Numbered):
    OFFSET = 5000


orders = []
for kind in (First, Second):
    builder = kind(data_dir=sys.argv[1])
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    data = builder.as_dataset(split="test[:100]", shuffle_files=False)
    orders.append([int(example["place"]) for example in data.as_numpy_iterator()])
common = len(set(orders[0]) & set(range(100)))
print(f"of the first 100: {common} are among the official first 100; same order in both: {orders[0] == orders[1]}")
assert common < 30 and orders[0] == orders[1], f"This has changed: {common}"
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/env/bin/python" "$folder/show.py" "$folder" 2>/dev/null | tail -n 1
