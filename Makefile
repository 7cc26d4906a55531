# keras_lsh: everyday commands. `make help` lists them.
#
# What they install goes into a virtual environment of their own (.venv) and nowhere
# else; stamp files in it make the second run quick.

PYTHON ?= python3
VENV ?= .venv
TENSORFLOW ?= tensorflow>=2.21,<2.22
JOBS ?= 2

DATA ?= rectangles
TFDS_DIR ?=
DATA_DIR ?=
QUICK ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/sh
export TF_CPP_MIN_LOG_LEVEL ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
CORE := $(wildcard custom_ops/core/*.cc)
CORE_TESTS := $(wildcard custom_ops/core/tests/*_test.cc)
OPS_SOURCES := $(wildcard $(foreach dir,core kernels ops,$(foreach suffix,cc h inc,\
  custom_ops/$(dir)/*.$(suffix))))
CPP_FILES := $(OPS_SOURCES) \
  $(wildcard custom_ops/core/tests/*.cc custom_ops/core/tests/*.h tools/*.cc)

.PHONY: help
help:  ## this list
	@echo "usage: make TARGET [VARIABLE=value ...]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | \
	  awk -F'\t' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo "variables: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS)" \
	  "TENSORFLOW=\"$(TENSORFLOW)\" CXX=$(CXX)"

# ---- The virtual environment -------------------------------------------------------

$(VENV)/.created: tools/make_venv.sh
	@echo "Making the virtual environment $(VENV)"
	@tools/make_venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

$(VENV)/.tensorflow: $(VENV)/.created
	@echo "Installing TensorFlow in $(VENV) (the first time, a download of 600 MB)"
	@$(PIP) install "setuptools>=70.1" "$(TENSORFLOW)"
	@touch $@

# The package itself is installed in place (editable): the library is rebuilt when its
# C++ has changed, the package reinstalled when its metadata has.
LIBRARY := build/ops/.library
$(LIBRARY): $(OPS_SOURCES) setup.py $(VENV)/.tensorflow
	@echo "Compiling the ops (about a minute the first time)"
	@$(BIN)/python -W ignore setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.demo: setup.py pyproject.toml $(VENV)/.tensorflow | $(LIBRARY)
	@echo "Installing keras_lsh in $(VENV)"
	@$(PIP) install --no-build-isolation --editable ".[datasets,plot]"
	@touch $@

$(VENV)/.test: setup.py pyproject.toml $(VENV)/.tensorflow | $(LIBRARY)
	@echo "Installing keras_lsh and what its tests need in $(VENV)"
	@$(PIP) install --no-build-isolation --editable ".[test]"
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: $(VENV)/.test
	@echo "Installing the development tools in $(VENV)"
	@$(PIP) install --no-build-isolation --editable ".[test,dev]"
	@touch $@

.PHONY: install
install: $(VENV)/.demo $(LIBRARY)  ## a virtual environment with the package in place

# ---- The main job ------------------------------------------------------------------

.PHONY: demo
demo: install  ## train Dense and LSHDense, compare, export [DATA= TFDS_DIR= QUICK=1]
	$(BIN)/python examples/demo.py --data $(DATA) \
	  $(if $(TFDS_DIR),--tfds-dir "$(TFDS_DIR)") $(if $(filter-out 0,$(QUICK)),--quick)

.PHONY: bench
bench: install  ## every benchmark, as JSON rows
	$(BIN)/python benchmarks/layer_step.py
	$(BIN)/python benchmarks/wide_layer_step.py
	$(BIN)/python benchmarks/extreme_step.py
	$(BIN)/python benchmarks/top_k.py
	$(BIN)/python benchmarks/op_limits.py

EXPERIMENT ?= within_a_point

.PHONY: accuracy
accuracy: install  ## an experiment of benchmarks/accuracy [EXPERIMENT= DATA_DIR= QUICK=1 ARGS=]
	$(BIN)/python benchmarks/accuracy/$(EXPERIMENT).py \
	  $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

# ---- Tests -------------------------------------------------------------------------

.PHONY: test
test: core-test pytest  ## every test: the C++ core's, then Python's

.PHONY: pytest
pytest: $(VENV)/.test $(LIBRARY)  ## the Python tests [ARGS="-k name"]
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# The core is plain C++: a compiler is all its tests need. Every test runs at every SIMD
# level that the machine has.
CORE_FLAGS := -std=c++17 -ffp-contract=off -pthread -Wall -Wextra -Werror -I .
core_dir := build/core
core_flags := $(CORE_FLAGS) -O3
sanitize_dir := build/sanitize
sanitize_flags := $(CORE_FLAGS) -O1 -g -fno-omit-frame-pointer \
  -fsanitize=address,undefined -fno-sanitize-recover=all

# $(call core_rules,NAME): how to build, from $(NAME_flags) in $(NAME_dir), the tests.
define core_rules
$(1)_tests := $$(patsubst custom_ops/core/tests/%.cc,$$($(1)_dir)/%,$$(CORE_TESTS))
$(1)_objects := $$(patsubst %.cc,$$($(1)_dir)/%.o,$$(CORE))
$$($(1)_dir)/%.o: %.cc Makefile
	@mkdir -p $$(@D)
	$$(CXX) $$($(1)_flags) $$(CXXFLAGS) -MMD -MP -c $$< -o $$@
$$($(1)_dir)/%_test: $$($(1)_dir)/custom_ops/core/tests/%_test.o $$($(1)_objects)
	$$(CXX) $$($(1)_flags) $$^ $$(LDFLAGS) -o $$@
$$($(1)_dir)/simd_levels: $$($(1)_dir)/tools/simd_levels.o $$($(1)_objects)
	$$(CXX) $$($(1)_flags) $$^ $$(LDFLAGS) -o $$@
.SECONDARY: $$(CORE_TESTS:%.cc=$$($(1)_dir)/%.o) $$($(1)_dir)/tools/simd_levels.o
.PHONY: $(1)-binaries
$(1)-binaries: $$($(1)_tests) $$($(1)_dir)/simd_levels
	@:
-include $$($(1)_objects:.o=.d) $$($(1)_dir)/tools/simd_levels.d \
  $$(CORE_TESTS:%.cc=$$($(1)_dir)/%.d)
endef
$(eval $(call core_rules,core))
$(eval $(call core_rules,sanitize))

run_core_tests = levels=$$($(1)/simd_levels) || exit 1; \
  for level in $$levels; do \
    for test in $(2); do \
      echo "KERAS_LSH_SIMD=$$level $$test"; \
      KERAS_LSH_SIMD=$$level $$test || exit 1; \
    done; \
  done

.PHONY: core-test
core-test:  ## the C++ core's tests alone: needs only g++ and make
	@$(MAKE) --no-print-directory -j$(JOBS) core-binaries
	@$(call run_core_tests,$(core_dir),$(core_tests))

.PHONY: sanitize
sanitize:  ## the C++ core's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) sanitize-binaries
	@$(call run_core_tests,$(sanitize_dir),$(sanitize_tests))

# ---- Code style --------------------------------------------------------------------

.PHONY: lint
lint: $(VENV)/.dev  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

.PHONY: format
format: $(VENV)/.dev  ## rewrite the sources in the style that lint asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

# ---- Packages ----------------------------------------------------------------------

.PHONY: wheel
wheel: $(VENV)/.dev  ## a manylinux wheel in dist/, tried in a fresh environment
	rm -rf build/wheel dist
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair \
	  --exclude libtensorflow_framework.so.2 --wheel-dir dist build/wheel/*.whl
	tools/make_venv.sh "$(PYTHON)" build/wheel/venv
	build/wheel/venv/bin/python -m pip --quiet install dist/*.whl
	cd build/wheel && venv/bin/python -I ../../tools/smoke_test.py
	rm -rf build/wheel
	@ls -l dist

# ---- Bazel -------------------------------------------------------------------------

BAZEL ?= bazel

.PHONY: bazel
bazel: $(VENV)/.tensorflow  ## the op library and the core's tests, built by Bazel
	@command -v $(BAZEL) > /dev/null || { echo "error: there is no '$(BAZEL)'." \
	  "Debian has one: apt install bazel-bootstrap" >&2; exit 1; }
	KERAS_LSH_PYTHON="$(abspath $(BIN)/python)" $(BAZEL) test //...

.PHONY: clean
clean:  ## remove what was built; .venv stays
	rm -rf build dist *_output *_output_quick *.egg-info
	rm -f keras_lsh/ops/_keras_lsh_ops.so keras_lsh/ops/_build_info.json
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
