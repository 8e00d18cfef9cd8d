"""`policyc init`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from policyc.cli.output import plain
from policyc.diagnostics import OperationError

POLICY = """\
# Who may talk to whom. Check it: policyc check policy.pol; run its tests: policyc test policy.pol
language 1

identity web { app == web }
identity db { app == db }

policy web for web {
  ingress {
    allow from any on tcp/80, tcp/443
    allow from any on icmp/echo-request, icmpv6/echo-request
  }
}

policy db for db {
  ingress { allow from web on tcp/5432 }
  egress {}
}

test "only the web server reaches the database" {
  allow 203.0.113.7, 2001:db8::7 -> web tcp/443
  allow web -> db tcp/5432
  deny 203.0.113.7 -> db tcp/5432
  deny db -> 203.0.113.7 tcp/443
}
"""
ENDPOINTS = """\
# The workloads. `interface` or `cgroup` tells `policyc load` where each is attached.
version: 1
endpoints:
  - name: web-1
    addresses: [10.0.0.10, "2001:db8:1::10"]
    labels: {app: web}
  - name: db-1
    addresses: [10.0.0.20, "2001:db8:1::20"]
    labels: {app: db}
"""
FLOWS = """\
{"src": "203.0.113.7", "dst": "web-1", "proto": "tcp", "dport": 443}
{"src": "web-1", "dst": "db-1", "proto": "tcp", "dport": 5432}
{"src": "203.0.113.7", "dst": "db-1", "proto": "tcp", "dport": 5432}
{"src": "db-1", "dst": "2001:db8::7", "proto": "udp", "dport": 53}
"""
FILES = {"policy.pol": POLICY, "endpoints.yaml": ENDPOINTS, "flows.jsonl": FLOWS}


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(readable=False, path_type=Path))
def command(folder: Path) -> None:
    """Write a small policy, endpoints and flows to start from into DIR (this folder). Never overwrites a file."""
    try:
        taken = [name for name in FILES if os.path.lexists(folder / name)]
        if taken:
            raise OperationError(
                f"{', '.join(plain(str(folder / name)) for name in taken)} {'are' if len(taken) > 1 else 'is'} already there",
                "give another folder: `policyc init DIR`",
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a folder name"
        raise OperationError(f"{plain(str(folder))} cannot be written to: {reason}") from None
    for name in FILES:
        click.echo(f"wrote {plain(str(folder / name))}")
    prefix = "" if folder == Path() else f"{plain(str(folder))}/"
    click.echo(f"next: policyc test {prefix}policy.pol")
    click.echo(f"      policyc eval {prefix}policy.pol --endpoints {prefix}endpoints.yaml --flows {prefix}flows.jsonl")
