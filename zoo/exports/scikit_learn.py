"""scikit-learn models exported by skl2onnx."""

import numpy as np
import onnx
from skl2onnx import to_onnx
from sklearn import (
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from . import kit
from .kit import Export, family

# Opsets in turn, so that each family meets several: ai.onnx and ai.onnx.ml.
OPSETS = [(13, 2), (15, 3), (17, 3), (18, 3), (19, 3), (21, 3)]
NAMES = np.array(["normal", "warning", "alarm", "off", "unknown"])


def convert(model, x, number=0, zipmap=False, double=False, opset=None, **options):
    ai, ml = opset or OPSETS[number % len(OPSETS)]
    final = model.steps[-1][1] if isinstance(model, pipeline.Pipeline) else model
    # What has no probabilities has no map of them either.
    if hasattr(final, "classes_") and not isinstance(final, svm.LinearSVC) and not isinstance(final, multioutput.MultiOutputClassifier):
        options = {"zipmap": zipmap} | options
    given = {id(model): options} if options else None
    sample = x[:2].astype(np.float64 if double else np.float32)
    made = to_onnx(model, sample, target_opset={"": ai, "ai.onnx.ml": ml}, options=given)
    return with_outputs_of_trees(made) if double else made


def with_outputs_of_trees(made):
    """A tree ensemble of doubles gives floats before ai.onnx.ml 5; skl2onnx declares doubles, which no runtime takes."""
    of_trees = {node.output[0] for node in made.graph.node if node.op_type == "TreeEnsembleRegressor"}
    for output in made.graph.output:
        if output.name in of_trees:
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return made


def with_plain_integers(make_attribute):
    """onnx takes no NumPy integers in lists, and skl2onnx hands over those of histogram gradient boosting."""

    def made(key, value, *more, **named):
        if isinstance(value, list) and value and isinstance(value[0], np.integer):
            value = [int(item) for item in value]
        return make_attribute(key, value, *more, **named)

    return made


onnx.helper.make_attribute = with_plain_integers(onnx.helper.make_attribute)


def export(name, model, x, y=None, rows=None, number=0, about="", subset=False, **options):
    """Fits when the export is made. `rows` is an array, or what makes one of the ONNX model."""

    def make():
        model.fit(x, y) if y is not None else model.fit(x)
        return convert(model, x, number, **options)

    rows = kit.plain_rows(x.shape[1]) if rows is None else rows
    return Export(name, "skl2onnx", make, rows, about, subset)


@family("linear")
def linear():
    x = kit.features()
    y, two, four = kit.target(x), kit.classes(x), kit.classes(x, 4)
    both = np.stack([y, y**2], axis=1)
    regressors = {
        "linear_regression": linear_model.LinearRegression(),
        "ridge": linear_model.Ridge(),
        "elastic_net": linear_model.ElasticNet(alpha=0.01),
        "bayesian_ridge": linear_model.BayesianRidge(),
        "huber": pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.HuberRegressor(max_iter=1000)),
        "sgd_regressor": pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.SGDRegressor(random_state=0)
        ),
        "lars": linear_model.Lars(),
        "pls": cross_decomposition.PLSRegression(n_components=3),
    }
    for number, (name, model) in enumerate(regressors.items()):
        yield export(name, model, x, y, number=number, subset=name == "pls")
    yield export("poisson", linear_model.PoissonRegressor(), kit.features() / 10, np.abs(y), rows=kit.plain_rows() / 10)
    yield export("linear_multi_output", linear_model.LinearRegression(), x, both, number=1)
    yield export("ridge_double", linear_model.Ridge(), x, y, double=True, number=2)
    scaled = lambda model: pipeline.make_pipeline(preprocessing.StandardScaler(), model)
    yield export("logistic_binary", scaled(linear_model.LogisticRegression()), x, two, subset=True)
    yield export("logistic_multi", scaled(linear_model.LogisticRegression()), x, four, number=1)
    yield export("logistic_strings", scaled(linear_model.LogisticRegression()), x, NAMES[four], number=2, subset=True)
    yield export("logistic_zipmap", scaled(linear_model.LogisticRegression()), x, four, zipmap=True, number=3)
    yield export("logistic_zipmap_strings", scaled(linear_model.LogisticRegression()), x, NAMES[four], zipmap=True, subset=True)
    yield export("logistic_columns", scaled(linear_model.LogisticRegression()), x, four, zipmap="columns", number=4)
    yield export("logistic_double", scaled(linear_model.LogisticRegression()), x, four, double=True, number=5)
    yield export("logistic_raw", linear_model.LogisticRegression(max_iter=2000), x, four, raw_scores=True)
    yield export("ridge_classifier", linear_model.RidgeClassifier(), x, four, number=1)
    yield export("sgd_log", scaled(linear_model.SGDClassifier(loss="log_loss", random_state=0)), x, four, number=2)
    yield export("sgd_hinge", scaled(linear_model.SGDClassifier(random_state=0)), x, two, number=3, raw_scores=True)
    yield export("perceptron", scaled(linear_model.Perceptron(random_state=0)), x, four, number=4, raw_scores=True)
    yield export("lda", discriminant_analysis.LinearDiscriminantAnalysis(), x, four, number=5)
    yield without_label(export("qda", discriminant_analysis.QuadraticDiscriminantAnalysis(), x, four, number=3))


