"""A linear probe of 100 epochs without augmentation: rtk's strategy against epochs over images.

python benchmarks/speed/linear_probe.py
"""

from __future__ import annotations

import naive
import torch
from common import Race, parser, run
from torch import nn
from work import images, resnet18, run_of, tune

LR, SIZE = 0.1, 128


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=256)
    options.add_argument("--epochs", type=int, default=100)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    backbone, device = resnet18(), asked.device

    def over_images() -> nn.Module:
        model = naive.as_published(backbone.model).to(device).eval()
        x, y = (each.to(device) for each in images(asked.count))
        layer = backbone.structure.head_of(model.requires_grad_(False)).requires_grad_(True)
        # the same mini-batches, so that the weights can be compared
        here = run_of(backbone, train=asked.count, device=device)
        loader = here.loader(batch_size=SIZE, shuffle=True, name="fine-tune")
        orders = [[batch.indices for batch in loader.epoch(epoch)] for epoch in range(asked.epochs)]
        return naive.train_parameters(model, list(layer.parameters()), orders, x, y, lr=LR)

    def same(ours: nn.Module, theirs: nn.Module) -> str:
        worst = max(
            float((ours.state_dict()[name] - value).abs().max() / value.abs().max().clamp(min=1))
            for name, value in theirs.state_dict().items()
        )
        assert worst <= 1e-5, f"weights differ by {worst:.1e}"
        return f"largest difference of a weight {worst:.0e}"

    run(
        Race(
            f"linear probe, {asked.epochs} epochs of {asked.count} images, ResNet-18, no augmentation",
            {
                "rtk": lambda: tune("linear-probe", backbone, asked.count, device=device, epochs=asked.epochs, lr=LR),
                "epochs over images": over_images,
            },
            same,
            least=20.0,
            rounds=2,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
