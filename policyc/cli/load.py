"""`policyc load`."""

from __future__ import annotations

import click

from policyc.artifact import reader
from policyc.cli.output import document, format_option, plain
from policyc.cli.progress import Progress


@click.command()
@click.argument("artifact", metavar="X.o", type=click.Path(readable=False))
@click.option("--name", required=True, help="What the load is called; a load of that name is replaced.")
@click.option("--endpoints", "endpoints_file", type=click.Path(readable=False), help="Endpoints file, YAML or JSON.")
@click.option(
    "--attach",
    "specs",
    multiple=True,
    metavar="SPEC",
    help="workload:IF[+xdp]=ENDPOINT, cgroup:PATH=ENDPOINT or uplink:IF[+xdp]; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Have the kernel verify the programs, attach nothing.")
@click.option("--audit", is_flag=True, help="Deny nothing, report what would be denied.")
@click.option(
    "--events",
    type=click.Choice(["none", "denied", "all"]),
    default="denied",
    show_default=True,
    help="What is reported besides what rules log.",
)
@click.option(
    "--l7-deny",
    is_flag=True,
    help="Accept endpoints bound by interface only whose requests rules judge: nobody sees them, these connections are denied.",
)
@format_option
def command(
    artifact: str,
    name: str,
    endpoints_file: str | None,
    specs: tuple[str, ...],
    dry_run: bool,
    audit: bool,
    events: str,
    l7_deny: bool,
    format_: str,
) -> int:
    """Load an object, attach it and enforce it. A load of the same name is replaced in one step; without --endpoints
    or --attach it keeps those it has."""
    import gc

    from policyc.runtime.load import Options, load
    from policyc.runtime.names import check_name
    from policyc.runtime.points import parse_spec

    check_name(name)
    read = reader.read(artifact)
    gc.freeze()  # it stays to the end: looking for cycles in it takes seconds where there are 100,000 rules
    options = Options(
        specs=[parse_spec(s) for s in specs] if specs else None,
        events=events,
        audit=audit,
        l7_deny=l7_deny,
        dry_run=dry_run,
    )
    if endpoints_file is not None:
        from policyc.endpoints import load_or_raise

        file = load_or_raise(endpoints_file)
        options.endpoints, options.host = file.endpoints, file.host
    with Progress() as progress:
        options.progress = progress.step
        report = load(read, name, options)
    if format_ == "json":
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(report).items() if k != "name"}
        document("policyc-load", load=name, **fields)
        return 0
    done = "verified, nothing attached" if dry_run else "replaced" if report.replaced else "loaded"
    click.echo(f"{name}: {done}: {report.endpoints} endpoints, {report.addresses} addresses, {report.seconds:.2f} s")
    for point in report.points:
        click.echo(f"  {plain(point)}")
    for warning in report.warnings:
        click.echo(f"warning: {plain(warning)}", err=True)
    return 0
