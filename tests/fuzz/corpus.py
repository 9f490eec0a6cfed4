"""Requests made by hand that no honest client sends, and what each must be answered with.

`REFUSED` and `DRAWN` are requests to the Images API; `RAW` are bytes on a connection, for what an
HTTP client would not send.
"""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from serve.http.body import MAX_BODY_BYTES
from serve.http.schemas import GenerationRequest

JSON = {"content-type": "application/json"}
TEN_MB = 10 * 1000**2


@dataclass(frozen=True)
class Refused:
    """A request that must be refused; `param` is the field that the error must name."""

    name: str
    body: bytes
    status: int = 400
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


def _with(field_name: str, token: str, *, others: str = "") -> bytes:
    """A body with one field written as JSON spells it, or doesn't."""
    prompt = "" if field_name == "prompt" else '"prompt": "x", '
    return f'{{{prompt}{others}"{field_name}": {token}}}'.encode()


# What else a body needs so that only the field itself is at fault.
_BESIDE = {"partial_images": '"stream": true, ', "output_compression": '"output_format": "jpeg", '}
_NUMBERS = {
    name: schema
    for name, whole in GenerationRequest.model_json_schema()["properties"].items()
    for schema in whole.get("anyOf", [whole])
    if schema.get("type") in ("integer", "number")
}


def _edges(name: str) -> tuple[list[str], list[str]]:
    """Numbers just inside a field's bounds, and just outside."""
    schema = _NUMBERS[name]
    if "exclusiveMinimum" in schema:
        low, below = "1e-9", "0"
    else:
        low, below = str(schema["minimum"]), str(schema["minimum"] - 1)
    most = schema.get("maximum", schema.get("exclusiveMaximum", 0) - 1)
    return [low, str(most)], [below, str(most + 1)]


def _short(token: str) -> str:
    return token if len(token) <= 20 else f"{token[:4]}... of {len(token)}"


def _refused_numbers() -> Iterator[Refused]:
    for name, schema in _NUMBERS.items():
        tokens = [
            *_edges(name)[1], "1e309", "-1e309", "1e999999999", "-1e0", "-1e-9", "9" * 4_000,
            str(2**31 * 2**31), str(2**63), str(-(2**63)), str(2**64), '"1"', "true", "[1]", "{}",
        ]  # fmt: skip
        if schema["type"] == "integer":
            tokens += ["1.5", "1e-400" if schema["minimum"] else "-1.0"]
        if "exclusiveMinimum" in schema:
            tokens += ["-0.0", "1e-400"]  # Both are 0.
        for token in tokens:
            body = _with(name, token, others=_BESIDE.get(name, ""))
            yield Refused(f"{name} {_short(token)}", body, param=name)
        for token in ("NaN", "Infinity", "-Infinity"):  # Of which JSON knows nothing.
            body = _with(name, token, others=_BESIDE.get(name, ""))
            yield Refused(f"{name} {token}", body, param=name)
        for token in ("01", "+1", ".5", "1.", "0x1", "1e", "--1", "9" * 5_000):
            body = _with(name, token, others=_BESIDE.get(name, ""))
            yield Refused(f"{name} {_short(token)}", body)


def _refused_text() -> Iterator[Refused]:
    for name in ("prompt", "negative_prompt", "user", "safety_identifier"):
        for what, character in {
            "NUL": "\0", "escape": "\x1b[2J", "delete": "\x7f", "C1": "\x9b", "backspace": "\b",
        }.items():  # fmt: skip
            yield Refused(f"{name} {what}", _with(name, json.dumps(f"a{character}b")), param=name)
        for what, token in {
            "lone high surrogate": r'"\ud83c"',
            "lone low surrogate": r'"\udf3b"',
            "surrogates swapped": r'"\udf3b\ud83c"',
            "raw line break": '"a\nb"',
            "raw NUL": '"a\0b"',
            "half an escape": r'"\u00"',
            "unknown escape": r'"\x41"',
        }.items():
            yield Refused(f"{name} {what}", _with(name, token))
        for what, raw in {
            "surrogate in UTF-8": b"\xed\xa0\x80",
            "overlong NUL": b"\xc0\x80",
            "beyond Unicode": b"\xf4\x90\x80\x80",
            "Latin-1": "Grün".encode("latin-1"),
            "cut in a character": "🌻".encode()[:3],
        }.items():
            yield Refused(
                f"{name} {what}", b'{"prompt": "x", "%s": "' % name.encode() + raw + b'"}'
            )
        many = _with(name, json.dumps("🌻" * 4_001))
        yield Refused(f"{name} one flower too many", many, param=name)
    for what, text in {"bidi only": "\u2028", "spaces of all kinds": "\u3000\u2003 \t"}.items():
        yield Refused(f"prompt {what}", _with("prompt", json.dumps(text)), param="prompt")


