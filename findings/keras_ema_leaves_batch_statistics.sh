#!/usr/bin/env bash
# keras optimizers with use_ema=True: after fit the averaged weights stand beside the batch statistics of other weights.
#
# Versions   keras 3.15.1, tensorflow 2.21.0, Python 3.11
# Behaviour  use_ema averages the trainable variables alone. At the end of fit they are overwritten with their averages,
#            while the moving mean and variance of batch normalisation stay those of the last weights. With
#            ema_momentum=0.999 and some hundred updates the averages lag far behind, and the classifier is worse than
#            with the raw weights, and worse than the same averages with statistics that are estimated anew.
# Otherwise  one expects a switch that averages weights to give a model that is at least as good: the averages of
#            PyTorch's AveragedModel are used with update_bn, and those of timm average the buffers, too.
# Seen       2026-11-30:  accuracy: raw weights 1.00, averages 0.21, averages with new statistics 1.00
#
# Exits with 0 if that is still so, and with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import keras
import numpy as np

keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
labels = random.integers(0, 10, 2000)
centers = random.normal(size=(10, 64))
inputs = (centers[labels] + random.normal(size=(2000, 64))).astype(np.float32)


def network():
    layers = [keras.Input((64,))]
    for _ in range(6):
        layers += [keras.layers.Dense(64), keras.layers.BatchNormalization(momentum=0.9), keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def accuracy(model):
    return float((model.predict(inputs, verbose=0).argmax(1) == labels).mean())


class Raw(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.weights = self.model.get_weights()


model, raw = network(), Raw()
optimizer = keras.optimizers.Adam(0.03, use_ema=True, ema_momentum=0.999)
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(inputs, labels, batch_size=50, epochs=15, verbose=0, callbacks=[raw])
averaged = accuracy(model)
anew = network()
anew.set_weights(model.get_weights())
for _ in range(50):
    anew(inputs, training=True)  # moves the statistics, no weight
again = accuracy(anew)
model.set_weights(raw.weights)
before = accuracy(model)
print(f"accuracy: raw weights {before:.2f}, averages {averaged:.2f}, averages with new statistics {again:.2f}")
assert before > 0.95 and again > 0.95 and averaged < 0.7, f"This has changed: {before}, {averaged}, {again}"
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/env/bin/python" "$folder/show.py" 2>/dev/null
