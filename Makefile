# The two commands of the README are `make demo` and `make test`; both install what is missing.
SHELL := /bin/bash
OCELLI := $(shell if [ -n "$$CARGO_TARGET_DIR" ]; then echo "$$CARGO_TARGET_DIR"; else echo target; fi)/release/ocelli

.PHONY: demo test build bench lint deny docs setup cross test-aarch64 deb

## build everything and show it working: camera, detector, broker, annotated stream
demo: build
	@OCELLI=$(OCELLI) deploy/demo.sh

## all tests; the end prints how many were skipped, and why
test: setup
	@tests/fetch-ort.sh "$${OCELLI_CACHE:-$$HOME/.cache/ocelli}/onnxruntime-1.24.4" 1.24.4 || \
	  echo "SKIPPED: no ONNX Runtime library could be fetched; the tests of the cpu backend are skipped" >&2
	@tests/fetch-openvino.sh "$${OCELLI_CACHE:-$$HOME/.cache/ocelli}/openvino-2026.4.1" || \
	  echo "SKIPPED: no OpenVINO could be fetched; the tests of the openvino backend are skipped" >&2
	@tests/run.sh

build: setup
	cargo build --release --locked

## packages of the system that building, testing and the demo need
setup:
	@deploy/setup.sh

## CPU per frame and throughput, beside the bare session and a hand-written script; then the backends beside each other
bench: setup
	cargo bench --locked --bench pipeline
	cargo bench --locked --bench inference

lint:
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --document-private-items

deny:
	cargo deny check bans licenses sources

## a release binary for Jetson (aarch64, JetPack 5 to 7), without Docker; ARCH=x86_64 for PCs from Ubuntu 20.04 on
cross:
	@ARCH=$(or $(ARCH),aarch64) deploy/cross/build.sh

## the cross-built binary at work under emulation
test-aarch64: build cross
	@tests/aarch64/run.sh
## Debian packages: amd64 from this machine's binary, arm64 from the one of `make cross` when it is there
deb: build
	deploy/deb.sh
