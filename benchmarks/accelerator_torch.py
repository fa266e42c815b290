"""Times the steps of `accelerator_run.py` written in PyTorch: channels last, torch.compile, mixed precision.

Command:  python benchmarks/accelerator_torch.py [--networks=lenet,resnet20,wrn32_10,resnet50] [--precision=bfloat16] \
              [--batch_size=128] [--steps=7] [--rounds=20] [--device=cuda]

It needs only PyTorch. The networks have the layers of `keras_robust.architectures`, except the one that standardises
the images. The steps are typical hand-written code: adversarial training with PGD, logit pairing with clean and
attacked images in one batch, free training with 4 replays, and a natural step. It prints one JSON object per step.
Milliseconds are the median over rounds, each of which runs all steps in turn.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

EPSILON, REPLAYS = 0.3, 4


def lenet() -> nn.Module:
    """Returns the LeNet of Madry et al. (2018)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 1024), nn.ReLU(), nn.Linear(1024, 10)),
    )


def convolution(inputs: int, outputs: int, size: int, strides: int = 1) -> nn.Conv2d:
    """Returns a convolution that keeps the size, but for its strides."""
    return nn.Conv2d(inputs, outputs, size, strides, padding=size // 2, bias=False)


def pad_channels(x: torch.Tensor, outputs: int, strides: int, size: int) -> torch.Tensor:
    """Returns a shortcut without parameters."""
    x = functional.avg_pool2d(x, size, strides) if strides > 1 else x
    missing = (outputs - x.shape[1]) // 2
    return functional.pad(x, (0, 0, 0, 0, missing, missing))


class Block(nn.Module):
    """A block of ResNet-20, or, activated before its convolutions, of the w32-10 of Madry et al. (2018)."""

    def __init__(self, inputs: int, outputs: int, strides: int, first_activated: bool) -> None:
        super().__init__()
        self.first_activated, self.outputs, self.strides = first_activated, outputs, strides
        self.convolutions = nn.ModuleList([convolution(inputs, outputs, 3, strides), convolution(outputs, outputs, 3)])
        sizes = (inputs, outputs) if first_activated else (outputs, outputs)
        self.norms = nn.ModuleList([nn.BatchNorm2d(size) for size in sizes])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        changes = x.shape[1] != self.outputs
        if not self.first_activated:
            shortcut = pad_channels(x, self.outputs, self.strides, 1) if changes else x
            x = functional.relu(self.norms[0](self.convolutions[0](x)))
            return functional.relu(self.norms[1](self.convolutions[1](x)) + shortcut)
        active = functional.leaky_relu(self.norms[0](x), 0.1)
        start = active if self.strides == 1 else x
        shortcut = pad_channels(start, self.outputs, self.strides, self.strides) if changes else x
        x = functional.leaky_relu(self.norms[1](self.convolutions[0](active)), 0.1)
        return self.convolutions[1](x) + shortcut


class Bottleneck(nn.Module):
    """A block of ResNet-50."""

    def __init__(self, inputs: int, filters: int, strides: int) -> None:
        super().__init__()
        outputs = 4 * filters
        self.path = nn.Sequential(
            *(convolution(inputs, filters, 1), nn.BatchNorm2d(filters), nn.ReLU()),
            *(convolution(filters, filters, 3, strides), nn.BatchNorm2d(filters), nn.ReLU()),
            *(convolution(filters, outputs, 1), nn.BatchNorm2d(outputs)),
        )
        self.shortcut = nn.Identity()
        if strides > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, strides), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        return functional.relu(self.path(x) + self.shortcut(x))


