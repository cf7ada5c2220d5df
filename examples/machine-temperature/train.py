#!/usr/bin/env python3
"""Trains the autoencoder of this example and exports it to package/model.onnx.

Takes a CSV with the columns `timestamp` (YYYY-MM-DD HH:MM:SS) and `value` (degrees Fahrenheit), one row each five
minutes, whose first rows show a healthy machine; `machine_temperature_system_failure.csv` of the Numenta Anomaly
Benchmark is such a file. The model normalises its input itself: it takes degrees as the sensor sends them.
Needs: torch, onnx.

  train.py SERIES.csv [--healthy 2500]
"""
import argparse
import csv
import datetime as dt
import pathlib

import torch
from torch import nn

LENGTH, GAP_MAX = 32, dt.timedelta(minutes=15)
HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = HERE / "package"


def export(model, sample, output):
    """Writes package/model.onnx."""
    path = PACKAGE / "model.onnx"
    model.eval()
    torch.onnx.export(model, (sample,), str(path), opset_version=17, dynamo=False, input_names=["x"],
                      output_names=[output], dynamic_axes={"x": {0: "batch"}, output: {0: "batch"}})
    print("wrote", path, "- build the package of it: cargo xtask example", HERE.name)


def fit(parameters, loss_of, count, epochs):
    """Minimises loss_of(indices) over shuffled batches of 256 and returns the last loss."""
    optimiser = torch.optim.Adam(parameters, lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(count).split(256):
            optimiser.zero_grad()
            loss = loss_of(batch)
            loss.backward()
            optimiser.step()
    return float(loss)


class Autoencoder(nn.Module):
    """[batch, 32, 1] degrees -> score [batch, 1]: mean squared error of the reconstruction, in standard units."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        sizes = [LENGTH, 24, 6, 24]
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], LENGTH))

    def forward(self, x):
        z = ((x - self.mean) / self.std).reshape(-1, LENGTH)
        return ((self.net(z) - z) ** 2).mean(dim=1, keepdim=True)


def windows(path):
    """Yields the windows that dunlind makes of the same readings."""
    run, last = [], None
    for row in csv.DictReader(open(path)):
        at = dt.datetime.strptime(row["timestamp"], "%Y-%m-%d %H:%M:%S")
        if last is not None and at <= last:
            continue
        if last is not None and at - last > GAP_MAX:
            run = []
        run, last = [*run[-(LENGTH - 1):], [float(row["value"])]], at
        if len(run) == LENGTH:
            yield run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv")
    parser.add_argument("--healthy", type=int, default=2500, help="windows at the beginning to learn from")
    a = parser.parse_args()
    torch.manual_seed(7)
    x = torch.tensor(list(windows(a.csv)), dtype=torch.float32)[: a.healthy]
    model = Autoencoder(x.mean().item(), x.std().item())
    print("loss", fit(model.parameters(), lambda batch: model(x[batch]).mean(), len(x), 120))
    scores = model(x).detach().flatten()
    print("99.9 % of healthy windows score below", float(scores.quantile(0.999)), "- choose the threshold above it")
    export(model, x[:1], "score")


main()
