"""The coordinator: admits, adds and stores encrypted updates; holds no key and no model."""
