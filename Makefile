# Two commands do everything on a fresh machine: `make demo` and `make test`. Both can be repeated.
.PHONY: setup demo test clean

setup:
	@scripts/setup.sh

demo: setup
	@.venv/bin/fedward demo $(ARGS)

test: setup
	@scripts/check.sh $(ARGS)

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