def small_resnet(blocks: int, width: int, wide: bool) -> nn.Module:
    """Returns ResNet-20 (3, 1, False) or w32-10 (5, 10, True)."""
    layers: list[nn.Module] = [convolution(3, 16, 3)]
    layers += [] if wide else [nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for stage in range(3):
        outputs = 16 * width * 2**stage
        for index in range(blocks):
            layers.append(Block(inputs, outputs, 2 if stage > 0 and index == 0 else 1, wide))
            inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.LeakyReLU(0.1)] if wide else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def resnet50() -> nn.Module:
    """Returns ResNet-50 for ImageNet."""
    layers: list[nn.Module] = [convolution(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for index in range(blocks):
            layers.append(Bottleneck(inputs, 64 * 2**stage, 2 if stage > 0 and index == 0 else 1))
            inputs = 4 * 64 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet": (lenet, (1, 28, 28)),
    "resnet20": (lambda: small_resnet(3, 1, False), (3, 32, 32)),
    "wrn32_10": (lambda: small_resnet(5, 10, True), (3, 32, 32)),
    "resnet50": (resnet50, (3, 224, 224)),
}


class Steps:
    """Training steps of a network on a batch in memory.

    Args:
        network: of `NETWORKS`.
        options: of the command line.
    """

    def __init__(self, network: str, options: argparse.Namespace) -> None:
        make, shape = NETWORKS[network]
        self.device, self.attack_steps = options.device, options.steps
        self.low = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bfloat16")
        generator = torch.Generator().manual_seed(0)
        images = torch.rand((options.batch_size, *shape), generator=generator)
        self.images = images.to(self.device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (options.batch_size,), generator=generator).to(self.device)
        self.network = make().to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9)
        self.classify = torch.compile(self.network)
        self.delta = torch.zeros_like(self.images)

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the mean cross-entropy."""
        with self.low:
            return functional.cross_entropy(self.classify(images), self.labels)

    def attack(self) -> torch.Tensor:
        """Returns the images after PGD, in inference mode."""
        self.network.eval()
        step_size = 2.5 * EPSILON / self.attack_steps
        attacked = self.images + EPSILON * (2 * torch.rand_like(self.images) - 1)
        for _ in range(self.attack_steps):
            attacked = attacked.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(attacked), attacked)
            delta = (attacked.detach() + step_size * gradient.sign() - self.images).clamp(-EPSILON, EPSILON)
            attacked = (self.images + delta).clamp(0, 1)
        self.network.train()
        return attacked.detach()

    def update(self, loss: torch.Tensor) -> None:
        """Takes a step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def natural(self) -> None:
        """On clean images."""
        self.update(self.loss(self.images))

    def pgd(self) -> None:
        """On attacked images."""
        self.update(self.loss(self.attack()))

    def adversarial_logit_pairing(self) -> None:
        """On clean and attacked images in one batch."""
        both = torch.cat([self.images, self.attack()])
        with self.low:
            logits = self.classify(both)
            clean, attacked = logits.float().chunk(2)
            classification = functional.cross_entropy(logits, torch.cat([self.labels, self.labels]))
            loss = classification + 0.5 * (clean - attacked).square().mean()
        self.update(loss)

    def free(self) -> None:
        """Replays of a batch."""
        for _ in range(REPLAYS):
            attacked = (self.images + self.delta).clamp(0, 1).requires_grad_()
            self.update(self.loss(attacked))
            self.delta = (self.delta + EPSILON * attacked.grad.sign()).clamp(-EPSILON, EPSILON)


def seconds(run: Callable[[], None], device: str) -> float:
    """Returns how long a step takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measures network after network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in (("batch_size", 128), ("steps", 7), ("rounds", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, as XLA uses by default
    for network in options.networks.split(","):
        steps = Steps(network, options)
        contenders = {name: getattr(steps, name) for name in ("natural", "pgd", "free", "adversarial_logit_pairing")}
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for index in range(options.rounds + 3):
            for name, run in contenders.items():
                elapsed = seconds(run, options.device)
                if index >= 3:
                    times[name].append(elapsed)
        for name, values in times.items():
            median = sorted(values)[len(values) // 2]
            about = {"network": network, "step": name, "batch_size": options.batch_size, "precision": options.precision}
            print(json.dumps(about | {"milliseconds": round(1e3 * median, 3)}), flush=True)


if __name__ == "__main__":
    main()
