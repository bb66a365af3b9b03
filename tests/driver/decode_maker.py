"""A generator of records: legal spellings, odd ones, and damage."""

from __future__ import annotations

import json
import random

from headrace.contract.model import Column, Source
from headrace.driver.decode import MAX_KEY_TEXT

Field = tuple[tuple[str, ...], str]
"""Where a value stands in a record, and its JSON text."""


class Maker:
    """Records of a source by a random generator."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.calm = False  # values that fit their columns, in any spelling

    def record(self, source: Source) -> bytes:
        pick = self.random.choice
        self.calm = self.random.random() < 0.6
        fields: list[Field] = [
            (column.path(name), self.value(column))
            for name, column in source.columns.items()
            if (self.calm and column.required) or self.random.random() < 0.97
        ]
        if self.random.random() < 0.2:
            self.random.shuffle(fields)
        if self.random.random() < 0.1:
            fields.insert(self.random.randrange(len(fields) + 1), ((pick(["x", "amount", ""]),), self.any(3)))
        if fields and self.random.random() < 0.05:
            path, _ = pick(fields)
            columns = {column.path(name): column for name, column in source.columns.items()}
            fields.append((path, self.value(columns[path]) if path in columns else self.any(2)))
        if self.random.random() < 0.03:
            path, _ = pick([*fields, (("x",), "")])
            fields.append((path[: pick([1, 2])], pick(["null", "{}", "[]", "5", self.any(2)])))
        blank = pick(["", "", " ", "\n", "\t \r\n"])
        value = f"{blank}{self.object(fields, blank)}{blank}".encode()
        return self.damaged(value) if self.random.random() < 0.2 else value

    def object(self, fields: list[Field], blank: str) -> str:
        """Return an object with these fields; neighbours with one first step are in one object, now and then in two."""
        inside: list[tuple[str, list[Field]]] = []
        for (name, *rest), text in fields:
            if not rest or not inside or inside[-1][0] != name or self.random.random() < 0.02:
                inside.append((name, []))
            inside[-1][1].append((tuple(rest), text))
        texts = [
            f"{self.string(name)}{blank}:{blank}{inner[0][1] if inner[0][0] == () else self.object(inner, blank)}"
            for name, inner in inside
        ]
        return f"{{{blank}" + f",{blank}".join(texts) + f"{blank}}}"

    def value(self, column: Column) -> str:
        chance, kind = self.random.random(), column.type.partition("(")[0]
        if self.calm:
            chance = 0.5
        if chance < 0.03 or kind == "json":
            return self.any(3)
        if chance < 0.05:
            return "null"
        if kind == "decimal":
            number = self.number()
            return number if self.random.random() < 0.6 else json.dumps(self.odd(number))
        if kind in ("int", "long"):
            return self.integer() if chance < 0.9 else self.number()
        if kind == "boolean":
            return self.random.choice(["true", "false"])
        if kind in ("timestamp", "date"):
            return json.dumps(self.odd(self.time(kind)))
        return self.string(self.text())

    def integer(self) -> str:
        if self.calm:
            return str(self.random.randint(-(2**31), 2**31 - 1))
        size = self.random.choice([1, 2, 9, 10, 11, 18, 19, 20, 40])
        limit = self.random.choice([2**31, 2**63, 10**size])
        edge = limit + self.random.randint(-2, 2) if self.random.random() < 0.3 else self.random.randrange(10**size)
        return self.random.choice(["", "-"]) + str(edge)

    def number(self) -> str:
        """Return a legal JSON number in one of its many spellings; often within the columns' range."""
        pick = self.random.choice
        if self.calm:
            return self.cents()
        text = pick(["", "", "-"]) + pick(["0", str(self.random.randrange(10 ** pick([1, 3, 8, 10, 13, 40])))])
        if self.random.random() < 0.6:
            text += "." + self.digits(pick([1, 2, 2, 3, 7, 45]))
        if self.random.random() < 0.5:
            zeros = "0" * pick([0, 0, 1, 2, 19, 20, 21, 40])
            size = pick([0, 1, 2, 3, 8, 12, 19, 400, 10**19, 10**20, 10**22])
            text += pick("eE") + pick(["", "+", "-"]) + zeros + str(size)
        return text

    def cents(self) -> str:
        """Return an amount below 10^7 with the point at any of its digits, and the exponent that puts it back."""
        pick = self.random.choice
        digits = str(self.random.randrange(10 ** pick([1, 3, 9])))
        point = self.random.randrange(len(digits) + 1)
        fraction = digits[point:] + "0" * pick([0, 0, 1, 19, 40])
        power = len(digits) - point - 2
        mantissa = pick(["", "-"]) + (digits[:point] or "0") + ("." + fraction if fraction else "")
        return (
            mantissa
            + pick("eE")
            + ("-" if power < 0 else pick(["", "+"]))
            + "0" * pick([0, 1, 19, 40])
            + str(abs(power))
        )

    def digits(self, count: int) -> str:
        return "".join(self.random.choice("0001234567890") for _ in range(count))

    def time(self, kind: str) -> str:
        pick, between = self.random.choice, self.random.randint
        if self.calm:
            text = f"{between(1971, 2025)}-{between(1, 12):02}-{between(1, 28):02}"
            clock = f"{pick(' T')}{between(0, 23):02}:{between(0, 59):02}:{between(0, 59):02}"
            return text if kind == "date" else text + clock + pick(["", ".5", ".123456", "Z", "+0230", "-11"])
        text = (
            f"{pick(['2026', '2026', '1970', '9999', '0001', '0000', '1969'])}-{between(1, 12):02}-{between(1, 30):02}"
        )
        if kind == "date" and self.random.random() < 0.9:
            return text
        clock = f"{between(0, 23):02}:{between(0, 59):02}:{between(0, 59):02}"
        zone = pick(["", "", "", "Z", "+02:00", "-0330", "+09", "+24:00", "-00:60"])
        return text + pick(" T") + clock + pick(["", "", ".5", ".123456", "." + self.digits(7)]) + zone

    def odd(self, text: str) -> str:
        """Return a text as it is or, seldom, with a character changed."""
        if self.calm or self.random.random() < 0.85:
            return text
        place = self.random.randrange(len(text) + 1)
        odd = self.random.choice(["", " ", "+", "-", ".", "0", "e", ":", "T", "\0", "\N{FULLWIDTH DIGIT ONE}"])
        return text[:place] + odd + text[place + 1 :]

    def text(self) -> str:
        pick = self.random.choice
        if self.random.random() < 0.01:
            return "k" * pick([MAX_KEY_TEXT - 1, MAX_KEY_TEXT, MAX_KEY_TEXT + 1])
        characters = ["a", "7", " ", '"', "\\", "/", "\0", "\x1b", "\n", "é", "가", "🛒", "[b]"]
        return "".join(pick(characters) for _ in range(pick([1, 3, 9] if self.calm else [0, 1, 3, 9])))

    def string(self, text: str) -> str:
        """Return a text as a JSON string, each character in one of its spellings."""
        if self.random.random() < 0.7:
            return json.dumps(text, ensure_ascii=self.random.random() < 0.5)
        units = json.dumps(text)[1:-1]
        return '"' + (units if "\\" in units else units.replace("a", "\\u0061")) + '"'

    def any(self, depth: int) -> str:
        pick = self.random.choice
        if depth == 0 or self.random.random() < 0.5:
            words = ["true", "false", "null", "{}", "[]"]
            return pick([self.number(), self.integer(), self.string(self.text()), pick(words)])
        inner = [self.any(depth - 1) for _ in range(pick([1, 2, 3]))]
        if self.random.random() < 0.5:
            return "[" + ", ".join(inner) + "]"
        return "{" + ", ".join(f"{self.string(self.text())}: {text}" for text in inner) + "}"

    def damaged(self, value: bytes) -> bytes:
        """Return a value with one to three small pieces changed."""
        pieces = [b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"1", b"-", b"+", b".", b"e", b"E5", b"00",
                  b"null", b"NaN", b"true", b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b" ", b"\xef\xbb\xbf",
                  b"[" * 60, b"{\"a\":" * 60, b"'"]  # fmt: skip
        for _ in range(self.random.choice([1, 1, 2, 3])):
            start = self.random.randrange(len(value) + 1)
            value = value[:start] + self.random.choice(pieces) + value[start + self.random.choice([0, 0, 1, 1, 2, 9]) :]
        return value
