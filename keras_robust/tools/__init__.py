"""Tools on top of the library: cost plans, the papers' experiments, and training on Cloud TPU.

`import keras_robust` does not load them. Use `from keras_robust.tools import planning`.
"""
