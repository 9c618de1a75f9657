# Two commands: `make demo` and `make test`. Each installs what is missing on Debian and Ubuntu,
# says what it does, builds once for both with one profile, and runs. `make kafka` starts a broker.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/healwright/target
HEALWRIGHT := $(CARGO_TARGET_DIR)/debug/healwright

.PHONY: demo test build setup setup-test lint fmt install kafka bench-kafka compose-check

demo: build
	$(HEALWRIGHT) demo $(ARGS)

test: setup-test build lint compose-check
	cargo test --workspace --quiet

build: setup
	cargo build --workspace

setup:
	@tools/setup.sh

setup-test:
	@tools/setup.sh test

# A real Apache Kafka on loopback to try things against, until Ctrl-C; three with BROKERS=3.
kafka:
	@tests/kafka/kafka.sh try --brokers $(or $(BROKERS),1)

# Raw rdkafka, Healwright and Kafka Streams over the same topics on one broker: some minutes.
# ARGS goes to benches/peers/run.sh, as in ARGS="--samples 2000000".
bench-kafka: setup-test build
	cargo build --workspace --examples
	benches/peers/run.sh --table $(ARGS)

# As much of docker-compose.yml as can be checked without an engine.
compose-check:
	@docker compose config --quiet 2>/dev/null || docker-compose config --quiet || { \
	  echo "docker-compose.yml is refused, or docker-compose is missing: see above;" >&2; \
	  echo "apt-get install --no-install-recommends docker-compose" >&2; exit 1; }

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

fmt:
	cargo fmt --all

install: build
	install -D -m 755 $(HEALWRIGHT) $(or $(PREFIX),$(HOME)/.local)/bin/healwright
