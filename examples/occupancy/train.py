#!/usr/bin/env python3
"""Trains the classifier of this example and exports it to package/model.onnx.

Takes one or more CSV files with the columns Temperature, Humidity, Light, CO2, HumidityRatio, Occupancy (0 or 1), such
as `datatraining.txt` of the UCI Occupancy Detection data set. The model normalises its input itself.
Needs: torch, onnx.

  train.py TRAINING.csv [MORE.csv ...]
"""
import argparse
import csv
import pathlib

import torch
from torch import nn

COLUMNS = 5
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


class Occupancy(nn.Module):
    """[batch, 5] -> probabilities [batch, 2] of empty and occupied."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.net = nn.Sequential(nn.Linear(COLUMNS, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        return torch.softmax(self.net((x - self.mean) / self.std), dim=1)


def rows(path):
    """Yields the five quantities and the label; the files have a row number that their header does not name."""
    for row in csv.reader(open(path)):
        if len(row) == COLUMNS + 3:
            try:
                yield [float(value) for value in row[-COLUMNS - 1 : -1]], int(row[-1])
            except ValueError:
                continue  # a header


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="+")
    a = parser.parse_args()
    torch.manual_seed(7)
    found = [row for path in a.csv for row in rows(path)]
    x = torch.tensor([values for values, _ in found])
    y = torch.tensor([label for _, label in found])
    model = Occupancy(x.mean(0), x.std(0))
    loss_of = lambda batch: -torch.log(model(x[batch])[torch.arange(len(batch)), y[batch]] + 1e-9).mean()
    print("loss", fit(model.parameters(), loss_of, len(x), 60))
    print("accuracy on the training data", float((model(x).argmax(1) == y).float().mean()))
    export(model, x[:1], "probabilities")


main()
