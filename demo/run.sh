#!/usr/bin/env bash
# The whole thing on this machine: a real Kubernetes control plane, a real S3 server, a batch API that costs nothing, and
# the operator under the rights that we ship. Ends by itself and leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."

./tests/cluster/preflight.sh
kube_dir=$(./tests/cluster/build.sh)
weed=$(./tests/cluster/seaweedfs.sh)
echo "building the operator (cargo build) ..." >&2
cargo build --quiet --bins
target=${CARGO_TARGET_DIR:-target}
PATH="$kube_dir:$PATH"
work=$(mktemp -d)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
json() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$@"; }

declare -A pids=()
stopped=""
finish() {
    code=$?
    trap - EXIT INT TERM
    if [ "$code" -ne 0 ] && [ -z "$stopped" ]; then
        say "The demo failed. The operator's last words:"
        tail -n 30 "$work/operator.log" 2>/dev/null || true
    fi
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'stopped=yes; exit 130' INT
trap 'stopped=yes; exit 143' TERM

# start NAME COMMAND...: runs COMMAND until we end, however we end: it watches the pipe that only we hold.
start() {
    local name=$1 hold
    shift
    mkfifo "$work/$name.hold"
    "$@" <"$work/$name.hold" >"$work/$name.json" 2>"$work/$name.log" &
    pids[$name]=$!
    exec {hold}>"$work/$name.hold"
}
await() { # await SECONDS WHAT COMMAND...
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then echo "not in time: $what" >&2; exit 1; fi
        sleep 0.2
    done
}

say "Starting Kubernetes, an S3 server and a batch API on this machine"
start kubernetes kube up
start storage kube s3 --weed "$weed" --bucket shop
start provider kube supervise -- "$target/debug/llm-batch-sim" --listen 127.0.0.1:0 --api-key sk-test \
    --batch-duration 6s --answers demo/answers.json
for part in kubernetes storage provider; do await 60 "$part" test -s "$work/$part.json"; done
KUBECONFIG=$(json "$work/kubernetes.json" kubeconfig)
export KUBECONFIG
s3=$(json "$work/storage.json" endpoint)
key=$(json "$work/storage.json" accessKey)
secret=$(json "$work/storage.json" secretKey)
api=$(json "$work/provider.json" url)
admin=$(json "$work/provider.json" admin)
bucket() { curl -fsS --aws-sigv4 aws:amz:us-east-1:s3 --user "$key:$secret" "$@"; }

say "Installing the operator's CRDs and rights, and running it under its own ServiceAccount"
show kubectl apply -k crds
kubectl apply -f deploy/kustomize/namespace.yaml -f deploy/kustomize/serviceaccount.yaml -f deploy/kustomize/rbac.yaml
token=$(kubectl create token batchjob-operator --namespace batchjob-operator-system)
cat >"$work/operator.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: demo
clusters: [{name: demo, cluster: {server: "$(json "$work/kubernetes.json" server)", certificate-authority: "$(json "$work/kubernetes.json" caFile)"}}]
users: [{name: operator, user: {token: "$token"}}]
contexts: [{name: demo, context: {cluster: demo, user: operator}}]
YAML
start operator env KUBECONFIG="$work/operator.kubeconfig" kube supervise --grace 10s -- \
    "$target/debug/batchjob-operator" run --log-format text --identity demo --health-addr 127.0.0.1:0 --spool-dir "$work"

say "A bucket with 315 review requests, and two more in OpenAI's own format"
python3 demo/reviews.py >"$work/reviews.jsonl"
bucket -T "$work/reviews.jsonl" "$s3/shop/in/reviews.jsonl"
bucket -T examples/requests.jsonl "$s3/shop/in/requests.jsonl"
head -n 1 examples/requests.jsonl

say "Three jobs"
# The manifests as they stand, with this run's addresses and keys.
apply() {
    printf '\033[2m$ kubectl apply -f examples/%s\033[0m\n' "$1"
    sed -e "s#http://127.0.0.1:8333#$s3#" -e "s#http://127.0.0.1:8080/v1#$api#" \
        -e "s#ACCESS_KEY#$key#" -e "s#SECRET_KEY#$secret#" "examples/$1" | kubectl apply -f -
}
for manifest in provider.yaml storage.yaml reviews.yaml two-lines.yaml inline.yaml; do apply "$manifest"; done

say "Progress"
shown=""
deadline=$((SECONDS + 120))
until kubectl wait --for=condition=complete bjob --all --timeout=0s >/dev/null 2>&1; do
    kill -0 "${pids[operator]}" 2>/dev/null || { echo "the operator ended" >&2; exit 1; }
    now=$(kubectl get bjob) || exit 1
    if [ "$(awk '{print $2, $3, $4}' <<<"$now")" != "$shown" ]; then
        printf '%s\n\n' "$now"
        shown=$(awk '{print $2, $3, $4}' <<<"$now")
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then kubectl describe bjob; exit 1; fi
    sleep 0.5
done
show kubectl get bjob -o wide

say "What happened to classify-reviews"
kubectl get events --field-selector involvedObject.name=classify-reviews \
    -o custom-columns=REASON:.reason,MESSAGE:.message --sort-by=.metadata.creationTimestamp

say "The first answers, in the order of the requests"
bucket "$s3/shop/out/classify-reviews/v1/results.jsonl" >"$work/results.jsonl"
python3 - "$work/reviews.jsonl" "$work/results.jsonl" <<'PY'
import json, sys
requests = [json.loads(line) for line in open(sys.argv[1])]
answers = [json.loads(line) for line in open(sys.argv[2])]
assert [r["custom_id"] for r in requests] == [a["custom_id"] for a in answers], "the order of the requests"
for request, answer in list(zip(requests, answers))[:5]:
    text = answer["response"]["body"]["choices"][0]["message"]["content"]
    print(f'{answer["custom_id"]}  {text:9} {request["body"]["messages"][-1]["content"]}')
PY

say "The counts"
show kubectl get bjob classify-reviews -o "jsonpath={.status.requests}"
echo
billed=$(curl -fsS "$admin/ledger" | wc -l)
echo "lines billed by the batch API: $billed of 319"
[ "$billed" -eq 319 ]

say "The files in the bucket"
bucket "$s3/shop?list-type=2" | python3 -c '
import re, sys
text = sys.stdin.read()
for key, size in re.findall(r"<Key>(.*?)</Key>.*?<Size>(\d+)</Size>", text):
    print(f"{int(size):8}  s3://shop/{key}")'

say "Done: $((SECONDS)) s. Everything that was started is stopped."
