"""Finding the LSH layers of a model."""

import keras

from keras_lsh.layers.lsh_dense import LSHDense


def lsh_layers(model: keras.layers.Layer) -> list[LSHDense]:
    """The LSHDense layers of a model, those of nested models and layers included.

    A layer that is used in several places is listed once, in the order of definition.
    """
    # _flatten_layers sees sublayers of any layer, as a nested or subclassed model has.
    layers = model._flatten_layers(include_self=True, recursive=True)
    unique = {id(layer): layer for layer in layers if isinstance(layer, LSHDense)}
    return list(unique.values())