def without_label(of):
    """skl2onnx lays these labels along another axis than the rows: who uses the model keeps its probabilities alone."""
    make = of.make

    def made():
        model = make()
        del model.graph.output[0]
        return model

    of.make, of.about = made, "without the label, which has the rows on its second axis"
    return of


@family("preparation")
def preparation():
    x = kit.features()
    y, two = kit.target(x), kit.classes(x)
    positive = np.abs(x) + 0.5
    scalers = {
        "standard_scaler": preprocessing.StandardScaler(),
        "min_max_scaler": preprocessing.MinMaxScaler(),
        "min_max_scaler_clip": preprocessing.MinMaxScaler(clip=True),
        "robust_scaler": preprocessing.RobustScaler(),
        "max_abs_scaler": preprocessing.MaxAbsScaler(),
        "normalizer_l1": preprocessing.Normalizer("l1"),
        "normalizer_l2": preprocessing.Normalizer("l2"),
        "normalizer_max": preprocessing.Normalizer("max"),
        "binarizer": preprocessing.Binarizer(threshold=0.5),
        "polynomial": preprocessing.PolynomialFeatures(2),
        "k_bins": preprocessing.KBinsDiscretizer(5, encode="ordinal", quantile_method="averaged_inverted_cdf"),
        "power": preprocessing.PowerTransformer(),
        "quantile": preprocessing.QuantileTransformer(n_quantiles=50, random_state=0),
        "pca": decomposition.PCA(4),
        "pca_whiten": decomposition.PCA(4, whiten=True),
        "truncated_svd": decomposition.TruncatedSVD(4, random_state=0),
        "kernel_pca": decomposition.KernelPCA(3, kernel="rbf"),
        "select_k_best": feature_selection.SelectKBest(k=3),
    }
    for number, (name, model) in enumerate(scalers.items()):
        fit = two if name == "select_k_best" else None
        yield export(name, model, x, fit, number=number, subset=name in ("normalizer_l2", "pca"))
    yield export("power_box_cox", preprocessing.PowerTransformer("box-cox"), positive, rows=np.abs(kit.plain_rows()) + 0.5)
    gaps = kit.with_missing(x)
    rows = kit.with_missing(kit.plain_rows())
    for number, strategy in enumerate(("mean", "median", "most_frequent")):
        model = pipeline.make_pipeline(impute.SimpleImputer(strategy=strategy), linear_model.Ridge())
        yield export(f"imputer_{strategy}", model, gaps, y, rows=rows, number=number, subset=strategy == "mean")
    yield export("knn_imputer", impute.KNNImputer(n_neighbors=3), gaps[:200], rows=rows, number=3)
    yield encoders_of_numbers("one_hot", preprocessing.OneHotEncoder(handle_unknown="ignore"))
    yield encoders_of_numbers("ordinal", preprocessing.OrdinalEncoder())
    yield column_transformer("column_transformer", linear_model.LogisticRegression(max_iter=1000), two)
    yield column_transformer("column_transformer_forest", ensemble.RandomForestClassifier(10, max_depth=5, random_state=0), NAMES[two])


