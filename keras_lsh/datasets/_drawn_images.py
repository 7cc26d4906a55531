"""What the TFDS builders of drawn images have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lsh.datasets import drawing

_CITATION = """\
@inproceedings{larochelle2007empirical,
  title     = {An Empirical Evaluation of Deep Architectures on Problems with Many
               Factors of Variation},
  author    = {Larochelle, Hugo and Erhan, Dumitru and Courville, Aaron and
               Bergstra, James and Bengio, Yoshua},
  booktitle = {International Conference on Machine Learning},
  year      = {2007},
}
"""


@dataclasses.dataclass
class DrawnImagesConfig(tfds.core.BuilderConfig):
    """Size of a data set of drawn images.

    Attributes:
        train_examples: number of images to train on.
        test_examples: number of images to test on.
        seed: of the images. The splits draw from streams of their own.
    """

    train_examples: int = 0
    test_examples: int = 0
    seed: int = 2007


class DrawnImages(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """A builder whose images are drawn, so that there is nothing to download.

    Attributes:
        classes: names of the labels, from 0.
        description: what the images show, for `info.description`.
    """

    classes: ClassVar[list[str]]
    description: ClassVar[str]

    def draw(
        self, count: int, random: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns uint8 images `(count, 28, 28, 1)` and int64 labels `(count,)`."""
        raise NotImplementedError

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(drawing.SIDE, drawing.SIDE, 1)),
                    "label": tfds.features.ClassLabel(names=self.classes),
                }
            ),
            supervised_keys=("image", "label"),
            citation=_CITATION,
            # Images are independent of each other: there is no order to shuffle away.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # There is nothing to download.
        config = self.builder_config
        return {
            "train": self._generate_examples(config.train_examples, stream=0),
            "test": self._generate_examples(config.test_examples, stream=1),
        }

    def _generate_examples(
        self, count: int, stream: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        random = np.random.RandomState([self.builder_config.seed, stream])
        images, labels = self.draw(count, random)
        # TFDS would encode an array too, but one by one, which takes most of the time.
        files = tf.io.encode_png(images).numpy()
        for key, (file, label) in enumerate(zip(files, labels, strict=True)):
            yield key, {"image": file, "label": label}
