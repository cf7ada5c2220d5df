"""int8 versions by ONNX Runtime's quantiser, of networks of the family `pytorch` and of scikit-learn's perceptron."""

import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from . import kit, pytorch
from .kit import Export, family


class Rows(CalibrationDataReader):
    """A hundred rows, one at a time."""

    def __init__(self, rows):
        self.rows = iter([{"x": row[None]} for row in rows[:100]])

    def get_next(self):
        return next(self.rows, None)


def quantised(of: Export, quantise) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{name}.onnx") for name in ("float", "prepared", "int8")]
        onnx.save(of.make(), paths[0])
        quant_pre_process(paths[0], paths[1], skip_symbolic_shape=True)
        quantise(paths[1], paths[2])
        return onnx.load(paths[2])


def static(name, of, per_channel, layout, activations=QuantType.QUInt8, weights=QuantType.QInt8, subset=False, **options):
    make = lambda: quantised(
        of,
        lambda source, result: quantize_static(
            source, result, Rows(of.rows), quant_format=layout, per_channel=per_channel,
            activation_type=activations, weight_type=weights, **options,
        ),  # fmt: skip
    )
    return Export(name, "onnxruntime.quantization", make, of.rows, f"static, {layout.name}", subset)


def dynamic(name, of, per_channel=False, subset=False, weights=QuantType.QInt8):
    make = lambda: quantised(
        of, lambda source, result: quantize_dynamic(source, result, per_channel=per_channel, weight_type=weights)
    )
    return Export(name, "onnxruntime.quantization", make, of.rows, "dynamic", subset)


@family("int8 by ONNX Runtime")
def quantised_by_onnx_runtime():
    flat = kit.sequence_rows(16, 1)[:, :, 0].copy()
    line = kit.sequence_rows(64, 3).transpose(0, 2, 1).copy()
    image = kit.sequence_rows(16, 16, 15)[:, None].copy()
    steps = kit.sequence_rows(32, 4)
    mlp = pytorch.export("mlp", lambda: pytorch.dense(16, 64, 32), flat, 17)
    small = pytorch.export("small", lambda: pytorch.dense(16, 8, out=2), flat, 13)
    autoencoder = pytorch.export("autoencoder", lambda: pytorch.dense(16, 8, 3, 8, out=16), flat, 13)
    cnn_1d = pytorch.export("cnn_1d", pytorch.cnn_1d, line, 13)
    cnn_2d = pytorch.export("cnn_2d", pytorch.cnn_2d, image, 17)
    depthwise = pytorch.export("depthwise", pytorch.depthwise, image, 15)
    lstm = pytorch.export("lstm", lambda: pytorch.Recurrent(pytorch.nn.LSTM), steps, 14)
    transformer = pytorch.export("transformer", pytorch.Transformer, steps, 17)
    qdq, operators = QuantFormat.QDQ, QuantFormat.QOperator
    signed = dict(activations=QuantType.QInt8)
    yield static("int8_mlp_qdq", mlp, False, qdq)
    yield static("int8_mlp_qdq_per_channel", mlp, True, qdq)
    yield static("int8_mlp_qoperator", mlp, False, operators)
    yield static("int8_mlp_signed", mlp, False, qdq, **signed)
    yield static("int8_mlp_unsigned_weights", mlp, False, qdq, weights=QuantType.QUInt8)
    yield static("int8_mlp_reduced", mlp, True, qdq, reduce_range=True)
    yield static("int8_small_qdq", small, False, qdq, subset=True)
    yield static("int8_small_qoperator", small, False, operators, subset=True)
    yield static("int8_autoencoder", autoencoder, False, qdq, **signed)
    yield static("int8_cnn_1d_qdq", cnn_1d, False, qdq)
    yield static("int8_cnn_1d_qdq_per_channel", cnn_1d, True, qdq, **signed)
    yield static("int8_cnn_1d_qoperator", cnn_1d, True, operators)
    yield static("int8_cnn_2d_qdq", cnn_2d, False, qdq)
    yield static("int8_cnn_2d_qdq_per_channel", cnn_2d, True, qdq)
    yield static("int8_cnn_2d_qoperator", cnn_2d, False, operators)
    yield static("int8_depthwise_qdq", depthwise, True, qdq)
    yield static("int8_depthwise_qoperator", depthwise, True, operators)
    yield static("int8_transformer_qdq", transformer, False, qdq)
    yield dynamic("int8_mlp_dynamic", mlp)
    yield dynamic("int8_mlp_dynamic_per_channel", mlp, per_channel=True)
    yield dynamic("int8_small_dynamic", small, subset=True)
    yield dynamic("int8_cnn_1d_dynamic", cnn_1d, weights=QuantType.QUInt8)
    yield dynamic("int8_lstm_dynamic", lstm)
    yield dynamic("int8_transformer_dynamic", transformer)
