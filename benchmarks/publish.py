"""What is made of a document of figures: a table, a plot, and the marked parts of README.md and docs/performance.md.

`python -m benchmarks.publish [FOLDER]` does it again from the results in the folder, without measuring.

A marked part stands between `<!-- bench:NAME -->` and `<!-- /bench -->`, and is replaced whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures as documents
from benchmarks.figures import Document, Figure, value_text

RESULTS = Path("benchmarks/results")
README, PAGE = Path("README.md"), Path("docs/performance.md")
PUBLISHED = Path("docs")  # where the committed plot and document are
JSON, TABLE, PLOT = "results.json", "table.md", "growth.svg"
COPIES = {JSON: "performance.json", PLOT: "performance.svg"}
SIZED = re.compile(r"^(?:(?P<who>.*), )?(?P<rules>[\d,]+) rules(?:, (?P<where>.*))?$")
# ns by number of rules: XDP, one constant packet that no rule matches; measured at another time with generated rules of this kind.
BPFILTER = ((1, 46), (100, 107), (1000, 1600), (5000, 8600))
MARKS = {True: "yes", False: "**no**", None: ""}


@dataclass(frozen=True)
class Row:
    """One line of the promise. `picks` says which figures belong to it; `note` what a reader must know."""

    what: str
    promised: str
    picks: Callable[[Figure], bool]
    note: str = ""


def promised(part: str, *words: str) -> Callable[[Figure], bool]:
    """Figures of the part with a target whose names have all words."""
    return lambda f: f.part == part and f.target is not None and all(word in f.name for word in words)


ROWS = [
    Row(
        "verdict for a new connection above a parse-only program: 1,000 rules, 10,000 endpoints, 100,000 CIDRs",
        "≤ 150 ns",
        promised("new"),
        "without connection-table lookup and insert, shown apart in docs/performance.md",
    ),
    Row("packet of an established connection, 1,000 live", "≤ 60 ns", promised("established", "1,000 live")),
    Row("the same, 64,000 live", "≤ 110 ns", promised("established", "64,000 live")),
    Row(
        "stateless policy of 1,000 address and port rules, XDP",
        "≤ 30 ns",
        promised("stateless"),
        "bpfilter: about 1,600 ns, quoted",
    ),
    Row("growth of the verdict from 10 to 100,000 rules", "≤ 2×", promised("growth")),
    Row("live frames, XDP, against nftables sets doing the same", "≥ 1.3× faster", promised("ratios", "nftables")),
    Row("live frames, XDP, against iptables with 1,000 rules", "≥ 20× faster", promised("ratios", "iptables-")),
    Row("one endpoint added or removed while loaded", "≤ 200 µs", promised("python", "endpoint")),
    Row("compile 1,000 rules", "≤ 4× an empty policy", promised("commands", "compile 1,000")),
    Row("compile 100,000 rules and 100,000 CIDRs", "≤ 60 s", promised("commands", "compile 100,000")),
    Row("… its memory", "≤ 2 GiB", promised("commands", "memory")),
    Row("load 1,000 rules", "≤ 0.3 s", promised("commands", "load 1,000")),
    Row("load 100,000 rules and 100,000 CIDRs", "≤ 5 s", promised("commands", "load 100,000")),
    Row("`policyc load` start-up, imports included", "≤ 0.4 s", promised("commands", "start-up")),
    Row("llvmlite in its process", "none", promised("commands", "llvmlite")),
    Row("`policyc check` of 1,000 rules", "≤ 6× `import lark, click`", promised("commands", "check 1,000")),
    Row("reference evaluator, 1,000 rules", "≥ 1,000 flows/s", promised("python", "reference evaluator")),
    Row("HTTP requests/s, 100 routes, wrk's head, against no policy", "≥ 0.95", promised("http", "wrk", "no policy")),
    Row("the same with an 800-byte head", "≥ 0.90", promised("http", "800-byte", "no policy")),
    Row("HTTP requests/s against Envoy with the same rules", "≥ 3.5×", promised("http", "requests/s", "/ Envoy")),
    Row("p99 at half of saturation against no policy", "≤ 1.15×", promised("http", "p99", "/ no policy")),
    Row("the same against Envoy", "≤ 0.35×", promised("http", "p99", "/ Envoy")),
    Row("HTTP connections/s against no policy", "≥ 0.85", promised("http", "connections/s")),
    Row("cost of a request, 1 → 1,000 routes", "≤ 1.10×", promised("http", "cost of a request")),
    Row("1 GiB download by sendfile against no policy", "≥ 0.95", promised("http", "download")),
    Row("1 GiB upload against no policy", "≥ 0.95", lambda f: f.target is not None and f.name.startswith("upload")),
    Row("1 GiB upload, judged where it leaves, against no policy", "≥ 0.85", promised("http", "egress upload")),
    Row("map memory of a judged connection", "≤ 1 KiB", promised("http", "map memory")),
    Row("compile 1,000 routes with globs", "≤ 3 s", promised("http", "compile")),
]
DETAILS = {
    "new": "New connections",
    "established": "Established connections",
    "stateless": "Stateless policies",
    "growth": "Growth",
    "shapes": "Other rule sets",
    "frames": "Live frames",
    "ratios": "Live frames, side by side",
    "http": "HTTP judged in the kernel",
    "commands": "Commands",
    "python": "In Python",
}


# --- tables -----------------------------------------------------------------------------------------------------------


def measured_on(document: Document) -> str:
    m = document.machine
    effort = " (quick run)" if document.quick else ""
    return (
        f"Measured {document.date[:10]}{effort} on {m['cpu']}, {m['cpus']} CPUs, {m['kernel']}, Python {m['python']};"
        " to repeat: `make bench`, as root."
    )


def contract(document: Document) -> str:
    """The promise, line by line."""
    lines = ["| what | measured | promised | met |", "|---|---|---|---|"]
    for row in ROWS:
        found = [f for f in document.figures if row.picks(f)]
        note = f" ({row.note})" if row.note else ""
        if not found:
            lines.append(f"| {row.what}{note} | not measured | {row.promised} | |")
            continue
        met = all(f.met for f in found)
        lines.append(f"| {row.what}{note} | {_values(found)} | {row.promised} | {MARKS[met]} |")
    return "\n".join(lines)


def _values(found: Sequence[Figure]) -> str:
    """All of them, each with what tells it from the others."""
    if len(found) == 1:
        return f"{value_text(found[0].value)} {found[0].unit}"
    labels = _labels([f.name for f in found])
    return ", ".join(f"{value_text(f.value)} {f.unit} {label}" for f, label in zip(found, labels, strict=True))


def _labels(names: Sequence[str]) -> list[str]:
    """What is left of names without the words that begin and end all of them."""
    words = [name.split() for name in names]
    begin = 0
    while all(len(w) > begin + 1 for w in words) and len({w[begin] for w in words}) == 1:
        begin += 1
    end = 0
    while all(len(w) > begin + end + 1 for w in words) and len({w[-1 - end] for w in words}) == 1:
        end += 1
    return [f"({' '.join(w[begin : len(w) - end]).strip('(),')})" for w in words]


def details(figures: Iterable[Figure]) -> str:
    lines = ["| figure | value | promised | met | |", "|---|---|---|---|---|"]
    for f in figures:
        target = (f.target or "").replace("<=", "≤").replace(">=", "≥")
        lines.append(f"| {f.name} | {value_text(f.value)} {f.unit} | {target} | {MARKS[f.met]} | {f.note} |")
    return "\n".join(lines)


def steps(figures: Iterable[Figure]) -> str:
    lines = ["| step | measured, ns | in the cost model, ns |", "|---|---|---|"]
    lines += [f"| {f.name} | {value_text(f.value)} | {f.note} |" for f in figures]
    return "\n".join(lines)


def table(document: Document) -> str:
    parts = [f"# Benchmarks\n\n{measured_on(document)}\n\n{contract(document)}"]
    for part, title in DETAILS.items():
        if found := document.part(part):
            parts.append(f"## {title}\n\n{details(found)}")
    if found := document.part("steps"):
        parts.append(f"## Steps\n\n{steps(found)}")
    return "\n\n".join(parts) + "\n"


# --- plot -------------------------------------------------------------------------------------------------------------


def curves(figures: Iterable[Figure]) -> dict[str, list[tuple[int, float]]]:
    """By who or where: (rules, value), for figures named `WHO, N rules` or `N rules, WHERE`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for f in figures:
        match = SIZED.match(f.name)
        if match is not None:
            curve = match["who"] or match["where"] or ""
            found.setdefault(curve, []).append((int(match["rules"].replace(",", "")), f.value))
    return found


