"""Forms made by hand that no honest client sends, and the words that refuse them."""

from dataclasses import dataclass

from tests.fuzz.pictures import PNG

BOUNDARY = "b0undary"


def part(headers: str, content: bytes = b"x", boundary: str = BOUNDARY) -> bytes:
    return f"--{boundary}\r\n{headers}\r\n\r\n".encode() + content + b"\r\n"


def text(name: str, content: bytes = b"x", more: str = "") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"{more}', content)


def file(name: str, content: bytes, more: str = "") -> bytes:
    return text(name, content, f'; filename="a.png"\r\nContent-Type: image/png{more}')


def form(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return b"".join(parts) + end


@dataclass(frozen=True)
class RefusedForm:
    """A body that must be refused; `param` is the field that the error names, with these words."""

    name: str
    body: bytes
    words: str
    param: str | None = None
    status: int = 400
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}"


_FINE = form(text("prompt"), file("image", PNG))
_UNREADABLE = "isn't multipart/form-data with the boundary of its content-type"
_NAMELESS = "without content-disposition: form-data and a name in UTF-8"
_NESTED = form(part('Content-Disposition: attachment; filename="a"', boundary="x"))
_LONG_NAME = 'Content-Disposition: form-data; name="' + "n" * 5_000 + '"'


def _typed(content_type: str, words: str) -> RefusedForm:
    name = f"content type {content_type[:60]!a}"
    return RefusedForm(name, _FINE, words, "content-type", content_type=content_type)


REFUSED_FORMS = [
    _typed("", "it must be multipart/form-data"),
    _typed("application/x-www-form-urlencoded", "it must be multipart/form-data"),
    _typed(f"multipart/mixed; boundary={BOUNDARY}", "it must be multipart/form-data"),
    *[
        _typed(f"multipart/form-data{rest}", "needs a boundary of 1 to 70 letters")
        for rest in (
            "", ";", "; boundary", "; boundary=", '; boundary=""', "; boundary=" + "b" * 71,
            '; boundary="x "', "; boundary=\0", "; boundary=\xff", "; boundary*=utf-8''x",
            '; boundary="\r\n"', "; boundary=x@y",
        )
    ],
    RefusedForm("nothing", b"", "ends before the closing boundary"),
    RefusedForm("not a form", b'{"prompt": "x"}', _UNREADABLE),
    RefusedForm("another boundary", _FINE.replace(b"b0undary", b"b1undary"), _UNREADABLE),
    RefusedForm("preamble", b"hello\r\n" + _FINE, _UNREADABLE),
    RefusedForm("no closing boundary", form(text("prompt"), end=b""), "ends before the closing"),
    RefusedForm("half a closing boundary", _FINE[:-3], "ends before the closing"),
    RefusedForm("header without a colon", form(part("prompt")), _UNREADABLE),
    RefusedForm("folded header", form(part('Content-Disposition: form-data;\r\n name="x"')),
                _UNREADABLE),
    RefusedForm("NUL in a header's name", form(part("a\0b: c")), _UNREADABLE),
    RefusedForm("no headers", form(part("")), _NAMELESS),
    RefusedForm("huge header", form(part(_LONG_NAME)), "at most 8 headers of 4096 bytes"),
    RefusedForm("endless header", b"--b0undary\r\n" + b"x" * 100_000, "8 headers of 4096 bytes"),
    RefusedForm("many headers", form(part("\r\n".join(f"x{n}: y" for n in range(9)))),
                "at most 8 headers of 4096 bytes"),
    RefusedForm("header twice", form(part("x: y\r\nX: z")), 'a field has "x" twice'),
    RefusedForm("thousands of fields", form(*[text(f"f{n}") for n in range(5_000)]),
                "over 40 fields"),
    RefusedForm("no name", form(part("Content-Disposition: form-data")), _NAMELESS),
    RefusedForm("empty name", form(text("")), _NAMELESS),
    RefusedForm("name in Latin-1", form(text("x").replace(b'"x"', b'"\xfc"')), _NAMELESS),
    RefusedForm("attachment", form(part('Content-Disposition: attachment; name="x"')), _NAMELESS),
    RefusedForm("field twice", form(text("prompt"), text("prompt")), "was given twice", "prompt"),
    RefusedForm("picture twice", form(file("image", PNG), file("image", PNG)),
                '"image": several files were given; one is allowed', "image"),
    RefusedForm("list of pictures", form(file("image[]", PNG), file("image[]", PNG)),
                '"image": several files were given; one is allowed', "image"),
    RefusedForm("picture and list", form(file("image", PNG), file("image[]", PNG)),
                '"image": several files were given; one is allowed', "image"),
    RefusedForm("file as text", form(file("prompt", PNG)),
                '"prompt": a file was given; only image, mask may be files', "prompt"),
    RefusedForm("text as file", form(text("image")),
                "curl sends a file by -F image=@FILE", "image"),
    RefusedForm("file by its language", form(text("image", PNG, "; filename*=utf-8''a")),
                '"image": text was given', "image"),
    RefusedForm("text that is Latin-1", form(text("prompt", b"Gr\xfcn")), "byte 2 is not UTF-8",
                "prompt"),
    RefusedForm("text said to be UTF-16",
                form(text("prompt", more="\r\nContent-Type: text/plain; charset=utf-16")),
                "text must be UTF-8", "prompt"),
    RefusedForm("charset of all", form(text("_charset_", b"utf-7")), "text must be UTF-8",
                "_charset_"),
    RefusedForm("text in base64",
                form(text("prompt", more="\r\nContent-Transfer-Encoding: base64")),
                'content-transfer-encoding: "base64" was given', "prompt"),
    RefusedForm("form in a form",
                form(file("image", _NESTED).replace(b"image/png", b"multipart/mixed; boundary=x")),
                "a form in a form was given", "image"),
    RefusedForm("long text", form(text("prompt", b"x" * (64 * 1024 + 1))), "over 65536 bytes",
                "prompt", 413),
]  # fmt: skip
