.DEFAULT_GOAL := help
export CARGO_TERM_COLOR ?= auto
# The API server and Go's compiler spend a good part of their time on collecting garbage. Not for `bench`, which measures beside
# them, nor for `demo`, which has to fit on a laptop.
test soak: export GOGC ?= 400
# Our own code is optimised too where it has minutes of work to do.
optimised = --config profile.dev.package.batchjob-operator.opt-level=1

.PHONY: help
help: ## Show this.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Run everything on this machine, see 10,000 reviews through, and stop; KEEP=1 leaves it up. The first run compiles Kubernetes and the operator (some 15 minutes).
	@KEEP="$(KEEP)" ./demo/run.sh

.PHONY: demo-stop
demo-stop: ## Stop what `make demo KEEP=1` left running.
	@./demo/stop.sh

# Those that need a cluster, or what its tests leave behind; and the model.
long = model e2e rights sweep soak
quick = $(filter-out $(long),$(patsubst tests/%.rs,%,$(wildcard tests/*.rs)) $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs)))
# Those that hold decisions, the architecture, the API and the docs, and take no more than a second each.
checked = architecture crds decide identity in_use readme sources

.PHONY: check
check: preflight lint ## Formatting, lints, unit tests, decisions, architecture, CRDs and docs: under three minutes, at each commit.
	$(linted) cargo test --lib --bins $(patsubst %,--test %,$(checked))

.PHONY: test
test: preflight parts check ## All checks and tests, on a real Kubernetes API server and a real S3 server.
	$(linted) cargo test $(patsubst %,--test %,$(filter-out $(checked),$(quick)))
	$(linted) cargo test --doc
	cargo test $(optimised) --no-run $(patsubst %,--test %,$(long))
	cargo test $(optimised) --test model
	./tests/cluster/build.sh >/dev/null
	./tests/cluster/seaweedfs.sh >/dev/null
	./tests/cluster/node.sh >/dev/null || [ $$? -eq 77 ]
	./tests/cluster/venv.sh readers >/dev/null
	./tests/cluster/venv.sh aibrix >/dev/null
	./tests/cluster/prometheus.sh >/dev/null
	cargo test $(optimised) --test e2e -- --test-threads=6
	cargo test $(optimised) --test rights
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target swept soaked

# At the same time: the soak's processes wait for most of it.
.PHONY: swept soaked
swept:
	cargo test $(optimised) --test sweep -- --test-threads=1
soaked:
	cargo test $(optimised) --test soak

# Made beside our own code, where it is not there yet; what goes wrong is said by the next one to ask for it.
.PHONY: parts
parts: preflight
	@nice sh -c 'cd tests/cluster; ./seaweedfs.sh; ./venv.sh readers; ./venv.sh receiver; ./venv.sh aibrix; ./prometheus.sh; ./build.sh; ./node.sh; ./helm.sh; ./health.sh' >/dev/null 2>&1 &

.PHONY: soak
soak: preflight ## Twenty minutes of kills, restarts and outages with figures in target/soak.json; then hours: the whole sweep, the larger models, 2,000 large objects, fuzzing.
	./tests/cluster/build.sh >/dev/null
	./tests/cluster/seaweedfs.sh >/dev/null
	SOAK=full cargo test $(optimised) --test soak
	SWEEP=all SCHEDULES=10000 cargo test $(optimised) --test sweep -- --test-threads=1
	MODEL_SOAK=1 cargo test $(optimised) --test model
	MEMORY_OBJECTS=10000 cargo test $(optimised) --test e2e memory::
	$(MAKE) fuzz

.PHONY: bench
bench: preflight ## The figures of the README, some 15 minutes; BENCH_SCALE=0.1 for a quick look.
	./tests/cluster/build.sh >/dev/null
	./tests/cluster/seaweedfs.sh >/dev/null
	./tests/cluster/venv.sh script >/dev/null
	cargo bench --bench figures

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: preflight ## Fuzz what providers answer, FUZZ_SECONDS (60) for each target. What is found is put under fuzz/artifacts.
	PATH="$$(./tests/cluster/tool.sh cargo cargo-fuzz 0.13.1):$$PATH" ./fuzz/run.sh $(FUZZ_SECONDS)

# Clippy's lints while the tests are compiled: `cargo clippy` would have every dependency checked besides.
linted = RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/clippy-driver.sh

.PHONY: lint
lint: preflight ## Formatting, licences, clippy.
	cargo fmt --check
	cargo fetch --quiet --locked
	"$$(./tests/cluster/tool.sh cargo cargo-deny 0.20.2)/cargo-deny" --offline check bans licenses sources
	$(linted) cargo test --no-run --all-targets

.PHONY: image
image: ## Build the image without Docker, into target/image/.
	@./deploy/image/build.sh

.PHONY: install
install: ## Install on the cluster that kubectl talks to. IMAGE=… names the image that you pushed.
	$(if $(IMAGE),kubectl kustomize deploy/kustomize | sed 's#image: localhost/batchjob-operator:.*#image: $(IMAGE)#' | kubectl apply -f -,kubectl apply -k deploy/kustomize)

.PHONY: crds
crds: ## Write crds/, and the chart's copies, from the types in src/api.
	cargo run --quiet --bin batchjob-operator -- crds --dir crds
	cargo run --quiet --bin batchjob-operator -- crds --dir deploy/chart/files/crds

.PHONY: rules
rules: ## Copy the alerts and the dashboard of deploy/monitoring to where kustomize and Helm read them.
	cp deploy/monitoring/rules.yaml deploy/monitoring/dashboard.json deploy/chart/files/monitoring/
	sed -i -e '/^spec:/q' deploy/monitoring/prometheusrule.yaml
	sed -e 's/^./  &/' deploy/monitoring/rules.yaml >>deploy/monitoring/prometheusrule.yaml

.PHONY: preflight
preflight:
	@./tests/cluster/preflight.sh
