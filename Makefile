# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# A step with 128,256 logits a token allocates and frees hundreds of megabytes. glibc returns each block to the kernel,
# which then clears it again: a third of the CPU time. These settings keep the memory (glibc only, ignored elsewhere).
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184

.PHONY: demo test lint types types-3.10 types-3.13 unit quick conformance docs site notebooks core findings package matrix unsloth pictures scale-out chat-layer llama-server python-engines bench clean

demo: $(VENV)/.demo
	$(BIN)/llama-padfix demo

test: lint types unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	test ! -x $(BIN)/lint-imports || $(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/codespell llama_padfix docs examples findings README.md CHANGELOG.md CONTRIBUTING.md NOTICE
	$(BIN)/python -m pytest tests/test_language.py

# Both ends of the supported Python versions, at the same time; docs/dependencies.md says how those between are checked.
types: $(VENV)/.test
	$(MAKE) --no-print-directory -j2 types-3.10 types-3.13

types-3.10 types-3.13: types-%: $(VENV)/.test
	$(BIN)/mypy --python-version $*

# Two workers with one thread each: torch's threads would compete with the other worker's.
unit: export OMP_NUM_THREADS := 1
unit: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The rooms that the others rest on, on another Python: make core PYTHON=python3.13 VENV=.venv-3.13
core: export OMP_NUM_THREADS := 1
core: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" \
		tests/tokens tests/chat tests/core tests/demo tests/test_declared.py tests/test_import.py

# The tests of one room without those that are marked slow: make quick ROOM=chat
ROOM ?= tokens
SEED ?= 0
quick: export OMP_NUM_THREADS := 1
quick: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" tests/$(ROOM)

# Rows of composed chat templates against what their composition says is trained: counts by construct, and the
# smallest failing example of each kind. make conformance ROWS=5000 SEED=1
conformance: ROWS = 100000
conformance: export OMP_NUM_THREADS := 1
conformance: $(VENV)/.test
	$(BIN)/python -m tests.conformance.grammar.run --rows $(ROWS) --seed $(SEED)

# The pages of the checks, from the catalog.
docs: $(VENV)/.test
	$(BIN)/python docs/generate.py

# The site in build/site, from the pages and the docstrings; a warning is an error, and so is a link that leads nowhere.
# It reads the package as text, so its environment has neither torch nor the package.
site: export NO_MKDOCS_2_WARNING := 1
site: $(VENV)-site/.installed
	$(VENV)-site/bin/python docs/site/stage.py build
	$(VENV)-site/bin/mkdocs build --strict --config-file build/mkdocs.yml
	! grep -rlE '<(script|img|link)[^>]+(src|href)="?(https?:)?//' build/site --include='*.html' # nothing from elsewhere
	@echo "Open build/site/index.html, or with search: $(PYTHON) -m http.server --directory build/site"

$(VENV)-site/.installed: docs/site/requirements.txt
	test -x $(VENV)-site/bin/python || $(PYTHON) -m venv $(VENV)-site
	$(VENV)-site/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --requirement $<
	touch $@

# The outputs of the notebooks, from a run: about 40 seconds of CPU time.
notebooks: $(VENV)/.test
	$(BIN)/python examples/notebooks/execute.py

# Every script of findings/, which installs what it shows; says which no longer holds. make findings ONLY='trl_*'
ONLY ?=
findings:
	$(PYTHON) findings/run.py $(ONLY)

# Builds sdist and wheel, checks both, and uses the wheel in an environment that has nothing else.
package: $(VENV)/.test
	$(BIN)/python tests/packaging/check.py

# The core of the suite on every supported set of versions: make matrix, or make matrix SETS='4.43 5.0'
SETS ?=
matrix:
	$(PYTHON) tests/matrix/run.py $(SETS)

# Unsloth has versions of its own, so an environment of its own.
unsloth: $(VENV)-unsloth/.installed
	PYTHONPATH=. $(VENV)-unsloth/bin/python -m pytest tests/unsloth

$(VENV)-unsloth/.installed: tests/unsloth/requirements.txt
	test -x $(VENV)-unsloth/bin/python || $(PYTHON) -m venv $(VENV)-unsloth
	$(VENV)-unsloth/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --requirement $<
	touch $@

# The processors that need torchvision. It lies in a layer over the environment of the tests and takes no torch along: what
# these processors use of it is Python, so that one wheel of 8 MB serves torch with and without CUDA.
pictures: export OMP_NUM_THREADS := 1
pictures: $(VENV)-pictures/.installed
	PYTHONPATH=. $(VENV)-pictures/bin/python -m pytest -p tests.support.torchvision_ops -rs \
		tests/encoding/test_media.py tests/training/test_pictures.py

PICTURES = "import pathlib, sys, sysconfig; folder = pathlib.Path(sysconfig.get_path('purelib')); \
	(folder / 'tests.pth').write_text(str(pathlib.Path(sys.argv[1]).resolve() / folder.relative_to(sys.prefix)))"
$(VENV)-pictures/.installed: $(VENV)/.test tests/support/torchvision.txt
	test -x $(VENV)-pictures/bin/python || $(BIN)/python -m venv --without-pip $(VENV)-pictures
	$(VENV)-pictures/bin/python -c $(PICTURES) $(VENV)
	$(PIP) --python $(VENV)-pictures/bin/python install --quiet --no-deps --requirement tests/support/torchvision.txt
	touch $@

# Ray and Spark (which needs Java 17 or newer) have an environment of their own.
scale-out: $(VENV)-scale-out/.installed
	$(VENV)-scale-out/bin/python -m pytest tests/scale_out -rs

$(VENV)-scale-out/.installed: tests/scale_out/requirements.txt pyproject.toml constraints.txt
	test -x $(VENV)-scale-out/bin/python || $(PYTHON) -m venv $(VENV)-scale-out
	$(VENV)-scale-out/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		--editable . --requirement $<
	touch $@

# llama-server's compiled chat layer, which the rules of llama.cpp are recorded from; needs g++ and some minutes.
chat-layer: $(VENV)/.test
	$(BIN)/python tests/serving/compiled/build.py $(VENV)/chat-layer
	$(BIN)/python -m tests.serving.record_llama_cpp $(VENV)/chat-layer/layer

# A real llama-server for tests/serving/test_llama_server.py; needs cmake, g++ and 5 to 20 minutes.
llama-server: $(VENV)/.test
	$(BIN)/python -m tests.serving.compiled.build_server $(VENV)/llama-server
	LLAMA_PADFIX_LLAMA_SERVER=$(VENV)/llama-server/build/bin/llama-server $(BIN)/python -m pytest tests/serving/test_llama_server.py

# vLLM's, SGLang's and mlx-lm's own code from a request to a prompt, which their rules are recorded from; 400 MB.
python-engines: $(VENV)/.test
	$(BIN)/python -m tests.serving.record_python $(VENV)/python-engines

# Other libraries on the same data; a quick look: make bench ROWS=500 ROUNDS=1. WRITE=--write fills docs/performance.md.
ROWS ?= 20000
ROUNDS ?= 5
WRITE ?=
bench:
	$(PYTHON) benchmarks/throughput/run.py --rows $(ROWS) --rounds $(ROUNDS) $(WRITE)

# Every install goes through the constraints, so that two machines test the same thing.
$(VENV)/.demo: pyproject.toml constraints.txt
	@echo "Installing what the demo needs into $(VENV): some minutes, once. The demo then takes 70 to 105 seconds."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	@echo "Installing what the tests need into $(VENV): some minutes, once. make test then takes 15 to 17 minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-unsloth $(VENV)-pictures $(VENV)-scale-out $(VENV)-bench $(VENV)-site .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist out
