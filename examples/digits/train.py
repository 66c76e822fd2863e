"""Train a digit classifier in seconds and write it as a model package, with its data beside it.

    python examples/digits/train.py --out examples/digits/build

writes model/ (model.yaml, digits.py, model.safetensors), data-train/ and data-test/ (data.npz each). The data is
scikit-learn's digits: 1797 images of 8 x 8 pixels. A seed makes every run write the same weights on the same machine.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from digits import build
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

PACKAGE = {
    "name": "digits",
    "format": "pytorch",
    "entrypoint": "digits:build",
    "weights": "model.safetensors",
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    "labels": [str(digit) for digit in range(10)],
}


def main() -> None:
    """Train, write the package and the data, and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "build")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    train_rows, test_rows = load_rows()
    network = train(*train_rows, seed=options.seed, epochs=options.epochs)
    write_model(network, options.out / "model")
    write_data(*train_rows, options.out / "data-train")
    write_data(*test_rows, options.out / "data-test")
    print(f"held-out accuracy {accuracy(network, *test_rows):.4f}, written to {options.out}")


def load_rows() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return pixels (0 to 1) and labels for training, and the same for the held-out test."""
    digits = load_digits()
    pixels = (digits.data / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    parts = train_test_split(pixels, labels, test_size=0.3, random_state=0, stratify=labels)
    return (parts[0], parts[2]), (parts[1], parts[3])


def train(pixels: np.ndarray, labels: np.ndarray, seed: int, epochs: int) -> nn.Module:
    """Return the trained network."""
    torch.manual_seed(seed)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    inputs, targets = torch.from_numpy(pixels), torch.from_numpy(labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return network.eval()


def accuracy(network: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose largest logit is the label."""
    with torch.inference_mode():
        return float((network(torch.from_numpy(pixels)).argmax(1).numpy() == labels).mean())


def write_model(network: nn.Module, folder: Path) -> None:
    """Write model.yaml, the code that builds the network, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(PACKAGE, sort_keys=False))
    shutil.copyfile(Path(__file__).with_name("digits.py"), folder / "digits.py")
    save_file(network.state_dict(), folder / "model.safetensors")


def write_data(pixels: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """Write a data package: one array per input, and the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", pixels=pixels, label=labels)


if __name__ == "__main__":
    main()