_PATHS = [
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/original", "/etc/passwd", "original/",
    "original/../distilled", "..\\..\\windows", "C:\\original", "file:///etc/passwd",
    "original%00.png", "ORIGINAL", " original", "original ", "\u043eriginal", "origina\u200bl",
    "http://127.0.0.1/original", "${jndi:ldap://127.0.0.1/x}", "{{7*7}}", "'; DROP TABLE x; --",
    "__class__", "original\r\nX-Model: distilled", "original\0",
]  # fmt: skip


def _refused_models() -> Iterator[Refused]:
    for name in _PATHS:
        yield Refused(f"model {name}", _with("model", json.dumps(name)), 404, "model")
    yield Refused("model empty", _with("model", '""'), param="model")
    yield Refused("model long", _with("model", json.dumps("a" * 65)), param="model")
    yield Refused("model list", _with("model", '["original"]'), param="model")


def _refused_structures() -> Iterator[Refused]:
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        for depth in (100, 1_000, 8_000):
            for name, param in (("prompt", "prompt"), ("extra", "extra")):
                token = opened * depth + "1" + closed * depth
                # From some depth on it isn't read at all, and no field is known.
                shallow = depth == 100
                yield Refused(
                    f"{name} {depth} deep in {opened}",
                    _with(name, token),
                    param=param if shallow else None,
                )
    for name, token in {
        "prompt": '"y"', "seed": "1", "n": "1", "model": '"original"', "size": '"64x64"',
    }.items():  # fmt: skip
        twice = f'{token}, "{name}": {token}'
        yield Refused(f"{name} twice", _with(name, twice), param=name)
    spelt_apart = rb'{"prompt": "x", "pr\u006fmpt": "y"}'
    yield Refused("prompt twice, once escaped", spelt_apart, param="prompt")
    many = b'{"prompt": "x"' + b', "seed": 1' * 5_000 + b"}"
    yield Refused("seed 5,000 times", many, param="seed")
    fields = ", ".join(f'"f{number}": 1' for number in range(5_000)).encode()
    yield Refused("5,000 unknown fields", b'{"prompt": "x", ' + fields + b"}", param="f0")
    for name in ("__proto__", "constructor", "__class__", "", "Prompt", "prompt ", "\u202eprompt"):
        yield Refused(f"field {name!r}", _with(name, "1"), param=name)
    for what, body in {
        "nothing": b"", "spaces": b" \n\t", "null": b"null", "number": b"1", "string": b'"x"',
        "list": b'[{"prompt": "x"}]', "half": b'{"prompt": "x"', "half a string": b'{"prompt": "x',
        "half a name": b'{"prom', "trailing comma": b'{"prompt": "x",}', "two": b"{}{}",
        "rubbish after": b'{"prompt": "x"} x', "comment": b'{"prompt": "x" /* y */}',
        "single quotes": b"{'prompt': 'x'}", "no quotes": b"{prompt: 1}", "YAML": b"prompt: x",
        "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x/>',
        "form": b"prompt=x&n=1", "pickle": b"\x80\x04\x95\x00", "all bytes": bytes(range(256)),
    }.items():  # fmt: skip
        yield Refused(what, body)
    for size in (MAX_BODY_BYTES + 1, TEN_MB):
        body = b'{"prompt": "' + b"x" * (size - 14) + b'"}'
        yield Refused(f"prompt of {size} bytes", body, 413)
    yield Refused("prompt of 60,000 characters", _with("prompt", '"' + "x" * 60_000 + '"'),
                  param="prompt")  # fmt: skip


