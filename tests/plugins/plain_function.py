"""The shortest plugin: a function."""


def first_value(q_BHTD, k_BHSD, v_BHSD):
    """Give every query the first value."""
    return v_BHSD[:, :, :1].expand_as(q_BHTD)
