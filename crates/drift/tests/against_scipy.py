"""Holds what the crate computed (standard input, JSON) against SciPy and scikit-learn; prints the largest difference of each
figure, relative to its size where that is above 1."""

import json
import sys

import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn import metrics
from sklearn.decomposition import PCA

worst = {}


def hold(name, ours, theirs):
    off = float(np.max(np.abs(np.asarray(ours) - np.asarray(theirs)) / np.maximum(1.0, np.abs(theirs))))
    worst[name] = max(worst.get(name, 0.0), off)


def smooth(counts):
    counts = np.asarray(counts, dtype=float) + 0.5
    return counts / counts.sum()


def plain(counts):
    counts = np.asarray(counts, dtype=float)
    return counts / counts.sum()


given = json.load(sys.stdin)
for case in given["scores"]:
    q, p = smooth(case["window"]), smooth(case["reference"])
    hold("js", case["js"], jensenshannon(q, p, base=2))
    # Of both relative entropies the sum is the population stability index.
    hold("psi", case["psi"], stats.entropy(q, p) + stats.entropy(p, q))
    # All values of a bin at one place: then the largest difference is at a cut point.
    places = np.arange(len(q))
    samples = [np.repeat(places, case[of]) for of in ("window", "reference")]
    hold("ks", case["ks"], stats.ks_2samp(*samples).statistic)
    # What the histogram says of the distance, without the tails: the area between the distribution functions.
    cuts = np.asarray(case["edges"])
    gaps = np.abs(np.cumsum(plain(case["window"]) - plain(case["reference"])))[: len(cuts)]
    hold("wasserstein", case["wasserstein_sd"] * case["sd"], max(np.trapezoid(gaps, cuts), abs(case["mean_shift"])))
for case in given["moved"]:
    distance = stats.wasserstein_distance(case["one"], case["other"])
    hold("wasserstein of the values themselves", case["wasserstein_sd"] * case["sd"], distance)
for case in given["classes"]:
    label, predicted = case["labels"], case["predicted"]
    average = "binary" if case["classes"] == 2 else "macro"
    of = {"labels": list(range(case["classes"])), "average": average, "zero_division": 0}
    hold("accuracy", case["accuracy"], metrics.accuracy_score(label, predicted))
    hold("precision", case["precision"], metrics.precision_score(label, predicted, **of))
    hold("recall", case["recall"], metrics.recall_score(label, predicted, **of))
    hold("f1", case["f1"], metrics.f1_score(label, predicted, **of))
    hold("mcc", case["mcc"], metrics.matthews_corrcoef(label, predicted))
for case in given["numbers"]:
    label, predicted = case["labels"], case["predicted"]
    hold("mae", case["mae"], metrics.mean_absolute_error(label, predicted))
    hold("rmse", case["rmse"], metrics.root_mean_squared_error(label, predicted))
    hold("r2", case["r2"], metrics.r2_score(label, predicted))
for case in given["subspaces"]:
    rows = np.asarray(case["rows"])
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    kept = len(case["variances"])
    pca = PCA(n_components=kept, svd_solver="full").fit(standard)
    variances = pca.singular_values_**2 / len(rows)
    hold("variances", case["variances"], variances)
    scores = pca.transform(standard)
    hold("t2", case["t2"], (scores**2 / variances).sum(axis=1))
    hold("q", case["q"], ((standard - pca.inverse_transform(scores)) ** 2).sum(axis=1))
print(json.dumps(worst))
