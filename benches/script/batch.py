"""Runs a batch from object storage to object storage as a plain script does, and prints what it took, as JSON.

usage: batch.py SETTINGS   (a JSON object: endpoint, accessKey, secretKey, bucket, input, output, baseURL, apiKey, pollSeconds)
"""

import json
import sys
import time

import boto3
import openai


def check(lines):
    """The requests' ids, in order; each must be there once, with a body."""
    ids = []
    for line in lines:
        request = json.loads(line)
        if request["method"] != "POST" or request["url"] != "/v1/chat/completions" or "messages" not in request["body"]:
            raise SystemExit(f"a request of another kind: {request['custom_id']}")
        ids.append(request["custom_id"])
    if len(set(ids)) != len(ids):
        raise SystemExit("two requests have the same custom_id")
    return ids


def submit(client, content, poll_seconds):
    """The batch, when it is over."""
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(poll_seconds)
        batch = client.batches.retrieve(batch.id)
    if batch.status != "completed":
        raise SystemExit(f"the batch ended as {batch.status}")
    return batch


def run(settings):
    s3 = boto3.client(
        "s3",
        endpoint_url=settings["endpoint"],
        region_name="us-east-1",
        aws_access_key_id=settings["accessKey"],
        aws_secret_access_key=settings["secretKey"],
    )
    client = openai.OpenAI(base_url=settings["baseURL"], api_key=settings["apiKey"])
    content = s3.get_object(Bucket=settings["bucket"], Key=settings["input"])["Body"].read()
    ids = check(content.splitlines())
    batch = submit(client, content, settings["pollSeconds"])
    answers = {}
    for line in client.files.content(batch.output_file_id).content.splitlines():
        answers[json.loads(line)["custom_id"]] = line
    results = b"".join(answers[custom_id] + b"\n" for custom_id in ids)
    s3.put_object(Bucket=settings["bucket"], Key=settings["output"], Body=results)


def peak_memory():
    """Bytes, as the kernel counts them."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


began, cpu = time.monotonic(), time.process_time()
run(json.loads(sys.argv[1]))
took = {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu, "startCPU": cpu, "peak": peak_memory()}
print(json.dumps(took), flush=True)
