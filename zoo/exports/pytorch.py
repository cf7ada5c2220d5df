"""PyTorch networks, by the exporter that traces (opsets 11 to 20) and by the one of `torch.export` (18 to 21)."""

import copy
import io
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from . import kit
from .kit import Export, family


def trained(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """A few steps on made-up targets, so that weights and the norms' statistics are none of the initial ones."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.3, std=0.3)
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    for start in range(0, 256, 64):
        part = x[start : start + 64]
        loss = (network(part) - part.flatten(1).mean(1).reshape(-1, *[1] * (network(part[:2]).dim() - 1))).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return network.eval()


def traced(network, sample, opset, free_batch=True) -> onnx.ModelProto:
    axes = {"x": {0: "batch"}, "y": {0: "batch"}} if free_batch else None
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (sample,), file, input_names=["x"], output_names=["y"], opset_version=opset, dynamic_axes=axes, dynamo=False
        )
    return onnx.load_from_string(file.getvalue())


def exported(network, sample, opset) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(
            network,
            (sample,),
            path,
            input_names=["x"],
            output_names=["y"],
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return onnx.load(path)


def export(name, build, rows, opset, exporter="trace", about="", subset=False, free_batch=True, guards=()):
    """`build` makes the network when the export is made."""

    def make():
        torch.manual_seed(kit.SEED)
        x = torch.from_numpy(rows)
        network = trained(build(), x)
        sample = x[:2] if free_batch else x[:1]
        if exporter == "trace":
            return traced(network, sample, opset, free_batch)
        return exported(network, sample, opset)

    return Export(name, f"torch.onnx ({exporter})", make, rows, about, subset, list(guards))


def dense(width, *hidden, out=4, activation=nn.ReLU):
    layers, last = [], width
    for size in hidden:
        layers += [nn.Linear(last, size), activation()]
        last = size
    return nn.Sequential(*layers, nn.Linear(last, out))


@family("dense networks")
def dense_networks():
    rows = kit.sequence_rows(16, 1)[:, :, 0].copy()
    autoencoder = lambda: dense(16, 8, 3, 8, out=16)
    yield export("mlp", lambda: dense(16, 64, 32), rows, 17)
    yield export("mlp_softmax", lambda: nn.Sequential(dense(16, 64, 32), nn.Softmax(-1)), rows, 11)
    yield export("mlp_wide", lambda: dense(16, 256, 256), rows, 18, "export")
    yield export("mlp_dropout", lambda: nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 2)), rows, 13)
    yield export("mlp_small", lambda: dense(16, 8, out=2), rows, 14, subset=True)
    yield export("autoencoder", autoencoder, rows, 13, subset=True)
    yield export("autoencoder_export", autoencoder, rows, 18, "export", subset=True)
    yield export("autoencoder_error", lambda: ReconstructionError(autoencoder()), rows, 17)
    yield export("variational_encoder", lambda: dense(16, 64, 64, out=8, activation=nn.SiLU), rows, 20)


class ReconstructionError(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return (self.inner(x) - x).square().mean(dim=1, keepdim=True)


ACTIVATIONS = [
    nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.PReLU, nn.ReLU6, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink,
]  # fmt: skip


class Activations(nn.Module):
    """All in one model: each on its own part of the features."""

    def __init__(self, kinds):
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), kind()) for kind in kinds)

    def forward(self, x):
        return torch.cat([part(x) for part in self.parts], dim=1)


@family("activations")
def activations():
    rows = kit.sequence_rows(8, 1)[:, :, 0].copy() * 3
    yield export("activations_13", lambda: Activations(ACTIVATIONS), rows, 13)
    yield export("activations_20", lambda: Activations(ACTIVATIONS), rows, 20)
    yield export("activations_export", lambda: Activations(ACTIVATIONS), rows, 18, "export")
    yield export("gelu_tanh", lambda: dense(8, 16, activation=lambda: nn.GELU("tanh")), rows, 20)
    yield export("gelu_tanh_export", lambda: dense(8, 16, activation=lambda: nn.GELU("tanh")), rows, 21, "export")


class Residual(nn.Module):
    def __init__(self, channels, dilation=1):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation), nn.BatchNorm1d(channels), nn.ReLU(),
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation), nn.BatchNorm1d(channels),
        )  # fmt: skip

    def forward(self, x):
        return torch.relu(x + self.convolutions(x))


class Causal(nn.Module):
    """A block of a temporal convolutional network: padded on the left, cut on the right."""

    def __init__(self, taken, given, dilation):
        super().__init__()
        self.pad = 2 * dilation
        self.first = nn.Conv1d(taken, given, 3, padding=self.pad, dilation=dilation)
        self.second = nn.Conv1d(given, given, 3, padding=self.pad, dilation=dilation)
        self.skip = nn.Conv1d(taken, given, 1)

    def forward(self, x):
        y = torch.relu(self.first(x)[:, :, : -self.pad])
        y = torch.relu(self.second(y)[:, :, : -self.pad])
        return torch.relu(y + self.skip(x))


def cnn_1d(channels=3, width=16):
    return nn.Sequential(
        nn.Conv1d(channels, width, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(width, 2 * width, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2 * width, 4),
    )  # fmt: skip


def cnn_2d(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2 * width * 16, 4),
    )  # fmt: skip


def depthwise():
    block = lambda a, b, stride: nn.Sequential(
        nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False), nn.BatchNorm2d(a), nn.ReLU6(),
        nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6(),
    )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU6(), block(8, 16, 1), block(16, 24, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3)
    )


@family("convolutional networks")
def convolutional_networks():
    line = kit.sequence_rows(64, 3).transpose(0, 2, 1).copy()
    short = kit.sequence_rows(16, 2).transpose(0, 2, 1).copy()
    image = kit.sequence_rows(16, 16, 15)[:, None].copy()
    mean = lambda: nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3))
    residual = lambda: nn.Sequential(nn.Conv1d(3, 16, 7, padding=3), Residual(16), Residual(16, 2), mean())
    tcn = lambda: nn.Sequential(Causal(3, 16, 1), Causal(16, 16, 2), Causal(16, 16, 4), Causal(16, 16, 8), mean())
    upsample = lambda: nn.Sequential(
        nn.Conv1d(2, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose1d(8, 2, 4, 2, 1)
    )  # fmt: skip
    yield export("cnn_1d", cnn_1d, line, 13)
    yield export("cnn_1d_export", cnn_1d, line, 18, "export")
    yield export("cnn_1d_batch_of_one", cnn_1d, line, 17, free_batch=False)
    yield export("cnn_1d_small", lambda: cnn_1d(2, 4), short, 11, subset=True)
    yield export("cnn_2d", cnn_2d, image, 17)
    yield export("cnn_2d_export", cnn_2d, image, 20, "export")
    yield export("depthwise", depthwise, image, 15)
    yield export("depthwise_export", depthwise, image, 18, "export")
    yield export("residual", residual, line, 16)
    yield export("residual_export", residual, line, 18, "export")
    yield export("tcn", tcn, line, 14)
    yield export("tcn_export", tcn, line, 18, "export")
    yield export("convolutional_autoencoder", upsample, short, 17, subset=True)
    yield export("strided_grouped", lambda: nn.Sequential(nn.Conv1d(3, 12, 5, 3, 2, groups=3), nn.Tanh(), nn.Flatten(), nn.Linear(12 * 22, 2)), line, 12)
    yield export("upsample_nearest", lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(2, 2, 3, padding=1)), short, 13)
    yield export("upsample_linear", lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="linear"), nn.Conv1d(2, 2, 3, padding=1)), short, 17)
    yield export("padded_reflect", lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()), short, 16)


@family("normalisation")
def normalisation():
    line = kit.sequence_rows(32, 4).transpose(0, 2, 1).copy()
    flat = kit.sequence_rows(16, 1)[:, :, 0].copy()
    around = lambda norm: nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    for number, (name, norm) in enumerate(
        {
            "batch_norm": lambda: nn.BatchNorm1d(8),
            "group_norm": lambda: nn.GroupNorm(4, 8),
            "instance_norm": lambda: nn.InstanceNorm1d(8, affine=True),
            "layer_norm_rows": lambda: nn.LayerNorm([8, 32]),
        }.items()
    ):
        build = lambda norm=norm: around(norm())
        yield export(name, build, line, (13, 17, 18, 20)[number])
        yield export(f"{name}_export", build, line, (18, 21, 18, 20)[number], "export")
    yield export("layer_norm_13", lambda: nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 2)), flat, 13)
    yield export("layer_norm_17", lambda: nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 2)), flat, 17, subset=True)
    yield export("rms_norm", lambda: nn.Sequential(nn.Linear(16, 16), nn.RMSNorm(16), nn.Linear(16, 2)), flat, 18, "export")


class Recurrent(nn.Module):
    """Takes the last step's state, or all steps."""

    def __init__(self, kind, channels=4, size=32, every_step=False, **options):
        super().__init__()
        self.every_step = every_step
        self.recurrent = kind(channels, size, batch_first=True, **options)
        self.head = nn.Linear(size * (2 if options.get("bidirectional") else 1), 2)

    def forward(self, x):
        y, _ = self.recurrent(x)
        return self.head(y if self.every_step else y[:, -1])


@family("recurrent networks")
def recurrent_networks():
    rows = kit.sequence_rows(32, 4)
    short = kit.sequence_rows(8, 2)
    for number, (name, kind) in enumerate({"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}.items()):
        make = lambda name, opset, number=number, kind=kind, **options: export(
            name, lambda: Recurrent(kind, **options), rows, opset
        )
        yield make(name, (14, 17, 13)[number])
        yield make(f"{name}_bidirectional", (17, 15, 18)[number], bidirectional=True)
        yield make(f"{name}_stacked", (18, 11, 20)[number], num_layers=2)
        yield make(f"{name}_every_step", (20, 14, 17)[number], every_step=True)
        yield export(f"{name}_small", lambda kind=kind: Recurrent(kind, 2, 8), short, 17, subset=True)
    yield export("lstm_export", lambda: Recurrent(nn.LSTM), rows, 18, "export")
    yield export("gru_export", lambda: Recurrent(nn.GRU), rows, 18, "export")
    yield export("lstm_projected", lambda: Recurrent(nn.LSTM, size=64), kit.sequence_rows(64, 4), 17)
    yield export("rnn_relu", lambda: Recurrent(nn.RNN, nonlinearity="relu"), rows, 17)
    yield export("cnn_lstm", CnnLstm, rows, 17)
    yield export("lstm_batch_of_one", lambda: Recurrent(nn.LSTM), rows, 14, free_batch=False)


class CnnLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(4, 16, 3, padding=1)
        self.recurrent = Recurrent(nn.LSTM, 16, 16)

    def forward(self, x):
        return self.recurrent(torch.relu(self.convolution(x.transpose(1, 2))).transpose(1, 2))


class Transformer(nn.Module):
    def __init__(self, channels=4, size=32, layers=2, norm_first=False):
        super().__init__()
        self.embed = nn.Linear(channels, size)
        layer = nn.TransformerEncoderLayer(size, 4, 64, batch_first=True, norm_first=norm_first, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(size, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(dim=1))


class AttentionPooling(nn.Module):
    def __init__(self, channels=4, size=16):
        super().__init__()
        self.embed = nn.Linear(channels, size)
        self.score = nn.Linear(size, 1)
        self.head = nn.Linear(size, 2)

    def forward(self, x):
        y = torch.tanh(self.embed(x))
        return self.head((torch.softmax(self.score(y), dim=1) * y).sum(dim=1))


@family("attention")
def attention():
    rows = kit.sequence_rows(32, 4)
    yield export("transformer", Transformer, rows, 17)
    yield export("transformer_14", Transformer, rows, 14)
    yield export("transformer_norm_first", lambda: Transformer(norm_first=True), rows, 18)
    yield export("transformer_export", Transformer, rows, 18, "export")
    yield export("transformer_export_21", lambda: Transformer(layers=1), rows, 21, "export")
    yield export("attention_pooling", AttentionPooling, rows, 13)
    yield export("attention_pooling_small", lambda: AttentionPooling(2, 8), kit.sequence_rows(8, 2), 13, subset=True)
    yield export("attention_pooling_export", AttentionPooling, rows, 18, "export")


class FakeQuantised(nn.Module):
    """A layer whose weights and output go through PyTorch's fake quantisation: what training for int8 leaves behind."""

    def __init__(self, layer, per_channel):
        super().__init__()
        self.layer = layer
        self.per_channel = per_channel

    def forward(self, x):
        weight = self.layer.weight
        if self.per_channel:
            scale = self.layer.weight.detach().flatten(1).abs().amax(1) / 127
            zero = torch.zeros(len(scale), dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -128, 127)
        else:
            weight = torch.fake_quantize_per_tensor_affine(weight, float(weight.detach().abs().max() / 127), 0, -128, 127)
        if isinstance(self.layer, nn.Linear):
            y = nn.functional.linear(x, weight, self.layer.bias)
        else:
            y = nn.functional.conv1d(x, weight, self.layer.bias, padding=self.layer.padding)
        return torch.fake_quantize_per_tensor_affine(torch.relu(y), 0.05, 0, 0, 255)


class QuantisedInput(nn.Module):
    def forward(self, x):
        return torch.fake_quantize_per_tensor_affine(x, 0.02, 128, 0, 255)


@family("int8 by PyTorch")
def quantised_by_pytorch():
    flat = kit.sequence_rows(16, 1)[:, :, 0].copy()
    line = kit.sequence_rows(32, 3).transpose(0, 2, 1).copy()
    for per_channel in (False, True):
        kind = "channel" if per_channel else "tensor"
        layer = lambda inner, per_channel=per_channel: FakeQuantised(inner, per_channel)
        mlp = lambda layer=layer: nn.Sequential(QuantisedInput(), layer(nn.Linear(16, 32)), layer(nn.Linear(32, 8)), nn.Linear(8, 2))
        cnn = lambda layer=layer: nn.Sequential(
            QuantisedInput(), layer(nn.Conv1d(3, 8, 5, padding=2)), nn.MaxPool1d(2), layer(nn.Conv1d(8, 16, 3, padding=1)),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        # These rows lie at ties of rounding: biases that are not rounded as ONNX Runtime does put them on the other side.
        yield export(f"qat_mlp_per_{kind}", mlp, flat, 13, subset=per_channel, guards=[152, 761, 739, 493])
        yield export(f"qat_cnn_per_{kind}", cnn, line, 17)
