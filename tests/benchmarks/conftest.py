from tests.helpers.threads import one_thread  # noqa: F401  (a fixture of the whole package)
