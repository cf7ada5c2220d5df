#!/usr/bin/env python3
"""Writes model.pkl as model.onnx, with the two options that a classifier of scikit-learn needs. Needs: skl2onnx.

`zipmap` off: probabilities are a plain array and not a list of dictionaries. `Scaler` blacklisted: StandardScaler is
written as a subtraction and a division, which the engine has. Other models need nothing else.
"""
import pickle

import numpy as np
from skl2onnx import to_onnx

with open("model.pkl", "rb") as file:
    model = pickle.load(file)
one_row = np.zeros((1, model.n_features_in_), np.float32)
onnx = to_onnx(model, one_row, options={"zipmap": False}, black_op={"Scaler"}, target_opset=17)
with open("model.onnx", "wb") as file:
    file.write(onnx.SerializeToString())
