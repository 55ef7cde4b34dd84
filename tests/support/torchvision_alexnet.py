"""torchvision's AlexNet, written out, as a reference for tests."""

import torch
from torch import Tensor, nn

from training.start.published import MEAN, STD


class TorchvisionAlexNet(nn.Module):
    """The network of torchvision/models/alexnet.py; its state dict has the published names."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes)),
        )
        self.eval()

    @torch.no_grad()
    def probabilities(self, crop: Tensor) -> Tensor:
        """Classify a crop (224, 224, 3) uint8 with torchvision's normalisation -> (classes,)."""
        pixels = crop.permute(2, 0, 1)[None].float() / 255
        pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        logits: Tensor = self.classifier(self.features(pixels).flatten(1))
        return logits.softmax(1)[0]
