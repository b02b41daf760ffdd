# The two commands a newcomer needs:
#   make demo   runs the main job on the embedded pool (FASTA=FILE for a genome of your own)
#   make test   runs everything that continuous integration runs
# Both install the Debian packages they need, or say which command would.

CARGO ?= cargo
PYTHON ?= python3
# A FASTA file of your own; without one, the genome of phage lambda.
FASTA ?=
GENOME := $(or $(FASTA),target/data/lambda_virus.fa)

# What the demo's guests are made of, and what links the programs.
GUEST_PACKAGES := lua5.4 liblua5.4-dev luarocks openssh-server openssh-client zip
BUILD_PACKAGES := gcc libc6-dev
# What the tests compare with: other Lua versions, and the tools of biologists; a terminal and a browser.
TEST_PACKAGES := busybox lua5.1 liblua5.1-0-dev lua5.3 liblua5.3-dev luajit git emboss emboss-data \
	jellyfish seqkit bowtie2 samtools bcftools fastp cutadapt mtools dosfstools lua-socket tmux \
	chromium

.PHONY: help demo recording test fmt clippy features powerset msrv downstream deny package nextest \
	doctest golden doc codegen codegen-check rocks test-ring coverage bench bench-peers bench-rocks \
	demo-packages test-packages test-tools data clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: demo-packages $(if $(FASTA),,data)
	@echo 'building bioxen; the first time takes some minutes'
	$(CARGO) build --features full --bin bioxen
	target/debug/bioxen demo '$(GENOME)'

# The picture in the README, of a real run.
recording: demo
	.ci/recording docs/demo.svg target/debug/bioxen demo $(GENOME)

test: fmt codegen-check clippy features downstream nextest doctest doc
	@echo "all checks passed"

fmt:
	$(CARGO) fmt --all --check

# Once with everything, once as a user with the default features compiles it.
clippy: demo-packages
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy -p bioxen --all-targets -- -D warnings

# Each feature of the facade by itself: what `--all-features` would hide.
features: demo-packages
	@for features in "" basic xcpng curator net map sim cli; do \
		echo "$(CARGO) clippy -p bioxen --no-default-features --features \"$$features\""; \
		$(CARGO) clippy --quiet -p bioxen --no-default-features --features "$$features" \
			-- -D warnings || exit 1; \
	done

# Every set of features of the facade; minutes, so it is not part of `make test`.
powerset: demo-packages
	@for basic in "" basic; do for xcpng in "" xcpng; do for curator in "" curator; do \
	for net in "" net; do for map in "" map; do for sim in "" sim; do for cli in "" cli; do \
		features="$$basic $$xcpng $$curator $$net $$map $$sim $$cli"; \
		echo "$(CARGO) check -p bioxen --no-default-features --features \"$$features\""; \
		$(CARGO) check --quiet -p bioxen --no-default-features --features "$$features" || exit 1; \
	done; done; done; done; done; done; done

# The oldest Rust that Cargo.toml promises (rust-version), where rustup has it.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv: demo-packages
	@rustup toolchain list | grep -q '^$(MSRV)' || { \
		echo "Rust $(MSRV) is not here; install it with: rustup toolchain install $(MSRV)"; exit 1; }
	$(CARGO) +$(MSRV) check --workspace --all-features --target-dir target/msrv

# A project of somebody else, with one feature: what it gets is what we tested.
downstream: demo-packages
	@cp Cargo.lock tests/downstream/
	test "$$($(CARGO) run --quiet --manifest-path tests/downstream/Cargo.toml --target-dir target)" = 0.625

# Licences, advisories and sources of what we depend on.
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
		echo "cargo-deny is not here; install it with: cargo install --locked cargo-deny"; exit 1; }
	$(CARGO) deny check

# What would be published, crate by crate.
package:
	$(CARGO) package --workspace --no-verify --allow-dirty

