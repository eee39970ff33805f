"""Metrics of a plugin author's own: one measured on the built mechanism, one derived from other figures."""


class OutputNorm:
    """The norm of the output over that of the values."""

    title = "norm of the output over that of the values"

    def measure(self, case, attention, q_BHTD, k_BGSD, v_BGSD):
        return float(attention(q_BHTD, k_BGSD, v_BGSD).norm() / v_BGSD.norm())


class TokensPerSecond:
    """Queries answered in a second."""

    title = "tokens per second"
    unit = "tokens/s"
    higher_is_better = True
    needs = ("latency",)

    def derive(self, case, figures):
        return case.shape.batch * case.shape.seq_q / figures["latency"]


# What is wrong with these, tests/flow/test_plugin_metrics.py says.


class NoMethod:
    """Neither measures nor derives."""


class NeedsUnknown:
    """Derived from a metric that does not exist."""

    needs = ("speed",)

    def derive(self, case, figures):
        return figures["speed"]


class latency(OutputNorm):  # noqa: N801 - the name is the point
    """Called like a metric of the harness."""


class BadTitle(OutputNorm):
    """Has a title that is no text."""

    title = 3


class Words:
    """Returns no number."""

    def measure(self, case, attention, *inputs):
        return "many"


class Raises:
    """Raises while it measures."""

    def measure(self, case, attention, *inputs):
        return 1 / 0


class Infinite:
    """Returns infinity."""

    def measure(self, case, attention, *inputs):
        return float("inf")


class NeedsEnergy:
    """Derived from energy, which a CPU does not report."""

    needs = ("energy",)

    def derive(self, case, figures):
        return figures["energy"]
