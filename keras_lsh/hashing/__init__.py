"""Hash families: which bucket a neuron is in, and which buckets an input looks into."""

from keras_lsh.hashing.cross_polytope import CrossPolytope
from keras_lsh.hashing.families import choose, get_family
from keras_lsh.hashing.family import HashFamily
from keras_lsh.hashing.kmeans import KMeansCells
from keras_lsh.hashing.random_buckets import RandomBuckets
from keras_lsh.hashing.simhash import SimHash
from keras_lsh.hashing.transforms import L2ALSH, SignALSH, SimpleLSH, Transform
from keras_lsh.hashing.winner_take_all import DensifiedWTAHash, WTAHash

__all__ = [
    "L2ALSH",
    "CrossPolytope",
    "DensifiedWTAHash",
    "HashFamily",
    "KMeansCells",
    "RandomBuckets",
    "SignALSH",
    "SimHash",
    "SimpleLSH",
    "Transform",
    "WTAHash",
    "choose",
    "get_family",
]