def codes(rows=600, salt=21):
    """A code of a machine's state and two measured features."""
    generator = kit.random(salt)
    code = generator.integers(0, 6, size=(rows, 1)).astype(np.float32)
    return np.hstack([code, kit.features(3, rows, salt)])


def encoders_of_numbers(name, encoder):
    """Codes as integers, as a gateway has them."""
    x = codes()[:, :1].astype(np.int64)
    rows = codes(kit.ROWS, 22)[:, :1].astype(np.int64)

    def make():
        encoder.fit(x)
        return to_onnx(encoder, x[:2], target_opset={"": 17, "ai.onnx.ml": 3})

    return Export(name, "skl2onnx", make, rows, "codes as int64", name == "one_hot")


def column_transformer(name, model, y):
    x = codes()
    prepared = compose.ColumnTransformer(
        [
            ("codes", preprocessing.OneHotEncoder(handle_unknown="ignore"), [0]),
            ("numbers", pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler()), [1, 2, 3]),
        ]
    )
    rows = codes(kit.ROWS, 23)
    rows[:200, 1:] = kit.with_missing(rows[:200, 1:])
    return export(name, pipeline.make_pipeline(prepared, model), x, y, rows=rows, subset=name == "column_transformer")


def of_trees(missing=False, **more):
    return lambda model: kit.tree_rows(model, missing=missing, **more)


