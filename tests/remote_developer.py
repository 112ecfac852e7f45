"""A developer on another machine: plain MLflow calls, an address and a key in the environment.

python tests/remote_developer.py [torch]

`pip_requirements` are told: finding them out takes MLflow a minute, and is nothing of the platform's.
"""

import json
import sys

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

TAGS = {"citybrain.licence": "MIT", "citybrain.domain": "traffic"}


def doubler():
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    graph = helper.make_graph(
        [node], "double", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def classifier():
    table = pd.DataFrame({"hour": [1.0, 2.0, 8.0, 9.0], "lanes": [1.0, 2.0, 1.0, 2.0]})
    return LogisticRegression().fit(table, np.array(["calm", "calm", "busy", "busy"]))


def main():
    mlflow.set_experiment("remote-lab")
    client = MlflowClient()
    for name in ("remote-double", "remote-calm", "remote-linear"):
        client.create_registered_model(name, TAGS)
    with mlflow.start_run() as run:
        mlflow.log_params({"depth": 3})
        mlflow.log_metric("loss", 0.25)
        mlflow.log_text("hello", "notes/hello.txt")
        mlflow.onnx.log_model(
            doubler(), name="onnx", registered_model_name="remote-double", pip_requirements=["onnx"]
        )
        mlflow.sklearn.log_model(
            classifier(), name="sklearn", serialization_format="skops",
            registered_model_name="remote-calm", pip_requirements=["scikit-learn"],
        )  # fmt: skip
        if "torch" in sys.argv:
            import torch

            mlflow.pytorch.log_model(
                torch.nn.Sequential(torch.nn.Linear(3, 2)).eval(), name="torch",
                serialization_format="pt2", input_example=np.zeros((2, 3), np.float32),
                registered_model_name="remote-linear", pip_requirements=["torch"],
            )  # fmt: skip
    client.set_registered_model_alias("remote-double", "dev", "1")
    fetched = mlflow.artifacts.download_artifacts("models:/remote-double@dev")
    print(json.dumps({
        "run": run.info.run_id, "artifacts": run.info.artifact_uri,
        "text": mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/hello.txt"),
        "listed": [file.path for file in client.list_artifacts(run.info.run_id, "notes")],
        "loss": client.get_run(run.info.run_id).data.metrics["loss"],
        "same": list(mlflow.onnx.load_model(fetched).graph.initializer[0].float_data) == [2.0],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
