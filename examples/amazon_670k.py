"""An output layer of 670,091 classes, on a synthetic set at the shape of Amazon-670K.

    python examples/amazon_670k.py
    python examples/amazon_670k.py --train train.txt --test test.txt    # the real one

135,909 sparse features, a hidden layer of 128 ReLU units, 670,091 labels. A batch of
128 samples shares the outputs that it computes: for each sample the 8 that hash tables
find, all labels, and 1,500 drawn at random. The recipe is that of `tags.py`. Weights
and the optimizer's moments take 1.3 GB, in memory and in the checkpoint.

Kill it whenever you like: the same command goes on, and ends as if nothing had been.
"""

from __future__ import annotations

import resumable
import tags

DEFAULTS = {
    "synthetic": [135_909, 670_091, 100_000, 2000],
    "epochs": 2,
    "learning_rate": 3e-2,
    "active": 8,
    "explore": 1500,
    "every": 50,
    "segment": 500,
}
QUICK = {
    "synthetic": [5000, 20_000, 2560, 128],
    "epochs": 1,
    "active": 8,
    "explore": 200,
    "segment": 10,
}

if __name__ == "__main__":
    resumable.run(lambda: tags.main(__doc__, "amazon_670k_output", DEFAULTS, QUICK))
