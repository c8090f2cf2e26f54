"""Samples beside MNIST's test images, as the shipped classifier sees both."""
from pathlib import Path

import torch
from torch import Tensor

from classifier import SHIPPED, accuracy, classify, fit, load_classifier
from data import FOLDER, mnist, mnist_with_labels
from frechet import frechet_distance, standard_error
from machinery.cli import Parser

LEAST = 120              # samples: with a tenth left out still more than there are features
MOST = 60_000            # the real images that the floor draws from
FLOOR_DRAWS = 5          # sets of training images that stand for perfect samples
SHOWN = 300_000          # images that a classifier sees while it learns from samples


def check_count(n: int, parser: Parser) -> None:
    """Refuses, with exit status 2, a number of samples that cannot be judged."""
    if not LEAST <= n <= MOST:
        parser.error(f"--n {n}: take {LEAST} or more, for a covariance of 96 features, and no more "
                     f"than the {MOST:,} real images to compare with")


class Judge:
    """The shipped classifier and what it sees in MNIST's test images.

    Raises: OSError if MNIST or the classifier cannot be read.
    """

    def __init__(self, device: torch.device, data_dir: Path = FOLDER):
        self.device, self.data_dir = device, data_dir
        self.network = load_classifier(SHIPPED, device)
        self.test, self.labels = mnist_with_labels(data_dir, train=False)
        self.features, self.probabilities = classify(self.network, self.test)

    def measure(self, images: Tensor) -> dict:
        """The Frechet distance of uint8 images (n, 1, 28, 28), classes and confidence, as numbers.

        Raises: ValueError if n is too small for a covariance.
        """
        features, probabilities = classify(self.network, images)
        return {"n": len(images),
                "frechet": round(frechet_distance(features, self.features), 4),
                "standard_error": round(standard_error(features, self.features), 4)
                } | summary(probabilities)

    def floor(self, n: int) -> dict:
        """The same distance for n real images: the mean of FLOOR_DRAWS random sets of training
        images, and their standard deviation. No sampler can be expected to do better."""
        images, generator = mnist(self.data_dir), torch.Generator().manual_seed(0)
        sets = [images[torch.randperm(len(images), generator=generator)[:n]]
                for _ in range(FLOOR_DRAWS)]
        distances = torch.tensor([frechet_distance(classify(self.network, real)[0], self.features)
                                  for real in sets], dtype=torch.float64)
        return {"n": n, "frechet": round(distances.mean().item(), 4),
                "standard_deviation": round(distances.std().item(), 4)}

    def learn(self, images: Tensor, seed: int = 0) -> float:
        """The accuracy on the test images of a new classifier that was trained on these images
        alone, with the labels that the shipped one gives them."""
        named = classify(self.network, images)[1].argmax(1)
        epochs = max(1, SHOWN // len(images))
        return accuracy(fit(images, named, epochs, seed, self.device), self.test, self.labels)


def summary(probabilities: Tensor) -> dict:
    """Of class probabilities (N, 10): the mean of the largest, and how often it is each class's."""
    confidence, named = probabilities.max(1)
    shares = torch.bincount(named, minlength=10) / len(named)
    return {"confidence": round(confidence.mean().item(), 4),
            "classes": [round(share, 4) for share in shares.tolist()]}
