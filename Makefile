# make demo: the whole idea on the embedded data set.  make test: every test but the slow ones, which make test-slow runs,
# where it also draws other examples of every property than make test, which has the same each time.
# Each makes .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
DEMO := runs/demo

.PHONY: demo test test-slow test-lowest mutants fingerprint pages bench lint format notebooks clean

# Tests and committed notebooks run on one thread: equal threads give equal results, and two workers share two cores.
test test-slow test-lowest mutants fingerprint notebooks: export OMP_NUM_THREADS := 1

# Of the environment $(1).
pytest = $(1)/bin/python -m pytest -n 2 --dist loadfile -m 'not slow'
nbval = $(1)/bin/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=300 \
	    --nbval-sanitize-with tests/nbval.cfg notebooks

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[notebooks,dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python -m csnb demo $(DEMO)

test: $(VENV)/.ready lint
	$(call pytest,$(VENV))
	$(call nbval,$(VENV))

test-slow: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[cluster]'
	$(BIN)/python -m pytest -m 'slow or hypothesis' --hypothesis-profile explore

# The lowest version of each package that pyproject.toml names; what those need in turn, as new as they take it.
$(LOWEST)/.ready: pyproject.toml $(VENV)/.ready
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[notebooks,dev]'
	touch $@

# make test in that environment; several GB, for uv takes torch's CUDA build.
test-lowest: $(LOWEST)/.ready
	$(call pytest,$(LOWEST))
	$(call nbval,$(LOWEST))

# Which small mistakes would no test notice? An hour or more; what is known of them: tests/mutants.md.
mutants: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[mutants]'
	$(BIN)/python benchmarks/mutants.py run
	$(BIN)/python benchmarks/mutants.py results

lint: $(VENV)/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.ready
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# After NUMERICS was raised: the numbers that tests hold csnb to are those of now.
fingerprint: $(VENV)/.ready
	$(BIN)/python tests/test_fingerprint.py

# What runs show, as README and REPRODUCTION.md say it; make pages RUNS=FOLDER takes a folder's finished runs over first.
pages: $(VENV)/.ready
	$(BIN)/python -m csnb.pages $(RUNS)

bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[audit]'
	$(BIN)/python -m pip install --quiet --no-deps torchattacks  # it pins a requests of 2021, which JupyterLab cannot use
	$(BIN)/python benchmarks/bench.py

notebooks: $(VENV)/.ready
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace $(wildcard notebooks/*.ipynb)
	$(BIN)/nbstripout --keep-output --keep-count --extra-keys \
	    "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.widgets metadata.language_info.version" \
	    $(wildcard notebooks/*.ipynb)

clean:
	rm -rf $(VENV) $(LOWEST) runs
