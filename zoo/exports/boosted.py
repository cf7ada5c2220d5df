"""XGBoost and LightGBM models exported by onnxmltools."""

import lightgbm
import numpy as np
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from . import kit
from .kit import Export, family


def export(name, exporter, model, x, y, missing=False, opset=15, about="", subset=False, fit=None, **options):
    def make():
        model.fit(x, y, **(fit or {}))
        convert = onnxmltools.convert_xgboost if exporter == "xgboost" else onnxmltools.convert_lightgbm
        inputs = [("x", FloatTensorType([None, x.shape[1]]))]
        return convert(model, initial_types=inputs, target_opset=opset, **options)

    # onnxmltools writes LightGBM's missing values as a branch of their own; infinities are not part of that.
    rows = lambda model: kit.tree_rows(model, missing=missing, infinite=False)
    return Export(name, f"onnxmltools ({exporter})", make, rows, about, subset)


@family("XGBoost")
def xgb():
    x = kit.features()
    gaps = kit.with_missing(x)
    y, two, four = kit.target(x), kit.classes(x), kit.classes(x, 4)
    few = dict(n_estimators=60, max_depth=4, random_state=0, n_jobs=1)
    small = dict(n_estimators=6, max_depth=3, random_state=0, n_jobs=1)
    make = lambda *given, **more: export(given[0], "xgboost", *given[1:], **more)
    yield make("xgb_binary", xgboost.XGBClassifier(**few), x, two)
    yield make("xgb_binary_small", xgboost.XGBClassifier(**small), x, two, subset=True)
    yield make("xgb_binary_missing", xgboost.XGBClassifier(**few), gaps, two, missing=True, opset=13)
    yield make("xgb_multi", xgboost.XGBClassifier(**few), x, four, opset=12)
    yield make("xgb_multi_missing", xgboost.XGBClassifier(**few), gaps, four, missing=True)
    yield make("xgb_base_score", xgboost.XGBClassifier(base_score=0.2, **few), x, two)
    yield make("xgb_regressor", xgboost.XGBRegressor(**few), x, y)
    yield make("xgb_regressor_small", xgboost.XGBRegressor(**small), gaps, y, missing=True, subset=True)
    yield make("xgb_regressor_base_score", xgboost.XGBRegressor(base_score=10.0, **few), x, y, opset=13)
    yield make("xgb_regressor_missing", xgboost.XGBRegressor(**few), gaps, y, missing=True)
    yield make("xgb_poisson", xgboost.XGBRegressor(objective="count:poisson", **few), x, np.abs(y))
    yield make("xgb_forest", xgboost.XGBRFRegressor(**few), x, y)
    yield make("xgb_forest_classifier", xgboost.XGBRFClassifier(**few), x, two)
    yield make("xgb_large", xgboost.XGBRegressor(n_estimators=300, max_depth=6, random_state=0, n_jobs=1), x, y)
    deep = xgboost.XGBRegressor(n_estimators=20, tree_method="hist", grow_policy="lossguide", max_leaves=31, random_state=0)
    yield make("xgb_lossguide", deep, x, y)


@family("LightGBM")
def lgbm():
    x = kit.features()
    gaps = kit.with_missing(x)
    y, two, four = kit.target(x), kit.classes(x), kit.classes(x, 4)
    few = dict(n_estimators=60, num_leaves=15, random_state=0, n_jobs=1, verbose=-1)
    small = few | dict(n_estimators=5, num_leaves=7)
    make = lambda *given, **more: export(given[0], "lightgbm", *given[1:], **more)
    yield make("lgbm_binary", lightgbm.LGBMClassifier(**few), x, two, zipmap=False)
    yield make("lgbm_binary_small", lightgbm.LGBMClassifier(**small), x, two, zipmap=False, subset=True)
    yield make("lgbm_binary_zipmap", lightgbm.LGBMClassifier(**few), x, two, opset=13)
    yield make("lgbm_binary_missing", lightgbm.LGBMClassifier(**few), gaps, two, missing=True, zipmap=False)
    yield make("lgbm_multi", lightgbm.LGBMClassifier(**few), x, four, zipmap=False, opset=12)
    yield make("lgbm_multi_missing", lightgbm.LGBMClassifier(**few), gaps, four, missing=True, zipmap=False)
    yield make("lgbm_regressor", lightgbm.LGBMRegressor(**few), x, y)
    yield make("lgbm_regressor_missing", lightgbm.LGBMRegressor(**few), gaps, y, missing=True)
    yield make("lgbm_regressor_split", lightgbm.LGBMRegressor(**few), x, y, split=10, about="split into parts of 10 trees")
    yield make("lgbm_poisson", lightgbm.LGBMRegressor(objective="poisson", **few), x, np.abs(y))
    yield make("lgbm_forest", lightgbm.LGBMRegressor(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7, **few), x, y)
    yield make("lgbm_large", lightgbm.LGBMRegressor(n_estimators=300, num_leaves=31, random_state=0, n_jobs=1, verbose=-1), x, y)
    coded = x.copy()
    coded[:, 0] = kit.random(31).integers(0, 6, size=len(x))
    # Codes 1, 3 and 4 of a machine's state matter.
    y, two = y + 3 * np.isin(coded[:, 0], [1, 3, 4]), (np.isin(coded[:, 0], [1, 3, 4]) ^ (y > 1)).astype(np.int64)
    yield make("lgbm_categorical", lightgbm.LGBMRegressor(**few), coded, y, fit={"categorical_feature": [0]})
    yield make("lgbm_categorical_small", lightgbm.LGBMClassifier(**small), coded, two, fit={"categorical_feature": [0]}, zipmap=False, subset=True)