def _refused_encodings() -> Iterator[Refused]:
    text = '{"prompt": "Grüße"}'
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "utf-7"):
        if encoding == "utf-7":
            body = b"+AHsAIg-prompt+ACIAOg +ACI-x+ACIAfQ-"
        else:
            body = text.encode(encoding)
        headers = {"content-type": f"application/json; charset={encoding}"}
        yield Refused(f"in {encoding}", body, headers=headers)
        yield Refused(f"in {encoding}, unsaid", body)
    plain = text.encode()
    for encoding, body in {
        "gzip": gzip.compress(plain), "deflate": plain, "br": plain, "gzip, gzip": plain,
        "identity, gzip": plain, "\u0130": plain, "x" * 2_000: plain,
    }.items():  # fmt: skip
        headers = {**JSON, "content-encoding": encoding.encode("utf-8").decode("latin-1")}
        name = f"encoded as {encoding[:20]}"
        yield Refused(name, body, param="content-encoding", headers=headers)
    yield Refused("gzip, unsaid", gzip.compress(plain))
    yield Refused("gzip bomb, unsaid", gzip.compress(b" " * TEN_MB))
    for kind in (
        "", "json", "text/json", "application/json, text/plain", "application/jsonp",
        "application/problem+json", "multipart/form-data; boundary=x", "text/plain",
        "application/x-www-form-urlencoded", "APPLICATION/JSON/", "\xff\xfe", "*/*",
    ):  # fmt: skip
        yield Refused(
            f"content type {kind!a}", plain, param="content-type", headers={"content-type": kind}
        )


def _refused_headers() -> Iterator[Refused]:
    body = b'{"prompt": "x"}'
    for accept in (
        "image/gif", "text/css;q=1", "image/png;q=nan", "image/png;q=inf", "image/png;q=-1",
        "image/png;q=1_0", "image/png;q=\u0661".encode().decode("latin-1"), "image/png;q=",
        ";;;", ",;q=1", "/", "image", "\xff", "application/json;q=0" + ",text/html" * 500,
    ):  # fmt: skip
        headers = {**JSON, "accept": accept}
        yield Refused(f"accept {accept[:40]!a}", body, 406, "accept", headers)
    for name, value in (("x-request-timeout-seconds", "1e309"), ("x-request-timeout-seconds", ""),
                        ("x-request-disconnect-disabled", "?1")):  # fmt: skip
        yield Refused(f"{name} {value}", body, param=name, headers={**JSON, name: value})
    flood = {**JSON, **{f"x-{number}": "y" for number in range(200)}}
    yield Refused("200 headers", body, 431, headers=flood)
    # From 64 KiB on the server hangs up by itself.
    yield Refused("32 KiB of header", body, 431, headers={**JSON, "x": "y" * 32 * 1024})


REFUSED = [
    *_refused_numbers(),
    *_refused_text(),
    *_refused_models(),
    *_refused_structures(),
    *_refused_encodings(),
    *_refused_headers(),
]

