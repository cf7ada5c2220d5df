#!/usr/bin/env python3
"""Trains a small classifier with scikit-learn: does a pump's bearing wear?

Makes its own data, and writes into the working directory what a package is built of:

  model.pkl            the trained pipeline (StandardScaler and MLPClassifier)
  samples.ndjson       the messages of the pump of a later day, as its gateway receives them
  evidence-inputs.npz  rows that the pipeline was not trained on
  evidence.npz         what scikit-learn says of them

Needs: scikit-learn.
"""
import json
import pickle

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

START_MS = 1_741_564_800_000  # Monday 2025-03-10 00:00 UTC
MINUTE_MS = 60_000


def pump(rng, count):
    """Returns temperature (Cel), pressure (bar), vibration (mm/s) by minute, and whether the bearing was worn."""
    worn = rng.random(count) < 0.5
    pressure = 4.0 + 0.3 * rng.standard_normal(count)
    vibration = 1.2 + 0.2 * pressure + np.where(worn, 1.5, 0.0) + 0.3 * rng.standard_normal(count)
    temperature = 48.0 + 2.0 * pressure + np.where(worn, 9.0, 0.0) + 2.5 * rng.standard_normal(count)
    # What a sensor sends has few digits; the model sees single precision.
    rows = np.column_stack([temperature.round(1), pressure.round(2), vibration.round(2)])
    return rows.astype(np.float32), worn.astype(int)


def messages(rows):
    """Yields recorded MQTT messages, one a minute."""
    for step, (temperature, pressure, vibration) in enumerate(rows):
        at = START_MS + step * MINUTE_MS
        payload = {"t": at, "temperature": float(round(float(temperature), 1)), "pressure": float(round(float(pressure), 2)),
                   "vibration": float(round(float(vibration), 2))}
        yield {"topic": "plant/pump-1/state", "arrival_ms": at + 200, "payload": json.dumps(payload)}


def main():
    rng = np.random.default_rng(7)
    rows, worn = pump(rng, 4000)
    model = make_pipeline(StandardScaler(), MLPClassifier(hidden_layer_sizes=(16,), max_iter=300, random_state=7))
    model.fit(rows[:3000], worn[:3000])
    print("accuracy on rows it has not seen:", model.score(rows[3000:], worn[3000:]))
    with open("model.pkl", "wb") as file:
        pickle.dump(model, file)
    np.savez("evidence-inputs.npz", X=rows[3000:])
    np.savez("evidence.npz", output_probability=model.predict_proba(rows[3000:]))
    with open("samples.ndjson", "w") as file:
        for message in messages(pump(rng, 120)[0]):
            file.write(json.dumps(message) + "\n")


main()
