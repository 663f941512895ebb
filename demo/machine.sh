# Sourced by run.sh: what it starts ends when run.sh does, however that ends, unless it is kept. Every part watches a pipe
# that we hold open: `start` opens the pipe, and `keep` hands all of them to a process that does nothing but hold them.

work=$(mktemp -d)
kept_at=$target/demo.kept
declare -A pids=()
stopped=""

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
echo_command() { printf '\033[2m$ %s\033[0m\n' "$1"; }
show() { echo_command "$1" && eval "$1"; }

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

# start NAME COMMAND...
start() {
    local name=$1 hold
    shift
    mkfifo "$work/$name.hold"
    "$@" <"$work/$name.hold" >"$work/$name.json" 2>"$work/$name.log" &
    pids[$name]=$!
    exec {hold}>"$work/$name.hold"
}

# await SECONDS WHAT COMMAND...
await() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then echo "not in time: $what" >&2; exit 1; fi
        sleep 0.2
    done
}

# said NAME FIELD: what a part said when it was up.
said() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/$1.json" "$2"; }

# keep: lets everything run on when we end, until stop.sh. Each process is told again by what it reads from, in our folder.
keep() {
    setsid sleep infinity <"$work/operator.json" >/dev/null 2>&1 &
    printf '%s\n' "$work" "$!" "${pids[@]}" >"$kept_at"
    trap - EXIT INT TERM
}