# Odd, and allowed: bodies that a picture must be drawn for.
DRAWN = {
    **{
        f"{name} {token}": _with(name, token, others=_BESIDE.get(name, ""))
        for name in _NUMBERS
        # 8 images of 25 steps, or 150 steps, are within the work that a request may ask for.
        for token in _edges(name)[0]
    },
    "guidance -0.0": _with("guidance_scale", "-0.0"),
    "guidance that rounds to 0": _with("guidance_scale", "1e-400"),
    "guidance that rounds to 30": _with("guidance_scale", "30." + "0" * 400 + "1"),
    "guidance as an integer": _with("guidance_scale", "3"),
    "guidance of 4,000 digits": _with("guidance_scale", "0." + "3" * 4_000),
    "seed -0": _with("seed", "-0"),
    "emoji": _with("prompt", json.dumps("🌻" * 4_000, ensure_ascii=False)),
    "emoji joined": _with("prompt", json.dumps("👩🏽\u200d🚀 🏳️\u200d🌈", ensure_ascii=False)),
    "emoji as surrogates": _with("prompt", r'"\ud83c\udf3b"'),
    "bidi": _with("prompt", json.dumps("\u202eevil\u202c \u2066x\u2069", ensure_ascii=False)),
    "many accents": _with("prompt", json.dumps("a" + "\u0301" * 3_000, ensure_ascii=False)),
    "no character": _with("prompt", json.dumps("\ufffe\uffff\ufdd0", ensure_ascii=False)),
    "private use": _with("prompt", json.dumps("\ue000\U0010fffd", ensure_ascii=False)),
    "tokens of the tokenizer": _with("prompt", '"<|startoftext|><|endoftext|>' + '<|endoftext|>"'),
    "line breaks": _with("prompt", r'"a\r\nX-Model: distilled\r\n\r\nb"'),
    "parameters of another picture": _with("prompt", r'"x\nNegative prompt: y\nSteps: 1, Seed: 2"'),
    "markup": _with("prompt", '"<script>alert(1)</script>"'),
    "user in bidi": _with("user", json.dumps("\u202ejane", ensure_ascii=False)),
    "spaces around": b" \r\n\t" + _with("prompt", '"x"') + b"\n" * 1_000,
    "nulls": b'{"prompt": "x", "n": null, "seed": null, "size": null, "user": null}',
    "byte order mark": b"\xef\xbb\xbf" + _with("prompt", '"x"'),
    "integer as 0.1e1": _with("n", "0.1e1"),
    "seed as -0.0": _with("seed", "-0.0"),
}


@dataclass(frozen=True)
class Raw:
    """Bytes on a connection, and the statuses that may come back; empty: no answer is one, too.

    What isn't HTTP at all the server refuses by itself, or hangs up on.
    """

    name: str
    sent: bytes
    statuses: frozenset[int]


def _raw(name: str, head: str, *statuses: int, body: bytes = b"", host: str = "x") -> Raw:
    """A head, ended by the host, and a body; a short one's connection is to be closed."""
    # A long one would be cut off by that, and the answer with it.
    end = "Connection: close\r\n\r\n" if len(body) < 1_000 else "\r\n"
    lines = f"{head}\r\nHost: {host}\r\n{end}"
    return Raw(name, lines.encode("latin-1") + body, frozenset(statuses))


_POST = "POST /v1/images/generations HTTP/1.1\r\nContent-Type: application/json"
_CHUNKED = f"{_POST}\r\nTransfer-Encoding: chunked"
_BODY = b'{"prompt": ""}'  # Refused, should it be read.
_UPGRADE = "Connection: Upgrade\r\nUpgrade: "

