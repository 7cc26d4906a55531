"""Who is active: selectors, which choose the neurons that each sample computes.

`LSHSelector` asks hash tables; `ExactSelector` (the oracle) computes all products and
takes the largest; `RandomSelector` (the control) draws them; `SketchSelector` ranks all
by a bit for each weight. Exchanging one for another
shows how much of a result is due to the hashing.
"""

from keras_lsh.selection.exact import ExactSelector
from keras_lsh.selection.lsh import LSHSelector
from keras_lsh.selection.random import RandomSelector
from keras_lsh.selection.selector import Selector, WeightFactory
from keras_lsh.selection.sketch import SketchSelector

__all__ = [
    "ExactSelector",
    "LSHSelector",
    "RandomSelector",
    "Selector",
    "SketchSelector",
    "WeightFactory",
]
