#!/usr/bin/env python3
"""Trains the regression of this example and exports it to package/model.onnx.

Takes a CSV with the columns Date (dd/mm/yyyy), Time (hh:mm:ss), the eight channels below and CO_GT, the carbon monoxide
of a reference instrument in mg/m3; -200 means missing. The UCI Air Quality data set has these columns (there CO(GT) and
so on: rename them, use commas and decimal points). The model normalises its input itself.
Needs: torch, onnx.

  train.py AIR.csv
"""
import argparse
import csv
import datetime as dt
import pathlib

import torch
from torch import nn

CHANNELS = ["PT08_S1_CO", "PT08_S2_NMHC", "PT08_S3_NOx", "PT08_S4_NO2", "PT08_S5_O3", "T", "RH", "AH"]
LENGTH, GAP_MAX, MISSING = 24, dt.timedelta(minutes=90), -200.0
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


class CarbonMonoxide(nn.Module):
    """[batch, 24, 8] hourly channels -> carbon monoxide [batch, 1] in mg/m3."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.conv = nn.Sequential(nn.Conv1d(len(CHANNELS), 16, 3, padding=1), nn.ReLU(),
                                  nn.Conv1d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16 * LENGTH, 1)

    def forward(self, x):
        z = ((x - self.mean) / self.std).transpose(1, 2)
        return self.head(self.conv(z).flatten(1))


def windows(path):
    """Yields the windows that dunlind makes of the same readings, each with the reference of its last hour."""
    run, last = [], None
    for row in csv.DictReader(open(path)):
        if not row["Date"]:
            continue
        at = dt.datetime.strptime(row["Date"] + " " + row["Time"], "%d/%m/%Y %H:%M:%S")
        values = [float(row[channel]) for channel in CHANNELS]
        if (last is not None and at <= last) or MISSING in values:
            continue
        if last is not None and at - last > GAP_MAX:
            run = []
        run, last = [*run[-(LENGTH - 1):], values], at
        if len(run) == LENGTH:
            yield run, float(row["CO_GT"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv")
    a = parser.parse_args()
    torch.manual_seed(7)
    found = list(windows(a.csv))
    third = len(found) // 3  # the rest shows how the model ages
    train = [pair for pair in found[:third] if pair[1] != MISSING]
    later = [pair for pair in found[third:] if pair[1] != MISSING]
    x, y = (torch.tensor(part) for part in zip(*train))
    model = CarbonMonoxide(x.mean((0, 1)), x.std((0, 1)))
    print("loss", fit(model.parameters(), lambda b: ((model(x[b]).flatten() - y[b]) ** 2).mean(), len(x), 80))
    x_later, y_later = (torch.tensor(part) for part in zip(*later))
    print("mean absolute error afterwards, mg/m3", float((model(x_later).flatten() - y_later).abs().mean()))
    export(model, x[:1], "co")


main()
