"""`MNIST8M`, a TFDS builder: millions of deformed digits, after Loosli et al. (2007).

Importing this module imports `tensorflow_datasets` and registers the builder there;
`keras_lsh.datasets.load("mnist8m/small")` does both when it is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lsh._arguments import check_argument, is_integer
from keras_lsh.datasets import loading
from keras_lsh.datasets.deforming import deformed_blocks

_CITATION = """\
@incollection{loosli2007training,
  title     = {Training Invariant Support Vector Machines using Selective Sampling},
  author    = {Loosli, Ga{\\"e}lle and Canu, St{\\'e}phane and Bottou, L{\\'e}on},
  booktitle = {Large Scale Kernel Machines},
  editor    = {Bottou, L{\\'e}on and Chapelle, Olivier and DeCoste, Dennis and
               Weston, Jason},
  publisher = {MIT Press},
  pages     = {301--320},
  year      = {2007},
}
@article{lecun1998gradient,
  title   = {Gradient-Based Learning Applied to Document Recognition},
  author  = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume  = {86},
  number  = {11},
  pages   = {2278--2324},
  year    = {1998},
}
"""


@dataclasses.dataclass
class MNIST8MConfig(tfds.core.BuilderConfig):
    """Size of a set of deformed digits.

    Attributes:
        train_examples: number of images to train on, the 60,000 of MNIST included.
        seed: of the deformations.
    """

    train_examples: int = 8_100_000
    seed: int = 0


class MNIST8M(tfds.core.GeneratorBasedBuilder):
    """MNIST's training images, deformed to any number; the test images are MNIST's own.

    As in MNIST8M, the set of Loosli et al. (2007), the first 60,000 training images are
    MNIST's and all others are deformations of one of them: image `i` of image
    `i % 60000`, in the order in which TFDS has them. The deformations are not theirs
    (which move along tangent vectors by precomputed fields), but the affine and elastic
    ones of `keras_lsh.datasets.deform`. An image is the same in sets of any
    size, and the same as in `keras_lsh.datasets.deformed_mnist`.

    MNIST itself is looked for in the same `data_dir`, and downloaded if it is not
    there.

    For a number that is no config: `MNIST8M(config=MNIST8M.sized(250_000))`, or
    `keras_lsh.datasets.load("mnist8m/250000")`.

    Licence: MNIST's, Creative Commons Attribution-Share Alike 3.0.

    References:
        Loosli, Canu & Bottou, "Training Invariant Support Vector Machines using
        Selective Sampling", in Large Scale Kernel Machines, MIT Press 2007.
        https://leon.bottou.org/projects/infimnist
    """

    name = "mnist8m"  # TFDS would make mnis_t8_m of the class's name.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' form; the first is the default.
        MNIST8MConfig(
            name="8m",
            description="8,100,000 images to train on, 135 of each of MNIST's, as in "
            "Loosli et al. (2007) and in Spring & Shrivastava (KDD 2017). "
            "3.4 GB on disk.",
            train_examples=8_100_000,
        ),
        MNIST8MConfig(
            name="480k",
            description="480,000 images to train on, 8 of each of MNIST's. "
            "0.2 GB on disk.",
            train_examples=480_000,
        ),
        MNIST8MConfig(
            name="small",
            description="120,000 images to train on: each of MNIST's as it is, and "
            "deformed once. 50 MB on disk.",
            train_examples=120_000,
        ),
    ]

    @staticmethod
    def sized(train_examples: int, seed: int = 0) -> MNIST8MConfig:
        """A config with any number of training images.

        Args:
            train_examples: positive integer; up to 60,000 they are MNIST's own.
            seed: of the deformations, from 0 to 2**32 - 1.
        """
        check_argument(
            "train_examples",
            train_examples,
            is_integer(train_examples) and train_examples > 0,
            "a positive integer",
        )
        check_argument(
            "seed",
            seed,
            is_integer(seed) and 0 <= seed < 2**32,
            "an integer from 0 to 2**32 - 1",
        )
        name = f"{train_examples}" + (f"_seed{seed}" if seed else "")
        return MNIST8MConfig(
            name=name,
            description=f"{train_examples:,} images to train on.",
            train_examples=int(train_examples),
            seed=int(seed),
        )

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="MNIST with its training images deformed, by small affine maps "
            "and elastic distortions, to any number of them. The test images are "
            "MNIST's own.",
            homepage="https://leon.bottou.org/projects/infimnist",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            citation=_CITATION,
            license="Creative Commons Attribution-Share Alike 3.0, as MNIST; copyright "
            "of MNIST: Yann LeCun and Corinna Cortes",
            # Image i is the same whatever the number of images.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # MNIST's own builder downloads.
        # The directory of all sets: data_path ends in name, config and version.
        mnist = loading.prepared("mnist", self.data_path.parents[2])
        train, test = (loading.read(mnist, split) for split in ("train", "test"))
        return {
            "train": self._generate_examples(train, self.builder_config.train_examples),
            "test": self._generate_examples(test, len(test[0])),
        }

    def _generate_examples(
        self, digits: tuple[np.ndarray, np.ndarray], count: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # TFDS sorts by key, in memory, within each of many ranges of keys of 128 bits:
        # small numbers would all be in the first.
        index, step = 0, 2**128 // count
        for images, labels in deformed_blocks(*digits, count, self.builder_config.seed):
            # TFDS would encode an array too, but one by one, which takes most of the
            # time.
            files = tf.io.encode_png(images).numpy()
            for file, label in zip(files, labels, strict=True):
                yield index * step, {"image": file, "label": label}
                index += 1
