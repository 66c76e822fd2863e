"""Train a small transformer on a table and write it as a model package, with its data beside it.

    python examples/attention/train.py --out examples/attention/build

writes model/ (model.yaml, attention.py, model.safetensors), data-train/ and data-test/ (one safetensors file each). The
data is scikit-learn's breast cancer set: 569 rows of 30 measurements, standardized by the training rows.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from attention import build
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

PACKAGE = {
    "name": "attention",
    "format": "pytorch",
    "entrypoint": "attention:build",
    "weights": "model.safetensors",
    "inputs": [{"name": "measurements", "datatype": "FP32", "shape": [-1, 30]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}],
    "labels": ["malignant", "benign"],
}


def main() -> None:
    """Train, write the package and the data, and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "build")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    train_rows, test_rows = load_rows()
    network = train(*train_rows, seed=options.seed, epochs=options.epochs)
    write_model(network, options.out / "model")
    write_data(*train_rows, options.out / "data-train")
    write_data(*test_rows, options.out / "data-test")
    print(f"held-out accuracy {accuracy(network, *test_rows):.4f}, written to {options.out}")


def load_rows() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return standardized measurements and labels for training, and the same for the held-out test."""
    table = load_breast_cancer()
    labels = table.target.astype(np.int64)
    parts = train_test_split(table.data, labels, test_size=0.3, random_state=0, stratify=labels)
    mean, deviation = parts[0].mean(0), parts[0].std(0)
    train_part, test_part = (((part - mean) / deviation).astype(np.float32) for part in parts[:2])
    return (train_part, parts[2]), (test_part, parts[3])


def train(measurements: np.ndarray, labels: np.ndarray, seed: int, epochs: int) -> nn.Module:
    """Return the trained network."""
    torch.manual_seed(seed)
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    inputs, targets = torch.from_numpy(measurements), torch.from_numpy(labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return network.eval()


def accuracy(network: nn.Module, measurements: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose largest logit is the label."""
    with torch.inference_mode():
        return float((network(torch.from_numpy(measurements)).argmax(1).numpy() == labels).mean())


def write_model(network: nn.Module, folder: Path) -> None:
    """Write model.yaml, the code that builds the network, and its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(PACKAGE, sort_keys=False))
    shutil.copyfile(Path(__file__).with_name("attention.py"), folder / "attention.py")
    save_file(network.state_dict(), folder / "model.safetensors")


def write_data(measurements: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """Write a data package: one array per input, and the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"measurements": np.ascontiguousarray(measurements), "label": labels}
    save_arrays(arrays, folder / "data.safetensors")


if __name__ == "__main__":
    main()