RAW = [
    # Hosts and targets that can't be read, or that lead elsewhere.
    _raw("host in half a bracket", "GET /nothing HTTP/1.1", 404, 400, host="["),
    _raw("host with a path", "GET /nothing HTTP/1.1", 404, 400, host="x/y?z#"),
    _raw("query that is no UTF-8", "GET /nothing?\xff HTTP/1.1", 404, 400),
    _raw("path that is no UTF-8", "GET /\xff%ff HTTP/1.1", 404, 400),
    _raw("another host's redirect", "GET /v1/models/ HTTP/1.1", 404, 400, host="evil.example"),
    _raw("target with a host", "GET http://evil.example/nothing HTTP/1.1", 404, 400),
    _raw("line break in a path", "GET /%0d%0aSet-Cookie:%20x=y HTTP/1.1", 404),
    _raw("long path", f"GET /{'a' * 60_000} HTTP/1.1", 404, 400, 414, 431),
    # Methods.
    *[_raw(method, f"{method} /v1/models HTTP/1.1", 405, 400) for method in
      ("TRACE", "DELETE", "PUT", "PATCH", "PROPFIND", "FOO", "get")],
    _raw("OPTIONS", "OPTIONS /v1/models HTTP/1.1", 204),
    _raw("CONNECT", "CONNECT x:443 HTTP/1.1", 400, 404, 405),
    _raw("everything", "OPTIONS * HTTP/1.1", 400, 404, 405),
    # Headers that mean another thing to somebody else on the way.
    _raw("two lengths", f"{_POST}\r\nContent-Length: 14\r\nContent-Length: 15", 400, body=_BODY),
    _raw("length and chunks", f"{_CHUNKED}\r\nContent-Length: 14", 400, body=b"0\r\n\r\nGET /x"),
    _raw("negative length", f"{_POST}\r\nContent-Length: -1", 400),
    _raw("length with a sign", f"{_POST}\r\nContent-Length: +14", 400, body=_BODY),
    _raw("endless length", f"{_POST}\r\nContent-Length: {'9' * 40}", 400),
    _raw("chunks, and chunks again", f"{_CHUNKED}, chunked", 400, body=b"0\r\n\r\n"),
    _raw("unknown transfer", f"{_POST}\r\nTransfer-Encoding: x", 400, 501, body=_BODY),
    _raw("space before a colon", f"{_POST}\r\nContent-Length : 14", 400, body=_BODY),
    _raw("folded header", f"{_POST}\r\nX: a\r\n b\r\nContent-Length: 14", 400, body=_BODY),
    _raw("NUL in a header", f"{_POST}\r\nX: a\0b\r\nContent-Length: 14", 400, body=_BODY),
    _raw("line feeds only", "GET /nothing HTTP/1.1\nX: y", 400, 404),
    _raw("no name", "GET /nothing HTTP/1.1\r\n: x", 400, 404),
    _raw("bytes in a header", "GET /nothing HTTP/1.1\r\nX: \xff\xfe", 400, 404),
    # Chunks.
    _raw("chunk that is no number", _CHUNKED, 400, body=b"zz\r\nx\r\n0\r\n\r\n"),
    _raw("chunk of 2^64", _CHUNKED, 400, 408, body=b"10000000000000000\r\nx"),
    _raw("negative chunk", _CHUNKED, 400, body=b"-1\r\nx\r\n0\r\n\r\n"),
    _raw("flood of small chunks", _CHUNKED, 413, body=b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n"),
    _raw("flood of one chunk", _CHUNKED, 413,
         body=b"989680\r\n" + b" " * TEN_MB + b"\r\n0\r\n\r\n"),
    _raw("flood of chunk names", _CHUNKED, 400, 413,
         body=(b"1;" + b"x" * 1_000 + b"\r\n \r\n") * 70_000 + b"0\r\n\r\n"),
    _raw("headers after the body", _CHUNKED, 400,
         body=b"e\r\n" + _BODY + b"\r\n0\r\nContent-Length: 9\r\nHost: y\r\n\r\n"),
    _raw("10 MB with their length", f"{_POST}\r\nContent-Length: {TEN_MB}", 413,
         body=b" " * TEN_MB),
    _raw("length that is awaited", f"{_POST}\r\nExpect: 100-continue\r\nContent-Length: 14", 400,
         body=_BODY),
    # Other protocols.
    Raw("websocket", f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{_UPGRADE}websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode(),
        frozenset({400, 403, 404})),
    Raw("websocket by POST", f"{_POST}\r\nHost: x\r\n{_UPGRADE}websocket\r\n"
        "Content-Length: 14\r\n\r\n".encode() + _BODY, frozenset({400})),
    Raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frozenset({400, 404, 405, 505})),
    Raw("HTTP/0.9", b"GET /nothing\r\n\r\n", frozenset()),
    Raw("HTTP/9.9", b"GET /nothing HTTP/9.9\r\nHost: x\r\n\r\n", frozenset()),
    Raw("TLS", bytes.fromhex("16030100c8010000c40303") + b"\0" * 200, frozenset()),
    Raw("rubbish", bytes(range(256)) * 64, frozenset()),
    Raw("nothing", b"", frozenset()),
    Raw("half a head", b"GET /v1/models HTTP/1.1\r\nHost:", frozenset()),
    Raw("half a body", f"{_POST}\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + _BODY,
        frozenset()),
]  # fmt: skip
