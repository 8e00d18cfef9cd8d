"""Thousands of rules that match nothing of what is sent and that no pass can take away: every structure for large policies is then in use."""

from __future__ import annotations

from random import Random

ACTIONS = ("allow", "deny", "pass")


def behind_no_ops(r: Random, text: str) -> str:
    """The policy with such rules in all its sections and in policies of their own. Their addresses are 198.18.0.0/15 and 2001:2::/48
    (RFC 2544, 5180), their ports, protocols and labels nobody else's: send nothing of that kind."""
    lines = []
    sections = sum(line.startswith("  ") and line.endswith("{") for line in text.splitlines())
    number = 0
    for line in text.splitlines():
        lines.append(line)
        if line.startswith("  ") and line.endswith("{"):
            side = "from" if line.split()[0] == "ingress" else "to"
            for _ in range(3000 // sections):
                lines.append(_rule(r, side, number))
                number += 1
    for other in range(200):
        subject, side = f"{{ noise == s{other} }}", r.choice((("ingress", "from"), ("egress", "to")))
        body = "\n".join(_rule(r, side[1], other * 5 + n) for n in range(5))
        lines.append(f"policy noise{other} for {subject} {{\n  {side[0]} {{\n{body}\n  }}\n}}")
    return "\n".join(lines) + "\n"


def _rule(r: Random, side: str, number: int) -> str:
    prefix = r.choice(
        (f"198.{18 + (number >> 8 & 1)}.{number & 255}.{r.randrange(64) * 4}/30", f"2001:2:0:{number:x}::/64")
    )
    port = f"{r.choice(('tcp', 'udp', 'sctp'))}/{20000 + number}"
    peer, service = r.choice(
        (
            (prefix, f" on {port}"),
            (prefix, f" on tcp/{r.choice((80, 81, 443))}, udp"),
            (f"world({prefix})", ""),
            (f"{{ noise == v{number} }}", r.choice(("", f" on {port}"))),
            ("any", f" on {port}-{20000 + number + r.randrange(3)}"),
            (r.choice(("any", "world", "endpoints")), f" on proto {200 + number % 50}"),
        )
    )
    return f"    {r.choice(ACTIONS)} {side} {peer}{service} priority {r.choice((5, 10, 50, 100, 150, 200, 300))}"