@family("trees")
def trees():
    x = kit.features()
    y, two, four = kit.target(x), kit.classes(x), kit.classes(x, 4)
    both = np.stack([y, y**2], axis=1)
    rows = of_trees()
    small = dict(max_depth=6, random_state=0)
    yield export("tree_classifier", tree.DecisionTreeClassifier(**small), x, two, rows=rows, subset=True)
    yield export("tree_classifier_multi", tree.DecisionTreeClassifier(**small), x, four, rows=rows, number=1)
    yield export("tree_classifier_strings", tree.DecisionTreeClassifier(**small), x, NAMES[four], rows=rows, number=2)
    yield export("tree_regressor", tree.DecisionTreeRegressor(**small), x, y, rows=rows, number=3, subset=True)
    yield export("tree_regressor_multi_output", tree.DecisionTreeRegressor(**small), x, both, rows=rows, number=4)
    yield export("tree_regressor_double", tree.DecisionTreeRegressor(**small), x, y, rows=rows, double=True)
    yield export("extra_tree_classifier", tree.ExtraTreeClassifier(**small), x, four, rows=rows, number=5)
    yield export("forest_classifier", ensemble.RandomForestClassifier(50, **small), x, two, rows=rows)
    yield export("forest_classifier_multi", ensemble.RandomForestClassifier(100, **small), x, four, rows=rows, number=1)
    yield export("forest_classifier_small", ensemble.RandomForestClassifier(5, max_depth=4, random_state=0), x, NAMES[four], rows=rows, number=2, subset=True)
    yield export("forest_classifier_zipmap", ensemble.RandomForestClassifier(20, **small), x, NAMES[four], zipmap=True, rows=rows)
    yield export("forest_classifier_double", ensemble.RandomForestClassifier(20, **small), x, four, rows=rows, double=True)
    yield export("forest_regressor", ensemble.RandomForestRegressor(100, **small), x, y, rows=rows, number=2)
    yield export("forest_regressor_deep", ensemble.RandomForestRegressor(30, random_state=0), x, y, rows=rows, number=3)
    yield export("forest_regressor_double", ensemble.RandomForestRegressor(20, **small), x, y, rows=rows, double=True)
    yield export("extra_trees_classifier", ensemble.ExtraTreesClassifier(50, **small), x, four, rows=rows, number=4)
    yield export("extra_trees_regressor", ensemble.ExtraTreesRegressor(50, **small), x, y, rows=rows, number=5)
    boost = dict(n_estimators=60, max_depth=3, random_state=0)
    yield export("gradient_boosting_binary", ensemble.GradientBoostingClassifier(**boost), x, two, rows=rows, subset=False)
    yield export("gradient_boosting_multi", ensemble.GradientBoostingClassifier(**boost), x, NAMES[four], rows=rows, number=1)
    yield export("gradient_boosting_small", ensemble.GradientBoostingClassifier(n_estimators=6, max_depth=3, random_state=0), x, two, rows=rows, subset=True)
    yield export("gradient_boosting_regressor", ensemble.GradientBoostingRegressor(**boost), x, y, rows=rows, number=2)
    yield export("gradient_boosting_quantile", ensemble.GradientBoostingRegressor(loss="quantile", **boost), x, y, rows=rows, number=3)
    gaps = kit.with_missing(x)
    hist = dict(max_iter=40, random_state=0)
    with_gaps = of_trees(missing=True)
    yield export("hist_binary", ensemble.HistGradientBoostingClassifier(**hist), gaps, two, rows=with_gaps)
    yield export("hist_multi", ensemble.HistGradientBoostingClassifier(**hist), gaps, four, rows=with_gaps, number=1)
    yield export("hist_regressor", ensemble.HistGradientBoostingRegressor(**hist), gaps, y, rows=with_gaps, number=2)
    yield export("hist_small", ensemble.HistGradientBoostingRegressor(max_iter=5, max_leaf_nodes=8, random_state=0), gaps, y, rows=with_gaps, number=3, subset=True)
    yield export("hist_double", ensemble.HistGradientBoostingRegressor(**hist), gaps, y, rows=with_gaps, double=True)
    yield export("ada_classifier", ensemble.AdaBoostClassifier(n_estimators=20, random_state=0), x, four, rows=rows, number=4)
    yield export("ada_regressor", ensemble.AdaBoostRegressor(n_estimators=10, random_state=0), x, y, rows=rows, number=5)
    yield export("isolation_forest", ensemble.IsolationForest(n_estimators=50, random_state=0), x, rows=rows)
    yield export("isolation_forest_small", ensemble.IsolationForest(n_estimators=4, max_samples=16, random_state=0), x, rows=rows, number=3, subset=True)


@family("tree ensemble 5")
def tree_ensembles_of_set_5():
    """The newest operator, which skl2onnx does not write yet: of the regressors' nodes, by hand."""
    from .tree_ensemble import as_tree_ensemble

    x = kit.features()
    y = kit.target(x)
    for name, model, double in [
        ("tree_ensemble_5", ensemble.RandomForestRegressor(20, max_depth=6, random_state=0), False),
        ("tree_ensemble_5_small", tree.DecisionTreeRegressor(max_depth=4, random_state=0), False),
        ("tree_ensemble_5_missing", ensemble.HistGradientBoostingRegressor(max_iter=10, random_state=0), False),
        ("tree_ensemble_5_double", ensemble.ExtraTreesRegressor(10, max_depth=6, random_state=0), True),
    ]:
        missing = "missing" in name
        fit = kit.with_missing(x) if missing else x

        def make(model=model, double=double, fit=fit):
            model.fit(fit, y)
            return as_tree_ensemble(convert(model, x, 3, double=double))

        yield Export(name, "by hand", make, of_trees(missing=missing), "TreeEnsemble of ai.onnx.ml 5", "small" in name)


