# `make demo` on a fresh Debian needs nothing but Git and Python: each target sets up what it lacks.

PYTHON ?= python3

.PHONY: demo setup agent test test-long test-kvm bench lint format wheel lock clean

demo:
	@$(PYTHON) tools/setup.py run
	@.venv/bin/attest run examples/web/test.toml

setup:
	@$(PYTHON) tools/setup.py test

agent: setup
	@.venv/bin/python tools/build_programs.py

# A file's tests stay together, as they share machines.
test: lint setup
	@.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TESTS)

# The tests that take too long for every change. ARGS are pytest's.
test-long: setup
	@.venv/bin/python -m pytest -m long $(ARGS)

# With KVM: on this host where it works, else in a nested machine. ARGS are pytest's.
test-kvm: setup
	@.venv/bin/python tools/kvm_lab.py build/kvm $(ARGS)

# What attest saves on three workloads. ARGS are those of `python -m bench`.
bench: setup
	@PYTHONPATH=tools .venv/bin/python -m bench $(ARGS)

lint:
	@$(PYTHON) tools/setup.py lint
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

format:
	@$(PYTHON) tools/setup.py lint
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

wheel:
	@$(PYTHON) tools/setup.py lint
	.venv/bin/python -m build

# Needs uv. The lock files hold for every Python that attest supports.
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links --upgrade
lock:
	$(LOCK) pyproject.toml -o requirements/run.txt
	$(LOCK) requirements/build.in -c requirements/run.txt -o requirements/build.txt
	$(LOCK) pyproject.toml --extra dev -c requirements/build.txt -o requirements/dev.txt
	$(LOCK) requirements/check.in -c requirements/dev.txt -o requirements/check.txt
	$(LOCK) pyproject.toml requirements/kvm.in -c requirements/dev.txt -o requirements/kvm.txt

clean:
	rm -rf .venv build dist agent/build uffd/build src/attest/guest/agent/bin src/attest/vmm/firecracker/bin
