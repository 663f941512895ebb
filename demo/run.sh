#!/usr/bin/env bash
# The whole thing on this machine: a real Kubernetes control plane, a real S3 server, a batch API that costs nothing, and
# the operator under the rights that we ship. Ends by itself and leaves nothing running; with KEEP=1 it leaves everything
# running, until stop.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
if [ -n "${KEEP:-}" ] && [ -e "$target/demo.kept" ]; then
    echo "a demo is running already: make demo-stop" >&2
    exit 1
fi
./tests/cluster/preflight.sh
kube_dir=$(./tests/cluster/build.sh)
weed=$(./tests/cluster/seaweedfs.sh)
python=$(./tests/cluster/venv.sh receiver)/python
echo "building the operator (cargo build) ..." >&2
cargo build --quiet --bins
PATH="$kube_dir:$PATH"
SECONDS=0
. demo/machine.sh

say "Starting Kubernetes, an S3 server, a batch API and a receiver of notifications on this machine"
start kubernetes kube up
start storage kube s3 --weed "$weed" --bucket shop
start provider kube supervise -- "$target/debug/llm-batch-sim" --listen 127.0.0.1:0 --api-key sk-test \
    --batch-duration 6s --answers demo/answers.json
signing_key=whsec_$(head -c 32 /dev/urandom | base64)
start receiver "$python" tests/receiver/receive.py --key "$signing_key" --say
for part in kubernetes storage provider receiver; do await 60 "$part" test -s "$work/$part.json"; done
KUBECONFIG=$(said kubernetes kubeconfig)
export KUBECONFIG
s3=$(said storage endpoint)
key=$(said storage accessKey)
secret=$(said storage secretKey)
api=$(said provider url)
admin=$(said provider admin)
receiver=$(said receiver url)
bucket() { curl -fsS --aws-sigv4 aws:amz:us-east-1:s3 --user "$key:$secret" "$@"; }

say "Installing the operator's CRDs and rights, and running it under its own ServiceAccount"
show 'kubectl apply -k crds'
show 'kubectl apply -f deploy/kustomize/namespace.yaml -f deploy/kustomize/serviceaccount.yaml -f deploy/kustomize/rbac.yaml'
token=$(kubectl create token batchjob-operator --namespace batchjob-operator-system)
cat >"$work/operator.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: demo
clusters: [{name: demo, cluster: {server: "$(said kubernetes server)", certificate-authority: "$(said kubernetes caFile)"}}]
users: [{name: operator, user: {token: "$token"}}]
contexts: [{name: demo, context: {cluster: demo, user: operator}}]
YAML
start operator env KUBECONFIG="$work/operator.kubeconfig" kube supervise --grace 10s -- \
    "$target/debug/batchjob-operator" run --log-format text --identity demo --health-addr 127.0.0.1:0 --spool-dir "$work" \
    --allow-private-hosts 127.0.0.1

