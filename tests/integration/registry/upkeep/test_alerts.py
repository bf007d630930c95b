"""The example alert rules, as Prometheus itself reads them: each fires when it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

RULES = Path(__file__).parents[4] / "examples" / "monitoring" / "alerts.yml"

# What each alert watches, minute by minute: first well, then not.
WELL_AND_BAD: dict[str, list[tuple[str, str, str]]] = {
    "VistaflowStorageFull": [("vistaflow_storage_full", "0x30", "1x30")],
    "VistaflowDiskLow": [
        ("vistaflow_disk_free_bytes", "50x30", "9x30"),
        ("vistaflow_disk_size_bytes", "100x30", "100x30"),
    ],
    "VistaflowAppendsSlow": [
        ('vistaflow_commit_seconds_bucket{le="0.25"}', "0+100x30", "0+90x30"),
        ('vistaflow_commit_seconds_bucket{le="0.5"}', "0+100x30", "0+100x30"),
        ('vistaflow_commit_seconds_bucket{le="+Inf"}', "0+100x30", "0+100x30"),
    ],
    "VistaflowQueueGrows": [("vistaflow_ledger_queue", "10x30", "6000x30")],
    "VistaflowWatchesLag": [("vistaflow_watch_lag_rows_max", "0x30", "30000x30")],
    "VistaflowRowsReachWatchesLate": [("vistaflow_watch_lag_seconds_p99", "2x30", "15x30")],
    "VistaflowLeasesExpire": [("vistaflow_lease_expiries_total", "0x30", "0+2x30")],
    "VistaflowStaleAttempts": [
        ('vistaflow_verdicts_total{verdict="STALE_ATTEMPT"}', "0x30", "0+90x30")
    ],
    "VistaflowJobsWait": [
        ('vistaflow_jobs_queued{job_type="DOE"}', "3x30", "3x30"),
        ("vistaflow_leases", "2x30", "0x30"),
    ],
    "VistaflowPoolExhausted": [
        ("vistaflow_pool_waiting", "0x30", "4x30"),
        ("vistaflow_pool_size", "10x30", "10x30"),
        ("vistaflow_pool_max", "10x30", "10x30"),
    ],
    "VistaflowConnectionsShort": [
        ("vistaflow_database_connections", "10x30", "90x30"),
        ("vistaflow_database_connections_max", "100x30", "100x30"),
    ],
    "VistaflowOldTransaction": [
        ("vistaflow_database_oldest_transaction_seconds", "1x30", "1x10 1000x20"),
        ("vistaflow_database_oldest_xmin_age", "1x30", "1x30"),
    ],
    "VistaflowEventLoopBlocked": [("vistaflow_event_loop_lag_seconds", "0x30", "1.5x30")],
    "VistaflowInternalErrors": [
        (
            'grpc_server_call_duration_seconds_count{grpc_status="INTERNAL",grpc_method="a/B"}',
            "0x30",
            "0+1x30",
        )
    ],
}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; it comes with Debian's `prometheus`")
    return found


def rules() -> list[dict[str, object]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_prometheus_takes_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_each_alert_fires_when_it_should_and_not_before(promtool: str, tmp_path: Path) -> None:
    assert {str(rule["alert"]) for rule in rules()} == set(WELL_AND_BAD)
    shutil.copy(RULES, tmp_path / "alerts.yml")
    cases = []
    for alert, series in WELL_AND_BAD.items():
        for bad in (False, True):
            values = [
                {"series": name, "values": sick if bad else well} for name, well, sick in series
            ]
            # promtool compares labels and texts of what fires; here it matters only whether.
            expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
            cases.append(
                {
                    "name": f"{alert} {'bad' if bad else 'well'}",
                    "interval": "1m",
                    "input_series": values,
                    "promql_expr_test": [
                        {
                            "expr": expression,
                            "eval_time": "29m",
                            "exp_samples": [{"labels": "{}", "value": int(bad)}],
                        }
                    ],
                }
            )
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": cases}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