# cargo-nextest where it is installed (CI); otherwise the same tests under cargo's own runner. Some tests
# wait, so one more than there are processors runs at once.
nextest: demo-packages test-packages test-tools data
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --workspace --all-features --test-threads $$(($$(nproc) + 1)); \
	else \
		set -x; $(CARGO) test --workspace --all-features --lib --bins --tests; \
	fi

# Two and eight guests in a ring, for a minute each, while their connections are lost.
test-ring: demo-packages
	$(CARGO) test --all-features --test messaging -- --ignored --nocapture --test-threads 1

# Writes down what the program prints and which crates each feature brings along, to be looked at before
# it is committed.
golden:
	BIOXEN_BLESS=1 $(CARGO) test --features full --test golden --test tidy

# nextest runs no doctests.
doctest: demo-packages
	$(CARGO) test --quiet --workspace --all-features --doc

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --workspace --all-features --no-deps

# Writes the generated part of xapi-client anew from its schema.
codegen:
	$(CARGO) run --quiet -p xapi-codegen

# Fails, and names the file, when the committed generated code is not what the schema gives.
codegen-check:
	$(CARGO) run --quiet -p xapi-codegen -- --check

# What of XAPI's datamodel xapi-client holds, and why the rest is left out.
coverage:
	@$(CARGO) run --quiet -p xapi-codegen -- coverage

# Every bench of this repository beside its peers, written to docs/performance.md; some 20 minutes with
# the build, on a machine that does nothing else.
bench: demo-packages test-packages test-tools data bench-peers
	.ci/bench

# The Lua rocks beside Biopython.
bench-rocks: demo-packages test-packages test-tools data
	target/venv/bin/python rocks/bench/bench.py target/data/lambda_virus.fa target/data/reads_1.fq

bench-peers: target/venv/.peers target/peers/.ready
target/venv/.peers: target/venv/.ready
	target/venv/bin/pip install --quiet --disable-pip-version-check \
		'pylua-bioxen-vm-lib==0.1.18' lupa asyncssh paramiko
	@touch $@

target/peers/.ready:
	@mkdir -p target/peers
	@if command -v npm >/dev/null; then \
		npm install --silent --no-audit --no-fund --prefix target/peers 'xen-api@4.7.6'; \
	else \
		echo "npm is not installed: the benchmark leaves the npm package xen-api out"; \
	fi
	@touch $@

# This project's rocks, checked by `luarocks lint` and packed into a directory to install from.
rocks: demo-packages
	@for rockspec in rocks/*/*.rockspec; do \
		luarocks --lua-version 5.4 lint "$$rockspec" || exit 1; \
	done
	$(CARGO) run --quiet --features cli --bin bioxen -- \
		pkg publish rocks/bio_compute rocks/bio_sequence_analysis --into target/rocks

demo-packages:
	@.ci/packages $(BUILD_PACKAGES) $(GUEST_PACKAGES)

test-packages:
	@.ci/packages $(TEST_PACKAGES)
	@.ci/packages lua5.2 || echo "the rocks are not tested with Lua 5.2, which is not packaged here"

# The official Python client of XAPI, which a test drives the simulator with, and what the rocks
# are compared with: Biopython, with the files of its own tests, and gffutils.
test-tools: target/venv/.ready target/biopython/.ready target/venv/.gffutils
target/venv/.ready:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/packages python3-venv
	$(PYTHON) -m venv target/venv
	target/venv/bin/pip install --quiet --disable-pip-version-check 'XenAPI==26.21.1'
	@touch $@

target/biopython/.ready: target/venv/.ready
	@.ci/biopython target/venv target/biopython
	@touch $@

target/venv/.gffutils: target/venv/.ready
	target/venv/bin/python -m pip install --quiet --disable-pip-version-check 'gffutils==0.14'
	@touch $@

# The genome of phage lambda and reads of it, taken out of the Debian package that carries them.
data: target/data/longreads.fq
target/data/longreads.fq:
	@.ci/lambda target/data

clean:
	$(CARGO) clean