# apply EXAMPLE [EDIT]: the manifest as it stands, but for this run's addresses and keys, a poll each second, since batches take
# no longer here, and for what an edit says.
apply() {
    if [ $# -eq 1 ]; then
        echo_command "kubectl apply -f examples/$1"
    else
        echo_command "sed '$2' examples/$1 | kubectl apply -f -"
    fi
    sed -e "${2:-}" -e 's/^\( *\)output:$/\1pollPeriodSeconds: 1\n&/' -e "s#http://127.0.0.1:8333#$s3#" \
        -e "s#http://127.0.0.1:8080/v1#$api#" -e "s#ACCESS_KEY#$key#" -e "s#SECRET_KEY#$secret#" "examples/$1" | kubectl apply -f -
}

say "An account at the batch API that takes 2,000 requests a batch, with example prices, and the keys of the bucket"
apply provider.yaml
show 'kubectl patch batchprovider llm --type=merge --patch-file demo/account.yaml'
apply storage.yaml

say "A schedule: every minute, the tickets of a help desk that are open then. Its first start comes beside the jobs below"
now=$(date +%s)
for minute in 1 2 3 4; do
    folder=$(date -u -d "@$((now + 60 * minute))" +%Y-%m-%d/%H%M)
    mkdir -p "$work/tickets/$folder"
    python3 demo/tickets.py "$minute" >"$work/tickets/$folder/tickets.csv"
    [ "$minute" -gt 1 ] || head -n 3 "$work/tickets/$folder/tickets.csv"
    bucket -T "$work/tickets/$folder/tickets.csv" "$s3/shop/in/open-tickets/$folder/tickets.csv"
done
apply hourly.yaml 's/0 \* \* \* \*/* * * * */; s/:-1h/:-1m/'

say "Two small jobs: requests in the manifest, and two lines in OpenAI's own format in the bucket"
bucket -T examples/requests.jsonl "$s3/shop/in/requests.jsonl"
apply inline.yaml
apply two-lines.yaml
created() { [ "$(curl -fsS "$admin/state" | python3 -c 'import json, sys; print(json.load(sys.stdin)["creates"])')" -ge "$1" ]; }
await 30 "two batches" created 2

say "10,000 reviews, a CSV file in the bucket. One of their batches will expire half-way: the batch API was told so"
python3 demo/reviews.py >"$work/reviews.csv"
bucket -T "$work/reviews.csv" "$s3/shop/in/reviews.csv"
head -n 3 "$work/reviews.csv"
curl -fsS -o /dev/null -d '{"point": "batch", "action": "expire", "after": 0.6}' "$admin/faults"
show "kubectl create secret generic hooks --from-literal=url=$receiver/reviews --from-literal=signing-key=$signing_key"
apply reviews-csv.yaml '/^  output:/i\  notifications: [{name: team, events: [Started, Complete, Failed], webhook: {urlSecretKeyRef: {name: hooks, key: url}, signingSecretKeyRef: {name: hooks, key: signing-key}}}]'

say "Progress"
columns='%-21s  %-21s  %-27s  %s\n'
printf "$columns" NAME STATUS PROGRESS FAILED
fields='{.metadata.name}|{.status.conditions[?(@.type=="Complete")].reason}|{.status.display.progress}|{.status.requests.failed}'
declare -A told=()
# What is new of a job: another stage, another tenth done, other failures.
tell_news() {
    local name status progress failed percent news
    while IFS='|' read -r name status progress failed; do
        percent=${progress#*(} percent=${percent%%%*}
        news="$status ${percent:+$((percent / 10))} $failed"
        if [ -n "$status" ] && [ "${told[$name]:-}" != "$news" ]; then printf "$columns" "$name" "$status" "$progress" "$failed"; fi
        told[$name]=$news
    done
}
# follow SECONDS COMMAND...: tells the news of all jobs until the command succeeds.
follow() {
    local deadline=$((SECONDS + $1)) jobs over=""
    shift
    until [ -n "$over" ]; do
        kill -0 "${pids[operator]}" 2>/dev/null || { echo "the operator ended" >&2; exit 1; }
        if "$@" >/dev/null 2>&1; then over=yes; else sleep 0.3; fi
        jobs=$(kubectl get bjob -o jsonpath="{range .items[*]}$fields{'\n'}{end}") || exit 1
        tell_news <<<"$jobs"
        if [ "$SECONDS" -ge "$deadline" ]; then kubectl describe bjob; exit 1; fi
    done
    echo
}
follow 120 kubectl wait --for=condition=complete bjob/{capitals,two-lines,reviews-csv} --timeout=0s
show 'kubectl get bjob -o wide'

say "What became of the reviews: the batch that expired kept what it had done, and only the rest was sent again"
show "kubectl get bjob reviews-csv -o jsonpath='{range .status.batches[*]}{.name} {.requests} {.state}{\"\\n\"}{end}'"
show "kubectl describe bjob reviews-csv | sed -n '/^  Requests:/,/^    Total:/p; /^Events:/,\$p'"

say "What the team's program was told: CloudEvents, which it verified and read with the published libraries"
await 30 "the message about the end of the reviews" grep -q 'complete.v1 of .* (signed)' "$work/receiver.log"
cat "$work/receiver.log"

say "The answers, in the order of the reviews"
for file in results errors; do bucket -o "$work/$file.jsonl" "$s3/shop/out/reviews-csv/v1/$file.jsonl"; done
curl -fsS -o "$work/ledger.jsonl" "$admin/ledger"
python3 demo/check.py reviews "$work"/{reviews.csv,results.jsonl,errors.jsonl,ledger.jsonl}

say "What the three jobs cost, at the prices of the account, and what single calls would have cost"
kubectl get bjob capitals two-lines reviews-csv -o json >"$work/jobs.json"
kubectl get batchprovider llm -o json >"$work/account.json"
python3 demo/check.py cost "$work"/{jobs.json,account.json,ledger.jsonl}

say "The schedule: two of its starts, a minute apart"
show 'kubectl get cbjob -o wide'
echo
follow 120 eval '[ -n "$(kubectl get bjob -l team=support -o jsonpath="{.items[*].status.estimatedCompletionTime}")" ]'
say "A start of the schedule while its batch runs. ETA is the time by which it is expected to be done"
show 'kubectl get bjob -o wide'
echo
runs() { kubectl get bjob -l team=support --field-selector status.outcome!= --sort-by=.metadata.creationTimestamp "$@"; }
follow 180 eval '[ "$(runs --no-headers | wc -l)" -ge 2 ]'
show "kubectl patch cbjob open-tickets --type=merge -p '{\"spec\": {\"suspend\": true}}'"
show 'kubectl get bjob -l team=support -o wide'

say "Its labels: of the second start, only tickets that are new or changed were sent and paid"
runs -o json >"$work/runs.json"
for folder in $(runs -o jsonpath='{.items[*].status.results.uri}'); do
    folder=${folder#s3://shop/out/open-tickets/} folder=${folder%/results.jsonl}
    bucket -o "$work/tickets/$folder/results.jsonl" "$s3/shop/out/open-tickets/$folder/results.jsonl"
done
curl -fsS -o "$work/ledger.jsonl" "$admin/ledger"
python3 demo/check.py tickets "$work"/{runs.json,tickets,ledger.jsonl}

say "The files in the bucket"
bucket "$s3/shop?list-type=2" | python3 -c '
import re, sys
for key, size in re.findall(r"<Key>(.*?)</Key>.*?<Size>(\d+)</Size>", sys.stdin.read()):
    print(f"{int(size):9,}  s3://shop/{key}")'

if [ -z "${KEEP:-}" ]; then
    say "Done: $SECONDS s. Everything that was started is stopped."
    exit
fi
keep
say "Done: $SECONDS s. Everything runs on, until \`make demo-stop\`. To look around:"
cat <<TEXT
export KUBECONFIG=$KUBECONFIG PATH=$kube_dir:\$PATH
export AWS_ENDPOINT_URL=$s3 AWS_ACCESS_KEY_ID=$key AWS_SECRET_ACCESS_KEY=$secret AWS_REGION=us-east-1
curl $admin/ledger           # what was billed
less $work/operator.log
TEXT
