#!/usr/bin/env python3
"""Writes model.pkl as model.onnx. Needs: skl2onnx."""
import pickle

import numpy as np
from skl2onnx import to_onnx

with open("model.pkl", "rb") as file:
    model = pickle.load(file)
one_row = np.zeros((1, model.n_features_in_), np.float32)
with open("model.onnx", "wb") as file:
    file.write(to_onnx(model, one_row, target_opset=17).SerializeToString())
