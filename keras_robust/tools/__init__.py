"""Tools on top of the library: planning, the papers' experiments, and Cloud TPU.

`import keras_robust` does not load them: `from keras_robust.tools import planning`.
"""
