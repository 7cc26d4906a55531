"""`Convex`, a TFDS builder: convex or not, after Larochelle et al. (2007).

Importing this module imports `tensorflow_datasets` and registers the builder there;
`keras_lsh.datasets.load("convex")` does both when it is called.
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from keras_lsh.datasets import drawing
from keras_lsh.datasets._drawn_images import DrawnImages, DrawnImagesConfig


class Convex(DrawnImages):
    """28x28 white regions, labelled `not_convex` (0) or `convex` (1).

    Generated, never downloaded: images as the paper describes them, not the paper's
    own files. `keras_lsh.datasets.draw_convex` says how they are drawn.

    Reference:
        Larochelle et al., "An Empirical Evaluation of Deep Architectures on Problems
        with Many Factors of Variation", ICML 2007, section 3.3.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' form; the first is the default.
        DrawnImagesConfig(
            name="larochelle2007",
            description="8,000 images to train on, 2,000 of them for validation, and "
            "50,000 to test on, as in Larochelle et al. (2007) and in Spring & "
            "Shrivastava (KDD 2017).",
            train_examples=8_000,
            test_examples=50_000,
        ),
        DrawnImagesConfig(
            name="small",
            description="2,000 images to train on and 1,000 to test on.",
            train_examples=2_000,
            test_examples=1_000,
        ),
    ]

    classes = ["not_convex", "convex"]  # noqa: RUF012
    description = (
        "White regions on black, 28x28 pixels; the task is to tell convex regions "
        "from others. Drawn as Larochelle et al. (2007) describe their `convex` task."
    )

    def draw(
        self, count: int, random: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        return drawing.draw_convex(count, random)
