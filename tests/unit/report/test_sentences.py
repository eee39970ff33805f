from attnbench.analysis.rows import rows
from attnbench.analysis.summary import summarised
from attnbench.report.axes import variant_labels
from attnbench.report.sentences import sentences
from unit.analysis.courses_planted import sweep
from unit.report.planted import job, memories, timing
from unit.report.scenarios import SCENARIOS


def told(found):
    return sentences(summarised(found), variant_labels({row.identity: row.case.options for row in found}))


def texts(found):
    return [each.text for each in told(found)]


def test_a_planted_win_is_stated_with_its_size_its_interval_and_where_it_holds():
    found = sweep({"slow": lambda n: 4.0 * n, "fast": float}, noise=0.0005)
    first = told(found)[0]
    assert (first.topic, first.claims) == ("Latency, forward", True)
    assert first.text.startswith("fast is the fastest from N = 512 to 4096: 4.00x [")
    assert "as fast as slow at 512" in first.text


def test_a_planted_tie_is_described_as_one_and_claims_nothing():
    first, *rest = told(sweep({"one": float, "other": float}, noise=0.001))
    assert first.text == "one and other are equally fast from N = 512 to 4096, within 1.0%"
    assert not any(each.claims for each in (first, *rest))


def test_noise_is_described_as_undecided_and_claims_nothing():
    first, *rest = told(sweep({"one": float, "other": lambda n: 1.03 * n}, noise=0.2))
    assert first.text == "not told apart, so nothing is decided: from N = 512 to 4096 (one, other)"
    assert not any(each.claims for each in (first, *rest))


def test_a_single_round_supports_no_claim_about_time_and_the_sentence_says_so():
    found = [*sweep({"slow": lambda n: 9.0 * n, "fast": float}, rounds=1)]
    (only,) = told(found)
    assert "One round cannot tell" in only.text
    assert not only.claims
    both = texts([*found, *rows([*memories("vanilla", (512,)), *memories("linformer", (512,))])])
    assert any("needs the least memory" in text for text in both)


def test_a_change_of_leader_is_described_by_lengths_and_as_a_crossing():
    found = texts(sweep({"square": lambda n: n * n / 1500, "straight": float}, noise=0.001))
    assert found[0].startswith("square is the fastest from N = 512 to 1024")
    assert found[1].startswith("straight is the fastest from N = 2048 to 4096")
    assert any(text.startswith("straight overtakes square at N = 1") for text in found)


def test_many_settings_are_counted_instead_of_described_one_by_one():
    found = told(rows(*SCENARIOS["masks"]()))
    assert found[0].text == "of 24 cells, flash is the fastest in 24"
    assert len(found) == 3


def test_settings_are_named_by_what_differs():
    found = texts(rows(*SCENARIOS["heads"]()))
    assert found[0].startswith("heads 4: flash is the fastest")
    assert not any("kv heads" in text for text in found)


def test_names_with_unprintable_characters_are_escaped_in_sentences():
    records = [timing(job(name, round=number), 1e-3) for name in ("\x1b[31mred", "a\nb") for number in (1, 2, 3)]
    assert all(text.isprintable() for text in texts(rows(records)))


def test_without_rows_there_are_no_sentences():
    assert told([]) == []