@family("ensembles")
def ensembles():
    x = kit.features()
    y, two, four = kit.target(x), kit.classes(x), kit.classes(x, 4)
    logistic = lambda: pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    forest = lambda: ensemble.RandomForestClassifier(10, max_depth=5, random_state=0)
    grown = lambda: ensemble.RandomForestRegressor(10, max_depth=5, random_state=0)
    pair = [("logistic", logistic()), ("forest", forest())]
    yield export("voting_soft", ensemble.VotingClassifier(pair, voting="soft", flatten_transform=False), x, four)
    yield export("voting_hard", ensemble.VotingClassifier(pair, voting="hard", flatten_transform=False), x, four, number=1)
    pair = [("ridge", linear_model.Ridge()), ("forest", grown())]
    yield export("voting_regressor", ensemble.VotingRegressor(pair), x, y, number=2)
    yield export("stacking_regressor", ensemble.StackingRegressor(pair), x, y, number=3)
    pair = [("logistic", logistic()), ("forest", forest())]
    yield export("stacking_classifier", ensemble.StackingClassifier(pair), x, four, number=4)
    yield export("bagging_classifier", ensemble.BaggingClassifier(n_estimators=5, random_state=0), x, four, number=5)
    yield export("bagging_regressor", ensemble.BaggingRegressor(n_estimators=5, random_state=0), x, y)
    yield export("calibrated_sigmoid", calibration.CalibratedClassifierCV(forest(), cv=3), x, two, number=1)
    yield export("calibrated_isotonic", calibration.CalibratedClassifierCV(logistic(), method="isotonic", cv=3), x, two, number=2)
    yield export("one_vs_rest", multiclass.OneVsRestClassifier(logistic()), x, four, number=3)
    yield export("one_vs_one", multiclass.OneVsOneClassifier(logistic()), x, four, number=4)
    yield export("multi_output_regressor", multioutput.MultiOutputRegressor(linear_model.Ridge()), x, np.stack([y, -y], 1), number=5)
    yield export("multi_output_classifier", multioutput.MultiOutputClassifier(linear_model.LogisticRegression(max_iter=2000)), x, np.stack([two, four], 1))


@family("neighbours")
def neighbours():
    x = kit.features(rows=300)
    y, four = kit.target(x), kit.classes(x, 4)
    yield export("knn_classifier", neighbors.KNeighborsClassifier(5), x, four)
    yield export("knn_classifier_small", neighbors.KNeighborsClassifier(3), x[:60], NAMES[four][:60], number=1, subset=True)
    yield export("knn_classifier_distance", neighbors.KNeighborsClassifier(5, weights="distance"), x, four, number=2)
    yield export("knn_classifier_manhattan", neighbors.KNeighborsClassifier(5, metric="manhattan"), x, four, number=3)
    yield export("knn_regressor", neighbors.KNeighborsRegressor(5), x, y, number=4)
    yield export("knn_regressor_distance", neighbors.KNeighborsRegressor(5, weights="distance"), x, y, number=5)
    yield export("knn_regressor_cdist", neighbors.KNeighborsRegressor(5), x, y, optim="cdist")
    yield export("lof", neighbors.LocalOutlierFactor(10, novelty=True), x, number=1)
    yield export("k_means", cluster.KMeans(5, n_init=2, random_state=0), x, number=2, subset=True)
    yield export("k_means_mini_batch", cluster.MiniBatchKMeans(5, n_init=2, random_state=0), x, number=3)


