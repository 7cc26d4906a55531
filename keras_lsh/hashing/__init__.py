"""Hash families: which bucket a neuron is in, and which buckets an input looks into."""

from keras_lsh.hashing.family import HashFamily
from keras_lsh.hashing.kmeans import KMeansCells
from keras_lsh.hashing.simhash import SimHash
from keras_lsh.hashing.transforms import L2ALSH, SignALSH, SimpleLSH, Transform

__all__ = [
    "L2ALSH",
    "HashFamily",
    "KMeansCells",
    "SignALSH",
    "SimHash",
    "SimpleLSH",
    "Transform",
]
