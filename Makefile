# The commands a newcomer needs: `make demo` and `make test`. The rest are for people who change Sango.
SHELL := /bin/bash
CARGO ?= cargo
# A newer Node fetched by scripts/setup, where the system's is too old, comes first.
export PATH := $(CURDIR)/.cache/node/node_modules/node/bin:$(PATH)

.PHONY: demo build web test lint test-rust test-web test-browser test-protocol test-engine test-phoenix test-train \
        bench bench-kernels bench-elixir parity-real train-amused train-smolvlm2 train-ltx-video

demo: build ## build Sango and open the studio page
	target/release/sango serve --open

build: web
	$(CARGO) build --release -p sango

web: web/dist/index.html

web/dist/index.html: web/package-lock.json $(shell find web/src web/index.html web/public -type f 2>/dev/null)
	@scripts/setup demo
	cd web && npm ci --silent --no-audit --no-fund && npm run --silent build

test: ## every check that runs without a GPU; installs what it needs on Debian and Ubuntu
	@scripts/setup test
	$(MAKE) lint test-rust test-web test-browser test-protocol test-engine test-phoenix test-train

lint: web
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --all-targets -- -D warnings

test-rust: build
	$(CARGO) test --release

test-web: web
	cd web && npm run --silent check && npm test --silent

test-browser: build
	cd tests/browser && npm ci --silent --no-audit --no-fund && npm test --silent

test-protocol: build ## docs/protocol.md, from the outside, against the gateway (docs/phoenix.md: against Phoenix)
	cd tests/protocol && npm ci --silent --no-audit --no-fund && npm test --silent

# Erlang warns, and prints question marks, unless the locale is UTF-8.
test-engine test-phoenix bench-elixir: export LC_ALL = C.UTF-8

test-engine: build ## the OTP application, on the NIF
	cd elixir_app/engine && mix format --check-formatted && mix compile --warnings-as-errors && mix test

test-phoenix: build ## the Phoenix application, where its packages can be had
	@scripts/test-phoenix

# sango-train alone needs libtorch, which scripts/libtorch unpacks from PyPI's wheels into .cache/.
test-train:
	LIBTORCH=$$(scripts/libtorch) $(CARGO) clippy --release -p sango-train --all-targets -- -D warnings
	LIBTORCH=$$(scripts/libtorch) $(CARGO) test --release -p sango-train

bench: build bench-kernels ## figures of docs/benchmarks.md: sango against diffusers and transformers
	bench/run

bench-kernels: ## GFLOP/s of the kernels over the models' own shapes (torch: bench/kernels.py)
	$(CARGO) run --release -p sango-kernels --example bench

bench-elixir: ## what Erlang and the NIF add to a job and to an event
	$(CARGO) build --release -p sango-jobs --example overhead
	cd elixir_app/engine && MIX_ENV=prod mix run --no-start bench/overhead.exs

parity-real: build ## compare with the references at the published sizes, random weights (needs the benchmark's Python)
	$${SANGO_BENCH_PYTHON:-.cache/bench/bin/python} tests/parity/real_sizes.py --sango target/release/sango --work .cache/parity
	$${SANGO_BENCH_PYTHON:-.cache/bench/bin/python} tests/parity/smolvlm2_real.py --sango target/release/sango --work .cache/parity
	$${SANGO_BENCH_PYTHON:-.cache/bench/bin/python} tests/parity/ltx_video_real.py --sango target/release/sango --work .cache/parity

train-amused: ## train the shipped text-to-image model from nothing (hours)
	@scripts/setup train
	LIBTORCH=$$(scripts/libtorch) $(CARGO) run --release -p sango-train -- amused all --out models/shapes/amused

train-smolvlm2: ## train the shipped video model from nothing (about an hour and a half)
	@scripts/setup train
	LIBTORCH=$$(scripts/libtorch) $(CARGO) run --release -p sango-train -- smolvlm2 all --minutes 60 --out models/shapes/smolvlm2

train-ltx-video: ## train the shipped text-to-video model from nothing (two hours and a half)
	@scripts/setup train
	LIBTORCH=$$(scripts/libtorch) $(CARGO) run --release -p sango-train -- ltx-video all --out models/shapes/ltx_video
