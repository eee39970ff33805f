"""Tasks that are not what the contract asks for, each in its own way."""

from attnbench import Form, Options


class Good:
    def __init__(self, options):
        self.form = Form(length=8, vocabulary=4, answer="tokens", outputs=4)

    def examples(self, split, count, generator):
        raise NotImplementedError


def a_function(options):
    return Good(options)


class OwnHeads(Good):
    class Options(Options):
        heads: int = 8
        preset: str = "mine"
        depth: int = 3


class OptionNotScalar(Good):
    class Options(Options):
        sizes: tuple[int, ...] = (1, 2)


class OptionNotDerived(Good):
    class Options:
        size: int = 3


class OptionWithoutDefault(Good):
    class Options(Options):
        size: int


class PresetUnknownOption(Good):
    presets = {"tiny": {"stepz": 10}}  # noqa: RUF012 - the shortest way to write presets


class PresetWrongValue(Good):
    presets = {"tiny": {}, "huge": {"steps": "many"}}  # noqa: RUF012 - the same


class PresetsEmpty(Good):
    presets = {}  # noqa: RUF012 - the same


class PresetsNumbered(Good):
    presets = {1: {}}  # noqa: RUF012 - the same


class NoForm(Good):
    def __init__(self, options):
        pass


class NoExamples(Good):
    examples = None


class FormOfAnotherAnswer(Good):
    def __init__(self, options):
        self.form = Form(length=8, vocabulary=4, answer="label", outputs=4)


class FormWithoutLength(Good):
    def __init__(self, options):
        self.form = Form(length=0, vocabulary=4, answer="tokens", outputs=4)


class FormWithoutInputs(Good):
    def __init__(self, options):
        self.form = Form(length=8, answer="class", outputs=4)


class FormWithoutClasses(Good):
    def __init__(self, options):
        self.form = Form(length=8, vocabulary=4, answer="class")


class FormOfManyNumbers(Good):
    def __init__(self, options):
        self.form = Form(length=8, features=4, answer="number", outputs=4)


class Breaks(Good):
    def __init__(self, options):
        raise KeyError("a table that is not there")


class Exits(Good):
    def __init__(self, options):
        raise SystemExit(3)
