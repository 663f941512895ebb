"""Airflow: create a BatchJob, and wait for its end. When some requests have no answer (exit code 2), the next tasks are skipped;
a failed job (1) and a time-out (124) fail the task."""

from datetime import timedelta
from pathlib import Path

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.operators.resource import KubernetesCreateResourceOperator
from airflow.sdk import DAG

with DAG(dag_id="reviews", schedule=None):
    submit = KubernetesCreateResourceOperator(
        task_id="submit",
        namespace="shop",
        custom_resource_definition=True,
        yaml_conf=Path(__file__).with_name("reviews.yaml").read_text(),
    )
    wait = KubernetesPodOperator(
        task_id="wait",
        name="wait-for-reviews",
        namespace="shop",
        image="localhost/batchjob-operator:0.1.0",
        arguments=["wait", "classify-reviews", "--timeout=26h"],
        # Bound to the ClusterRole `batchjob-view`, as in job.yaml.
        service_account_name="after-reviews",
        skip_on_exit_code=2,
        deferrable=True,
        execution_timeout=timedelta(hours=27),
    )
    submit >> wait
