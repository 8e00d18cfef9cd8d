"""What entries ask besides method and path: hosts, headers, queries, and the spellings by which two readers take them differently."""

from __future__ import annotations

from tests.l7.corpus.case import Case, Outcome, allow, by_entry, case, no_entry, request


def with_host(value: str, expected: Outcome) -> Case:
    return case(f"host condition: {value}", "RFC 9110 7.2", request("GET /shop", host=f"Host: {value}\r\n"), expected)


def page(query: str, expected: Outcome) -> Case:
    return case(f"query condition: {query}", "split at &, decoded", request(f"GET /page{query}"), expected)


SHOP, ROLE, PLAIN = allow("GET /shop"), allow("GET /role"), allow("GET /plain")
CASES = [
    *(with_host(v, SHOP) for v in ("shop.example", "SHOP.Example", "shop.example:8080", "shop.example.", "shop.example.:80", "shop.example:", "a.shop.example")),
    *(with_host(v, no_entry()) for v in ("api", "shop.example.org", "a.b.shop.example", ".shop.example", "xshop.example", "shop.example..", "[fd00::1]")),
    case("host condition: no host in 1.0", "RFC 9112 3.2", request("GET /shop HTTP/1.0", host=""), no_entry()),
    case("host condition: x-forwarded-host", "another name", request("GET /shop", "X-Forwarded-Host: shop.example"), no_entry()),
    case("header condition", "RFC 9110 5.1", request("GET /role", "x-role: reader"), ROLE),
    case("header condition: blanks around", "RFC 9110 5.5", request("GET /role", "X-Role: \t reader \t "), ROLE),
    case("header condition: none", "an entry's condition", request("GET /role"), no_entry()),
    case("header condition: another value", "an entry's condition", request("GET /role", "X-Role: Reader"), no_entry()),
    case("header condition: a value that goes on", "prefix of a value", request("GET /role", "X-Role: reader2"), no_entry()),
    case("header condition: twice the same", "all lines", request("GET /role", "X-Role: reader", "X-Role: reader"), ROLE),
    case("header condition: two values", "first or last line", request("GET /role", "X-Role: reader", "X-Role: admin"), no_entry()),
    case("header condition: two values, the other way round", "first or last line", request("GET /role", "X-Role: admin", "X-Role: reader"), no_entry()),
    case("header condition: underscore", "names that a CGI variable merges", request("GET /role", "X_Role: reader"), no_entry()),
    case("deny by header", "a deny entry needs one line", request("GET /public/a", "X-Debug: 1"), by_entry()),
    case("deny by header: empty", "bare name: present", request("GET /public/a", "X-Debug:"), by_entry()),
    case("deny by header: in capitals", "RFC 9110 5.1", request("GET /public/a", "X-DEBUG: 1"), by_entry()),
    case("absent", "no line", request("GET /plain"), PLAIN),
    case("absent: there", "no line", request("GET /plain", "X-Forwarded-For: 10.0.0.1"), no_entry()),
    case("absent: empty", "no line", request("GET /plain", "X-Forwarded-For:"), no_entry()),
    case("absent: underscores", "names that a CGI variable merges", request("GET /plain", "X_Forwarded_For: 10.0.0.1"), no_entry()),
    case("absent: one underscore", "names that a CGI variable merges", request("GET /plain", "x-forwarded_for: 10.0.0.1"), no_entry()),
    *(page(q, allow(f"GET /page{q}")) for q in ("?n=1", "?n=%31", "?%6e=1", "?a&n=10&b", "?n=1&n=2", "?&&n=1&")),
    *(page(q, no_entry()) for q in ("", "?", "?n", "?n=", "?n=x", "?n=1x", "?n=1&n=x", "?n=x&n=1", "?N=1", "?nn=1", "?n=1;n=x", "?n=+1", "?n%3d1", "?n=1%26n=2")),
]  # fmt: skip
