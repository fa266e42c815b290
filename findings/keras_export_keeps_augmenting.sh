#!/usr/bin/env bash
# keras.Model.export: the SavedModel goes on augmenting, and layers behind the augmentation run in training mode.
#
# Versions   keras 3.15.1, tensorflow 2.21.0, Python 3.11
# Behaviour  A classifier that begins with keras.layers.RandomTranslation and has batch normalisation is exported by
#            model.export(folder). The served function answers the same batch differently each time, and the answer for
#            an image depends on the other images in its batch, as batch normalisation does in training. model(x) and
#            model.predict(x) augment nothing, and so does an export whose endpoint calls model(x, training=False).
# Otherwise  one expects a file for serving to hold the model in inference mode, as predict runs it.
# Seen       2026-11-30:  export: two answers differ by 4, alone and in a batch by 3; training=False: 0 and 6e-08
#                         (the first two vary from run to run, since the augmentation is random)
#
# Exits with 0 if that is still so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import sys

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.RandomTranslation(0.3, 0.3),
        keras.layers.Conv2D(8, 3),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ]
)
images = np.random.default_rng(0).uniform(size=(16, 8, 8, 1)).astype(np.float32)
model.export(f"{sys.argv[1]}/plain", verbose=False)
archive = keras.export.ExportArchive()
archive.track(model)
signature = [tf.TensorSpec((None, 8, 8, 1), tf.float32)]
archive.add_endpoint("serve", lambda x: model(x, training=False), input_signature=signature)
archive.write_out(f"{sys.argv[1]}/inference", verbose=False)
found = []
for name in ("plain", "inference"):
    loaded = tf.saved_model.load(f"{sys.argv[1]}/{name}")
    first, second, alone = (loaded.serve(batch).numpy() for batch in (images, images, images[:1]))
    found.append((np.abs(first - second).max(), np.abs(first[:1] - alone).max()))
    print(f"{name}: two answers differ by {found[-1][0]:.1g}, alone and in a batch by {found[-1][1]:.1g}")
assert min(found[0]) > 0.01 and max(found[1]) < 1e-5, f"This has changed: {found}"
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/env/bin/python" "$folder/show.py" "$folder" 2>/dev/null
