"""A plugin that needs what is not installed."""

import a_module_that_nobody_has  # noqa: F401 - this is what is wrong with it


class Lost:
    pass
