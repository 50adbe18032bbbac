# The developer's verbs. `just` alone lists them; none needs anything but Rust, save where it says so.

_default:
    @just --list --unsorted

# Show what lstmc does on the bundled model
demo:
    cargo run --release -- demo

# Format all code
fmt:
    cargo fmt --all

# Format check and lints, as in CI
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# All tests; arguments go to cargo test: `just test -p lstmc-passes`
test *args:
    cargo test {{ if args == "" { "--workspace" } else { args } }}

# All that CI runs
ci:
    .ci/run

# Tests that take minutes: every f32 through the generated exp, tanh, sigmoid and ln
exhaustive:
    cargo test --release -p lstmc-kernels -p lstmc-backend --lib -- --ignored

# Linked models for arm64 over 200 words, and the back end's tests on arm64, in emulation (needs aarch64-linux-gnu-gcc, qemu-aarch64, and the target from rustup)
emulated:
    cargo test --release --test it link -- --ignored --nocapture
    .ci/emulated

# A model in a web page, in headless Chromium (needs chromium, node, clang and lld)
web *args:
    cargo build --bin lstmc
    LSTMC="${CARGO_TARGET_DIR:-target}/debug/lstmc" examples/web/test {{ args }}

# The Python package and its tests, in the active virtual environment (needs maturin and pytest there)
python *args:
    cd python && maturin develop --release && python -m pytest {{ args }}

# Tests under AddressSanitizer, valgrind, ThreadSanitizer, Miri and loom; `just sanitize asan miri` runs some. What is missing is SKIPPED
sanitize *steps:
    .ci/sanitize {{ steps }}

# The protocol of threads that share work, in every interleaving of small cases
loom:
    .ci/loom

# Accept every new and changed snapshot; read `git diff` afterwards
snapshots:
    INSTA_UPDATE=always cargo test --workspace

# Review snapshots one by one (needs cargo-insta)
review:
    cargo insta test --workspace --review

# Write the checked blocks of docs/ and README.md anew; read `git diff` afterwards
update-docs:
    UPDATE_DOCS=1 cargo test --test docs

# The packages that crates.io gets, each built from what is in it
package:
    cargo package --workspace --exclude lstmc-capi --exclude lstmc-python

# Write the header of the C library anew (needs cbindgen)
c-header:
    cbindgen --config runtime/capi/cbindgen.toml --output runtime/capi/include/lstmc.h runtime/capi

# Install the C library, its header and its pkg-config file below PREFIX
install-c prefix:
    cargo build --release -p lstmc-capi
    install -d {{ prefix }}/lib/pkgconfig {{ prefix }}/include
    install -m 755 target/release/liblstmc.so {{ prefix }}/lib/
    install -m 644 target/release/liblstmc.a {{ prefix }}/lib/
    install -m 644 runtime/capi/include/lstmc.h {{ prefix }}/include/
    sed -e 's|@prefix@|{{ prefix }}|' -e 's|@version@|0.1.0|' runtime/capi/lstmc.pc.in > {{ prefix }}/lib/pkgconfig/lstmc.pc

# Draw the figures of docs/figures anew, on texts of LSTMC_PTB (default ../shared/ptb); half an hour on two cores
figures:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --release
    ptb="${LSTMC_PTB:-../shared/ptb}"
    head -1350 "$ptb/ptb.train.txt" > target/calibration.txt
    head -800 "$ptb/ptb.valid.txt" > target/validation.txt
    for name in quantize prune low-rank tensor-train mixed; do
        validate=()
        if [ $name = low-rank ]; then validate=(--validate target/validation.txt); fi
        target/release/lstmc frontier testdata/ptb-small/model.onnx --vocab testdata/ptb-small/vocab.txt --text "$ptb/ptb.test.txt" \
            --calibrate target/calibration.txt "${validate[@]}" --pipelines docs/figures/$name.txt --title "ptb-small: $name" \
            -o docs/figures/$name.svg
    done

# Build the book into docs/book (needs mdbook)
book:
    mdbook build docs

# Build the API documentation
api:
    cargo doc --workspace --no-deps

# Run every ONNX case of testdata on the interpreter, and the language models in generated code
verify:
    cargo run --release -- verify testdata/onnx testdata/tiny --quiet
    cargo run --release -- verify testdata/tiny --engine jit --quiet

# Run every fuzz target for so many minutes each, then a table of finds (needs cargo-fuzz and a nightly toolchain; says SKIPPED without)
fuzz minutes *targets:
    fuzz/run {{ minutes }} {{ targets }}

# Speed on this machine, of the bundled model or another one
bench model="testdata/ptb-small/model.onnx":
    cargo run --release -- bench {{ model }}

# What bounds each layer on this machine, as a table and as a figure
roofline model="testdata/ptb-small/model.onnx" figure="target/roofline.svg":
    cargo run --release -- bench {{ model }} --roofline --plot {{ figure }}

# Speed beside ONNX Runtime, rten and tract (needs Python; the first run installs onnxruntime below target/)
peers model="testdata/ptb-small/model.onnx" *args="":
    backend/peers/compare {{ model }} {{ args }}

# Perplexity on all of the Penn Treebank, from LSTMC_PTB (default ../shared/ptb)
ptb:
    cargo test --release --test it ptb -- --ignored --nocapture
