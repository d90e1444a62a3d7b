# make demo     four small servers, the proxy on :9090 and a live table; ARGS="--port 9191" and so on go to `fairlead demo`
# make test     format, lints, docs, tests: all that CI does, but for `make test-…`
# make check    the same without running tests
# make test-differential   whether nginx, Node, gunicorn and uvicorn agree with the proxy where messages end
# make test-clients   whether curl, h2load and Chromium get what they ask for, over TLS and HTTP/2 above all
# make bench    what a choice and a lease cost, then load through the proxy beside nginx and HAProxy; ARGS="--help" tells more
# make bench-fleet   the tail latency of 16 nodes beside nginx and HAProxy, and without Redis; ARGS="--redis-fault stop" and so on
# make bench-faults  what clients notice when servers go wrong, beside nginx and HAProxy; ARGS="--scenario all-hang" and so on
# make fuzz     a minute each for configurations, the PROXY protocol and routing; SECONDS_EACH=600 and TARGETS=config change that
# Each installs what it needs from Debian's packages when it may, and otherwise says what is missing.

SHELL := /bin/bash
ARGS ?=
SECONDS_EACH ?= 60
TARGETS ?= config proxy_protocol routing
LOCKED ?=
step = @printf '\n==> %s\n' '$(1)'

.PHONY: demo test test-differential test-clients check bench bench-fleet bench-faults fuzz $(TARGETS:%=fuzz-%) lint need-build need-test need-differential need-clients need-bench need-fuzz

demo: need-build
	@exec cargo run $(LOCKED) --profile quick --bin fairlead -- demo $(ARGS)

test: lint
	$(call step,cargo test)
	@cargo test $(LOCKED) --no-fail-fast -- --show-output
	$(call step,All passed)

test-differential: need-differential
	$(call step,cargo clippy -D warnings)
	@cargo clippy $(LOCKED) --test differential -- -D warnings
	$(call step,cargo test --test differential)
	@cargo test $(LOCKED) --test differential --no-fail-fast -- --show-output

test-clients: need-clients
	$(call step,cargo clippy -D warnings)
	@cargo clippy $(LOCKED) --test clients -- -D warnings
	$(call step,cargo test --test clients)
	@cargo test $(LOCKED) --test clients --no-fail-fast -- --show-output

check: lint

bench: need-bench
	@exec benches/run $(ARGS)

bench-fleet: need-bench
	@exec cargo bench $(LOCKED) --profile quick --bench fleet -- $(ARGS)

bench-faults: need-bench need-test
	@exec cargo bench $(LOCKED) --profile quick --bench faults -- $(ARGS)

# On stable Rust there are no sanitizers; without unsafe code there is little for them to find. What is new goes to
# fuzz/corpus, what fails to fuzz/artifacts.
fuzz: $(TARGETS:%=fuzz-%)

fuzz-config: seeds = conf tests/config

$(TARGETS:%=fuzz-%): fuzz-%: need-fuzz
	$(call step,cargo fuzz run $*)
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	@mkdir -p fuzz/corpus/$*
	@cargo fuzz run --sanitizer none $* fuzz/corpus/$* fuzz/seeds/$* $(seeds) -- \
		-max_total_time=$(SECONDS_EACH) -timeout=10 -max_len=8192 -print_final_stats=1

# Clippy and rustdoc only need the dependencies' metadata and share it; the tests then build them once.
lint: need-test
	$(call step,cargo fmt --check)
	@cargo fmt --all --check
	$(call step,cargo clippy -D warnings)
	@cargo clippy $(LOCKED) --all-targets -- -D warnings
	$(call step,cargo doc -D warnings)
	@RUSTDOCFLAGS="-D warnings" cargo doc $(LOCKED) --no-deps

need-build need-test need-differential need-clients need-bench need-fuzz: need-%:
	@.ci/need $*