@family("naive bayes and mixtures")
def bayes():
    x = kit.features()
    four = kit.classes(x, 4)
    counts = np.floor(np.abs(x)).astype(np.float32)
    counted = np.floor(np.abs(kit.plain_rows())).astype(np.float32)
    yield export("gaussian_nb", naive_bayes.GaussianNB(), x, four, subset=True)
    yield export("gaussian_nb_far", naive_bayes.GaussianNB(), x, NAMES[four], rows=kit.plain_rows() * 20, about="rows far from the classes")
    yield export("bernoulli_nb", naive_bayes.BernoulliNB(binarize=1.0), x, four, number=2)
    yield export("multinomial_nb", naive_bayes.MultinomialNB(), counts, four, rows=counted, number=3)
    yield export("complement_nb", naive_bayes.ComplementNB(), counts, four, rows=counted, number=4)
    for number, kind in enumerate(("full", "tied", "diag", "spherical")):
        model = mixture.GaussianMixture(3, covariance_type=kind, random_state=0)
        yield export(f"mixture_{kind}", model, x, number=number, subset=kind == "diag")
    yield export("mixture_bayesian", mixture.BayesianGaussianMixture(n_components=3, random_state=0, max_iter=500), x)


@family("support vectors")
def support_vectors():
    x = preprocessing.StandardScaler().fit_transform(kit.features(rows=200)).astype(np.float32)
    raw = kit.plain_rows()
    rows = ((raw - raw.mean(0)) / raw.std(0)).astype(np.float32)
    y, two, four = kit.target(x), kit.classes(x), kit.classes(x, 4)
    for number, kernel in enumerate(("rbf", "linear", "poly", "sigmoid")):
        yield export(f"svc_{kernel}", svm.SVC(kernel=kernel), x, four, rows=rows, number=number)
        yield export(f"svr_{kernel}", svm.SVR(kernel=kernel), x, y, rows=rows, number=number)
    yield export("svc_small", svm.SVC(), x[:60], NAMES[two][:60], rows=rows, subset=True)
    yield export("svc_probability", svm.SVC(probability=True, random_state=0), x, four, rows=rows)
    yield export("svc_probability_binary", svm.SVC(probability=True, random_state=0), x, NAMES[two], rows=rows, number=1)
    yield export("nu_svc", svm.NuSVC(nu=0.3), x, two, rows=rows, number=2)
    yield export("nu_svc_probability", svm.NuSVC(nu=0.3, probability=True, random_state=0), x, four, rows=rows, number=3)
    yield export("nu_svr", svm.NuSVR(), x, y, rows=rows, number=4)
    yield export("one_class_svm", svm.OneClassSVM(nu=0.1), x, rows=rows, number=5)
    yield export("linear_svc", svm.LinearSVC(), x, four, rows=rows, number=0)
    yield export("linear_svr", svm.LinearSVR(), x, y, rows=rows, number=1)
    yield export("gaussian_process", gaussian_process.GaussianProcessRegressor(random_state=0, alpha=0.1), x[:80], y[:80], rows=rows)


@family("multi-layer perceptrons")
def perceptrons():
    x = kit.features()
    y, two, four = kit.target(x), kit.classes(x), kit.classes(x, 4)
    scaled = lambda model: pipeline.make_pipeline(preprocessing.StandardScaler(), model)
    for number, activation in enumerate(("relu", "tanh", "logistic", "identity")):
        model = neural_network.MLPClassifier(hidden_layer_sizes=(16, 8), activation=activation, max_iter=60, random_state=0)
        yield export(f"mlp_classifier_{activation}", scaled(model), x, NAMES[four] if number == 1 else four, number=number)
    yield export("mlp_classifier_binary", scaled(neural_network.MLPClassifier(hidden_layer_sizes=(16,), max_iter=60, random_state=0)), x, two, subset=True)
    yield export("mlp_regressor", scaled(neural_network.MLPRegressor(hidden_layer_sizes=(32, 16), max_iter=60, random_state=0)), x, y, number=5)
    yield export("mlp_regressor_double", scaled(neural_network.MLPRegressor(hidden_layer_sizes=(32, 16), max_iter=60, random_state=0)), x, y, double=True)
