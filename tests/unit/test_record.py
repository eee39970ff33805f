import json
from typing import get_args

import msgspec
import pytest
from msgspec.structs import fields, replace

from attnbench.contracts.case import Case, Shape
from attnbench.contracts.metrics import METRICS, PRIMARY, Metric, ProbeKind
from attnbench.contracts.record import (
    SCHEMA,
    Environment,
    Job,
    Measurement,
    Origin,
    Outcome,
    Probe,
    Protocol,
    Record,
)

SHAPE = Shape(batch=1, heads=8, kv_heads=8, seq_q=512, seq_k=512, head_dim=64)
JOB = Job(
    case=Case(variant="vanilla", shape=SHAPE), probe=Probe(kind="latency"), protocol=Protocol(), target="module:Name"
)
OTHER_PROTOCOL = {
    "profile": "quick",
    "rounds": 1,
    "warmup_calls": 1,
    "warmup_s": 0.1,
    "min_samples": 1,
    "min_time_s": 0.1,
    "stop_noise": 0.1,
    "cap_s": 1.0,
    "timeout_s": 1.0,
    "hot": True,
    "threads": 2,
    "allocator": "retained",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"case": replace(JOB.case, seed=1)},
        {"probe": Probe(kind="memory")},
        {"probe": Probe(kind="latency", task="mqar")},
        {"origin": Origin(source_hash="edited")},
        {"round": 2},
    ],
)
def test_another_question_or_other_code_is_another_job(changes):
    assert replace(JOB, **changes).key != JOB.key


@pytest.mark.parametrize("name", [field.name for field in fields(Protocol)])
def test_another_protocol_is_another_job(name):
    assert replace(JOB, protocol=replace(JOB.protocol, **{name: OTHER_PROTOCOL[name]})).key != JOB.key


@pytest.mark.parametrize("changes", [{"attempt": 2}, {"target": "elsewhere:Name"}, {"task_target": "tasks:Task"}])
def test_a_retry_is_the_same_job_wherever_its_code_lies(changes):
    assert replace(JOB, **changes).key == JOB.key


def test_rounds_of_a_job_are_replicates_of_one_question():
    again = replace(JOB, round=2)
    assert again.question == JOB.question
    assert replace(again, origin=Origin(version="2")).question != JOB.question


def test_every_probe_of_the_harness_has_a_metric_that_stands_for_it_and_a_plugin_s_declares_its_own():
    assert {*PRIMARY, "metric"} == set(get_args(ProbeKind))
    assert Probe(kind="agreement").metric is METRICS["approximation_error"]
    assert all(metric.probe == kind for kind, metric in PRIMARY.items())
    declared = Metric(name="speed", title="speed")
    assert Probe(kind="metric", declared=declared).metric is declared


def test_fields_of_plugin_metrics_change_no_stored_job_and_no_key():
    assert b"declared" not in msgspec.json.encode(JOB)
    assert b"metric" not in msgspec.json.encode(JOB)
    other = replace(JOB, probe=Probe(kind="metric", declared=Metric(name="speed", title="speed")))
    renamed = replace(JOB, probe=Probe(kind="metric", declared=Metric(name="pace", title="speed")))
    assert len({JOB.key, other.key, renamed.key}) == 3


def test_an_origin_is_shown_as_its_distribution_or_its_path():
    assert str(Origin(distribution="attnbench", version="0.1.0", path="x")) == "attnbench 0.1.0"
    assert str(Origin(path="./mine.py")) == "./mine.py"


def test_an_environment_is_known_by_all_that_it_holds():
    plain = Environment(attnbench="0.1.0")
    others = [replace(plain, **{field.name: "x"}) for field in fields(Environment)]
    assert len({environment.key for environment in (plain, *others)}) == len(others) + 1


def test_a_record_travels_through_json_whole():
    measured = Measurement(metric="latency", unit="ns", values=(1, 2.5, None), flags=("few_samples",))
    record = Record(run="r", job=JOB, outcome=Outcome(status="ok", measurements=(measured,), facts={"n": None}))
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


def test_a_record_always_writes_its_schema_and_what_it_is():
    record = Record(run="r", job=JOB, outcome=Outcome(status="ok"))
    written = json.loads(msgspec.json.encode(record))
    assert (written["event"], written["schema"]) == ("record", SCHEMA)


def test_a_status_that_nobody_knows_is_refused_when_it_is_read():
    with pytest.raises(msgspec.ValidationError, match=r"'fine' - at `\$\.status`"):
        msgspec.json.decode('{"status":"fine"}', type=Outcome)
