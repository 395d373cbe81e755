"""What a training step of a WideResNet-34-10 needs at batch size 128, counted tensor by tensor: no GPU is needed.

    python benchmarks/speed/memory.py
    python benchmarks/speed/memory.py --strategy trades     # the step itself, and the most that its process has held

Weights, gradients, momentum, and everything that autograd keeps from a forward pass for the backward pass, for a step
on the weights and for a step of the attack. What a library takes besides (workspaces of convolutions, fragmentation)
is not in it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import parser
from torch import Tensor
from torch.nn import functional as F
from work import tune

from rtk import costs
from rtk.attacks import Logits, frozen
from rtk.backbones import open_backbone
from rtk.precision import Precision

BACKBONE = "robustbench:cifar10/Linf/Wu2020Adversarial"


def kept(compute: Callable[[], Tensor], parameters: set[int]) -> int:
    """Bytes of the distinct storages that a forward pass keeps for its backward pass, without those of parameters."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return sum(sizes.values())


def main() -> None:
    """Count and print."""
    options = parser(__doc__)
    options.add_argument("--backbone", default=BACKBONE)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--measured", type=int, default=4, help="images that are passed, and twice as many")
    options.add_argument("--strategy", help="fine-tune by a step of it, with attacks of one step, instead of counting")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    backbone = open_backbone(asked.backbone, weights="random", classes=10)
    if asked.strategy is not None:
        tune(asked.strategy, backbone, asked.batch, device=asked.device, epochs=1, attack_steps=1)
        most = costs.device_bytes(torch.device(asked.device)) or costs.peak_bytes()
        print(f"{asked.backbone}, {asked.strategy}, batch {asked.batch}: {most / 2**30:.2f} GiB, libraries and all")
        return
    model = backbone.model.train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    weights = sum(parameter.nbytes for parameter in model.parameters())

    def passed(count: int, precision: Precision | None) -> int:
        images, labels = torch.rand(count, 3, 32, 32), torch.randint(10, (count,))
        if precision is None:
            return kept(lambda: F.cross_entropy(model(images), labels), own)
        with frozen(model):
            network = Logits(model, precision=precision)
            return kept(lambda: F.cross_entropy(network(images.requires_grad_()), labels), own)

    def scaled(precision: Precision | None) -> float:
        """GiB for a whole batch: what grows with the images, and what does not, from two counts."""
        few, more = (passed(count, precision) for count in (asked.measured, 2 * asked.measured))
        return (few + (more - few) / asked.measured * (asked.batch - asked.measured)) / 2**30

    found = {
        "training step": scaled(None),
        "attack, float32": scaled("float32"),
        "attack, bfloat16": scaled("bfloat16"),
    }
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{asked.backbone}: {count:,} parameters, batch {asked.batch}, GiB")
    print(f"  weights, gradients, momentum    {3 * weights / 2**30:6.2f}")
    for name, size in found.items():
        print(f"  kept for a backward pass, {name:18} {size:6.2f}")
    print(f"  together at most                {3 * weights / 2**30 + max(found.values()):6.2f}")


if __name__ == "__main__":
    main()