def plot(document: Document, path: Path) -> None:
    """Growth: live frames beside the peers, and the verdict alone. The same document makes the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "policyc", "font.size": 9})
    from matplotlib import pyplot

    figure, (frames, verdict) = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for name, points in curves(document.part("frames")).items():
        ours = name.startswith("policyc")
        style = {"linewidth": 2.2, "marker": "o"} if ours else {"linewidth": 1.2, "marker": "s", "markersize": 4}
        if name == "harness":
            style = {"linestyle": ":", "color": "grey"}
        frames.plot(*zip(*points, strict=True), label="the harness alone" if name == "harness" else name, **style)
    frames.set(title="Live frames, all dropped", ylabel="ns a frame, sending and receiving included")
    for name, points in curves(f for f in document.part("growth") if f.unit == "ns").items():
        verdict.plot(*zip(*points, strict=True), label=f"policyc, {name}", linewidth=2.2, marker="o")
    verdict.plot(*zip(*BPFILTER, strict=True), "--", color="grey", marker="x", label="bpfilter, XDP (quoted)")
    verdict.set(title="The verdict alone, above parsing", ylabel="ns a packet")
    for axes in (frames, verdict):
        axes.set(xscale="log", yscale="log", xlabel="rules (an address and a port each)")
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


# --- files ------------------------------------------------------------------------------------------------------------


def results(document: Document, folder: Path) -> None:
    """Writes JSON, TABLE and, where there is something to plot, PLOT."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(document.json())
    (folder / TABLE).write_text(table(document))
    if document.part("frames") or document.part("growth"):
        plot(document, folder / PLOT)


def documentation(document: Document, folder: Path) -> None:
    """Brings README.md and docs/performance.md up to date from what `results` has written."""
    for name, copy in COPIES.items():
        (PUBLISHED / copy).write_bytes((folder / name).read_bytes())
    head = measured_on(document)
    replace_part(README, "contract", f"{contract(document)}\n\n{head}")
    replace_part(PAGE, "contract", f"{head}\n\n{contract(document)}")
    for part in DETAILS:
        replace_part(PAGE, part, details(document.part(part)))
    replace_part(PAGE, "steps", steps(document.part("steps")))


def replace_part(path: Path, name: str, text: str) -> None:
    """Raises ValueError where the page has no such part."""
    page = path.read_text()
    pattern = re.compile(rf"(<!-- bench:{re.escape(name)} -->\n).*?(<!-- /bench -->)", re.DOTALL)
    made, count = pattern.subn(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page)
    if count != 1:
        raise ValueError(f"{path} has {count} parts named {name}")
    path.write_text(made)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    document = documents.read(folder / JSON)
    results(document, folder)
    documentation(document, folder)


if __name__ == "__main__":
    main()
